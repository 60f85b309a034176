"""Rates, their intervals, several attackers, stochastic defenses, and the gain over the bare target."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, multinomial
from torch import nn

from helpers import seeded
from helpers.measure.rates import (
    Rate,
    Score,
    accuracy,
    accuracy_under,
    accuracy_without,
    broken_by_any,
    complement,
    error_rate,
    fooling_rate,
    gain,
    in_parts,
    mean_accuracy,
    mean_difference,
    passes,
    predict,
    rate_of,
    right,
    right_within,
    shares,
    survivors,
    targeted_accuracy,
    vote_accuracy,
    withstood,
    worst_accuracy,
)
from helpers.measure.verdicts import gain_verdict


class Brightest(nn.Module):
    """Gives each image the number of its brightest column."""

    def forward(self, x):
        return x.sum((1, 2))


def bars(columns, width=4):
    x = torch.zeros(len(columns), 1, 3, width)
    x[torch.arange(len(columns)), :, :, torch.tensor(columns)] = 1
    return x


def test_an_image_is_broken_if_any_attacker_breaks_it():
    strong, weak, few = (
        torch.tensor(answers, dtype=torch.bool) for answers in ([0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0])
    )
    assert broken_by_any({"strong": strong, "weak": weak}) == Rate(2, 4)
    few_too = {"strong": strong, "weak": weak, "few": few}
    assert survivors(few_too).tolist() == [False, False, False]
    assert broken_by_any(few_too) == Rate(3, 3)  # the three that all attackers have


def test_of_shares_of_right_passes_the_smallest_is_the_worst_and_no_interval_is_narrower_than_a_rates():
    shares, votes = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([True, True, False])
    assert survivors({"one": shares, "other": votes.double()}).tolist() == [1.0, 0.5, 0.0]
    assert rate_of(votes) == Rate(2, 3) and rate_of(shares).value == pytest.approx(100 * 1.75 / 3)
    assert rate_of(votes.double()).interval == pytest.approx(Rate(2, 3).interval)
    assert broken_by_any({"one": shares}).value == pytest.approx(100 - 100 * 1.75 / 3)


def test_within_a_radius_only_shorter_changes_count():
    x, y = bars([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0, 0])  # the last one is misread as it is
    x_adv = bars([1, 1, 3, 3])  # all but the second and the last broken, by a change of √6
    assert right_within(Brightest(), x, x_adv, y, 2.5).tolist() == [False, True, False, False]
    assert right_within(Brightest(), x, x_adv, y, 2.4).tolist() == [True, True, True, False]
    assert right_within(Brightest(), x, x_adv[:3], y, 2.4).tolist() == [True] * 3


def test_withstood_judges_the_images_that_all_attackers_have():
    y = torch.tensor([0, 1, 2])
    answers = withstood(Brightest(), {"first": bars([0, 1, 3]), "second": bars([0, 2])}, y)
    assert {name: correct.tolist() for name, correct in answers.items()} == {
        "first": [True, True],
        "second": [True, False],
    }
    assert Rate.of(survivors(answers)) == Rate(1, 2)


def test_a_stochastic_model_withstands_an_attacker_by_vote():
    x, y = torch.rand(200, 1, 3, 4), torch.zeros(200, dtype=torch.long)
    voted = withstood(Guesses(), {"natural": x}, y, draws=9)["natural"]
    assert torch.equal(voted, passes(Guesses(), x, 9).mode(0).values == y)
    assert not torch.equal(voted, withstood(Guesses(), {"natural": x}, y)["natural"])


def test_a_rate_reads_as_a_sentence_and_formats_as_its_number():
    rate = Rate(62, 500)
    assert str(rate) == "12.4 % [9.8, 15.6], n = 500" == f"{rate}"
    assert f"{rate:.1f}" == "12.4" and f"{rate:+.0f}" == "+12"


def test_a_gain_reads_in_points_with_its_sign():
    assert str(Score(5.0, (-1.25, 11.04), 100, "points")) == "+5.0 points [-1.2, +11.0], n = 100"
    assert str(Score(0.5, (0.4, 0.6), 9, "")) == "0.5 [0.4, 0.6], n = 9"
    assert f"{Score(80.04, (75.0, 85.0), 200):.1f}" == "80.0"


@pytest.mark.parametrize("rate", [Rate(20, 100), Score(20.0, (10.0, 35.0), 7)])
def test_the_complement_of_an_accuracy_is_its_error(rate):
    error = complement(rate)
    assert error.value == 80 and complement(error) == rate
    assert error.interval == pytest.approx([100 - bound for bound in reversed(rate.interval)])


def test_in_parts_is_the_whole_a_few_rows_at_a_time():
    x, y, sizes = torch.rand(7, 2, requires_grad=True), torch.rand(7, 1), []

    def f(a, b):
        sizes.append(len(a))
        return a * b

    product = in_parts(f, x, y, size=3)
    assert torch.equal(product, x * y) and sizes == [3, 3, 1] and not product.requires_grad


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
    assert (gain_verdict(paired), gain_verdict(shuffled)) == ("gains", "undecided")


def test_the_gain_of_shares_of_right_passes_is_that_of_answers_where_the_passes_agree_and_surer_where_not():
    defended, bare = answers(9, 4, 100)
    assert gain(defended.double(), bare.double()) == gain(defended, bare) == gain(defended.double(), bare)
    undecided = torch.full((100,), 0.55)
    low, high = gain(undecided, torch.full((100,), 0.5)).interval
    assert low < 5 < high < 7 and gain(undecided, torch.full((100,), 0.5)).value == pytest.approx(5)


def test_shares_are_of_right_passes():
    drawn, y = torch.tensor([[1, 2], [1, 0], [3, 0], [1, 2]]), torch.tensor([1, 0, 9])
    assert shares(drawn, y).tolist() == [0.75, 0.5]


def test_a_mean_difference_has_the_interval_of_paired_images():
    other = 10 * torch.randn(400, dtype=torch.float64)
    one = other + 1 + torch.randn(400, dtype=torch.float64)
    one[0] = torch.nan  # not measured
    score = mean_difference(one, other)
    expected = (one - other)[1:]
    assert score.n == 399 and score.unit == "points" and score.value == pytest.approx(expected.mean().item())
    half = 1.96 * expected.std().item() / 399**0.5
    assert score.interval == pytest.approx((score.value - half, score.value + half), abs=1e-4)
    assert half < 0.2  # as wide as the difference scatters, not as the ten times wilder measures


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


@pytest.mark.parametrize("attack, metric", [("pgd", "u"), ("pgd_targeted", "t")])
def test_the_metric_goes_by_the_attacks_name(attack, metric):
    given = accuracy_under(attack, Says(), ADVERSARIAL, LABELS, TARGETS)
    by_hand = {
        "u": accuracy(Says(), ADVERSARIAL, LABELS),
        "t": targeted_accuracy(Says(), ADVERSARIAL, LABELS, TARGETS),
    }
    assert given == by_hand[metric] and len(set(by_hand.values())) == 2


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


@pytest.mark.parametrize("convert", [torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.byte])
def test_labels_and_targets_may_be_arrays_lists_and_of_any_whole_type(convert):
    y, targets = convert(LABELS), convert(TARGETS)
    for metric in (targeted_accuracy, accuracy_without):
        assert metric(Says(), ADVERSARIAL, y, targets) == metric(Says(), ADVERSARIAL, LABELS, TARGETS)
    (found,) = withstood(Says(), {"one": ADVERSARIAL}, y).values()
    assert torch.equal(found, right(Says(), ADVERSARIAL, LABELS))


@pytest.mark.parametrize("y", [LABELS[:1], LABELS[:5], LABELS.float(), torch.eye(6)[LABELS].long(), 3])
def test_labels_that_would_compare_to_nonsense_are_refused(y):
    """One label would be compared with all answers, one-hot rows element by element."""
    answers = LABELS.expand(2, -1)
    for judged in (
        lambda: right(Says(), ADVERSARIAL, y),
        lambda: withstood(Says(), {"one": ADVERSARIAL}, y),
        lambda: targeted_accuracy(Says(), ADVERSARIAL, LABELS, y),
        lambda: shares(answers, y),
    ):
        with pytest.raises(ValueError, match=r"6 images need as many labels: class numbers, int64"):
            judged()
