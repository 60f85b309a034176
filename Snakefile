"""The notebooks of a profile as a graph for a cluster.  On one machine `make reproduce` does the same.

    make reproduce EXECUTOR=slurm PROFILE=standard SEEDS=0,1,2

`profiles/slurm` says how, docs/cluster.md what to adapt.  Each notebook makes what is missing, under the lab's file locks.  With `artifacts=true` what the notebooks share is
made first, by steps of its own: which steps, `helpers/run/needs.json` says, which `make notebooks` derives from
what the notebooks ask for in the profile quick.  What they ask for beyond that in a larger profile, they make.
"""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

from helpers.run import notebook, plan

PROFILE = config.get("profile", "quick")
SEEDS = [int(seed) for seed in config.get("seeds", [0])]  # --config hands over strings
ARTIFACTS = str(config.get("artifacts", False)).lower() == "true"
GPUS = int(config.get("gpus", PROFILE in ("standard", "paper")))  # a step
MEMORY = int(config.get("memory", 16000 if GPUS else 6000))  # MB a step
UNKNOWN = 240  # minutes for what nobody has timed
PYTHON = shlex.quote(sys.executable)
REPORTS = Path("reports", PROFILE)
RUNS = plan.runs(PROFILE, SEEDS)
CHOICE = f"--profile {PROFILE} --seeds {','.join(map(str, SEEDS))}"
REPORT = f"{PYTHON} -m helpers.run.report {CHOICE}"


def minutes(*runs):
    """Twice what the slowest of the runs is expected to take, and ten for the start."""
    limit = math.ceil(max(run.seconds or 0 for run in runs) / 30) + 10
    return max(UNKNOWN, limit) if any(run.estimated for run in runs) else limit


# What the profile needs is checked once, not by each step; a GPU here only if the steps run here.
onstart:
    elsewhere = ["--elsewhere"] if workflow.non_local_exec else []
    if subprocess.run([sys.executable, "-m", "helpers.run.needed", *CHOICE.split(), *elsewhere]).returncode:
        sys.exit(2)


# The report tells what has run and what failed, then too.
onerror:
    shell(REPORT)


rule all:
    input:
        REPORTS / "index.html",


rule report:
    input:
        [run.output for run in RUNS],
    output:
        REPORTS / "index.html",
    shell:
        REPORT


STEPS = plan.steps(RUNS) if ARTIFACTS else []

for step in STEPS:

    rule:
        name:
            f"artifact_{step.name}"
        input:
            [ancient(REPORTS / "made" / other) for other in step.after],
        output:
            touch(REPORTS / "made" / step.name),
        params:
            shlex.quote(step.asked),
        threads: 1
        resources:
            runtime=minutes(*(run for run in RUNS if run.name in step.wanted_by)),
            mem_mb=MEMORY,
            gpu=GPUS,
        shell:
            f"{PYTHON} -m helpers.lab {{params}} --profile {PROFILE}"


for run in RUNS:

    rule:
        name:
            f"notebook_{run.name}"
        input:
            [ancient(REPORTS / "made" / step.name) for step in STEPS if run.name in step.wanted_by],
        output:
            run.output,
        params:  # a notebook is run again when one of these changes
            made_from=notebook.fingerprint(run.notebook, run.values),
            command=shlex.join(run.command(sys.executable)),
        threads: 1
        resources:
            runtime=minutes(run),
            mem_mb=MEMORY,
            gpu=GPUS,
        shell:
            "{params.command}"
