"""Published numbers beside ours: rows, words, and the JSON file."""

import json

import pytest

from helpers import ledger
from helpers.lab import Experiment, profiles
from helpers.measure import comparison
from helpers.measure.comparison import Comparison
from helpers.measure.rates import Rate, Score


def arn(profile="quick", seed=0):
    return Experiment("arn", "mnist", profile, seed)


def test_comparison_takes_the_published_number_from_the_ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    table = Comparison("23_test", arn())
    table.add("arn/t1/lenet/arn_pp/jsma_targeted", Rate(8, 50), reason="few images")
    table.add("arn/t1/lenet/arn_pp/aa", Rate(30, 500), Rate(100, 100))
    frame = table.frame()
    assert frame["paper"].tolist() == ["16.8", "2.4"]
    assert frame["defense"].unique().tolist() == ["arn_pp"]
    assert frame["verdict"].tolist() == ["not comparable", "not comparable, broken"]
    assert frame["deviation"].tolist() == ["quick profile; few images", "quick profile"]

    saved = json.loads((tmp_path / table.save()).read_text())
    assert saved["profile"] == "quick" and saved["comparable"] is profiles.profile("quick").comparable
    assert saved["rows"][1]["ours"]["n"] == 500 and saved["rows"][1]["adaptive"]["value"] == 100.0
    assert {"device", "versions", "commit", "seed"} <= set(saved)


def test_a_protocol_the_paper_does_not_state_is_not_comparable():
    table = Comparison("23_test", arn("paper"))
    table.add("arn/t1/lenet/at_pgd/pgd", Rate(1, 10))
    table.add("arn/t1/lenet/arn_pp/pgd", Rate(1, 10))
    assert [row["verdict"] for row in table.rows] == ["not comparable", "as claimed"]


# --- a paper that reports accuracies, a detector's numbers and other people's --------------------------


def add_comparison(profile="paper"):
    return Comparison("13_test", Experiment("add", "mnist", profile))


def test_an_accuracy_is_judged_by_the_errors_that_go_with_it():
    table = add_comparison()
    for right in (600, 950, 990):  # of 1000; the paper prints 89.30
        table.add("add/t2/mnist/add/sta", Rate(right, 1000))
    for right in (100, 101, 880):
        table.add("add/t2/mnist/add/sta", Rate(890, 1000), Rate(right, 1000))
    assert [row["verdict"] for row in table.rows] == [
        "worse than claimed",
        "as claimed",
        "better than claimed",
        "as claimed, broken",
        "as claimed, weakened",
        "as claimed, stands",
    ]


def test_a_mean_over_draws_stands_in_the_table_as_the_rate_of_the_same_size_would():
    table = add_comparison()
    for right, adaptive in ((600, None), (950, 100), (990, None), (890, 880)):
        ours, theirs = (count and Rate(count, 1000) for count in (right, adaptive))
        table.add("add/t2/mnist/add/sta", ours, theirs)
        table.add(
            "add/t2/mnist/add/sta",
            Score(ours.value, ours.interval, 1000),
            theirs and Score(theirs.value, theirs.interval, 1000),
        )
    shown = table.frame()
    assert shown.iloc[::2].reset_index(drop=True).equals(shown.iloc[1::2].reset_index(drop=True))
    assert shown["verdict"].nunique() == 4


def test_an_accuracy_is_shown_and_saved_as_the_accuracy_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    table = add_comparison()
    table.add("add/t2/mnist/add/sta", Rate(890, 1000), Rate(100, 1000))
    shown = table.frame().iloc[0]
    assert (shown.paper, shown.ours, shown.adaptive) == ("89.3", "89.0 (87–91)", "10.0 (8–12)")
    saved = json.loads((tmp_path / table.save()).read_text())
    (row,) = saved["rows"]
    assert saved["paper"] == "add" and row["metric"] == "accuracy"
    assert (row["paper"], row["ours"]["value"], row["adaptive"]["value"]) == (89.3, 89.0, 10.0)


def test_the_metric_is_a_column_only_where_a_table_has_several():
    table = add_comparison()
    table.add("add/t2/mnist/add/sta", Rate(890, 1000))
    assert list(table.frame()) == ["defense", "attack", "paper", "ours", "adaptive", "verdict", "deviation"]
    table.add("add/t2/mnist/add/sta_targeted", Rate(890, 1000))
    assert table.frame()["metric"].tolist() == ["accuracy", "targeted_accuracy"]


def test_the_target_is_a_column_only_where_a_table_has_several(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    table = add_comparison()
    table.add("add/t5/mnist/ours_eps0.3/aa", Rate(890, 1000))
    assert "target" not in table.frame()
    table.add("add/t5/mnist/crown/aa", None)
    assert table.frame()["target"].tolist() == ["lenet5", "unstated"]
    saved = json.loads((tmp_path / table.save()).read_text())["rows"]
    assert [row["target"] for row in saved] == ["lenet5", "unstated"]


@pytest.mark.parametrize(
    "id, paper",
    [
        ("jatp/s2.3/restored/l1_distance", "jatp"),
        ("arn/s4.2/lenet/arn/pgd-bpda-reduction", "arn"),
    ],
)
def test_a_number_that_is_no_rate_does_not_enter_the_table(id, paper):
    table = add_comparison()
    table.facts = ledger.load(paper).set_index("id")
    with pytest.raises(ValueError, match=f"{id} .*is no rate"):
        table.add(id, Rate(1, 2))


def test_a_score_is_shown_and_saved_like_a_rate_and_only_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    table = add_comparison()
    table.add("add/t6/mnist/def/roc_auc", Score(80.0, (75.0, 85.0), 200))
    table.add("add/t6/mnist/def/recall", Rate(2, 200))
    frame = table.frame()
    assert frame["ours"][0] == "80.0 (75–85)"
    assert frame["verdict"].tolist() == ["higher than published", "as published"]
    saved = json.loads((tmp_path / table.save()).read_text())["rows"][0]
    assert saved["ours"] == {"value": 80.0, "n": 200, "low": 75.0, "high": 85.0}


def test_other_peoples_numbers_are_only_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    table = add_comparison("quick")
    table.add("add/t5/mnist/crown/aa", None, reason="from the paper")
    shown = table.frame().iloc[0]
    assert (shown.defense, shown.paper, shown.ours, shown.adaptive) == ("crown", "94.0", "–", "–")
    assert (shown.verdict, shown.deviation) == ("published only", "from the paper")
    assert json.loads((tmp_path / table.save()).read_text())["rows"][0]["ours"] is None


@pytest.mark.parametrize(
    "id, ours", [("add/t5/mnist/crown/aa", None), ("add/t6/mnist/def/recall", Rate(2, 200))]
)
def test_an_adaptive_number_is_refused_where_it_would_say_nothing(id, ours):
    with pytest.raises(ValueError, match=f"{id}: .* has no adaptive number"):
        add_comparison().add(id, ours, Rate(1, 2))


def test_a_number_of_another_paper_does_not_enter_the_table():
    with pytest.raises(LookupError, match="arn/t1/lenet/arn_pp/pgd"):
        add_comparison().add("arn/t1/lenet/arn_pp/pgd", Rate(1, 2))


def test_each_seed_has_its_own_result(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    names = {str(Comparison("23_test", arn(seed=seed)).save()) for seed in (0, 1)}
    assert names == {"results/quick/23_test.json", "results/quick/23_test.seed1.json"}


def test_an_unknown_ledger_id_is_an_error():
    with pytest.raises(LookupError, match="arn_pp"):
        Comparison("23_test", arn()).add("arn/t1/lenet/arn_pp/pgd_x", Rate(1, 2))


# --- a whole table, and cells that the paper does not have ---------------------------------------------


def test_a_cell_without_a_published_number_is_a_row_judged_by_its_adaptive_number():
    table = Comparison("23_test", arn("paper"))
    ours = {("arn_pp", "pgd"): Rate(1, 100), ("arn_pp", "mine"): Rate(2, 100)}
    adaptive = {("arn_pp", "mine"): Rate(95, 100)}
    table.add_table("arn/t1/lenet", ours, adaptive, {"arn_pp": "few images", "mine": "an attack of my own"})
    known, own = table.rows
    assert known["paper"] == ledger.published("arn/t1/lenet/arn_pp/pgd") and known["adaptive"] is None
    assert known["deviation"].endswith("few images")
    assert (own["paper"], own["verdict"], own["metric"]) == (None, "broken", "error_rate")
    assert own["deviation"].endswith("few images; an attack of my own")
    shown = table.frame()
    assert shown["paper"].tolist() == [f"{known['paper']:.1f}", "–"]


def test_the_metric_of_such_a_cell_is_that_of_its_like():
    table = add_comparison()
    table.add_table("add/t2/mnist", {("add", "mine"): Rate(9, 10), ("add", "mine_targeted"): Rate(9, 10)})
    assert [row["metric"] for row in table.rows] == ["accuracy", "targeted_accuracy"]


def test_such_rows_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "ROOT", tmp_path)
    table = Comparison("23_test", arn())
    table.add_table("arn/t1/lenet", {("arn_pp", "mine"): Rate(2, 100)})
    (row,) = json.loads((tmp_path / table.save()).read_text())["rows"]
    assert row["id"] == "arn/t1/lenet/arn_pp/mine" and row["paper"] is None and row["ours"]["value"] == 2


def test_a_table_that_the_paper_does_not_have_is_an_error():
    with pytest.raises(LookupError, match="begins with arn/t1/letnet/"):
        Comparison("23_test", arn()).add_table("arn/t1/letnet", {("arn_pp", "pgd"): Rate(1, 2)})
