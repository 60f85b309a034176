"""A real Slurm on one machine for the tests: a controller and two emulated nodes with a fake GPU each.

`with cluster(folder):` starts Debian's Slurm and stops it.  It needs root, since the daemons do, and takes
Slurm's own folder of settings for the time of the test.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

SETTINGS = Path("/etc/slurm")
DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = ("n1", "n2")

CONF = """
ClusterName=tested
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
KillWait=5
MinJobAge=600
SchedulerParameters=sched_interval=2
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
NodeName=n1 NodeHostname={host} Port=17101 CPUs=1 RealMemory=8000 Gres=gpu:1
NodeName=n2 NodeHostname={host} Port=17102 CPUs=1 RealMemory=8000 Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES = "NodeName=n1 Name=gpu File=/dev/fakegpu1\nNodeName=n2 Name=gpu File=/dev/fakegpu2\n"


def lacking() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if (SETTINGS / "slurm.conf").exists():
        return f"{SETTINGS / 'slurm.conf'} exists: this machine has a Slurm of its own"
    return None


@contextmanager
def cluster(folder: Path):
    """A running Slurm, whose state is in `folder`."""
    (folder / "state").mkdir(parents=True)
    for node in NODES:
        (folder / node).mkdir()
    for number in (1, 2):  # plain files are refused
        with suppress(FileExistsError):
            os.mknod(f"/dev/fakegpu{number}", 0o020666, os.makedev(1, 3))
    SETTINGS.mkdir(exist_ok=True)
    host = socket.gethostname().split(".")[0]
    (SETTINGS / "slurm.conf").write_text(CONF.format(host=host, folder=folder))
    (SETTINGS / "gres.conf").write_text(GRES)
    started = []
    try:
        if not Path("/run/munge/munge.socket.2").exists():
            run(
                "install",
                "-d",
                "-o",
                "munge",
                "-g",
                "munge",
                "/run/munge",
                "/var/log/munge",
                "/var/lib/munge",
            )
            run("runuser", "-u", "munge", "--", "munged")
        started.append(subprocess.Popen(["slurmctld", "-D"], stderr=subprocess.DEVNULL))
        for node in NODES:
            started.append(subprocess.Popen(["slurmd", "-D", "-N", node], stderr=subprocess.DEVNULL))
        wait_for(lambda: nodes().count("idle") == len(NODES), "the nodes to be idle")
        yield
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(20)
        for name in ("slurm.conf", "gres.conf"):
            (SETTINGS / name).unlink(missing_ok=True)


def run(*command: str) -> str:
    """What a command prints; CalledProcessError if it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def nodes() -> list[str]:
    """The states of the nodes."""
    answer = subprocess.run(["sinfo", "-N", "-h", "-o", "%t"], capture_output=True, text=True)
    return answer.stdout.split()


def jobs() -> list[list[str]]:
    """[id, state, node, name] of each running job."""
    lines = run("squeue", "-h", "-t", "R", "-o", "%A %t %N %j").splitlines()
    return [line.split(maxsplit=3) for line in lines]


def wait_for(holds, what: str, seconds: float = 60) -> None:
    """Return once `holds()` is true; TimeoutError after some time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.5)
