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
    accuracy,
    accuracy_without,
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
