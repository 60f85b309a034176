"""Fences around the process in which somebody else's code is run; nothing here takes them away again.

1. Limits of the system: memory, processor time, size of files.
2. Landlock (Linux 5.13 and newer, where it is switched on): the kernel lets nothing be read but the folder of
   the submission, Python with its packages and this project's code, nothing be written but in that folder,
   and, on newer kernels, no TCP connection be made and no other process be signalled.
3. Python's audit hook, everywhere: the same for what Python itself opens, with a message that names it; no
   processes, no sockets, no foreign libraries.

What they do not prevent.  The submission runs in the process that attacks it: code that rewrites the ladder
in memory can give itself any mark.  Where there is no Landlock, a library that opens files in C gets around
the hook.  So read a submission before you run it; against somebody who means harm use a machine of its own.
"""

import ctypes
import os
import resource
import site
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = (
    *("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen"),
    *("os.kill", "os.link", "os.symlink", "os.chdir", "signal.pthread_kill", "sys.addaudithook"),
    *(
        "socket.connect",
        "socket.bind",
        "socket.sendto",
        "socket.getaddrinfo",
        "ctypes.dlopen",
        "ctypes.dlsym",
    ),
)
READING = ("os.listdir", "os.scandir")
WRITING = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.chmod", "os.chown")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
LARGEST_FILE = 10_000_000  # bytes that it may write

# Landlock's numbers, from linux/landlock.h; its calls have the same ones on all processors.
CREATE, ADD_RULE, RESTRICT = 444, 445, 446
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by its version
EXECUTE, WRITE_FILE, READ_FILE, READ_FOLDER = 1, 2, 4, 8
TCP, SCOPES = 0b11, 0b11  # bind and connect; sockets and signals
NO_NEW_PRIVILEGES = 38


def confine(folder: Path, memory: int, seconds: int) -> tuple[bool, list[str]]:
    """Confine this process; -> (whether the kernel holds it, what it has tried: a list that grows).

    folder: the only one to be written to.  memory: bytes of data.  seconds: of processor time from now on.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = round(used.ru_utime + used.ru_stime)
    _limit(resource.RLIMIT_DATA, memory)
    _limit(resource.RLIMIT_CPU, spent + seconds)
    _limit(resource.RLIMIT_FSIZE, LARGEST_FILE)
    _limit(resource.RLIMIT_CORE, 0)
    readable = _readable(folder)
    # What cannot be read must not be searched for modules.
    sys.path[:] = [place for place in sys.path if place and _inside(place, readable)]
    return _landlock(folder, readable), _listen(folder, readable)


def _limit(kind, value):
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _readable(folder):
    """Its folder, Python with its packages, what the dynamic linker needs, and this project's code."""
    places = [sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *site.getsitepackages()]
    places += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    places += ["/dev/null", "/dev/urandom", ROOT / "helpers"]
    found = [folder, *(Path(os.path.realpath(place)) for place in places)]
    return [path for path in dict.fromkeys(found) if path.exists()]


def _inside(path, places):
    path = os.path.realpath(path)
    return any(path == str(place) or path.startswith(f"{place}{os.sep}") for place in places)


def _landlock(folder, readable):
    """Let the kernel forbid all files but those below `readable`; -> whether it can."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = RIGHTS[max(known for known in RIGHTS if known <= version)]
    handled = (ctypes.c_uint64 * 3)(rights, TCP, SCOPES)
    size = 8 if version < 4 else 16 if version < 6 else 24  # older kernels know fewer fields
    ruleset = libc.syscall(CREATE, handled, ctypes.c_size_t(size), 0)
    for path in readable:
        access = rights if path == folder else EXECUTE | READ_FILE | READ_FOLDER
        if not path.is_dir():
            access &= EXECUTE | WRITE_FILE | READ_FILE
        _rule(libc, ruleset, path, access)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return libc.syscall(RESTRICT, ruleset, 0) == 0


class _Below(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("access", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def _rule(libc, ruleset, path, access):
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if libc.syscall(ADD_RULE, ruleset, 1, ctypes.byref(_Below(access, place)), 0):
            raise OSError(ctypes.get_errno(), f"Landlock takes no rule for {path}")
    finally:
        os.close(place)


def _listen(folder, readable):
    """Refuse in words what Python is asked to do outside; -> the list of all that was tried."""
    tried = []

    def refuse(message):
        tried.append(message)
        raise PermissionError(message)

    def hook(event, arguments):
        if event.startswith(FORBIDDEN):
            refuse(f"it called {event}, which a denoiser does not need")
        writes = event in WRITING or (event == "open" and bool((arguments[2] or 0) & WRITES))
        if not writes and event != "open" and event not in READING:
            return
        for path in arguments[: 2 if event == "os.rename" else 1]:
            if isinstance(path, str | bytes) and not _inside(path, [folder] if writes else readable):
                verb = "write to" if writes else "read"
                refuse(f"it tried to {verb} {os.fsdecode(path)}, which is outside its folder")

    sys.addaudithook(hook)
    return tried
