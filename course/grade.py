"""Grade submitted defenses on the ladder: `python -m course.grade FOLDER… [--images 50]`.

Each folder holds `defense.py` with a function `denoiser()`, and `weights.safetensors` if it needs them.  It
is copied, and runs in a process of its own behind the fences of `course.jail`, which says what they do not
prevent.  Prints a page in Markdown for each: the points of `course/project.md` that a script can give, each
with its reason, and the ladder.  The exit status is 1 if a submission could not be graded.
"""

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

DEFENSE, FACTORY, WEIGHTS = "defense.py", "denoiser", "weights.safetensors"
LARGEST = 50_000_000  # bytes of a submission
LONGEST = 100_000  # bytes of an answer
FORGED = "it wrote on the grader's own channel"
PREPARING = 600  # seconds that the ladder's own part may take before the submission is loaded


class Point(NamedTuple):
    """One line of the rubric: `points` given of `most`, and why."""

    what: str
    points: float
    most: int
    why: str


class Refused(Exception):
    """Why a submission cannot be graded, in words for whoever handed it in."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course.grade", description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--images", type=int, default=50, help="test images")
    parser.add_argument("--eps", type=float, default=0.2, help="the ℓ∞ budget")
    parser.add_argument("--steps", type=int, default=40, help="of the gradient attacks")
    parser.add_argument("--queries", type=int, default=300, help="of the black-box attack")
    parser.add_argument("--autoattack", action="store_true", help="the ensemble, too: long where much stands")
    parser.add_argument("--seconds", type=int, default=600, help="that a submission may take")
    parser.add_argument("--gigabytes", type=int, default=4, help="of memory that it may fill")
    args = vars(parser.parse_args())
    refused = 0
    for folder in args.pop("folders"):
        try:
            print(page(folder.name, *grade(folder, **args)), flush=True)
        except Refused as error:
            refused += 1
            print(f"# {folder.name}\n\nNot graded: {error}\n", flush=True)
    sys.exit(bool(refused))


def grade(
    folder: Path,
    *,
    images: int = 50,
    eps: float = 0.2,
    steps: int = 40,
    queries: int = 300,
    autoattack: bool = False,
    seconds: int = 600,
    gigabytes: int = 4,
) -> tuple[list[Point], dict, bool]:
    """The points of a submission, the facts they come from, and whether the kernel confined it.

    images: how many.  eps, steps, queries, autoattack: as in `helpers.measure.ladder.climb`.
    seconds: of its own, from loading it to the last attack.  gigabytes: of memory.
    Refused, with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="submission-") as place:
        inside = Path(place).resolve() / "submission"
        _copy(folder, inside)
        budget = {"eps": eps, "steps": steps, "queries": queries, "autoattack": autoattack}
        limits = {"seconds": seconds, "memory": gigabytes * 2**30}
        kernel, answer = _run(inside, {"images": images, "budget": budget} | limits)
    if "why" in answer:
        raise Refused("; ".join(dict.fromkeys(answer["why"])))
    try:
        return points(answer["facts"]), answer["facts"], kernel
    except (LookupError, TypeError):
        raise Refused(FORGED) from None


def points(facts: dict) -> list[Point]:
    """The rubric's first half: what the ladder alone decides."""
    restored, robust = (facts[name] for name in ("oblivious", "gained"))
    alarms, gains = facts["alarms"], "gains" in (restored[1], robust[1])
    given = [Point("it runs, and keeps the contract", 5, 5, "images in [0,1] to images in [0,1]")]
    kept = f"it keeps {facts['kept']:.0f} % of the images that the bare target reads"
    if not facts["works"]:
        rest = [("natural images", 5), ("an attacker who does not know it", 15)]
        rest += [("an evaluation without alarms", 15), ("the strongest attacker", 20)]
        return given + [Point(what, 0, most, f"{kept}: nothing else counts") for what, most in rest]
    given.append(Point("natural images", 5, 5, kept))
    share, why = max(0.0, restored[0]) / 100, f"{restored[0]:+.0f} points over the bare target: {restored[1]}"
    counts = restored[1] == "gains"
    given.append(Point("an attacker who does not know it", 15 * share * counts, 15, why))
    why = "; ".join(alarms) or ("no alarm rings" if gains else "no alarm rings, but it defends nothing")
    given.append(Point("an evaluation without alarms", 15 * (gains and not alarms), 15, why))
    share, why = max(0.0, robust[0]) / 100, f"{robust[0]:+.0f} points over the bare target: {robust[1]}"
    why += ", but a stronger attack is missing" if alarms else ""
    counts = robust[1] == "gains" and not alarms
    given.append(Point("the strongest attacker", 20 * share * counts, 20, why))
    return given


def page(name: str, given: list[Point], facts: dict, kernel: bool) -> str:
    """The grade as Markdown."""
    total, most = sum(point.points for point in given), sum(point.most for point in given)
    lines = [f"# {name}: {total:.0f} of {most} points by the ladder", ""]
    if not kernel:
        lines += ["*This system has no Landlock: only Python's own calls were fenced in.*", ""]
    lines += ["| for | points | why |", "|---|---|---|"]
    lines += [f"| {one.what} | {one.points:.0f} of {one.most} | {_cell(one.why)} |" for one in given]
    columns = list(facts["rows"][0])
    lines += ["", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(row[column]) for column in columns)} |" for row in facts["rows"]]
    return "\n".join(lines) + "\n"


def _cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def _copy(folder, inside):
    """Copy a submission; Refused if it is not one."""
    if not folder.is_dir():
        raise Refused(f"there is no folder {folder}")
    if not (folder / DEFENSE).is_file():
        raise Refused(f"there is no {DEFENSE} in it")
    files = list(folder.rglob("*"))
    if links := [str(file.relative_to(folder)) for file in files if file.is_symlink()]:
        raise Refused(f"it holds links, which may lead outside: {', '.join(links)}")
    if sum(file.stat().st_size for file in files) > LARGEST:
        raise Refused(f"it is larger than {LARGEST // 1_000_000} MB")
    shutil.copytree(folder, inside)


def _run(inside, settings):
    """Run the confined process; -> (whether the kernel confines it, its last message)."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "course.inside", str(inside), json.dumps(settings | {"pipe": writing})]
    # Nothing of the grader's own environment, and no CUDA device: opening one would be outside.
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"HOME": str(inside), "TMPDIR": str(inside)}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {name: os.environ[name] for name in ("DATA_DIR",) if name in os.environ}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            pass_fds=[writing],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        os.close(writing)
        ready = answer = None
        try:
            with os.fdopen(reading, "rb", buffering=0) as pipe:
                ready = _message(pipe, PREPARING)
                answer = _message(pipe, settings["seconds"]) if ready else None
        except TimeoutError:
            if ready:
                raise Refused(f"it took longer than {settings['seconds']} seconds") from None
        finally:
            if process.poll() is None and not _ends(process):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if ready is None:
            raise RuntimeError(f"the ladder itself did not start:\n{_tail(said)}")
    if answer is None:
        raise Refused(_death(status, settings))
    return ready["kernel"], answer


def _ends(process):
    """Whether a process that has nothing more to say ends soon."""
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        return False
    return True


def _message(pipe, seconds):
    """The next line of the pipe as an object; None at its end; TimeoutError; Refused for what is none."""
    deadline, line = time.monotonic() + seconds, b""
    while not line.endswith(b"\n"):
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        if not (byte := pipe.read(1)) or len(line) > LONGEST:
            return None
        line += byte
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        raise Refused(FORGED) from None


def _death(status, settings):
    """Why a process ended without an answer."""
    if status == -signal.SIGXCPU:
        return f"it took longer than {settings['seconds']} seconds of processor time"
    if status == -signal.SIGXFSZ:
        return "it wrote a file that is too large"
    if status < 0:
        return f"it ended by {signal.Signals(-status).name}; out of memory?"
    return f"it ended the process itself (status {status})"


def _tail(file):
    file.seek(0)
    return file.read().decode(errors="replace")[-2000:]


if __name__ == "__main__":
    main()
