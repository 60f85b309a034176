"""`make fresh`: the fast tests with the newest versions that pyproject.toml allows.

`python tests/fresh.py [what to hand to pytest]`

A throw-away environment gets these versions; what differs from requirements.lock is listed.  Tests that fail
there and not with the lock are run again with one upgrade taken back at a time: so it is said which upgrade
breaks what.  Exit status 0: nothing is broken; 1: something is; 2: the environment could not be made.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import ROOT
from helpers.run.environment import LOCK, NO_NETWORK

UV = Path(sys.executable).parent / "uv"
FAST = ["-n", "2", "-m", "not slow", "tests"]


def versions(text: str) -> dict[str, str]:
    """{package: version} of pinned requirements, those that concern this Python and system."""
    pins = [Requirement(line) for line in text.splitlines() if line.strip()]
    return {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def upgrades(fresh: dict[str, str], locked: dict[str, str]) -> dict[str, tuple[str, str]]:
    """{package: (version in the lock, newest)} where they differ; "–" where there is none."""
    both = {name: (locked.get(name, "–"), fresh.get(name, "–")) for name in sorted(fresh.keys() | locked)}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def failing(python: str, tests: list[str]) -> set[str]:
    """Run pytest; -> the tests that fail, by name.  What it says is shown."""
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "--tb=line", "-rfE", *tests]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    if done.returncode not in (0, 1):
        return {f"pytest (status {done.returncode})"}
    return set(re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, flags=re.MULTILINE))


def uv(*arguments: str) -> None:
    """Call uv; exit with status 2 and its words where that fails."""
    done = subprocess.run([str(UV), *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        near = (
            " No network, or no package index that can be reached."
            if re.search(NO_NETWORK, done.stderr)
            else ""
        )
        print(f"uv {' '.join(arguments[:2])} failed.{near}\n{done.stderr.strip()}", file=sys.stderr)
        sys.exit(2)


def blame(python: str, broken: set[str], changed: dict[str, tuple[str, str]]) -> dict[str, set[str]]:
    """{package: tests that pass again without its upgrade}."""
    found = {}
    for name, (before, newest) in changed.items():
        if "–" in (before, newest):
            continue
        uv("pip", "install", "--quiet", "--no-deps", "--python", python, f"{name}=={before}")
        healed = broken - failing(python, sorted(broken))
        uv("pip", "install", "--quiet", "--no-deps", "--python", python, f"{name}=={newest}")
        if healed:
            found[name] = healed
    return found


def main() -> None:
    tests = sys.argv[1:] or FAST
    with tempfile.TemporaryDirectory() as folder:
        newest, python = f"{folder}/newest.txt", f"{folder}/venv/bin/python"
        uv("venv", "--quiet", "--python", sys.executable, f"{folder}/venv")
        how = ["--upgrade", "--extra", "test", "--no-header", "--no-annotate", "--quiet"]
        how += ["--no-emit-index-url", "--no-emit-find-links", "--python", python, "--output-file", newest]
        uv("pip", "compile", *how, "pyproject.toml")
        uv("pip", "install", "--quiet", "--python", python, "--requirement", newest)
        fresh, locked = (versions(Path(file).read_text()) for file in (newest, ROOT / LOCK))
        changed = upgrades(fresh, locked)
        print(f"{len(fresh)} packages, {len(changed)} not as in {LOCK}:")
        print("\n".join(f"  {name} {old} → {new}" for name, (old, new) in changed.items()) or "  (none)")
        broken = failing(python, tests)
        if broken:
            broken -= failing(sys.executable, sorted(broken))
            print(f"{len(broken)} tests fail with the newest versions and not with {LOCK}.")
        blamed = blame(python, broken, changed) if broken else {}
    for name, healed in blamed.items():
        print(f"{name} {' → '.join(changed[name])} breaks:\n  " + "\n  ".join(sorted(healed)))
    if rest := broken - set().union(*blamed.values()):
        print("No single upgrade is to blame for:\n  " + "\n  ".join(sorted(rest)))
    if not broken:
        print("Nothing is broken by the newest versions.")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
