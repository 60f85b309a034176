"""The variables of `make`, checked before anything starts: a bad one is one line with it and the choices.

The standard library alone is used here: the Makefile checks before the environment exists.
"""

import argparse
import os
import re
from typing import NoReturn

from helpers import ROOT

# The top level of this file are the profiles.
PROFILES = re.findall(r"^(\w+):", (ROOT / "helpers/lab/profiles.yaml").read_text(), flags=re.MULTILINE)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, in the spelling of `make`: CORES=0, not --cores."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, re.sub(r"^argument (--\w+, )?--?(\w+): ", "", message) + "\n")


def parser(description: str) -> Parser:
    """A parser of the variables."""
    result = Parser(description=description)
    result.add_argument("--profile", type=profile, default="quick", help=f"one of {', '.join(PROFILES)}")
    result.add_argument("--seeds", type=seeds, default="0", help="one or more, such as 0,1,2")
    result.add_argument("--cores", type=cores, default="", help="notebooks at a time, one core each")
    result.add_argument("--only", type=only, default="", help='notebooks by their first letters, "22 23"')
    result.add_argument("--minutes", type=minutes, default="", help="then stop; the next call goes on")
    return result


def profile(text: str) -> str:
    """The name of a profile."""
    if text not in PROFILES:
        raise argparse.ArgumentTypeError(f"PROFILE={text}: choose one of {', '.join(PROFILES)}")
    return text


def seeds(text: str) -> list[int]:
    """Whole numbers, separated by commas or spaces."""
    found = _words(text)
    if not found or not all(re.fullmatch(r"\d+", one) for one in found):
        raise argparse.ArgumentTypeError(f"SEEDS={text}: whole numbers from 0 on, such as 0 or 0,1,2")
    return list(dict.fromkeys(map(int, found)))


def cores(text: str) -> int:
    """How many notebooks at a time; without a number as many as there are cores, at most four."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text:
        return min(4, available)
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(
            f"CORES={text}: how many notebooks at a time, from 1 on; this machine has {available} cores"
        )
    return int(text)


def only(text: str) -> list[str]:
    """What the names of notebooks begin with, separated by commas or spaces; none means all."""
    names = sorted(file.stem for file in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for one in _words(text):
        if not any(name.startswith(one.partition(".")[0]) for name in names):
            numbers = ", ".join(name[:2] for name in names)
            raise argparse.ArgumentTypeError(f"ONLY={text}: none begins with {one}; there are {numbers}")
    return _words(text)


def minutes(text: str) -> int | None:
    """After how many minutes to stop; None: when all is done."""
    if text and not re.fullmatch(r"[3-9]|[1-9]\d+", text):
        raise argparse.ArgumentTypeError(f"MINUTES={text}: when to stop, whole, from 3 on, such as 12")
    return int(text) if text else None


def _words(text):
    return text.replace(",", " ").split()


if __name__ == "__main__":
    parser(__doc__).parse_args()
