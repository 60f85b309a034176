"""What a notebook asks for at a larger scale, guessed from what it asks for in quick and from its grids.

A grid is what a table or a figure runs through, and longer at a larger scale.  Whatever quick does with the
last row, attack or number of a grid is taken to be done with those, too, that only the larger scale has.  A
grid that quick leaves empty says nothing, nor do grids of other things.  The grid "autoattack" says on which
pipelines AutoAttack is run, whatever rows a table has.
"""

import json
from contextlib import suppress
from typing import Any

from helpers.lab import profiles
from helpers.lab.recipes import Recipes, again, row_of


def grown(
    needs: list[dict[str, Any]], code: str, place: dict[str, Any], default: str, profile: str
) -> list[dict]:
    """`needs`, and what longer grids add.

    needs: as asked for under `profile`.
    code: the source of the notebook, which names its grids.
    place: its paper, data set and seed.
    default: the data set on which quick runs it.
    """
    quick = profiles.load(place["paper"], "quick")[default].grids
    recipes = Recipes(place["paper"], place["dataset"], profile, place["seed"])
    found = list(needs)
    for name, entries in recipes.spec.grids.items():
        if f'"{name}"' not in code:
            continue
        small = [entry for entry in quick.get(name, []) if entry in entries]
        for entry in [entry for entry in entries if small and entry not in small]:
            found += _instead(found, small[-1], entry, recipes, profile)
    if '"autoattack"' in code:
        rows = [_row(entry, recipes)[1] for entry in recipes.spec.grids["autoattack"]]
        found = [need for need in found if _meets_autoattack(need, rows, profile)]
    return list({json.dumps(need, sort_keys=True): need for need in found}.values())


def _meets_autoattack(need, rows, profile):
    """Not AutoAttack on a pipeline, or on one of those that the grid "autoattack" has."""
    if need.get("attack") != "aa" or "then" not in need["victim"]:
        return True
    return again(need["victim"], profile) in rows


def _instead(needs, model, entry, recipes, profile):
    """The needs in which one entry of a grid stands, with another in its place."""
    spec = recipes.spec
    if isinstance(entry, str) and entry in spec.attacks:
        same = [need for need in needs if need.get("attack") == model and need.get("split") == "test"]
        return [need | {"attack": entry} for need in same]
    if not (isinstance(entry, str) and entry in (*spec.methods, *spec.targets) or _is_row(entry)):
        return _changed(needs, model, entry)
    (old_method, old), (method, new) = (_row(one, recipes) for one in (model, entry))
    victims = [_swapped(need.get("victim"), old, new, profile) for need in needs]
    same = [(need, victim) for need, victim in zip(needs, victims, strict=True) if victim]
    found = [_on_as_many(need, need | {"victim": victim}, profile) for need, victim in same]
    return found + ([method.asked] if method and old_method else [])


def _changed(needs, old, new):
    """The needs whose changes have the value `old`, alone or in a list, with `new` in its place."""
    found = []
    for need in needs:
        changes = need.get("changes", {})
        other = {name: _replaced(value, old, new) for name, value in changes.items()}
        if other != changes:
            found.append(need | {"changes": other})
    return found


def _replaced(value, old, new):
    if isinstance(value, list):
        return [_replaced(one, old, new) for one in value]
    return new if value == old else value


def _on_as_many(need, other, profile):
    """`other`, on as many images as `need`: a bare target in the place of a pipeline would get more."""
    n, usual = (again(one, profile).made["n"] for one in (need, other))
    return other if n == usual else other | {"n": n}


def _is_row(entry):
    return isinstance(entry, dict) and ("defense" in entry or len(entry) == 1)


def _row(entry, recipes):
    """Recipes of a row: of its training, None for a ready-made target, and of what is attacked."""
    _, name, keywords = row_of(entry)
    if name in recipes.spec.targets or name not in recipes.spec.methods:
        return None, recipes.target(name if name != "none" else None)
    method = recipes.defense(name, **keywords)
    if "network" in method.made["settings"]:
        return method, method.part("target")
    return method, method.part("denoiser").then(method.parts.get("target") or recipes.target())


def _swapped(asked, old, new, profile):
    """What is attacked, with `new` for `old`, behind whatever threat; None if it is something else."""
    if asked and "threat" in asked:
        of = _swapped(asked["of"], old, new, profile)
        return asked | {"of": of} if of else None
    with suppress(ValueError):  # this scale does not have it
        return new.asked if asked and again(asked, profile) == old else None
