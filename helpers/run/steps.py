"""What notebooks share as steps of their own, for a cluster: derived from what the notebooks ask for."""

import hashlib
import json
from dataclasses import dataclass

from helpers.run.plan import Run


@dataclass(frozen=True)
class Step:
    """One artifact that runs ask for.

    name: a hash of what is asked for.
    asked: that, as JSON; `python -m helpers.lab` understands it.
    wanted_by: names of the runs.
    after: names of the steps that make what this one is made from.
    """

    name: str
    asked: str
    wanted_by: frozenset[str]
    after: tuple[str, ...]


def steps(runs: list[Run]) -> list[Step]:
    """What the runs ask for, each artifact once, whoever asks."""
    wanted = sorted({need for run in runs for need in run.needs})
    names = {need: hashlib.sha256(need.encode()).hexdigest()[:12] for need in wanted}
    asked = {need: json.loads(need) for need in wanted}
    found = []
    for need in wanted:
        wanted_by = frozenset(run.name for run in runs if need in run.needs)
        after = tuple(names[other] for other in wanted if _holds(asked[need], asked[other]))
        found.append(Step(names[need], need, wanted_by, after))
    return found


def _holds(whole, part):
    """Does `part` occur inside of `whole`?"""
    inside = whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else ()
    return any(one == part or _holds(one, part) for one in inside)
