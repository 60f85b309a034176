"""The variables of `make`, checked before anything starts: a bad one is one line with it and the choices.

The standard library alone is used here: the Makefile checks before the environment exists.
"""

import argparse
import os
import re
from typing import NoReturn

from helpers import ROOT


def _found(pattern, *files):
    """What a pattern finds in files of the helpers, in their order."""
    texts = [file.read_text(encoding="utf-8") for file in files]
    return [name for text in texts for name in re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL)]


# Read, not imported: that would load torch, which takes seconds.
PROFILES = _found(r"^(\w+):", ROOT / "helpers/lab/profiles.yaml")  # the top level of the file
MAX_SEED = 999_999_999  # every generator of random numbers takes it


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, in the spelling of `make`: CORES=0, not --cores."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, re.sub(r"^argument [^:]+: (?=\w+=)", "", message) + "\n")


def attacks() -> list[str]:
    """The names of all registered attacks."""
    return _found(r"^@attack\([^)]*\)\ndef (\w+)\(", *sorted((ROOT / "helpers/attacks").glob("*.py")))


def datasets() -> list[str]:
    """The names of all data sets."""
    return _found(r'^    "(\w+)": Dataset\(', ROOT / "helpers/data.py")


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
    if not found or not all(re.fullmatch("[0-9]{1,9}", one) for one in found):
        raise argparse.ArgumentTypeError(
            f"SEEDS={text}: whole numbers from 0 to {MAX_SEED}, such as 0 or 0,1,2"
        )
    return list(dict.fromkeys(map(int, found)))


def cores(text: str) -> int:
    """How many notebooks at a time; without a number as many as there are cores, at most four."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text:
        return min(4, available)
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(
            f"CORES={text}: how many notebooks at a time, from 1 to 9999; this machine has {available} cores"
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
    if text and not re.fullmatch("[3-9]|[1-9][0-9]{1,4}", text):
        raise argparse.ArgumentTypeError(f"MINUTES={text}: when to stop, whole, from 3 to 99999, such as 12")
    return int(text) if text else None


def _words(text):
    return text.replace(",", " ").split()


if __name__ == "__main__":
    parser(__doc__).parse_args()
