"""The confined process of `course.grade`: `python -m course.inside FOLDER SETTINGS`, settings as JSON.

The bare target climbs the ladder first, so that all parts of it are loaded; then the process is confined, and
only then the submission is imported.  Tells on a pipe, one JSON object a line, when it is ready and what came
of it.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch

from course import jail
from course.grade import DEFENSE, FACTORY, WEIGHTS
from helpers import data
from helpers.lab import bring
from helpers.measure import ladder, verdicts
from helpers.measure.rates import gain
from helpers.networks.zoo import load_target
from helpers.threats import Defended


def main() -> None:
    folder, settings = Path(sys.argv[1]).resolve(), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    os.chdir(folder)
    x, y = data.load("mnist", "test", n=settings["images"])
    target, surrogate = load_target("lenet5_clean"), load_target("lenet5_adv")
    budget = {"surrogate": surrogate, **settings["budget"]}
    bare = ladder.climb(Defended(target, torch.nn.Identity()), x, y, **budget)
    held, tried = jail.confine(folder, settings["memory"], settings["seconds"])
    _tell(settings["pipe"], state="ready", kernel=held)
    try:
        weights = str(folder / WEIGHTS) if Path(WEIGHTS).exists() else ""
        denoiser = bring.from_path(f"{folder / DEFENSE}:{FACTORY}", weights)
        bring.check_denoiser(denoiser, x)
        defended = Defended(target, denoiser)
        rungs = ladder.climb(defended, x, y, **budget)
        found = {"facts": _facts(rungs, bare, ladder.checklist(defended, x, y, rungs))}
    except BaseException as error:  # any: it is somebody else's code
        found = {"why": tried or [_words(error, folder)]}
    if tried:
        found = {"why": tried}
    _tell(settings["pipe"], state="done", **found)
    os._exit(0)  # without what the submission may have left for the end


def _facts(rungs, bare, checks):
    """What the marks depend on, as plain numbers and words."""
    kept = verdicts.kept(~rungs[0].broken, ~bare[0].broken)
    oblivious = gain(~rungs[1].broken, ~bare[1].broken)
    gained = gain(ladder.withstands(rungs), ladder.withstands(bare))
    return {
        "kept": kept.value,
        "works": verdicts.works(kept),
        "oblivious": [oblivious.value, verdicts.gain_verdict(oblivious)],
        "gained": [gained.value, verdicts.gain_verdict(gained)],
        "alarms": [check.evidence for check in checks if not check.holds],
        "rows": ladder.table(rungs).to_dict("records"),
    }


def _words(error, folder):
    """An error in one line, with the line of the submission that it comes from, if there is one."""
    lines = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(folder))
    ]
    place = f"{Path(lines[-1].filename).name}, line {lines[-1].lineno}: " if lines else ""
    return f"{place}{type(error).__name__}: {error}"[:2000]


def _tell(pipe, **message):
    os.write(pipe, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main()
