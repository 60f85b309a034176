"""A lock on a file that holds on a shared file system, too, and that no dead process or host can keep.

flock is not to be relied on between the nodes of a cluster.  A hard link is: made or not, for all to see.
Who holds the lock touches it now and then; where nobody does, the next one takes it over.
"""

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

BEAT = 15.0  # seconds between two signs of life
STALE = 120.0  # seconds without one, on the waiting one's own clock, after which a lock is taken over
LOOK = 0.2  # seconds between two looks at a lock that somebody holds


@contextmanager
def lease(file: Path) -> Iterator[None]:
    """Hold the lock `file` inside; wait for it before.

    OSError where its folder cannot be written to, or where there are no hard links.
    """
    mine = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    me = psutil.Process()
    mine.write_text(json.dumps([_here(), me.pid, _start(me)]), encoding="utf-8")
    over = threading.Event()
    try:
        _acquire(file, mine)
        _clear_up(file)
        threading.Thread(target=_beat, args=(mine, over), daemon=True).start()
        yield
    finally:
        over.set()
        with _if_there():  # else it was taken over
            if file.samefile(mine):
                file.unlink()
        mine.unlink(missing_ok=True)


def _acquire(file, mine):
    seen, since = None, time.monotonic()
    while True:
        try:
            os.link(mine, file)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                words = "locks need hard links, which this file system has not; choose another $ARTIFACT_DIR"
                raise OSError(error.errno, words, str(file.parent)) from error
            raise
        if mine.stat().st_nlink > 1:  # over a network the answer may be lost, and the link is there
            return
        sign = _sign(file)
        if sign != seen:
            seen, since = sign, time.monotonic()
        if sign and (_is_dead(file) or time.monotonic() - since > STALE):
            _take_away(file, sign)
        else:
            time.sleep(LOOK)


def _beat(mine, over):
    while not over.wait(BEAT):
        with suppress(OSError):
            os.utime(mine)  # the same file as the lock


def _sign(file):
    """What changes with each sign of life: not a time to be compared, for clocks differ and jump."""
    with _if_there():
        status = file.stat()
        return status.st_ino, status.st_mtime_ns
    return None


def _is_dead(file):
    """Whether the lock's holder was a process of this machine that is no more."""
    held = None
    with _if_there():
        held = file.read_text(encoding="utf-8")
    if held is None:
        return False
    try:
        where, pid, start = json.loads(held)
    except ValueError:  # not one of ours
        return True
    if where != _here():
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # nobody has asked yet how it ended
            return True
        return abs(_start(process) - start) > 2  # else another has got its number
    except psutil.NoSuchProcess:
        return True


def _here():
    """Where a process's number means the same process: containers may share their host's name."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _start(process):
    """When a process began, in seconds after its machine did: whoever sets the clock changes the time of day
    of both."""
    return process.create_time() - psutil.boot_time()


def _clear_up(file):
    """Remove what is left of processes that were killed while they waited for the lock, or held it."""
    for other in file.parent.glob(f".{file.name}.*"):
        with _if_there():
            if other.stat().st_size and _is_dead(other):  # one without content is being written
                other.unlink()


@contextmanager
def _if_there():
    """Others remove files meanwhile, which over a network may be told by a stale handle."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise


def _take_away(file, sign):
    """Remove the lock that gave this sign of life; one that is newer is put back."""
    gone = file.with_name(f".{file.name}.{uuid.uuid4().hex}.stale")
    with _if_there():
        file.rename(gone)
        if _sign(gone) != sign:
            with suppress(FileExistsError):
                os.link(gone, file)
        gone.unlink()
