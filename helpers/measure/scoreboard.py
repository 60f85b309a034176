"""All numbers of the four papers, and what has become of each: run at which scale, with which verdict.

`board` joins the ledger with the comparisons that were kept in `results/`; `summary` counts it.
The README, the report and `51_scoreboard` show the same.
"""

import json
import math
from collections import Counter
from pathlib import Path

from helpers import ROOT, ledger
from helpers.lab import profiles
from helpers.measure import verdicts

# What can have become of a published number, in the order of figures and tables.
CLAIMS = ["as claimed", "better than claimed", "worse than claimed", "another number than claimed"]
OTHER = ["run, no claim judged", "run, not comparable", "not run"]
STATES = [*CLAIMS, *OTHER]

_DETECTORS = ("higher than claimed", "lower than claimed")


def board(results: Path = ROOT / "results", *, quick: bool = False) -> list[dict]:
    """One dict a published number, in the order of the ledger.

    id, paper, place, dataset, target, defense, attack, threat, metric, published: of the ledger.
    scale: the largest profile that has run it, "" for none.
    n, ours, adaptive, verdict, deviation, notebook: at that scale; no numbers where they may not be compared.
    state: one of STATES.

    results: folder with a folder for each profile.
    quick: count what only quick has run, too; its results are made anew on each machine, and not kept in git.
    """
    kept = _kept(results, list(profiles.profiles())[0 if quick else 1 :])
    return [_joined(row, kept.get(row["id"])) for paper in profiles.papers() for row in _ledger(paper)]


def summary(rows: list[dict]) -> dict[str, Counter]:
    """{paper: how many of its numbers are in each of STATES}."""
    return {paper: Counter(row["state"] for row in rows if row["paper"] == paper) for paper in _papers(rows)}


def is_own(paper: str, defense: str) -> bool:
    """Whether a number is of the paper's own defense, and not of a bare target or a baseline."""
    return defense.startswith((paper, "ours"))


def markdown(rows: list[dict]) -> str:
    """The summary as a table, the papers' own defenses apart; states that no number is in are left out."""
    shown = [state for state in STATES if any(row["state"] == state for row in rows)]
    lines = [f"| paper | of | published numbers | {' | '.join(shown)} |", "|---" * (len(shown) + 3) + "|"]
    for paper in _papers(rows):
        for own, of in ((True, "its defense"), (False, "bare targets, baselines")):
            some = [r for r in rows if r["paper"] == paper and is_own(paper, r["defense"]) == own]
            count = Counter(row["state"] for row in some)
            cells = [paper.upper(), of, len(some), *(count[state] for state in shown)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _ledger(paper):
    return ledger.read(ledger.FOLDER / f"{paper}.csv")


def _papers(rows):
    return list(dict.fromkeys(row["paper"] for row in rows))


def _kept(results, scales):
    """{id: (profile, comparison, row)} of the largest scale that has measured it, and its first seed.

    Where several notebooks have, that of the one whose attackers found most.
    """
    found = {}
    for profile in scales:  # from the smallest
        there = {}
        for file in sorted((results / profile).glob("*.json")):
            comparison = json.loads(file.read_text(encoding="utf-8"))
            for row in comparison["rows"]:
                if row["ours"]:
                    there.setdefault(row["id"], []).append((profile, comparison, row))
        found |= {id: min(measured, key=_rank) for id, measured in there.items()}
    return found


def _rank(kept):
    """The seed; what the worst attackers leave right, as weaker ones flatter; more images and rows first."""
    _, comparison, row = kept
    left = row["adaptive"]["value"] if row["adaptive"] else math.inf
    if row["adaptive"] and row["metric"] in verdicts.ERRORS:
        left = 100 - left
    return comparison["seed"], left, -row["n"], -len(comparison["rows"])


def _joined(row, kept):
    names = ("id", "paper", "place", "dataset", "target", "defense", "attack", "threat", "metric")
    joined = {name: row[name] for name in names} | {"published": row["value"]}
    if kept is None:
        empty = dict.fromkeys(("n", "ours", "adaptive"))
        return joined | {
            "scale": "",
            **empty,
            "verdict": "",
            "deviation": "",
            "notebook": "",
            "state": "not run",
        }
    profile, comparison, measured = kept
    comparable = comparison["comparable"]
    numbers = {
        key: measured[key]["value"] if comparable and measured[key] else None for key in ("ours", "adaptive")
    }
    return joined | {
        "scale": profile,
        "n": measured["n"],
        **numbers,
        "verdict": measured["verdict"],
        "deviation": measured["deviation"],
        "notebook": comparison["notebook"],
        "state": _state(measured["verdict"], comparable),
    }


def _state(verdict, comparable):
    if not comparable:
        return "run, not comparable"
    for words in CLAIMS[:3]:
        if words in verdict:
            return words
    return "another number than claimed" if any(w in verdict for w in _DETECTORS) else "run, no claim judged"
