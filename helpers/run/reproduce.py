"""`make reproduce`: run the notebooks of a profile, several at a time, going on where the last run stopped.

A notebook is run again when it, its parameters or the helpers have changed since.  What the profile needs of
the machine is checked first (`needed`).  What a notebook needs and does not find it makes, under the lab's
locks.  The report is rewritten after each.  With MINUTES=12 it begins with the most valuable notebooks and
stops in time; trainings and adversarial sets save themselves each minute, so that the next call goes on.
`make notebooks` does the same for the profile quick and keeps the outputs in `notebooks/`, what the notebooks
asked for and how long they took.
"""

import argparse
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from helpers import ROOT, write_atomically
from helpers.run import __main__ as one
from helpers.run import explorers, needed, options, plan, pool, printed


def main() -> None:
    started = time.monotonic()
    pool.interruptible()
    parser = options.parser("Run the notebooks of a profile.")
    parser.add_argument("--keep", action="store_true", help="keep the outputs in notebooks/ (quick, seed 0)")
    args = parser.parse_args()
    if args.keep and (args.profile, args.seeds) != ("quick", [0]):
        parser.error("notebooks/ holds the outputs of quick with seed 0: no PROFILE or SEEDS here")
    os.chdir(ROOT)
    folder = ROOT / "reports" / args.profile
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            code = reproduce(args, started + 60 * args.minutes if args.minutes else math.inf)
    except Timeout:
        sys.exit(f"Another `make reproduce` with profile {args.profile} is running here.")
    except KeyboardInterrupt:
        print("Stopped. The next `make reproduce` goes on from here.", file=sys.stderr)
        code = 130
    except needed.Lacking as lacking:
        print(lacking, file=sys.stderr)
        code = 2
    sys.exit(code)


def reproduce(args: argparse.Namespace, deadline: float) -> int:
    """Run what is not done yet, until the `deadline` on the clock of `time.monotonic`; -> the exit status."""
    from helpers.lab import artifacts  # like `index` it takes seconds
    from helpers.run import index

    everything = plan.runs(args.profile, args.seeds)
    planned = plan.runs(args.profile, args.seeds, args.only)
    if deadline < math.inf:
        planned = plan.by_value(args.profile, planned)
    waiting = {
        run.name: run
        for run in planned
        if not run.is_done() or (args.keep and explorers.missing(run.notebook, run.output))
    }
    if waiting:
        needed.check(args.profile, list(waiting.values()))
    for part in (ROOT / "reports" / args.profile).glob(".*.part.ipynb"):  # of a run that was killed
        part.unlink()
    if len(waiting) < len(planned):
        print(f"{len(planned) - len(waiting)} of {len(planned)} notebooks are done already.", flush=True)
    from_nothing = waiting.keys() == {run.name for run in everything} and not any(
        artifacts.folder().glob("*")
    )

    left, page = dict(waiting), f"reports/{args.profile}/index.html"

    def ended(job, seconds, output):
        run = left.pop(job.name)
        if output is not None and run.failed.name not in output:  # else it left its traceback there
            leave(run, output)
        if output is None and args.profile != "quick":
            printed.keep(run, args.profile)
        index.build(args.profile, everything)
        if output is None and (args.keep or args.profile != "quick") and args.seeds == [0]:
            record(args.profile, run, seconds, from_nothing)

    index.build(args.profile, everything)
    for run in waiting.values():
        run.asked.unlink(missing_ok=True)
        shutil.rmtree(explorers.left_by(run.output), ignore_errors=True)
    try:
        failed = pool.work([_job(run, args.keep) for run in waiting.values()], args.cores, ended, deadline)
    except KeyboardInterrupt:
        done = f"{sum(run.is_done() for run in planned)} of {len(planned)} notebooks are done"
        print(f"Stopped: {done}. The next `make reproduce` goes on from here. See {page}.", file=sys.stderr)
        index.build(args.profile, everything)
        return 130
    if args.keep:
        keep([run for run in planned if run.name not in {job.name for job in failed}])
    if left:
        done = len(planned) - len(left) - len(failed)
        print(
            f"Time is over: {done} of {len(planned)} notebooks are done. The next call begins with", end=" "
        )
        print(f"{', '.join(list(left)[:3])}{', …' if len(left) > 3 else ''}.")
    if failed:
        names = ", ".join(job.name for job in failed)
        print(f"Not finished: {names} failed. The next `make reproduce` goes on from here. See {page}.")
    elif not left:
        print(f"Done. Open {page} in a browser.")
    return bool(failed)


def _job(run, keep):
    noting = {"NEEDS_FILE": str(run.asked)}
    if keep:
        noting[explorers.VARIABLE] = str(explorers.left_by(run.output))
    return pool.Job(run.name, run.command(sys.executable), run.seconds, run.needs, noting)


def leave(run: plan.Run, printed: str) -> None:
    """Leave a failed notebook for a run that could not: its process died, or the disk was full."""
    import nbformat

    notebook = nbformat.read(run.notebook, as_version=4)
    evalue = printed.splitlines()[-1] if printed else "it ended without a word"
    words = {"ename": "The run ended", "evalue": evalue, "traceback": printed.splitlines()}
    error = nbformat.v4.new_output("error", **words)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("", outputs=[error]))
    write_atomically(run.failed, lambda temporary: nbformat.write(notebook, temporary))


def keep(done: list[plan.Run]) -> None:
    """Take the outputs of `done` over into `notebooks/`, and what they asked for into NEEDS."""
    needs = {name: asked for name, asked in plan.read(plan.NEEDS).items() if _notebook(name).exists()}
    for run in done:
        one.keep(run.output, run.notebook)
        needs[run.notebook.stem] = asked(run.asked)
    lines = {  # one a need, so that git shows what has changed
        name: ",\n".join(json.dumps(need, sort_keys=True, ensure_ascii=False) for need in needs[name])
        for name in sorted(needs)
    }
    lists = ",\n".join(f"{json.dumps(name)}: [\n{those}\n]" for name, those in lines.items())
    _write(plan.NEEDS, f"{{\n{lists}\n}}\n")


def asked(noted: Path) -> list[dict]:
    """What a run noted that it asks for: each artifact once, in an order that does not depend on the run."""
    lines = noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []
    return [json.loads(line) for line in sorted(set(lines))]


def record(profile: str, run: plan.Run, seconds: float, from_nothing: bool) -> None:
    """Keep the time of a run in TIMES.

    A run that found artifacts takes less, which says nothing: unless all began from nothing, only a longer
    time replaces one that is recorded.
    """
    times = plan.read(plan.TIMES)
    known = times.setdefault(profile, {})
    if from_nothing or seconds > known.get(run.name, 0):
        known[run.name] = round(seconds)
    times[profile] = {
        name: known[name] for name in sorted(known) if _notebook(name.partition(".")[0]).exists()
    }
    _write(plan.TIMES, json.dumps(times, indent=1, sort_keys=True) + "\n")


def _notebook(name):
    return ROOT / "notebooks" / f"{name}.ipynb"


def _write(file, text):
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
