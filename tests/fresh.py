"""`make fresh`: the fast tests with the newest versions that pyproject.toml allows.

    python tests/fresh.py [files or tests, else all]

A throw-away environment gets these versions; what differs from requirements.lock is listed.  Tests that fail
there, twice, and not with the lock are run again with one package held back at a time: so it is said which
upgrade breaks what.  Exit status 0: nothing is broken; 1: something is; 2: the environment could not be made.
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
FAST = ["-n", "2", "-m", "not slow", "--timeout", "600"]
# What cannot be imported is one failure of many, not the end.
FAST += ["--continue-on-collection-errors", "-p", "no:cacheprovider", "--tb=line", "-rfE"]


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
    """Run pytest, showing what it says; -> the tests that fail, by name; all of `tests` if it cannot run."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    command = [python, "-m", "pytest", *FAST, *tests]
    found = set()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if name := re.match(r"(?:FAILED|ERROR) (\S+\.py(?:::[^\s[]+(?:\[.*?\])?)?)(?: - .*)?$", line):
                found.add(name[1])
    return found if process.returncode in (0, 1) else set(tests)


def uv(*arguments: str) -> None:
    """Call uv; exit with status 2 and its words where that fails."""
    done = subprocess.run([str(UV), *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        away = re.search(NO_NETWORK, done.stderr)
        near = " No network, or no package index that can be reached." if away else ""
        print(f"uv {' '.join(arguments[:2])} failed.{near}\n{done.stderr.strip()}", file=sys.stderr)
        sys.exit(2)


def install(python: str, pins: Path, held: str = "") -> None:
    """Give an environment the newest versions, those that go with `held`, "package==version"; list them."""
    constraint = pins.with_suffix(".held")
    constraint.write_text(held)
    how = ["--upgrade", "--extra", "test", "--no-header", "--no-annotate", "--quiet", "--no-emit-index-url"]
    how += ["--no-emit-find-links", "--python", python, "--constraint", str(constraint)]
    uv("pip", "compile", *how, "--output-file", str(pins), "pyproject.toml")
    uv("pip", "sync", "--quiet", "--python", python, str(pins))


def blame(
    python: str, pins: Path, broken: set[str], changed: dict[str, tuple[str, str]]
) -> dict[tuple[str, ...], set[str]]:
    """{packages: tests that pass again if they are held back}, until there is one for each test.

    Packages: one, and those that have to go with it.
    """
    newest = versions(pins.read_text())
    found, rest = {}, set(broken)
    for name, (before, new) in changed.items():
        if not rest or "–" in (before, new):
            continue
        print(f"With {name}=={before}:", flush=True)
        install(python, pins, f"{name}=={before}")
        if healed := rest - failing(python, sorted(rest)):
            found[name, *(upgrades(newest, versions(pins.read_text())).keys() - {name})] = healed
            rest -= healed
    return found


def main() -> None:
    tests = sys.argv[1:] or ["tests"]
    with tempfile.TemporaryDirectory() as folder:
        pins, python = Path(folder) / "newest.txt", f"{folder}/venv/bin/python"
        uv("venv", "--quiet", "--python", sys.executable, f"{folder}/venv")
        install(python, pins)
        fresh, locked = (versions(file.read_text()) for file in (pins, ROOT / LOCK))
        changed = upgrades(fresh, locked)
        print(f"{len(fresh)} packages, {len(changed)} not as in {LOCK}:")
        print("\n".join(f"  {name} {old} → {new}" for name, (old, new) in changed.items()) or "  (none)")
        broken = failing(python, tests)
        if broken:
            print(f"Those that fail, with {LOCK}:", flush=True)
            broken -= failing(sys.executable, sorted(broken))
        if broken:
            print("Those that fail, once more with the newest versions:", flush=True)
            broken &= failing(python, sorted(broken))
        blamed = blame(python, pins, broken, changed)
    for names, healed in blamed.items():
        those = ", with it ".join(f"{name} {' → '.join(changed.get(name, '–'))}" for name in names)
        print(f"{those} breaks:\n  " + "\n  ".join(sorted(healed)))
    if rest := broken - set().union(*blamed.values()):
        print("No single upgrade is to blame for:\n  " + "\n  ".join(sorted(rest)))
    if not broken:
        print("Nothing is broken by the newest versions.")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
