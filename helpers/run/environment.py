"""`make env`: bring the environment to what requirements.lock says, neither more nor less.

    python3 -m helpers.run.environment .venv

What was downloaded before is in uv's cache and is not asked for again: with an old cache no network is
needed.  Where something cannot be had, the environment stays as it was.  The standard library alone is used
here.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = "requirements.lock"
# A second opinion for the tests, which do without it.  Its plotting dependency does not build.
OPTIONAL = "adv-lib==0.2.8"
NO_NETWORK = (
    "dns error|name resolution|failed to lookup|[Cc]ould not connect|error sending request|unreachable|"
    "[Cc]onnection refused|NewConnectionError|timed out|connectivity is disabled|[Cc]onnection reset"
)

PATIENCE = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]


class Failed(Exception):
    """What went wrong, in words for a person."""


def make(venv: Path) -> None:
    """Create or change the environment `venv`, of the Python that runs this; Failed if that cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        uv = _uv(venv, Path(folder))
        python = str(venv / "bin" / "python")
        if not _fits(venv):
            _run([[sys.executable, "-m", "venv", "--clear", str(venv)]])
        if uv is None and _try([python, "-m", "pip", "install", *PATIENCE, "uv"]) is None:
            uv = venv / "bin" / "uv"
        project = Path(folder) / "project.txt"
        project.write_text("--editable .\n")
        _run([*_by_uv(uv, "sync", "--compile-bytecode", python, LOCK, project), *_by_pip(python)])
        if uv and not (venv / "bin" / "uv").exists():
            shutil.copy2(uv, venv / "bin" / "uv")  # for the next time, perhaps without a network
        for command in _by_uv(uv, "install", "--no-deps", python, OPTIONAL):
            if _try(command) is None:
                break


def _by_uv(uv, what, option, python, *packages):
    """The command, first from the cache alone; none without uv."""
    command = [str(uv), "pip", what, option, "--python", python, *map(str, packages)]
    return [[*command, "--offline"], command] if uv else []


def _by_pip(python):
    """Where uv cannot be had or does not find its way to the package index, pip does the same."""
    return [[python, "-m", "pip", "install", *PATIENCE, "--requirement", LOCK, "--editable", "."]]


def _uv(venv, folder):
    """A copy of the uv that is there, for when the environment is cleared; None if there is none."""
    for found in (venv / "bin" / "uv", shutil.which("uv")):
        if found and Path(found).exists():
            return Path(shutil.copy2(found, folder))
    return None


def _fits(venv):
    """Whether the environment is one of the Python that runs this."""
    try:
        command = [str(venv / "bin" / "python"), "-c", "import sys; print(*sys.version_info[:2])"]
        told = subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return False
    return told.split() == [str(number) for number in sys.version_info[:2]]


def _try(command):
    """Run a command; -> what it complained of, None if all went well."""
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr + done.stdout).strip() or "it failed"


def _run(commands):
    """Run the commands until one of them does well; Failed if none does."""
    complaints = []
    for command in commands:
        complaint = _try(command)
        if complaint is None:
            return
        complaints.append(f"{' '.join(command)} failed:\n{complaint}")
    if re.search(NO_NETWORK, complaints[-1]):
        raise Failed(
            "No network, or the package index cannot be reached, and uv's cache does not hold all that "
            f"{LOCK} asks for. Connect, and call `make env` again."
        )
    raise Failed("\n".join(complaints[-2:]))


def main() -> None:
    try:
        make(Path(sys.argv[1]))
    except Failed as failed:
        print(failed, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Stopped. The next `make env` goes on.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
