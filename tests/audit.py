"""`make audit`: known vulnerabilities of what requirements.lock installs, by pip-audit and osv.dev.

    python tests/audit.py [options of pip-audit, such as --osv-url]

pip-audit runs in an environment of its own, which uv makes for it.  Exit status 0: none is known; 1: some
are, and are listed; 2: it could not be found out, if only for one package, and a line says why.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from helpers import ROOT
from helpers.run.environment import LOCK, NO_NETWORK

UV = Path(sys.executable).parent / "uv"
TOOL = [UV, "tool", "run", "--python", sys.executable, "pip-audit"]
# The lock is complete: nothing has to be resolved or installed.
ASK = ["--requirement", ROOT / LOCK, "--no-deps", "--disable-pip"]
HOW = ["--vulnerability-service", "osv", "--progress-spinner", "off", "--desc", "off", "--format", "json"]


def told(out: str, err: str) -> tuple[int, str]:
    """The exit status and the words for what pip-audit has answered.

    Its own status is of no use here: 0 also where it has skipped packages, 1 also where it has failed.
    """
    try:
        packages = json.loads(out)["dependencies"]
    except ValueError:
        if re.search(f"{NO_NETWORK}|ConnectionError|Max retries", err):
            return (
                2,
                "No answer: the package index (for pip-audit) or api.osv.dev cannot be reached from here.",
            )
        return 2, f"pip-audit failed:\n{(err or out).strip()}"
    found = [f"{one['name']} {one['version']}: {_named(v)}" for one in packages for v in one.get("vulns", [])]
    skipped = [one["skip_reason"] for one in packages if "skip_reason" in one]
    if found:
        ends = "`make lock` takes the newest versions that are allowed."
        return 1, "\n".join([f"Known vulnerabilities in {LOCK}:", *found, *skipped, ends])
    if skipped:
        return 2, "\n".join([f"Not found out for {len(skipped)} of {len(packages)} packages:", *skipped])
    return 0, f"No known vulnerability in the {len(packages)} packages of {LOCK} for this Python and system."


def _named(vulnerability):
    names = ", ".join([vulnerability["id"], *vulnerability["aliases"]])
    return f"{names}; mended in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"


def main() -> None:
    done = subprocess.run([*TOOL, *ASK, *HOW, *sys.argv[1:]], capture_output=True, text=True)
    code, words = told(done.stdout, done.stderr)
    print(words, file=sys.stderr if code else sys.stdout)
    sys.exit(code)


if __name__ == "__main__":
    main()
