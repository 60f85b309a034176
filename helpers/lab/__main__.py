"""Make one artifact from the command line, for clusters.

python -m helpers.lab '{"paper": "arn", ...}' --profile quick
"""

import argparse
import json

from helpers.lab import profiles
from helpers.lab.experiment import again


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.lab", description=__doc__)
    parser.add_argument("asked", type=json.loads, help="what is asked for, as in helpers/run/needs.json")
    parser.add_argument("--profile", default="quick", choices=list(profiles.profiles()))
    args = parser.parse_args()
    again(args.asked, args.profile)


if __name__ == "__main__":
    main()
