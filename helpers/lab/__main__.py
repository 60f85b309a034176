"""Make one artifact from the command line, for clusters.

python -m helpers.lab '{"paper": "arn", ...}' --profile quick
"""

import argparse
import json

from helpers.lab import profiles


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.lab", description=__doc__, usage=argparse.SUPPRESS
    )
    parser.add_argument("asked", type=asked, help="what is asked for, as in helpers/run/needs.json")
    parser.add_argument("--profile", default="quick", choices=list(profiles.profiles()))
    args = parser.parse_args()
    try:
        _check(args.asked, args.profile)
    except ValueError as error:
        parser.error(str(error))
    from helpers.lab.experiment import again  # takes seconds, and a bad argument none

    again(args.asked, args.profile)


def asked(text: str) -> dict:
    """The object that a text in JSON names."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError
    return found


def _check(asked, profile):
    """ValueError for a paper or a data set that there is not."""
    if "paper" in asked:
        profiles.choose(profiles.load(asked["paper"], profile), asked.get("dataset"), "data set")


if __name__ == "__main__":
    main()
