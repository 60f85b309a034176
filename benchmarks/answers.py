"""How long the command line takes to say that something is wrong: `python benchmarks/answers.py`.

Each command is one that cannot run.  Printed are the wall time until it has said so, the median of the
repeats, and how many lines it took.  A person should wait two seconds at most.  What the answers are, is
checked by `tests/test_project.py` and `tests/test_run.py`.
"""

import argparse
import statistics
import subprocess
import sys
import time

from helpers import ROOT

MAKE = ["make", "--no-print-directory", "check"]
RUN = [sys.executable, "-m", "helpers.run", "notebooks/23_arn_pixel_attacks.ipynb"]
COMMANDS = [
    *([*MAKE, variable] for variable in ("CORES=0", "CORES=-1", "CORES=abc", "SEEDS=x", "SEEDS=")),
    *([*MAKE, variable] for variable in ("MINUTES=soon", "ONLY=99", "PROFILE=papr", "SEED=1")),
    [sys.executable, "-m", "helpers.run", "notebooks/no.ipynb", "out.ipynb"],
    [*RUN, "no/out.ipynb"],
    *([*RUN, "out.ipynb", "-p", *pair] for pair in (("profile", "papr"), ("seed", "one"), ("dataset", "x"))),
    [*RUN, "out.ipynb", "-p", "extra_attacks", "['nix']"],
    *([sys.executable, "-m", f"helpers.run.{name}", "--profile", "papr"] for name in ("reproduce", "report")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    slowest = 0.0
    print("| command | seconds | lines |\n|---|--:|--:|")
    for command in COMMANDS:
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            seconds.append(time.perf_counter() - started)
            assert done.returncode == 2, f"{command} ended with {done.returncode}"
        lines = sum(not line.startswith("make: ") for line in done.stderr.splitlines())
        shown = " ".join(command).replace(sys.executable, "python")
        print(f"| `{shown}` | {statistics.median(seconds):.2f} | {lines} |")
        slowest = max(slowest, statistics.median(seconds))
    print(f"\nThe slowest took {slowest:.2f} s.")


if __name__ == "__main__":
    main()
