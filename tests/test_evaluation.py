"""Rates, intervals, verdicts and the comparison with the ledger."""

import json

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from helpers import evaluation, profiles
from helpers.evaluation import (
    Comparison,
    Rate,
    Score,
    accuracy,
    accuracy_without,
    detector_verdict,
    error_rate,
    fooling_rate,
    predict,
    targeted_accuracy,
    verdict,
)
from helpers.pipeline import Experiment


class Brightest(nn.Module):
    """Gives each image the number of its brightest column."""

    def forward(self, x):
        return x.sum((1, 2))


def bars(columns, width=4):
    x = torch.zeros(len(columns), 1, 3, width)
    x[torch.arange(len(columns)), :, :, torch.tensor(columns)] = 1
    return x


def test_error_rate_counts_wrong_labels():
    rate = error_rate(Brightest(), bars([0, 1, 2, 3]), torch.tensor([0, 1, 0, 0]))
    assert (rate.count, rate.n, rate.value) == (2, 4, 50.0)


def test_error_rate_uses_the_first_labels_of_a_longer_list():
    assert error_rate(Brightest(), bars([2, 3]), torch.tensor([2, 3, 9, 9])).count == 0


def test_predictions_do_not_depend_on_the_batch_size():
    x = bars([0, 3, 1, 2, 2, 1, 3])
    assert predict(Brightest(), x, batch_size=3).tolist() == [0, 3, 1, 2, 2, 1, 3]


@pytest.mark.parametrize("count, n", [(0, 50), (1, 100), (37, 100), (500, 500)])
def test_interval_is_wilsons(count, n):
    expected = binomtest(count, n).proportion_ci(0.95, method="wilson")
    low, high = Rate(count, n).interval
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


@pytest.mark.parametrize(
    "paper, ours, adaptive, words",
    [
        (2.0, Rate(20, 1000), None, "as claimed"),
        (2.0, Rate(200, 1000), None, "worse than claimed"),
        (60.0, Rate(200, 1000), None, "better than claimed"),
        (2.0, Rate(20, 1000), Rate(900, 1000), "as claimed, broken"),
        (2.0, Rate(20, 1000), Rate(899, 1000), "as claimed, weakened"),
        (2.0, Rate(20, 1000), Rate(60, 1000), "as claimed, stands"),
        (70.0, Rate(700, 1000), Rate(701, 1000), "as claimed, weakened"),  # no worse, but not standing either
    ],
)
def test_verdict_words(paper, ours, adaptive, words):
    assert verdict(paper, ours, adaptive) == words


def test_verdict_allows_for_few_images():
    assert verdict(2.0, Rate(1, 10)) == "as claimed"  # 10 %, but of ten images


def test_a_quick_profile_is_not_held_against_the_paper():
    assert verdict(2.0, Rate(90, 100), comparable=False) == "not comparable"
    assert verdict(2.0, Rate(2, 100), Rate(100, 100), comparable=False) == "not comparable, broken"


@pytest.mark.parametrize(
    "paper, words", [(50.0, "as published"), (65.0, "lower than published"), (35.0, "higher than published")]
)
def test_a_detectors_numbers_are_higher_or_lower_but_never_better(paper, words):
    assert detector_verdict(paper, Score(50.0, (45.5, 54.5), 100)) == words
    assert detector_verdict(paper, Rate(500, 1000)) == words
    assert detector_verdict(paper, Rate(500, 1000), comparable=False) == "not comparable"


def test_comparison_takes_the_published_number_from_the_ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    table = Comparison("23_test", Experiment("quick"))
    table.add("arn/t1/lenet/arn_pp/jsma_t", Rate(8, 50), reason="few images")
    table.add("arn/t1/lenet/arn_pp/aa_n", Rate(30, 500), Rate(100, 100))
    frame = table.frame()
    assert frame["paper"].tolist() == ["16.8", "2.4"]
    assert frame["defense"].unique().tolist() == ["arn_pp"]
    assert frame["verdict"].tolist() == ["not comparable", "not comparable, broken"]
    assert frame["deviation"].tolist() == ["quick profile; few images", "quick profile"]

    saved = json.loads((tmp_path / table.save()).read_text())
    assert saved["profile"] == "quick" and saved["comparable"] is profiles.load("quick").comparable
    assert saved["rows"][1]["ours"]["n"] == 500 and saved["rows"][1]["adaptive"]["value"] == 100.0
    assert {"device", "versions", "commit", "seed"} <= set(saved)


def test_a_protocol_the_paper_does_not_state_is_not_comparable():
    table = Comparison("23_test", Experiment("paper"))
    table.add("arn/t1/lenet/at_pgd/pgd_n", Rate(1, 10))
    table.add("arn/t1/lenet/arn_pp/pgd_n", Rate(1, 10))
    assert [row["verdict"] for row in table.rows] == ["not comparable", "as claimed"]


# --- a paper that reports accuracies, a detector's numbers and other people's --------------------------


def add_comparison(profile="paper"):
    return Comparison("13_test", Experiment(profile, paper="add"))


def test_an_accuracy_is_judged_by_the_errors_that_go_with_it():
    table = add_comparison()
    for right in (600, 950, 990):  # of 1000; the paper prints 89.30
        table.add("add/t2/mnist/add/st_u", Rate(right, 1000))
    for right in (100, 101, 880):
        table.add("add/t2/mnist/add/st_u", Rate(890, 1000), Rate(right, 1000))
    assert [row["verdict"] for row in table.rows] == [
        "worse than claimed", "as claimed", "better than claimed",
        "as claimed, broken", "as claimed, weakened", "as claimed, stands",
    ]  # fmt: skip


def test_an_accuracy_is_shown_and_saved_as_the_accuracy_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    table = add_comparison()
    table.add("add/t2/mnist/add/st_u", Rate(890, 1000), Rate(100, 1000))
    shown = table.frame().iloc[0]
    assert (shown.paper, shown.ours, shown.adaptive) == ("89.3", "89.0 (87–91)", "10.0 (8–12)")
    saved = json.loads((tmp_path / table.save()).read_text())
    row, = saved["rows"]
    assert saved["paper"] == "add" and row["metric"] == "accuracy"
    assert (row["paper"], row["ours"]["value"], row["adaptive"]["value"]) == (89.3, 89.0, 10.0)


def test_the_metric_is_a_column_only_where_a_table_has_several():
    table = add_comparison()
    table.add("add/t2/mnist/add/st_u", Rate(890, 1000))
    assert list(table.frame()) == ["defense", "attack", "paper", "ours", "adaptive", "verdict", "deviation"]
    table.add("add/t2/mnist/add/st_t", Rate(890, 1000))
    assert table.frame()["metric"].tolist() == ["accuracy", "targeted_accuracy"]


def test_a_score_is_shown_and_saved_like_a_rate_and_only_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    table = add_comparison()
    table.add("add/t6/mnist/def/roc_auc", Score(80.0, (75.0, 85.0), 200))
    table.add("add/t6/mnist/def/recall", Rate(2, 200))
    frame = table.frame()
    assert frame["ours"][0] == "80.0 (75–85)"
    assert frame["verdict"].tolist() == ["higher than published", "as published"]
    saved = json.loads((tmp_path / table.save()).read_text())["rows"][0]
    assert saved["ours"] == {"value": 80.0, "n": 200, "low": 75.0, "high": 85.0}
    assert str(Score(80.04, (75.0, 85.0), 200)) == "80.0"


def test_other_peoples_numbers_are_only_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    table = add_comparison("quick")
    table.add("add/t5/mnist/crown/aa", None, reason="from the paper")
    shown = table.frame().iloc[0]
    assert (shown.defense, shown.paper, shown.ours, shown.adaptive) == ("crown", "94.0", "–", "–")
    assert (shown.verdict, shown.deviation) == ("published only", "from the paper")
    assert json.loads((tmp_path / table.save()).read_text())["rows"][0]["ours"] is None


@pytest.mark.parametrize("id, ours", [("add/t5/mnist/crown/aa", None), ("add/t6/mnist/def/recall", Rate(2, 200))])
def test_an_adaptive_number_is_refused_where_it_would_say_nothing(id, ours):
    with pytest.raises(ValueError, match=f"{id} .*has no adaptive number: leave 50.0 out"):
        add_comparison().add(id, ours, Rate(1, 2))


def test_a_number_of_another_paper_does_not_enter_the_table():
    with pytest.raises(LookupError, match="arn/t1/lenet/arn_pp/pgd_n"):
        add_comparison().add("arn/t1/lenet/arn_pp/pgd_n", Rate(1, 2))


def test_each_seed_has_its_own_result(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    names = {str(Comparison("23_test", Experiment("quick", seed=seed)).save()) for seed in (0, 1)}
    assert names == {"results/quick/23_test.json", "results/quick/23_test.seed1.json"}


def test_an_unknown_ledger_id_is_an_error():
    with pytest.raises(LookupError, match="arn_pp"):
        Comparison("23_test", Experiment("quick")).add("arn/t1/lenet/arn_pp/pgd_x", Rate(1, 2))


# --- the metrics of the papers, by hand ------------------------------------------------------------


class Says(nn.Module):
    """Predicts the class that an image's first pixel names: 0.3 is class 3."""

    def forward(self, x):
        return nn.functional.one_hot((10 * x[:, 0, 0, 0]).round().long(), 10).float()


def predicted_as(*classes):
    return torch.tensor(classes).view(-1, 1, 1, 1) / 10


LABELS = torch.tensor([3, 3, 3, 1, 1, 2])
# Right about two images of the target class 3, wrong about one; right about two others of three.
ADVERSARIAL = predicted_as(3, 3, 0, 1, 3, 2)
TARGETS = torch.full((6,), 3)


def test_acc_u_counts_all_images():
    rate = accuracy(Says(), ADVERSARIAL, LABELS)
    assert (rate.count, rate.n) == (4, 6)


def test_acc_t_leaves_out_correctly_classified_images_of_the_target_class():
    rate = targeted_accuracy(Says(), ADVERSARIAL, LABELS, TARGETS)
    assert (rate.count, rate.n) == (4 - 2, 6 - 2)  # (num_t − num_r) / (NUM − num_r), num_r = 2


def test_hardness_inversion_leaves_out_all_images_of_the_target_class():
    rate = accuracy_without(Says(), ADVERSARIAL, LABELS, TARGETS)
    assert (rate.count, rate.n) == (2, 3)


def test_each_image_may_have_a_target_of_its_own():
    rate = accuracy_without(Says(), ADVERSARIAL, LABELS, torch.tensor([3, 4, 4, 1, 2, 0]))
    assert (rate.count, rate.n) == (2, 4)  # images 1, 2, 4, 5: predicted 3, 0, 3, 2 for 3, 3, 1, 2


@pytest.mark.parametrize("metric", [targeted_accuracy, accuracy_without])
def test_metrics_without_an_image_left_say_so(metric):
    with pytest.raises(ValueError, match="nothing is left"):
        metric(Says(), predicted_as(3, 3), torch.tensor([3, 3]), torch.tensor([3, 3]))


def test_the_fooling_rate_counts_changed_predictions_not_errors():
    natural = predicted_as(3, 0, 3, 1, 1)  # the second is misclassified before the attack
    rate = fooling_rate(Says(), natural, predicted_as(3, 0, 5, 2))
    assert (rate.count, rate.n) == (2, 4)
