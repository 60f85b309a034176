"""The lock of artifacts: one holder at a time, and none that is dead."""

import errno
import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from helpers import ROOT
from helpers.lab import lease as module
from helpers.lab.lease import lease

HOLD = """
import sys, time
from pathlib import Path
import psutil
from helpers.lab.lease import lease
boot, ahead = psutil._psplatform.boot_time, float(sys.argv[2])
psutil._psplatform.boot_time = lambda: boot() + ahead
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.1)
    monkeypatch.setattr(module, "STALE", 1.0)
    monkeypatch.setattr(module, "LOOK", 0.02)


def count(file, lock, times):
    for _ in range(times):
        with lease(lock):
            number = int(file.read_text())
            time.sleep(0.001)
            file.write_text(str(number + 1))


def test_nothing_is_left_behind(tmp_path):
    with lease(tmp_path / "a.lock"):
        assert (tmp_path / "a.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_several_processes_take_turns(tmp_path):
    file, lock = tmp_path / "number", tmp_path / "a.lock"
    file.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=count, args=(file, lock, 20)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert file.read_text() == "60"


def hold(lock, ahead=0.0):
    """A process that holds the lock.  ahead: by how many seconds its clock is."""
    command = [sys.executable, "-c", HOLD, str(lock), str(ahead)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.parametrize("zombie", [False, True])
def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, zombie):
    lock = tmp_path / "a.lock"
    holder = hold(lock)
    os.kill(holder.pid, signal.SIGKILL)
    if zombie:
        time.sleep(0.2)
    else:
        holder.wait()
    started = time.monotonic()
    with lease(lock):
        assert time.monotonic() - started < 0.9  # not by age
    assert list(tmp_path.iterdir()) == []  # nothing of the dead
    holder.communicate()


def test_what_a_waiting_one_has_there_stays(tmp_path):
    """Even if it has not written it yet."""
    for name, text in (
        ("1", json.dumps([module._here(), os.getpid(), module._start(psutil.Process())])),
        ("2", ""),
    ):
        (tmp_path / f".a.lock.{name}").write_text(text)
    with lease(tmp_path / "a.lock"):
        pass
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("ahead", [-1.0, 3600.0])
def test_the_lock_of_a_living_process_is_respected_if_the_clock_was_set_meanwhile(tmp_path, ahead):
    """The start of a process is known by the time of day, which moves with the clock."""
    holder = hold(tmp_path / "a.lock", ahead)
    waiter = threading.Thread(target=count_once, args=(tmp_path / "a.lock", []), daemon=True)
    waiter.start()
    waiter.join(0.5)  # less than what makes a lock stale; the holder's beat is a slow one
    alive = waiter.is_alive()
    holder.kill()
    holder.communicate()
    waiter.join(5)
    assert alive and not waiter.is_alive()


def foreign(lock, where=None):
    lock.write_text(json.dumps([where or f"not-{socket.gethostname()}", os.getpid(), 0.0]))


@pytest.mark.parametrize("where", [None, f"{socket.gethostname()} pid:[1]"])
def test_the_lock_of_a_dead_host_is_taken_over_after_some_time(tmp_path, where):
    """Or of a container that has its host's name, and numbers of its own."""
    foreign(tmp_path / "a.lock", where)
    started = time.monotonic()
    with lease(tmp_path / "a.lock"):
        assert 0.9 < time.monotonic() - started < 10


def test_a_lock_with_signs_of_life_is_respected_whatever_its_clock_says(tmp_path):
    lock, over = tmp_path / "a.lock", threading.Event()
    foreign(lock)

    def live():
        k = 0
        while not over.wait(0.2):
            k += 1
            os.utime(lock, (k, k))  # of 1970: the clocks differ

    thread = threading.Thread(target=live)
    thread.start()
    waiter = threading.Thread(target=count_once, args=(lock, []), daemon=True)
    waiter.start()
    time.sleep(2.5)
    assert waiter.is_alive()
    over.set()
    thread.join()
    lock.unlink()
    waiter.join(5)
    assert not waiter.is_alive()


def count_once(lock, entered):
    with lease(lock):
        entered.append(True)


def test_a_file_that_is_no_lock_of_ours_holds_nobody_up(tmp_path):
    (tmp_path / "a.lock").touch()  # as an earlier version left them
    with lease(tmp_path / "a.lock"):
        pass


def test_a_lock_that_is_newer_than_the_stale_one_is_put_back(tmp_path):
    lock = tmp_path / "a.lock"
    foreign(lock)
    module._take_away(lock, (0, 0))
    assert lock.exists()


@pytest.mark.parametrize("act", ["stat", "read_text", "rename"])
def test_a_lock_that_vanishes_while_a_network_is_asked_for_it_is_no_error(tmp_path, monkeypatch, act):
    """NFS says ESTALE where another client has removed a file that this one knows."""
    lock, does, calls = tmp_path / "a.lock", getattr(Path, act), itertools.count()
    foreign(lock)

    def sometimes(self, *args, **more):
        if self == lock and next(calls) < 2:
            raise OSError(errno.ESTALE, "Stale file handle")
        return does(self, *args, **more)

    monkeypatch.setattr(Path, act, sometimes)
    monkeypatch.setattr(module, "STALE", 0.1)
    with lease(lock):
        pass
    assert next(calls) > 2


def test_a_file_system_without_hard_links_is_told_in_words(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="locks need hard links.*ARTIFACT_DIR"), lease(tmp_path / "a.lock"):
        pass
    assert list(tmp_path.iterdir()) == []
