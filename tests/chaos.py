"""Faults, counted: `python tests/chaos.py --kills 100 --seed 0`, ten minutes on one core.

Trainings, adversarial sets and a notebook are killed at random times and begun again, some by two processes
at once and under a clock that jumps; disks are full, folders read-only, artifacts truncated.  After each
fault every artifact is read and compared with that of an undisturbed run, and so are the tables at the end.
The last line is the sum; with `--readme` it is written there, too.  Exit status 1 if anything was lost.
Half of the kills come at a random moment; the others wait, from there, for a file that is being written.

Full disks and read-only folders are mounts, which only root can make; without them the line says so.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # sums in the same order, whatever the machine
os.environ["TQDM_DISABLE"] = "1"

import nbformat
import psutil
import torch

from helpers import ROOT, training, write_atomically
from helpers.lab import Experiment, artifacts, make, profiles
from helpers.lab.recipes import code_of
from helpers.measure.rates import error_rate
from helpers.run import scales
from helpers.threats import white_box

BEGIN, END = "<!-- by python tests/chaos.py --readme -->", "<!-- end of what chaos.py wrote -->"

# Kills come by turns to these, so many of ten to each.
SHARES = {"training": 4, "adversarial sets": 4, "notebooks": 2}
SLOWEST = 600.0  # seconds after which a run counts as hung

WORDS = "{notice: A test., deviation: tiny, comparable: false, source: sample, precision: fp32}"
PAPER = """
mnist:
  train: 40
  test: 60
  adaptive_test: 20
  target: lenet5_clean
  targets: {at_pgd: lenet5_adv}
  seen: {pp: [pgd, pgd_targeted]}
  grids: {}
  attacks:
    pgd: {attack: pgd, settings: {eps: 0.3, steps: 5}}
    pgd_targeted: {attack: pgd, targeted: true, settings: {eps: 0.3, steps: 5}}
    ddn: {attack: ddn, settings: {steps: 5}}
  methods:
    arn: {method: arn.ARN, epochs: 8, batch_size: 10, settings: {width: 0.03}}
"""

NOTEBOOK = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import chaos
table = chaos.work("notebooks", Path({world!r}), patience=0)
---
print(chaos.json.dumps(table, sort_keys=True))
"""


def work(job: str, world: Path, patience: float) -> dict[str, float | list]:
    """Make what a job consists of, or load what is there of it; -> its table.

    world: the folder with the profile's files.
    patience: seconds between two checkpoints in the midst of an epoch or an attack.
    """
    training.PATIENCE = make.PATIENCE = patience
    make.CHUNK = dict.fromkeys(make.CHUNK, 5)
    lab = small(world)
    _, y = lab.images()
    if job == "adversarial sets":
        # In any order, so that each has its share of the kills, and two at once do not go in step.
        names = random.SystemRandom().sample(("pgd", "pgd_targeted", "ddn"), 3)
        sets = {name: lab.attack(name, lab.target()) for name in names}
        return {name: error_rate(lab.target(), x, y).value for name, x in sets.items()}
    arn = lab.defense("arn", seen="pp")
    x = lab.attack("pgd", white_box(arn))
    return {"history": arn.history, "white-box": error_rate(arn, x, y[: len(x)]).value}


def small(world: Path) -> Experiment:
    """The experiment of the profile's files in `world`."""
    torch.set_num_threads(1)
    profiles.FOLDER = world / "papers"
    return Experiment("arn", "mnist", "paper")


def warm(world: Path) -> None:
    """Have in memory what takes a process its first seconds.  No gradient is taken: forks could not."""
    lab = small(world)
    lab.images()
    torch.optim.Adam([torch.zeros(1)])  # imports half of torch
    code_of(lab.recipes.defense("arn", seen="pp").made)


# --- one run, and what it leaves ---


class Run:
    """A job in a process of its own, which can be killed.  A notebook's has a kernel besides."""

    def __init__(self, job: str, world: Path, folder: Path, patience: float = 0, clock: float = 0) -> None:
        """patience: as for `work`.  clock: seconds by which the time of day is wrong (not a notebook's)."""
        self.job, self.folder = job, folder
        self.log = folder.with_suffix(f".{time.monotonic_ns()}.log")
        self.kernels: list[psutil.Process] = []
        self.killed: list[int] = []  # the ids of those that were
        if job == "notebooks":
            self.output = folder.with_suffix(f".{time.monotonic_ns()}.ipynb")
            command = [sys.executable, "-m", "helpers.run", str(world / "chaos.ipynb"), str(self.output)]
            environment = os.environ | {"ARTIFACT_DIR": str(folder)}
            with open(self.log, "w") as log:
                self.process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
        else:
            self.output = folder.with_suffix(f".{time.monotonic_ns()}.json")
            # A copy of this process: everything is imported, and no gradient was ever taken in it.
            context = multiprocessing.get_context("fork")
            self.process = context.Process(target=self._work, args=(world, patience, clock))
            self.process.start()

    def _work(self, world, patience, clock):
        os.environ["ARTIFACT_DIR"] = str(self.folder)
        now, start = time.time, psutil._psplatform.boot_time
        time.time, psutil._psplatform.boot_time = lambda: now() + clock, lambda: start() + clock
        try:
            table = json.dumps(work(self.job, world, patience), sort_keys=True)
        except BaseException:
            self.log.write_text(traceback.format_exc())
            os._exit(1)
        write_atomically(self.output, lambda file: file.write_text(table))
        os._exit(0)

    def wait(self, seconds: float = SLOWEST) -> bool:
        """Whether it has ended by then."""
        if self.job == "notebooks":
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        else:
            self.process.join(seconds)
        return self.status is not None

    @property
    def status(self) -> int | None:
        """As a shell knows it, negative after a signal; None as long as it runs."""
        return self.process.poll() if self.job == "notebooks" else self.process.exitcode

    def await_writing(self, seconds: float) -> None:
        """Wait until it writes a file, but not for longer: it may have nothing to write, or end."""
        until = time.monotonic() + seconds
        while self.status is None and time.monotonic() < until:
            if self.job == "notebooks" and not self.kernels:
                self.look_for_kernels()
            if self.parts([self.process.pid, *(kernel.pid for kernel in self.kernels)]):
                return
            time.sleep(0.0002)

    def look_for_kernels(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self.kernels = psutil.Process(self.process.pid).children(recursive=True)

    def parts(self, writers: list[int]) -> list[Path]:
        """Files that these are writing, or have left half written."""
        return [file for writer in writers for file in self.folder.glob(f".*.{writer}.tmp")]

    def kill(self, chance: random.Random, seconds: float = 0) -> bool:
        """Kill -9 the process; of a notebook its runner, its kernel or both.  -> whether it hit.

        seconds: how long to wait for a file that is being written.
        """
        self.await_writing(seconds)
        if self.job == "notebooks":
            self.look_for_kernels()
            whom = chance.choice(["runner", "kernel", "both"]) if self.kernels else "runner"
            if whom != "runner":
                self.killed += [kernel.pid for kernel in self.kernels]
                for kernel in self.kernels:
                    with suppress(psutil.NoSuchProcess):
                        kernel.kill()
            if whom == "kernel":  # its runner sees it and says so
                self.wait()
                return self.status == 1
        self.process.kill()
        self.killed.append(self.process.pid)
        self.wait()
        return self.status == -9

    def torn(self) -> bool:
        """Whether it has left a notebook that cannot be read."""
        if self.job == "notebooks":
            for file in (self.output, self.output.with_suffix(".failed.ipynb")):
                try:
                    nbformat.read(file, as_version=4)
                except FileNotFoundError:
                    continue
                except ValueError:
                    return True
        return False

    def table(self) -> str:
        """What it has found, as text; "" if there is nothing."""
        if not self.output.exists():
            return ""
        if self.job != "notebooks":
            return self.output.read_text()
        return nbformat.read(self.output, as_version=4).cells[-1].outputs[0]["text"].strip()

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@dataclass
class Reference:
    """What undisturbed runs make: artifacts by name, tables by job, and how long each job takes."""

    tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    folder: Path = Path()
    bytes: int = 0


@dataclass
class Tally:
    """What was done, and what came of it."""

    done: Counter = field(default_factory=Counter)
    corrupt: int = 0
    lost: int = 0
    unequal: int = 0
    other: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.corrupt or self.lost or self.unequal or self.other)

    def check(self, folder: Path, before: set[str], reference: Reference) -> set[str]:
        """Read all artifacts of a folder; count damaged, missing and different ones.  -> their names."""
        names = {file.name for file in folder.glob("*.safetensors")}
        self.lost += len(before - names)
        for name in names:
            try:
                tensors = artifacts.load(folder / name).tensors
            except artifacts.ArtifactError as error:
                self.corrupt += 1
                print(f"corrupt: {error}", flush=True)
                continue
            self.unequal += not same(tensors, reference.tensors.get(name, {}))
        return names

    def end(self, run: Run, reference: Reference, what: str) -> None:
        """The last run of a case: it must have come to its end, and to the undisturbed table."""
        if run.status != 0:
            self.other.append(f"{what}: status {run.status}: {run.said()[-600:]}")
        elif not run.table():
            self.lost += 1
        else:
            self.unequal += run.table() != reference.tables[run.job]
        self.done["cases"] += 1


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two artifacts hold the very same tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- the faults ---


def undisturbed(world: Path) -> Reference:
    """Run each job from nothing, alone."""
    reference = Reference(folder=world / "reference")
    reference.folder.mkdir()
    for job in SHARES:
        folder = world / f"alone {job}"
        took = []
        for _ in range(1 if job == "notebooks" else 2):  # the first run of all is a slow one
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            started = time.monotonic()
            run = Run(job, world, folder)
            if not run.wait() or run.status != 0:
                sys.exit(f"{job} fails without any fault: {run.said()}")
            took.append(time.monotonic() - started)
        reference.seconds[job] = min(took)
        reference.tables[job] = run.table()
        for file in folder.glob("*.safetensors"):
            reference.tensors[file.name] = artifacts.load(file).tensors
        for file in folder.iterdir():
            shutil.copy2(file, reference.folder)
    reference.bytes = sum(file.stat().st_size for file in reference.folder.iterdir())
    return reference


def kills(job: str, number: int, world: Path, reference: Reference, tally: Tally, chance: random.Random):
    """Kill a job `number` times; whenever it survives to its end, begin from nothing."""
    left, case = number, 0
    while left:
        case += 1
        folder = world / f"kills {job} {case}"
        folder.mkdir()
        patience = chance.choice([0, 60])
        there, orphans, runs = set(), [], []
        while not any(run.status == 0 for run in runs):
            both = job != "notebooks" and chance.random() < 0.3
            if chance.random() < 0.3:
                tally.done["clock jumps"] += jump(folder, chance)
            runs = [Run(job, world, folder, patience) for _ in range(1 + both)]
            tally.done["pairs of writers"] += both
            for run in chance.sample(runs, len(runs)):
                if left and not run.wait(chance.uniform(0, 1.3 * reference.seconds[job])):
                    hit = run.kill(chance, chance.choice([0, reference.seconds[job]]))
                    left -= hit
                    tally.done[f"kills: {job}"] += hit
                    orphans += run.kernels
                    tally.done["amid writing"] += hit and bool(run.parts(run.killed))
                    tally.done[f"kills: {job}, {len(list(folder.glob('*.safetensors')))} made"] += hit
                    tally.corrupt += run.torn()
                elif not run.wait():
                    tally.other.append(f"{job}: hung")
                    run.kill(chance)
            there = tally.check(folder, there, reference)
            for run in runs:
                if run.status not in (0, -9) and not (job == "notebooks" and "died" in run.said()):
                    tally.other.append(f"{job}: status {run.status}: {run.said()[-600:]}")
                    runs = [run]
            if tally.other:
                return
        tally.end(next(run for run in runs if run.status == 0), reference, job)
        _, alive = psutil.wait_procs(orphans, timeout=10)
        for kernel in alive:
            kernel.kill()


def jump(folder: Path, chance: random.Random) -> bool:
    """All files there, locks and checkpoints too, are of another time: up to fifty years from now.

    -> whether there was any.
    """
    files = list(folder.iterdir())
    for file in files:
        then = time.time() + fifty_years(chance)
        with suppress(FileNotFoundError):
            os.utime(file, (then, then))
    return bool(files)


def fifty_years(chance: random.Random) -> float:
    """Seconds, back or forth."""
    return chance.uniform(-50, 50) * 365 * 86400


def clocks(number: int, world: Path, reference: Reference, tally: Tally, chance: random.Random) -> None:
    """Two writers at once, of whom one has a wrong clock, while the times of all their files jump."""
    for case in range(number):
        folder = world / f"clock {case}"
        folder.mkdir()
        runs = [Run("training", world, folder, clock=clock) for clock in (0, fifty_years(chance))]
        over = threading.Event()

        def leap(folder=folder, over=over):
            while not over.wait(0.05):
                jump(folder, chance)

        thread = threading.Thread(target=leap)
        thread.start()
        for run in runs:
            run.wait()
        over.set()
        thread.join()
        tally.check(folder, set(), reference)
        for run in runs:
            tally.end(run, reference, "clock")
        tally.done["pairs of writers"] += 1
        tally.done["clock jumps"] += 1


def truncated(number: int, world: Path, reference: Reference, tally: Tally, chance: random.Random) -> None:
    """An artifact loses its end: it must be refused by name, and made again once it is deleted."""
    for case in range(number):
        folder = world / f"truncated {case}"
        shutil.copytree(reference.folder, folder)
        wanted = world / "alone training"
        file = folder / chance.choice(sorted(file.name for file in wanted.glob("*-test-*.safetensors")))
        with open(file, "r+b") as content:
            content.truncate(chance.randrange(file.stat().st_size))
        refused = Run("training", world, folder)
        refused.wait()
        if refused.status == 0 or f"delete {file}" not in refused.said():
            tally.other.append(f"truncated {file.name}: status {refused.status}: {refused.said()[-600:]}")
        file.unlink()
        again = Run("training", world, folder)
        again.wait()
        tally.check(folder, set(reference.tensors), reference)
        tally.end(again, reference, "truncated")
        tally.done["truncated artifacts"] += 1


@contextmanager
def mounted(folder: Path, *options: str):
    """Mount something at the new folder `folder`; needs root."""
    folder.mkdir()
    subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disks(number: int, world: Path, reference: Reference, tally: Tally, chance: random.Random) -> None:
    """Space for a part only of what is to be written; then there is enough."""
    for case in range(number):
        folder = world / f"full {case}"
        size = int(reference.bytes * chance.uniform(0.02, 0.5))
        with mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
            stopped = Run("training", world, folder)
            stopped.wait()
            there = tally.check(folder, set(), reference)
            if stopped.status == 0:
                tally.other.append(f"{size} bytes were enough for all: the disk was not full")
            subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)
            again = Run("training", world, folder)
            again.wait()
            tally.check(folder, there, reference)
            tally.end(again, reference, "full disk")
        tally.done["full disks"] += 1


def read_only(world: Path, reference: Reference, tally: Tally) -> None:
    """What is there is read from a read-only folder; what is not cannot be made, and that is said."""
    folder = world / "read-only full"
    with mounted(folder, "--bind", str(reference.folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        for job in ("training", "adversarial sets"):
            run = Run(job, world, folder)
            run.wait()
            tally.end(run, reference, "read-only")
        tally.check(folder, set(reference.tensors), reference)
    folder = world / "read-only empty"
    with mounted(folder, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        run = Run("adversarial sets", world, folder)
        run.wait()
        if run.status != 1 or "Read-only file system" not in run.said():
            tally.other.append(f"an empty read-only folder: status {run.status}: {run.said()[-600:]}")
    tally.done["read-only folders"] += 2


def can_mount(world: Path) -> bool:
    try:
        with mounted(world / "try", "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


# --- all of it ---


def build(world: Path) -> None:
    """The profile's files and the notebook."""
    (world / "papers").mkdir()
    (world / "profiles.yaml").write_text(f"paper: {WORDS}\nquick: {WORDS}\n")
    (world / "papers" / "arn.yaml").write_text(PAPER)
    code = NOTEBOOK.format(tests=str(Path(__file__).parent), world=str(world)).strip()
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in code.split("---")]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), world / "chaos.ipynb")


def run(number: int, seed: int) -> Tally:
    """All faults with `number` kills; -> what came of them."""
    chance, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        world = Path(name).resolve()
        build(world)
        warm(world)
        reference = undisturbed(world)
        took = ", ".join(f"{job} {seconds:.1f} s" for job, seconds in reference.seconds.items())
        print(f"undisturbed: {took}; {len(reference.tensors)} artifacts", flush=True)
        others = max(1, number // 20)
        clocks(others, world, reference, tally, chance)
        truncated(others, world, reference, tally, chance)
        if can_mount(world):
            full_disks(others, world, reference, tally, chance)
            read_only(world, reference, tally)
        else:
            tally.done["full disks"] = tally.done["read-only folders"] = 0
        print(f"without kills: {summary(tally, seed)}", flush=True)
        left = number
        for job, share in SHARES.items():
            several = min(left, -(-number * share // sum(SHARES.values())))
            kills(job, several, world, reference, tally, chance)
            left -= several
            print(f"{job}: {summary(tally, seed)}", flush=True)
        spread = {what: n for what, n in sorted(tally.done.items()) if what.endswith("made")}
        print("kills by job and number of complete artifacts:", spread, flush=True)
    return tally


def summary(tally: Tally, seed: int) -> str:
    """The line for the README."""
    by_job = {job: tally.done[f"kills: {job}"] for job in SHARES}
    where = ", ".join(f"{number} in {job}" for job, number in by_job.items())
    where += f"; {tally.done['amid writing']} of them amid the writing of a file"
    faults = [f"{sum(by_job.values())} kill −9 at random times ({where})"]
    for what in ("pairs of writers", "clock jumps", "truncated artifacts", "full disks", "read-only folders"):
        faults.append(f"{what}: {tally.done[what]}")
    line = f"{'; '.join(faults)} (seed {seed}). Then {tally.corrupt} corrupt artifacts, {tally.lost} lost "
    line += f"results; {tally.unequal} artifacts or tables other than an undisturbed run's, "
    line += f"in {tally.done['cases']} runs to the end."
    if not tally.done["full disks"]:
        line += " Full disks and read-only folders need root and were left out."
    return line + (f" {len(tally.other)} other failures." if tally.other else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readme", action="store_true", help="write the sum into README.md")
    args = parser.parse_args()
    started = time.monotonic()
    tally = run(args.kills, args.seed)
    line = summary(tally, args.seed)
    for failure in tally.other:
        print(failure)
    print(f"{line} {time.monotonic() - started:.0f} s.")
    if args.readme:
        text = scales.written(scales.README.read_text(encoding="utf-8"), line, BEGIN, END)
        write_atomically(scales.README, lambda file: file.write_text(text, encoding="utf-8"))
    sys.exit(not tally.ok)


if __name__ == "__main__":
    main()
