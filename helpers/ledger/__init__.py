"""The ledger: every number the papers print, one row per number, one CSV file per paper.

    id         unique, starts with the paper, ends with defense and attack: arn/t1/lenet/arn_pp/pgd
    paper      name of the CSV file without its ending: arn
    place      where the number is printed: table 1, section 4.2
    dataset, target, defense, seen, attack, threat, metric
               names from vocabulary.yaml; an empty name means "does not apply" or, for `seen`, "not stated"
    eps        l-infinity budget as printed, pixels in [0, 1]: 0.3, 8/255; empty for any other attack
    value      the number as printed, in percent; an l1_distance in whatever unit the paper means,
               epoch_seconds in seconds, a time_ratio as a factor
    pm         the printed plus-minus, in percent; empty where the paper prints none
    note       doubts about the reading and settings without a column: substitute=hgd; iterations=40

Numbers that are no RATES have no verdict: helpers.measure.comparison.Comparison does not take them.
"""

from __future__ import annotations  # pandas is imported where a table is asked for

import csv
import difflib
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent

COLUMNS = (
    ["id", "paper", "place"]
    + ["dataset", "target", "defense", "seen", "attack", "threat"]
    + ["eps", "metric", "value", "pm", "note"]
)

VOCABULARY = {
    column: set(names)
    for column, names in yaml.safe_load((FOLDER / "vocabulary.yaml").read_text(encoding="utf-8")).items()
}

# These need not lie between 0 and 100: a reduction compares two rates, the others have units of their own.
NO_RATES = {"reduction", "l1_distance", "epoch_seconds", "time_ratio"}
RATES = VOCABULARY["metric"] - NO_RATES


def load(paper: str | None = None) -> pd.DataFrame:
    """The rows of one paper ("arn"), or of all, with COLUMNS; value and pm are floats.

    ValueError for a paper without a ledger, with those that there are.
    """
    import pandas as pd

    papers = sorted(path.stem for path in FOLDER.glob("*.csv"))
    if paper not in [None, *papers]:
        raise ValueError(f"no ledger for paper {paper!r}: choose from {', '.join(papers)}")
    chosen = [paper] if paper else papers
    return pd.DataFrame([row for name in chosen for row in read(FOLDER / f"{name}.csv")], columns=COLUMNS)


def table(start: str) -> pd.DataFrame:
    """A printed table: defenses down, attacks across, in the paper's order; floats, NaN where it has none.

    start: what the ids of its numbers begin with, "arn/t1/lenet" of arn/t1/lenet/arn_pp/pgd.  Where more
        than defense and attack follow, as in "jatp/t2", the columns have a level for each: (target, attack).
    LookupError if no id begins with it.
    """
    import pandas as pd

    cells = {}
    for row in read(FOLDER / f"{start.split('/')[0]}.csv"):
        if row["id"].startswith(f"{start}/"):
            *groups, defense, attack = row["id"].removeprefix(f"{start}/").split("/")
            cells.setdefault((*groups, attack) if groups else attack, {})[defense] = row["value"]
    if not cells:
        raise LookupError(f"no id of the ledger begins with {start}/")
    rows = dict.fromkeys(defense for column in cells.values() for defense in column)
    return pd.DataFrame(cells, index=list(rows))


def published(id: str) -> float:
    """The number that the paper prints in the row `id`: in percent, but for a distance or a time.

    LookupError for an id that is not there, with the closest ones.
    """
    values = {row["id"]: row["value"] for path in FOLDER.glob("*.csv") for row in read(path)}
    if id not in values:
        closest = difflib.get_close_matches(id, values, n=3, cutoff=0)
        raise LookupError(f"no ledger row {id!r}; closest: {', '.join(closest)}")
    return values[id]


def read(path: Path) -> list[dict]:
    """The rows of one CSV file as dicts with COLUMNS; the first broken rule is a ValueError."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if lines[:1] != [COLUMNS]:
        raise ValueError(f"{path}: the first line is {lines[:1]}; make it {','.join(COLUMNS)}")
    rows, ids = [], set()
    for cells in lines[1:]:
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{path}, row {cells[:1]}: {len(cells)} cells, not {len(COLUMNS)}; quote commas")
        row = dict(zip(COLUMNS, cells, strict=True))
        _check(row, ids, path)
        ids.add(row["id"])
        rows.append(row | {"value": _number(row["value"]), "pm": _number(row["pm"])})
    return rows


def _check(row: dict, earlier_ids: set, path: Path) -> None:
    """Raise a ValueError that names file, row, column, value and remedy if `row` breaks a rule."""

    def need(holds: bool, column: str, remedy: str) -> None:
        if not holds:
            raise ValueError(
                f"{path}, row {row['id']!r}, column {column}: {row[column]!r} is not valid; {remedy}"
            )

    need(row["paper"] == path.stem, "paper", f"write the file's name, {path.stem}")
    need(row["id"].startswith(f"{path.stem}/"), "id", f"start it with {path.stem}/")
    need(row["id"] not in earlier_ids, "id", "an earlier row has it: add a suffix")
    for column, names in VOCABULARY.items():
        own = column == "defense" and row[column] == path.stem
        if row[column] not in names and not own:
            need(False, column, f"use one of {sorted(names)} or add it to helpers/ledger/vocabulary.yaml")
    need(
        row["eps"] == "" or _number(row["eps"]) > 0, "eps", "write a positive number or fraction, or nothing"
    )
    need(row["pm"] == "" or _number(row["pm"]) >= 0, "pm", "write a number of at least 0, or leave it empty")
    value = _number(row["value"])
    need(not math.isnan(value), "value", "write a number")
    is_share = row["metric"] in RATES
    need(not is_share or 0 <= value <= 100, "value", "write a number from 0 to 100, in percent")


def _number(text: str) -> float:
    """`text` ("0.3", "8/255") as a float; nan, which fails every comparison, if it is no number."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return math.nan
