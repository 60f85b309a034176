"""Tables: cells with intervals, labels instead of keys, long ones folded."""

from helpers.lab import Experiment
from helpers.measure.comparison import Comparison
from helpers.measure.rates import Rate, Score
from helpers.show import tables


def test_cells_carry_their_interval():
    assert tables.percent(Rate(62, 500)) == "12.4 (10–16)" and tables.percent(
        Rate(1, 2), digits=0
    ).startswith("50 (")
    assert tables.percent(3.14159) == "3.1" and tables.percent(None) == "–" == tables.points(None)
    score = Score(-4.6, (-9.2, 0.4), 50, "points")
    assert tables.points(score) == "−5 (−9 to +0)" and tables.points(score, digits=1) == "−4.6 (−9.2 to +0.4)"
    assert tables.difference(score) == "−5 (−9 to +0): no difference seen"
    assert (
        tables.difference(Score(4.0, (1.0, 7.0), 9, "points"), yardstick=5)
        == "+4 (+1 to +7): no difference seen"
    )


def test_a_grid_has_labels_and_says_what_is_missing():
    cells = {("arn_pp", "pgd_targeted"): Rate(1, 2), ("arn_pp", "cw"): 3.0, ("none", "cw"): 100.0}
    frame = tables.grid(cells)
    assert list(frame.index) == ["ARN-PP", "none"] and list(frame.columns) == ["PGD-T", "CW"]
    assert frame.loc["none", "PGD-T"] == "–" and frame.loc["ARN-PP", "CW"] == "3.0"
    assert list(tables.grid(cells, columns=["cw"]).columns) == ["CW"]


def test_a_grid_may_have_several_levels():
    frame = tables.grid({(("trades", "hgd_p"), "pgd"): 1.0}, form="{:.0f}".format)
    assert frame.index.tolist() == [("TRADES", "HGD")] and frame.iloc[0, 0] == "1"


def test_a_long_table_is_folded():
    html = tables.folded(tables.grid({("none", "pgd"): 1.0}), "all <81> rows").data
    assert html.startswith("<details><summary>all &lt;81&gt; rows</summary>") and "PGD" in html


def closing(rows):
    comparison = Comparison("23_test", Experiment("arn", "mnist", "quick"))
    attacks = ["natural", "pgd", "pgd_targeted", "cw", "ddn", "aa", "jsma_targeted", "mine"]
    cells = [(d, a) for d in ("none", "arn_pp", "hgd_pp") for a in attacks][:rows]
    ours = {cell: Rate(1, 10) for cell in cells}
    comparison.add_table("arn/t1/lenet", ours, {("arn_pp", "pgd"): Rate(10, 10)})
    return tables.closing(comparison).data


def test_the_closing_table_shows_labels_and_explains_its_words():
    html = closing(10)
    assert "<details>" not in html and "PGD-T" in html and "pgd_targeted" not in html and "arn_pp" not in html
    assert "<b>broken</b>: 90 % errors or more" in html and "<b>stands</b>" not in html


def test_a_long_closing_table_is_a_grid_with_the_rows_folded():
    html = closing(24)
    grid, rows = html.split("<details>")
    assert "paper | ours | adaptive" in grid and "| 10.0 | 100.0" in grid and "– | 10.0" in grid  # "mine"
    assert "all 24 rows" in rows and "deviation" in rows and "deviation" not in grid
