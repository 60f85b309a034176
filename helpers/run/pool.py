"""Commands, several at a time: which one next, and where a person is."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from helpers.run.plan import told

# With a deadline: how many seconds before it the last command begins, so that it reaches a checkpoint (it
# starts, then each minute has one), and how many are left for commands to end and for the report.
STARTING, ENDING = 150, 20


@dataclass(eq=False)
class Job:
    """One command.

    seconds: what it is expected to take; None: unknown.
    needs: artifacts that it makes or waits for.
    """

    name: str
    command: list[str]
    seconds: float | None = None
    needs: frozenset[str] = frozenset()
    environment: dict[str, str] = field(default_factory=dict)


def work(
    jobs: list[Job],
    cores: int,
    ended: Callable[[Job, float, str | None], None],
    deadline: float = math.inf,
) -> list[Job]:
    """Run all jobs, `cores` at a time with one thread each; -> those that failed.

    ended: called after each job with its seconds and, if it failed, with what it printed.
    deadline: on the clock of `time.monotonic`; if there is one, jobs begin in their order, none that could
        not reach a checkpoint, and those that still run are stopped in time.
    KeyboardInterrupt when all children have ended.
    """
    waiting, running, made, failed = list(jobs), {}, set(), []
    display = _Display(jobs, cores)
    try:
        while waiting or running:
            left = deadline - time.monotonic()
            while waiting and len(running) < cores and left > STARTING:
                job = _next(waiting, list(running), made, in_order=deadline < math.inf)
                waiting.remove(job)
                running[job] = _Process(job)
                display.show(waiting, running, started=True)
            if left < ENDING or not running:
                break
            time.sleep(0.2)
            for job, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                made |= job.needs
                output = process.output() if process.returncode else None
                if process.returncode:
                    failed.append(job)
                display.finished(job, process.seconds, output)
                ended(job, process.seconds, output)
            display.show(waiting, running)
    finally:
        display.clear()
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.end()
    return failed


def interruptible() -> None:
    """Make a SIGTERM and the end of the terminal a KeyboardInterrupt, too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)


def _next(waiting, running, made, in_order=False):
    """The longest or the first job, but rather one that does not wait for what a running one is making."""

    def is_held_up(job):
        return any((job.needs & other.needs) - made for other in running)

    if in_order:
        return min(waiting, key=is_held_up)
    unknown = max((job.seconds for job in waiting if job.seconds is not None), default=0)
    return min(waiting, key=lambda job: (is_held_up(job), -(unknown if job.seconds is None else job.seconds)))


class _Process(subprocess.Popen):
    """A job that runs; what it prints is kept."""

    def __init__(self, job):
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process is of interest)
        self._started = time.monotonic()
        environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | os.environ | job.environment
        streams = {"stdin": subprocess.DEVNULL, "stdout": self._printed, "stderr": subprocess.STDOUT}
        super().__init__(job.command, env=environment, **streams)

    @property
    def seconds(self):
        return time.monotonic() - self._started

    def output(self):
        self._printed.seek(0)
        return self._printed.read().decode(errors="replace").strip()

    def end(self):
        """Wait for the end of a terminated process, but not for long."""
        try:
            self.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()


class _Display:
    """A line for each job that ends; on a terminal, also one line on what is running, which is rewritten."""

    def __init__(self, jobs, cores):
        self.jobs, self.cores = jobs, cores
        self.done, self.expected, self.taken = 0, 0.0, 0.0
        self.terminal = sys.stdout.isatty()

    def finished(self, job, seconds, output):
        self.clear()
        self.done += 1
        if job.seconds:
            self.expected += job.seconds
            self.taken += seconds
        word = "done in" if output is None else "FAILED after"
        print(f"[{self.done}/{len(self.jobs)}] {job.name}: {word} {told(seconds)}", flush=True)
        if output:
            print(output, file=sys.stderr, flush=True)

    def show(self, waiting, running, started=False):
        """started: whether a job has just begun, which is told where there is no terminal, too."""
        names = ", ".join(job.name for job in running)
        line = f"{self.done} of {len(self.jobs)} done, {self._left(waiting, running)}, running: {names}"
        if self.terminal:
            print(f"\r\033[K{line[: os.get_terminal_size().columns - 1]}", end="", flush=True)
        elif started:
            print(line, flush=True)

    def clear(self):
        if self.terminal:
            print("\r\033[K", end="", flush=True)

    def _left(self, waiting, running):
        """The time that is left: the recorded one, at the pace that this machine has shown."""
        if any(job.seconds is None for job in [*waiting, *running]):
            return "time left unknown"
        pace = self.taken / self.expected if self.expected else 1.0
        rest = [max(0.0, job.seconds * pace - process.seconds) for job, process in running.items()]
        ahead = [job.seconds * pace for job in waiting]
        return f"about {told(max([sum(rest + ahead) / self.cores, *rest, *ahead]))} left"
