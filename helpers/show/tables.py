"""Tables of the notebooks: rates with intervals as cells, labels instead of keys, words explained."""

import re
from collections.abc import Callable, Iterable, Mapping
from html import escape

import pandas as pd
from IPython.display import HTML
from torch import Tensor

from helpers.lab import Experiment
from helpers.measure.comparison import Comparison, cell
from helpers.measure.labels import label
from helpers.measure.rates import Rate, Score, gain, rate_of
from helpers.measure.verdicts import CLAIM, LEGEND, gain_verdict, kept, verdict

FOLDED = 15  # rows from which on a closing table is folded


def percent(rate: Rate | Score | float | None, digits: int = 1) -> str:
    """A rate as a cell, "12.4 (10–16)": percent, its 95 % interval; a number as it is; "–" for None."""
    return f"{rate:z.{digits}f}" if isinstance(rate, float | int) else cell(rate, digits)


def points(score: Score | None, digits: int = 0) -> str:
    """A difference as a cell: "+5 (−1 to +11)", in points with its 95 % interval; "–" for None."""
    return cell(score, digits)


def difference(score: Score, yardstick: float = 0.0, digits: int = 0, claimed: float = CLAIM) -> str:
    """A difference with its word: "+5 (+1 to +11): gains"; yardstick, claimed as in `gain_verdict`."""
    return f"{points(score, digits)}: {gain_verdict(score, yardstick, claimed)}"


def listed(values: Mapping[object, object]) -> str:
    """{"pgd": 50, ("trades", "aa"): 40} as "PGD 50, TRADES AA 40": a few values in a line of print."""
    names = [key if isinstance(key, tuple) else (key,) for key in values]
    written = [" ".join(str(label(part)) for part in name) for name in names]
    return ", ".join(f"{name} {value}" for name, value in zip(written, values.values(), strict=True))


def grid(
    cells: Mapping[tuple[object, object], object],
    form: Callable[[object], object] = percent,
    columns: list | None = None,
) -> pd.DataFrame:
    """A table of {(row, column): cell}, in order of appearance, with labels; "–" for a missing cell.

    form: writes a cell, such as `percent` or `points`.
    columns: their order, where it is not that of appearance.
    """
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = columns or list(dict.fromkeys(column for _, column in cells))
    written = [[form(cells[r, c]) if (r, c) in cells else "–" for c in columns] for r in rows]
    return pd.DataFrame(written, index=_labelled(rows), columns=_labelled(columns))


def _labelled(names: list) -> pd.Index:
    """Labels of names or of tuples of names, the latter as an index of several levels."""
    if names and isinstance(names[0], tuple):
        return pd.MultiIndex.from_tuples([tuple(label(part) for part in name) for name in names])
    return pd.Index([label(name) for name in names])


def settings(lab: Experiment, attacks: Iterable[str]) -> HTML:
    """The complete settings of attacks of the profile, a line each; budgets and steps in 1/255.

    attacks: their names, each of them shown once.
    """
    rows = {}
    for attack in dict.fromkeys(attacks):
        told = [
            f"{name} {255 * value:.3g}/255"
            if name in ("eps", "step_size") and value is not None
            else f"{name} {value}"
            for name, value in lab.attack_settings(attack).items()
        ]
        rows[label(attack)] = {"settings": ", ".join(told)}
    with pd.option_context("display.max_colwidth", None):
        return HTML(pd.DataFrame(rows).T.to_html())


def folded(frame: pd.DataFrame, summary: str, index: bool = True) -> HTML:
    """A long table behind a line to click on.

    summary: what the line says, "all 81 rows".  index: whether the rows' names are shown.
    """
    with pd.option_context("display.max_rows", None, "display.max_colwidth", None):
        table = frame.to_html(index=index)
    return HTML(f"<details><summary>{escape(summary)}</summary>{table}</details>")


def legend(text: str) -> str:
    """What the words of `helpers.measure.verdicts` mean that are found in a text, as HTML; "" if none is."""
    said = [
        f"<b>{word}</b>: {meaning}" for word, meaning in LEGEND.items() if re.search(rf"\b{word}\b", text)
    ]
    return f"<p>{'; '.join(said)}.</p>" if said else ""


def explained(frame: pd.DataFrame) -> HTML:
    """A table with words of `helpers.measure.verdicts` in it, and below what they mean."""
    with pd.option_context("display.max_colwidth", None):
        table = frame.to_html()
    return HTML(table + legend(table))


def against_bare(
    worst: Mapping[tuple[str, str], Tensor], natural: Mapping[tuple[str, str], Tensor], claimed: float = CLAIM
) -> HTML:
    """What each pipeline keeps, withstands and gains beside the bare target of its group, with its verdict.

    worst: {(group, defense): answers under all of its attackers}, as `survivors` gives them; the bare target
        is "none".  All of a group are judged on the images that all have.
    natural: {(group, defense): answers to natural images}.
    claimed: points that the paper promises, as in `gain_verdict`.
    """
    cells = {}
    for place, answers in worst.items():
        group, defense = place
        n = min(len(one) for (of, _), one in worst.items() if of == group)
        gained = gain(answers[:n], worst[group, "none"][:n])
        share = kept(natural[place], natural[group, "none"])
        word = verdict(defense, "", rate_of(answers[:n]), kept=share, gained=gained, promised=claimed)
        cells |= {(place, "images"): n, (place, "natural images kept, %"): percent(share)}
        cells[place, "right under all attackers, %"] = percent(rate_of(answers[:n]))
        cells[place, "gain, points"] = "–" if defense == "none" else points(gained)
        cells[place, "verdict"] = word
    return explained(grid(cells, form=str))


def closing(comparison: Comparison) -> HTML:
    """A notebook's last table: paper | ours | adaptive | verdict, its words explained; folded where long.

    Below a table of quick stands what larger profiles have found, where `results/` has it.  The long form of
    each row, its deviation included, is in the notebook's JSON file, too.
    """
    frame = comparison.frame()
    for column in ("dataset", "target", "defense", "attack", "metric"):
        if column in frame:
            frame[column] = frame[column].map(label)
    notes = ""
    if not comparison.lab.comparable:
        notes += f"<p>Ours may not be held against the paper's ({comparison.lab.deviation}).</p>"
    larger = comparison.larger()
    notes += legend(" ".join([*frame["verdict"], *larger.get("verdict", [])]))
    if len(larger):
        named = larger.assign(**{column: larger[column].map(label) for column in ("defense", "attack")})
        scales = ", ".join(larger["scale"].unique())
        notes += folded(named, f"the same at a larger scale: {scales}", index=False).data
    images = "all numbers of a row are of the same n images."
    if len(frame) <= FOLDED:
        with pd.option_context("display.max_colwidth", None):
            table = frame.to_html(index=False)
        return HTML(f"{table}<p>In percent, with 95 % intervals; {images}</p>{notes}")
    grid = _compact(comparison).to_html(escape=False)
    grid += f"<p>In percent. The 95 % intervals are in the folded rows: {images}</p>"
    return HTML(grid + notes + folded(frame, f"all {len(frame)} rows", index=False).data)


def _compact(comparison: Comparison) -> pd.DataFrame:
    """Attacks across, defenses down: `paper | ours | adaptive`, one decimal, and below them the verdict.

    Several numbers of one defense under one attack, as where a text repeats a table's, share a cell.
    """
    several = [c for c in ("dataset", "target") if len({row[c] for row in comparison.rows}) > 1]
    cells = {}
    for row in comparison.rows:
        numbers = (row["paper"], row["ours"], row["adaptive"])
        shown = " | ".join("–" if number is None else f"{number:.1f}" for number in numbers)
        words = "" if row["defense"] == "none" else f"<br><small>{row['verdict']}</small>"
        place = (*(row[c] for c in several), row["defense"]) if several else row["defense"]
        # each text once
        cells.setdefault((place, row["attack"]), {})[re.sub(r" \| –$", "", shown) + words] = None
    joined = {cell: "<br>".join(texts) for cell, texts in cells.items()}
    return grid(joined, form=str).rename_axis(columns="paper | ours | adaptive")
