"""What a profile needs of the machine, checked once, before anything starts: a GPU, the full data, disk.

Data that are missing are fetched here, so that no notebook has to find out that they cannot be had.
"""

import json
import shutil
import sys
import urllib.error
import urllib.request
from contextlib import redirect_stdout
from http.client import HTTPException
from io import StringIO

from helpers.run import options, plan

GPU = "CUDA GPU, for which it is made"
TIMEOUT = 5  # seconds in which a server answers, if there is a network


class Lacking(Exception):
    """What is missing, what can be run instead, how to go on."""


def check(profile: str, waiting: list[plan.Run], gpu: bool = True) -> None:
    """Fetch what data the runs need and do not find; Lacking where this machine will not do.

    gpu: whether this is the machine that computes; on a cluster it is not.
    """
    from helpers.lab import profiles

    lacking = [*_gpu(profiles.profile(profile).gpu and gpu), *_disk(profile, waiting)]
    lacking += _data(datasets(profile, waiting), fetch=not lacking)
    if lacking:
        raise Lacking(_told(profile, waiting, lacking))


def datasets(profile: str, runs: list[plan.Run]) -> list[str]:
    """The data sets of which the runs need all images, in alphabetical order."""
    from helpers.lab import profiles

    whole = set()
    for need in {need for run in runs for need in run.needs}:
        for paper, dataset in _named(json.loads(need)):
            spec = profiles.load(paper, profile).get(dataset)
            if spec and (spec.source or profiles.profile(profile).source) == "full":
                whole.add(dataset)
    return sorted(whole)


def _named(need):
    """(paper, data set) of all that stands in a need."""
    if isinstance(need, list):
        return {pair for one in need for pair in _named(one)}
    if not isinstance(need, dict):
        return set()
    own = {(need["paper"], need["dataset"])} if "paper" in need else set()
    return own.union(*map(_named, need.values()))


# Each of the following gives pairs: what there is not, and how to go on.


def _gpu(needed):
    import torch

    if needed and not torch.cuda.is_available():
        yield GPU, "take a machine with a CUDA GPU"


def _disk(profile, waiting):
    from helpers.lab import artifacts, profiles

    folder = artifacts.folder().absolute()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free / 1e9
    seeds = {run.values.get("seed", 0) for run in waiting}
    needed = profiles.profile(profile).gigabytes * len(seeds) * len(waiting) / len(plan.runs(profile, seeds))
    if free < needed:
        yield (
            f"room in {folder}: {free:.1f} GB are free, about {needed:.1f} GB will be needed",
            "make room, or name another folder in ARTIFACT_DIR",
        )


def _data(names, fetch):
    """fetch: download what is missing, since nothing else is lacking."""
    from helpers import data

    reasons = {}
    for name in names:
        if data.DATASETS[name].torchvision and not data.available(name):
            reasons[name] = _refused(name, fetch)
    lacking = [name for name, reason in reasons.items() if reason]
    if lacking:
        yield (
            f"full {', '.join(lacking)} in {data.data_dir()}, and {reasons[lacking[0]]}",
            "connect to the network, or put the files there (data/README.md says which), or name their "
            "folder in DATA_DIR",
        )


def _refused(name, fetch):
    """Why a data set cannot be downloaded; None if it can, or has been."""
    from helpers import data

    if not _answers(name):
        return "no server that has it can be reached"
    if not fetch:
        return None
    print(f"Downloading {name} to {data.data_dir()}.", flush=True)
    try:
        with redirect_stdout(StringIO()):
            for split in data.SPLITS:
                data.load(name, split, n=1, source="full")
    except data.DataError as error:
        return f"the download failed: {' '.join(str(error).split())[:300]}"
    return None


def _answers(name):
    """Whether one of the servers that have a data set answers."""
    import torchvision

    from helpers.data import DATASETS

    loader = getattr(torchvision.datasets, DATASETS[name].torchvision)
    for url in [*DATASETS[name].mirrors, *(getattr(loader, "mirrors", None) or [loader.url])]:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()
            return True
        except urllib.error.HTTPError:  # an answer, too
            return True
        except (OSError, HTTPException):
            continue
    return False


def _told(profile, waiting, lacking):
    instead = ["`make reproduce` (quick: two CPU cores, no network)"]
    if [what for what, _ in lacking] == [GPU]:
        one = f"notebooks/{waiting[0].notebook.name} out.ipynb -p profile {profile}"
        instead += ["`make reproduce PROFILE=cpu` (two CPU cores, a night)"]
        instead += [f"slowly, one notebook at this scale: .venv/bin/python -m helpers.run {one}"]
    lines = [f"PROFILE={profile} was not started, since there is no"]
    lines += [f"  - {what}" for what, _ in lacking]
    lines += ["What runs here:", *(f"  - {way}" for way in instead)]
    lines += ["To go on, and then call the same again:", *(f"  - {how}" for _, how in lacking)]
    return "\n".join(lines)


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument(
        "--elsewhere", action="store_true", help="the steps run on other machines: no GPU here"
    )
    args = parser.parse_args()
    waiting = [run for run in plan.runs(args.profile, args.seeds, args.only) if not run.is_done()]
    try:
        check(args.profile, waiting, gpu=not args.elsewhere)
    except Lacking as lacking:
        print(lacking, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
