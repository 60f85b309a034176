"""`make audit`: known vulnerabilities of what requirements.lock installs, by pip-audit and osv.dev.

pip-audit runs in an environment of its own, which uv makes for it.  Exit status 0: none is known; 1: some
are, and are listed; 2: it could not be found out, and a line says why.
"""

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
HOW = ["--vulnerability-service", "osv", "--progress-spinner", "off", "--desc", "off"]


def told(code: int, out: str, err: str) -> tuple[int, str]:
    """The exit status and the words for what pip-audit has answered."""
    if code == 0:
        return 0, f"No known vulnerability in {LOCK}."
    if re.search(r"Found \d+ known vulnerabilit", err):
        return 1, f"{out.strip()}\n{err.strip()}\n`make lock` takes the newest versions that are allowed."
    if re.search(f"{NO_NETWORK}|ConnectionError|Max retries", err):
        return 2, "No answer: the package index (for pip-audit) or api.osv.dev cannot be reached from here."
    return 2, f"pip-audit failed:\n{(err or out).strip()}"


def main() -> None:
    done = subprocess.run([*TOOL, *ASK, *HOW], capture_output=True, text=True)
    code, words = told(done.returncode, done.stdout, done.stderr)
    print(words, file=sys.stderr if code else sys.stdout)
    sys.exit(code)


if __name__ == "__main__":
    main()
