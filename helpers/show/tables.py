"""Tables of the notebooks: rates with intervals as cells, labels instead of keys, long tables folded."""

import re
from collections.abc import Callable, Mapping
from html import escape

import pandas as pd
from IPython.display import HTML

from helpers.measure.comparison import Comparison, with_interval
from helpers.measure.rates import Rate, Score
from helpers.measure.verdicts import LEGEND, gain_verdict
from helpers.show.labels import label

FOLDED = 15  # rows from which on a closing table is folded


def percent(rate: Rate | Score | float | None, digits: int = 1) -> str:
    """A rate as a cell, "12.4 (10–16)": percent with its 95 % interval; a number as it is; "–" for None."""
    return f"{rate:.{digits}f}" if isinstance(rate, float | int) else with_interval(rate, digits)


def points(score: Score | None, digits: int = 0) -> str:
    """A difference as a cell: "+5 (−1 to +11)", in points with its 95 % interval; "–" for None."""
    if score is None:
        return "–"
    low, high = score.interval
    return f"{score.value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})".replace("-", "−")


def difference(score: Score, yardstick: float = 0.0, digits: int = 0) -> str:
    """A difference with its word: "+5 (+1 to +11): gains"; yardstick as in `gain_verdict`."""
    return f"{points(score, digits)}: {gain_verdict(score, yardstick)}"


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


def folded(frame: pd.DataFrame, summary: str, index: bool = True) -> HTML:
    """A long table behind a line to click on.

    summary: what the line says, "all 81 rows".  index: whether the rows' names are shown.
    """
    with pd.option_context("display.max_rows", None, "display.max_colwidth", None):
        table = frame.to_html(index=index)
    return HTML(f"<details><summary>{escape(summary)}</summary>{table}</details>")


def closing(comparison: Comparison) -> HTML:
    """A notebook's last table: paper | ours | adaptive, with the legend of its words; folded where long.

    The long form of each row, its deviation included, is in the notebook's JSON file, too.
    """
    frame = comparison.frame()
    for column in ("dataset", "target", "defense", "attack", "metric"):
        if column in frame:
            frame[column] = frame[column].map(label)
    said = {word for row in comparison.rows for word in row["verdict"].split(", ")}
    legend = [f"<b>{word}</b>: {meaning}" for word, meaning in LEGEND.items() if word in said]
    notes = f"<p>In percent, with 95 % intervals.  {'; '.join(legend)}.</p>"
    if len(frame) <= FOLDED:
        with pd.option_context("display.max_colwidth", None):
            return HTML(frame.to_html(index=False) + notes)
    return HTML(
        _compact(comparison).to_html() + notes + folded(frame, f"all {len(frame)} rows", index=False).data
    )


def _compact(comparison: Comparison) -> pd.DataFrame:
    """Attacks across, defenses down: `paper | ours | adaptive`, one decimal."""
    several = [c for c in ("dataset", "target") if len({row[c] for row in comparison.rows}) > 1]
    cells = {}
    for row in comparison.rows:
        numbers = (row["paper"], row["ours"], row["adaptive"])
        cell = " | ".join("–" if number is None else f"{number:.1f}" for number in numbers)
        cells[(*(row[c] for c in several), row["defense"]), row["attack"]] = re.sub(r" \| –$", "", cell)
    if not several:
        cells = {(defense[0], attack): cell for (defense, attack), cell in cells.items()}
    return grid(cells, form=str).rename_axis(columns="paper | ours | adaptive")
