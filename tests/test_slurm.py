"""The graph on a real Slurm: a cancelled job, a drained node, a killed head; then exactly what is missing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import slurm

from helpers import ROOT

# Short notebooks of one paper that share what they make.
WANTED = [f"reports/quick/{name}.ipynb" for name in ("21_arn_motivation", "22_arn_training")]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project as git would give it, with nothing made yet."""
    if lack := slurm.lacking():
        pytest.skip(lack)
    copy = tmp_path_factory.mktemp("cluster") / "project"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in names.stdout.decode().split("\0")[:-1]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    with slurm.cluster(copy.parent / "slurm"):
        yield copy


def head(project, log):
    """The process that submits, as `make reproduce EXECUTOR=slurm` starts it: two notebooks, a GPU a step."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", "--config"]
    command += ["profile=quick", "seeds=[0]", "artifacts=true", "gpus=1", "memory=3000"]
    environment = os.environ | {"PYTHONPATH": str(project), "TQDM_DISABLE": "1"}
    environment["ARTIFACT_DIR"] = str(project / "data" / "artifacts")  # nothing made yet, seen by all nodes
    return subprocess.Popen(
        [*command, "--latency-wait", "5", "--", *(str(project / name) for name in WANTED)],
        cwd=project,
        env=environment,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def artifacts(project):
    """{file: time of its last change} of all that has been made."""
    files = (project / "data" / "artifacts").glob("*.safetensors")
    return {file.name: file.stat().st_mtime_ns for file in files}


def finished(log):
    """Names of the steps that the head has seen to the end."""
    return set(
        re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", log.read_text(encoding="utf-8"), re.MULTILINE)
    )


def submitted(log):
    """Names of the rules that Slurm was given."""
    text = log.read_text(encoding="utf-8")
    return set(re.findall(r"^rule ((?:artifact|notebook)_\w+):", text, flags=re.MULTILINE))


def test_each_step_has_a_gpu_of_its_own(project):
    """Two steps at once: each on its node, each shown one device."""
    show = 'echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"; sleep 3'
    steps = [
        subprocess.Popen(
            ["srun", "--gpus=1", "--mem=100", "bash", "-c", show], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = sorted(step.communicate()[0].split() for step in steps)
    assert [node for node, _ in told] == ["n1", "n2"] and all(device == "0" for _, device in told)


def test_faults_cost_nothing_that_was_done(project, tmp_path):
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    running = head(project, first)
    try:
        slurm.wait_for(lambda: {job[2] for job in slurm.jobs()} == {"n1", "n2"}, "a job on each node", 120)
        slurm.run("scancel", slurm.jobs()[0][0])  # one worker dies
        slurm.wait_for(lambda: finished(first), "the first step", 240)
        slurm.run("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    finally:
        os.killpg(running.pid, signal.SIGKILL)  # the head, too
        running.wait()
    slurm.run("scancel", "--user=root")
    slurm.wait_for(lambda: not slurm.jobs(), "the jobs to end")
    before = artifacts(project)
    subprocess.run([sys.executable, "-m", "snakemake", "--unlock"], cwd=project, check=True)
    again = head(project, second)
    assert again.wait(900) == 0, second.read_text()[-3000:]
    assert all((project / name).exists() for name in WANTED)
    # What was made is not made again; a step that ended while nobody looked is asked for again, and loads.
    assert before and before.items() <= artifacts(project).items()
    assert not finished(first) & submitted(second)
    slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    time.sleep(1)
    third = tmp_path / "third.log"
    assert head(project, third).wait(120) == 0 and submitted(third) == set()
