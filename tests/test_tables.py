"""Tables: cells with intervals, labels instead of keys, long ones folded."""

import torch

from helpers.lab import Experiment
from helpers.measure import comparison
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
    assert tables.difference(score) == "−5 (−9 to +0): undecided"
    assert tables.difference(score, claimed=10) == "−5 (−9 to +0): no difference seen"
    gained = Score(4.0, (1.0, 7.0), 9, "points")
    assert tables.difference(gained, yardstick=5) == "+4 (+1 to +7): no difference seen"


def test_zero_has_no_minus_and_no_interval_ends_there_by_rounding_alone():
    assert tables.percent(-0.001, 2) == "0.00" == tables.percent(0.0, 2)
    assert tables.percent(Score(-0.004, (-0.011, 0.003), 9, ""), 2) == "0.00 (−0.01 to 0.00)"
    assert f"{Score(-0.004, (-1, 1), 9):.2f} {Score(-0.4, (-1, 1), 9):+.0f}" == "0.00 +0"
    around = Score(-0.2, (-0.4, 0.3), 9, "points")
    assert tables.points(around) == "+0 (+0 to +0)" and str(around).startswith("-0.2 points [-0.4, +0.3]")
    assert str(Score(-0.04, (-0.04, 0.04), 9, "points")).startswith("+0.0 points [+0.0, +0.0]")
    assert tables.points(Score(-4.2, (-8.1, -0.3), 9, "points")) == "−4 (−8.1 to −0.3)"
    assert tables.points(Score(-0.4, (-0.5, -0.3), 9, "points")) == "−0.4 (−0.5 to −0.3)"
    assert tables.points(Score(4.2, (0.3, 8.1), 9, "points")) == "+4 (+0.3 to +8.1)"
    assert tables.points(Score(0.0, (0.0, 0.0), 9, "points")) == "+0 (+0 to +0)"


def test_a_grid_has_labels_and_says_what_is_missing():
    cells = {("arn_pp", "pgd_targeted"): Rate(1, 2), ("arn_pp", "cw"): 3.0, ("none", "cw"): 100.0}
    frame = tables.grid(cells)
    assert list(frame.index) == ["ARN-PP", "none"] and list(frame.columns) == ["PGD-T", "CW"]
    assert frame.loc["none", "PGD-T"] == "–" and frame.loc["ARN-PP", "CW"] == "3.0"
    assert list(tables.grid(cells, columns=["cw"]).columns) == ["CW"]


def test_a_grid_may_have_several_levels():
    frame = tables.grid({(("trades", "hgd_p"), "pgd"): 1.0}, form="{:.0f}".format)
    assert frame.index.tolist() == [("TRADES", "HGD")] and frame.iloc[0, 0] == "1"


def test_settings_of_attacks_are_complete_and_their_budgets_in_pixel_values():
    lab = Experiment(paper="jatp", dataset="cifar10", profile="quick")
    shown = tables.settings(lab, ["pgd", "pgd", "fwa", "ti_bim"]).data
    assert shown.count("<tr>") == 3 and "step_size None" in shown and "eps 8/255" in shown and "FWA" in shown
    assert all(name in shown for name in [*lab.attack_settings("pgd"), *lab.attack_settings("fwa")])


def test_a_long_table_is_folded():
    html = tables.folded(tables.grid({("none", "pgd"): 1.0}), "all <81> rows").data
    assert html.startswith("<details><summary>all &lt;81&gt; rows</summary>") and "PGD" in html


def closing(rows, profile="quick"):
    result = Comparison("23_test", Experiment("arn", "mnist", profile))
    attacks = ["natural", "pgd", "pgd_targeted", "cw", "ddn", "aa", "jsma_targeted", "mine"]
    ours = {(d, a): torch.arange(50) < 45 for d in ("none", "arn_pp", "hgd_pp") for a in attacks}
    aware = {(d, "pgd"): {"adaptive": torch.arange(50) < 0} for d in ("none", "arn_pp")}
    result.add_table("arn/t1/lenet", dict(list(ours.items())[:rows]), aware)
    return tables.closing(result).data


def test_the_closing_table_shows_labels_and_explains_its_words_and_no_others():
    html = closing(10)
    assert "<details>" not in html and "PGD-T" in html and "pgd_targeted" not in html and "arn_pp" not in html
    assert "<b>works on natural images</b>: the pipeline keeps 80 %" in html and "<b>loses</b>" not in html
    assert ". ." not in html and "may not be held against the paper" in html
    assert "may not be held" not in closing(10, "paper")


def test_a_table_of_quick_shows_what_larger_scales_have_found_where_they_have(tmp_path, monkeypatch):
    assert "larger scale" not in closing(10)
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path / "results"))  # a run of the collection
    rows = Comparison("23_test", Experiment("arn", "mnist", "cpu"))
    right, broken = torch.arange(1000) < 961, torch.arange(1000) < 26
    ours = {("none", "natural"): right, ("arn_pp", "natural"): right, ("arn_pp", "pgd"): right}
    rows.add_table("arn/t1/lenet", ours | {("none", "pgd"): broken}, {("none", "pgd"): {"adaptive": broken}})
    rows.save()
    html = closing(16)
    assert "<summary>the same at a larger scale: cpu</summary>" in html and "<td>3.9</td>" in html
    assert "<b>as claimed</b>" in html
    assert "larger scale" not in closing(16, "paper")


def test_a_table_without_words_has_no_legend():
    assert tables.legend("PGD gained 9 points") == "" != tables.legend("AT gains")
    comparison = Comparison("23_test", Experiment("arn", "mnist"))
    comparison.add("arn/t1/lenet/arn_pp/cw", Rate(3, 50))
    html = tables.closing(comparison).data
    assert "<b>" not in html and ". ." not in html


def test_pipelines_beside_the_bare_target_of_their_group():
    def answers(right, n=100):
        return torch.arange(n) < right

    worst = {
        ("mnist", "none"): answers(5),
        ("mnist", "arn_pp"): answers(40, 60),
        ("mnist", "add"): answers(9),
    }
    natural = {place: answers(40 if place[1] == "add" else 95) for place in worst}
    html = tables.against_bare(worst, natural).data
    for part in (
        ">60</td>",
        "66.7 (54–77)",
        "+58 (",
        ">gains<",
        ">the yardstick<",
        "does not work on natural",
    ):
        assert part in html
    assert "<b>gains</b>" in html and "<b>loses</b>" not in html and "ARN-PP" in html


def test_any_table_may_explain_its_words():
    html = tables.explained(tables.grid({("none", "pgd"): "+4 (+1 to +7): gains"}, str)).data
    assert "+4 (+1 to +7): gains</td>" in html and "<b>gains</b>: right on more images" in html


def test_a_long_closing_table_is_a_grid_with_the_rows_folded():
    html = closing(24)
    grid, rows = html.split("<details>")
    assert "paper | ours | adaptive" in grid and "| 10.0 | 100.0" in grid and "– | 10.0" in grid  # "mine"
    assert "works on natural images</small>" in grid and "yardstick</small>" not in grid
    assert "all 24 rows" in rows and "deviation" in rows and "deviation" not in grid and "<th>n</th>" in rows


def test_what_a_text_repeats_does_not_hide_what_its_table_says():
    result = Comparison("25_test", Experiment("arn", "mnist"))
    rows = {(d, a): torch.arange(50) < 45 for d in ("none", "arn_pp", "hgd_pp") for a in ("sta", "mine")}
    rows |= {(d, f"mine {i}"): torch.arange(50) < 45 for d in ("none", "hgd_pp") for i in range(5)}
    again = {"arn_pp/sta_targeted": 45, "hgd_pp/sta_targeted": 30}
    rows |= {(name.split("/")[0], "sta_targeted"): torch.arange(50) < 45 for name in again}
    result.add_table("arn/t2/lenet", rows)
    for name, right in again.items():
        result.add(f"arn/s4.2/lenet/{name}", torch.arange(50) < right)
    cells = tables.closing(result).data.partition("<details>")[0]
    assert cells.count("13.7 | 10.0") == 1 == cells.count("36.4 | 10.0") == cells.count("36.4 | 40.0")


def test_a_few_values_fit_into_a_line():
    assert (
        tables.listed({"pgd": 50, ("trades", "aa"): 0.5, "as it is:": "8"})
        == "PGD 50, TRADES AA 0.5, as it is: 8"
    )


def test_a_closing_table_promises_intervals_where_they_are():
    short, (compact, rows) = closing(10), closing(24).split("<details>")
    assert "with 95 % intervals" in short and "10.0 (" in short
    assert "with 95 % intervals" not in compact and "in the folded rows" in compact and "10.0 (" in rows
