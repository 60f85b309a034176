"""Rates, intervals, verdicts and the comparison with the ledger."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, multinomial
from torch import nn

from helpers import ledger, seeded
from helpers.lab import profiles
from helpers.measure import rates
from helpers.measure.comparison import Comparison
from helpers.measure.rates import Rate, Score, accuracy, accuracy_without, broken_by_any, error_rate, fooling_rate, gain, mean_accuracy, passes, predict, right, targeted_accuracy, vote_accuracy, worst_accuracy
from helpers.measure.verdicts import detector_verdict, gain_verdict, verdict
from helpers.lab.experiment import Experiment


class Brightest(nn.Module):
    """Gives each image the number of its brightest column."""

    def forward(self, x):
        return x.sum((1, 2))


def bars(columns, width=4):
    x = torch.zeros(len(columns), 1, 3, width)
    x[torch.arange(len(columns)), :, :, torch.tensor(columns)] = 1
    return x


def test_an_image_is_broken_if_any_attacker_breaks_it():
    strong, weak, few = (torch.tensor(answers, dtype=torch.bool) for answers in ([0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0]))
    assert broken_by_any(strong, weak) == Rate(2, 4)
    assert broken_by_any(strong, weak, few) == Rate(3, 3)  # the three that all attackers have


def test_error_rate_counts_wrong_labels():
    rate = error_rate(Brightest(), bars([0, 1, 2, 3]), torch.tensor([0, 1, 0, 0]))
    assert (rate.count, rate.n, rate.value) == (2, 4, 50.0)


def test_error_rate_uses_the_first_labels_of_a_longer_list():
    assert error_rate(Brightest(), bars([2, 3]), torch.tensor([2, 3, 9, 9])).count == 0


def test_predictions_do_not_depend_on_the_batch_size():
    x = bars([0, 3, 1, 2, 2, 1, 3])
    assert predict(Brightest(), x, batch_size=3).tolist() == [0, 3, 1, 2, 2, 1, 3]


def test_answers_to_several_attacks_tell_which_images_withstand_all():
    labels = torch.tensor([0, 1, 2])
    first, second = (right(Brightest(), bars(seen), labels) for seen in ([0, 1, 3], [0, 2, 2]))
    assert (first & second).tolist() == [True, False, False]


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
    table.add("arn/t1/lenet/arn_pp/jsma_targeted", Rate(8, 50), reason="few images")
    table.add("arn/t1/lenet/arn_pp/aa", Rate(30, 500), Rate(100, 100))
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
    table.add("arn/t1/lenet/at_pgd/pgd", Rate(1, 10))
    table.add("arn/t1/lenet/arn_pp/pgd", Rate(1, 10))
    assert [row["verdict"] for row in table.rows] == ["not comparable", "as claimed"]


# --- the gain over the bare target -------------------------------------------------------------------


def answers(won, lost, n):
    """Of n images, `won` right with the defense alone and `lost` right without it alone: (defended, bare)."""
    defended, bare = torch.zeros(2, n, dtype=torch.bool)
    defended[:won] = True
    bare[won : won + lost] = True
    return defended, bare


def test_the_gains_interval_covers_the_true_gain():
    """Exactly, for 50 images: over all outcomes, each weighted by its probability."""
    n = 50
    outcomes = np.array([(won, lost, n - won - lost) for won in range(n + 1) for lost in range(n + 1 - won)])
    low, high = np.array([gain(*answers(won, lost, n)).interval for won, lost, _ in outcomes]).T / 100
    for won, lost in [(0.05, 0.02), (0.1, 0.1), (0.3, 0.1), (0.02, 0.3), (0.4, 0.4)]:
        weights = multinomial.pmf(outcomes, n, [won, lost, 1 - won - lost])
        coverage = weights[(low <= won - lost) & (won - lost <= high)].sum()
        # Agresti & Min: close to 95 %, erring above it, all the more where few pairs differ
        assert 0.94 <= coverage <= 0.99, (won, lost)


def test_the_gain_is_in_points_and_lies_in_its_interval():
    score = gain(*answers(9, 4, 100))
    assert score.value == pytest.approx(5) and score.n == 100
    assert score.interval[0] < score.value < score.interval[1]


def test_swapping_defense_and_target_turns_the_gain_round():
    defended, bare = answers(9, 4, 100)
    there, back = gain(defended, bare), gain(bare, defended)
    assert back.value == -there.value
    assert back.interval == pytest.approx([-bound for bound in reversed(there.interval)])


def test_equal_answers_are_no_gain_and_no_certainty_either():
    right_or_wrong = torch.rand(100) < 0.5
    score = gain(right_or_wrong, right_or_wrong.clone())
    assert score.value == 0 and score.interval[0] == -score.interval[1] < 0


def test_the_order_of_the_images_is_what_the_gain_rests_on():
    defended, bare = torch.arange(200) < 110, torch.arange(200) < 100
    paired, shuffled = gain(defended, bare), gain(defended, bare.flip(0))
    assert paired.value == shuffled.value == 5
    assert (gain_verdict(paired), gain_verdict(shuffled)) == ("gains", "no difference seen")


def test_the_gain_of_shares_of_right_passes_is_that_of_answers_where_the_passes_agree_and_surer_where_not():
    defended, bare = answers(9, 4, 100)
    assert gain(defended.double(), bare.double()) == gain(defended, bare) == gain(defended.double(), bare)
    undecided = torch.full((100,), 0.55)
    low, high = gain(undecided, torch.full((100,), 0.5)).interval
    assert low < 5 < high < 7 and gain(undecided, torch.full((100,), 0.5)).value == pytest.approx(5)


def test_a_gain_stays_within_100_points():
    assert gain(*answers(3, 0, 3)).interval[1] == 100 and gain(*answers(0, 3, 3)).interval[0] == -100


@pytest.mark.parametrize(
    "defended, bare",
    [
        (torch.ones(3).bool(), torch.ones(4).bool()),
        (torch.ones(3).long(), torch.ones(3).bool()),
        (torch.ones(3).bool(), torch.ones(3).long()),
        (torch.full((3,), 50.0), torch.ones(3)),
        (torch.ones(2, 3).bool(), torch.ones(2, 3).bool()),
    ],
)
def test_a_gain_needs_the_same_images_judged_right_or_wrong(defended, bare):
    with pytest.raises(ValueError, match=r"two tensors \(N,\).*not torch"):
        gain(defended, bare)


@pytest.mark.parametrize(
    "interval, words",
    [((0.1, 9), "gains"), ((-9, -0.1), "loses"), ((-1, 9), "no difference seen"), ((0, 9), "no difference seen")],
)
def test_the_gains_verdict_is_that_of_its_interval(interval, words):
    assert gain_verdict(Score(4.0, interval, 100)) == words


# --- stochastic defenses ----------------------------------------------------------------------------


class Guesses(nn.Module):
    """Gives each image a class at random."""

    def forward(self, x):
        return torch.rand(len(x), 4)


def test_a_stochastic_model_is_judged_alike_in_each_call_and_by_numbers_of_its_own():
    x, before = torch.rand(30, 1, 3, 4), torch.get_rng_state()
    first, again = predict(Guesses(), x, batch_size=7), predict(Guesses(), x, batch_size=7)
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), before)
    for seed in range(3):  # of attackers
        with seeded(seed):
            seen = Guesses()(x).argmax(1)
            assert not torch.equal(predict(Guesses(), x), seen)


def test_passes_differ_and_go_by_their_seed():
    x = torch.rand(30, 1, 3, 4)
    three, other = passes(Guesses(), x, 3), passes(Guesses(), x, 3, seed=1)
    assert three.shape == (3, 30) and three.dtype == torch.int64
    assert torch.equal(three[:2], passes(Guesses(), x, 2)) and torch.equal(three[0], predict(Guesses(), x))
    assert not torch.equal(three[0], three[1]) and not torch.equal(three, other)
    with seeded(1):
        assert torch.equal(other, torch.stack([Guesses()(x).argmax(1) for _ in range(3)]))


def test_passes_of_a_deterministic_model_are_all_its_prediction():
    x = bars([0, 3, 1, 2, 2, 1, 3])
    assert passes(Brightest(), x, 2, batch_size=3).tolist() == 2 * [[0, 3, 1, 2, 2, 1, 3]]


def test_passes_need_a_draw():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        passes(Brightest(), bars([0]), 0)


def test_mean_worst_and_vote_by_hand():
    drawn = torch.tensor([[1, 1, 1, 2, 0], [1, 1, 2, 2, 3], [1, 0, 3, 2, 0]])
    y = torch.tensor([1, 1, 1, 1, 0, 9, 9])  # longer than the images
    mean = mean_accuracy(drawn, y)  # right in 3, 2, 1, 0, 2 of the passes
    assert mean.value == pytest.approx(100 * 8 / 15) and mean.n == 5
    assert (worst_accuracy(drawn, y), vote_accuracy(drawn, y)) == (Rate(1, 5), Rate(4, 5))


def test_of_a_tied_vote_the_smallest_label_wins():
    drawn = torch.tensor([[2, 2], [1, 3]])
    assert vote_accuracy(drawn, torch.tensor([1, 3])).count == 1


@pytest.mark.parametrize("count", [0, 37, 100])
@pytest.mark.parametrize("draws", [1, 5])
def test_where_all_passes_agree_the_means_interval_is_that_of_one(count, draws):
    y = torch.zeros(100, dtype=torch.long)
    drawn = (torch.arange(100) >= count).long().expand(draws, -1)
    assert mean_accuracy(drawn, y).interval == pytest.approx(Rate(count, 100).interval)


@pytest.mark.parametrize("draws, n", [(5, 100), (10, 40)])
@pytest.mark.parametrize("chances", [(0.5,), (0.1, 0.9), (0.0, 1.0), (0.95, 1.0), (0.0, 0.3, 0.6)])
def test_the_means_interval_covers_the_true_accuracy(chances, draws, n):
    """Over many sets of images, each image right with a chance of its own."""
    sets = 1000
    chance = torch.tensor(chances)[torch.randint(len(chances), (sets, n))]
    drawn = (torch.rand(draws, sets, n) >= chance).long()
    y, true = torch.zeros(n, dtype=torch.long), 100 * sum(chances) / len(chances)
    bounds = [mean_accuracy(drawn[:, k], y).interval for k in range(sets)]
    coverage = np.mean([low <= true <= high for low, high in bounds])
    assert 0.92 <= coverage <= 0.98  # four standard errors of 1000 sets, and what Wilson's own is off


# --- a paper that reports accuracies, a detector's numbers and other people's --------------------------


def add_comparison(profile="paper"):
    return Comparison("13_test", Experiment(profile, paper="add"))


def test_an_accuracy_is_judged_by_the_errors_that_go_with_it():
    table = add_comparison()
    for right in (600, 950, 990):  # of 1000; the paper prints 89.30
        table.add("add/t2/mnist/add/sta", Rate(right, 1000))
    for right in (100, 101, 880):
        table.add("add/t2/mnist/add/sta", Rate(890, 1000), Rate(right, 1000))
    assert [row["verdict"] for row in table.rows] == [
        "worse than claimed", "as claimed", "better than claimed",
        "as claimed, broken", "as claimed, weakened", "as claimed, stands",
    ]  # fmt: skip


def test_a_mean_over_draws_stands_in_the_table_as_the_rate_of_the_same_size_would():
    table = add_comparison()
    for right, adaptive in ((600, None), (950, 100), (990, None), (890, 880)):
        ours, theirs = (count and Rate(count, 1000) for count in (right, adaptive))
        table.add("add/t2/mnist/add/sta", ours, theirs)
        table.add(
            "add/t2/mnist/add/sta", Score(ours.value, ours.interval, 1000),
            theirs and Score(theirs.value, theirs.interval, 1000),
        )  # fmt: skip
    shown = table.frame()
    assert shown.iloc[::2].reset_index(drop=True).equals(shown.iloc[1::2].reset_index(drop=True))
    assert shown["verdict"].nunique() == 4


def test_an_accuracy_is_shown_and_saved_as_the_accuracy_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    table = add_comparison()
    table.add("add/t2/mnist/add/sta", Rate(890, 1000), Rate(100, 1000))
    shown = table.frame().iloc[0]
    assert (shown.paper, shown.ours, shown.adaptive) == ("89.3", "89.0 (87–91)", "10.0 (8–12)")
    saved = json.loads((tmp_path / table.save()).read_text())
    row, = saved["rows"]
    assert saved["paper"] == "add" and row["metric"] == "accuracy"
    assert (row["paper"], row["ours"]["value"], row["adaptive"]["value"]) == (89.3, 89.0, 10.0)


def test_the_metric_is_a_column_only_where_a_table_has_several():
    table = add_comparison()
    table.add("add/t2/mnist/add/sta", Rate(890, 1000))
    assert list(table.frame()) == ["defense", "attack", "paper", "ours", "adaptive", "verdict", "deviation"]
    table.add("add/t2/mnist/add/sta_targeted", Rate(890, 1000))
    assert table.frame()["metric"].tolist() == ["accuracy", "targeted_accuracy"]


def test_the_target_is_a_column_only_where_a_table_has_several(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "ROOT", tmp_path)
    table = add_comparison()
    table.add("add/t5/mnist/ours_eps0.3/aa", Rate(890, 1000))
    assert "target" not in table.frame()
    table.add("add/t5/mnist/crown/aa", None)
    assert table.frame()["target"].tolist() == ["lenet5", "unstated"]
    saved = json.loads((tmp_path / table.save()).read_text())["rows"]
    assert [row["target"] for row in saved] == ["lenet5", "unstated"]


@pytest.mark.parametrize("id, paper", [
    ("jatp/s2.3/restored/l1_distance", "jatp"), ("arn/s4.2/lenet/arn/pgd-bpda-reduction", "arn"),
])  # fmt: skip
def test_a_number_that_is_no_rate_does_not_enter_the_table(id, paper):
    table = add_comparison()
    table.facts = ledger.load(paper).set_index("id")
    with pytest.raises(ValueError, match=f"{id} .*is no rate"):
        table.add(id, Rate(1, 2))


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
    with pytest.raises(LookupError, match="arn/t1/lenet/arn_pp/pgd"):
        add_comparison().add("arn/t1/lenet/arn_pp/pgd", Rate(1, 2))


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
