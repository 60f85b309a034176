"""Rates with confidence intervals: errors, accuracies, stochastic defenses, the gain over the bare target.

`print(error_rate(model, x_adv, y))` says `12.4 % [9.8, 15.6], n = 500`; `f"{rate:.1f}"` is the number alone.

*Answers* are what all comparisons rest on, one an image, the same images in the same order: bool (n,), True
where the true label is given (`right`); of a stochastic model each image's share of right passes (`shares`).
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from helpers import seeded
from helpers.attacks.contract import as_labels

# 97.5th percentile of the standard normal distribution: two-sided 95 % intervals.
Z = 1.959964

# A stochastic defense is judged by random numbers that no attacker has seen: theirs start from small seeds.
SEED = 1_000_003


class _Printed:
    """How rates and scores read: `str` is a sentence, a format such as `.1f` gives the value alone."""

    def __str__(self) -> str:
        low, high = self.interval
        sign = "+" if self.unit == "points" else ""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.value:{sign}z.1f}{unit} [{low:{sign}z.1f}, {high:{sign}z.1f}], n = {self.n}"

    def __format__(self, spec: str) -> str:
        written = format(self.value, spec) if spec else str(self)
        return written if written.strip("+-0.") else format(0.0, spec)  # zero has no minus

    def cell(self, digits: int = 1) -> str:
        """With the 95 % interval, as a cell of a table: "12.4 (10–16)", of points "+5 (−1 to +11)".

        An interval without 0 in it that rounding would end there has one digit more, up to two decimals:
        "−4 (−8.1 to −0.3)"; so has a value there that would be 0.
        """
        low, high = self.interval
        if self.unit == "%":
            return f"{self.value:z.{digits}f} ({low:z.0f}–{high:z.0f})"
        hidden = low * high > 0 and round(min(abs(low), abs(high)), digits) == 0
        sign, finer = "+" if self.unit == "points" else "", max(digits, min(digits + hidden, 2))
        shown = finer if round(self.value, digits) == 0 else digits
        value, *bounds = f"{self.value:{sign}z.{shown}f}", *(f"{b:{sign}z.{finer}f}" for b in (low, high))
        return f"{value} ({' to '.join(bounds)})".replace("-", "−")


@dataclass(frozen=True)
class Rate(_Printed):
    """A share of `count` among `n` images; `value` and `interval` are in percent."""

    count: int
    n: int
    unit = "%"

    @classmethod
    def of(cls, answers: Tensor) -> "Rate":
        """The share of True among `answers`, bool (n,)."""
        return cls(int(answers.sum()), len(answers))

    @property
    def value(self) -> float:
        return 100 * self.count / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval (low, high), in percent; fair near 0 and 100 too."""
        return _wilson(self.count / self.n, self.n)


@dataclass(frozen=True)
class Score(_Printed):
    """A measure of `n` images that is no share of them: a ROC AUC, `mean_accuracy`, `gain`.

    unit: "%", "points" (a difference of percentages, printed with its sign) or "".
    """

    value: float
    interval: tuple[float, float]
    n: int
    unit: str = "%"


def _wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's interval of the share `p` of `n` images, in percent; n need not be whole."""
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


# Predictions -------------------------------------------------------------------------------------


@torch.no_grad()
def in_parts(f: Callable[..., Tensor], *tensors: Tensor, size: int = 500) -> Tensor:
    """`f(*tensors)` on `size` rows at a time, without gradients; the results joined along the rows."""
    parts = zip(*(tensor.split(size) for tensor in tensors), strict=True)
    return torch.cat([f(*part) for part in parts])


def predict(model: nn.Module, x: Tensor, batch_size: int = 1000) -> Tensor:
    """Predicted labels (N,) of images `x` (N,C,H,W), the model as it is (put it in eval mode).

    Of a stochastic model the first of its `passes`, so that a second call says the same.
    """
    return passes(model, x, 1, batch_size=batch_size)[0]


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which of the images `x` (N,C,H,W) `model` gives their label: bool (N,).

    y: labels (≥ N,); they may be longer than `x`: attacks that are run on fewer images use the first ones.
    """
    return predict(model, x) == _labels(y, x)


def _labels(y: Any, x: Tensor) -> Tensor:
    """The labels of the images `x` (N,...), int64 (N,): a tensor, an array or a list of at least as many.

    ValueError for anything else: two tensors of different shapes may well compare, to nonsense.
    """
    labels = as_labels(y, x)
    if labels.dtype != torch.int64 or labels.ndim != 1 or len(labels) < len(x):
        given = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"{len(x)} images need as many labels: class numbers, int64 (N,), got {given}")
    return labels[: len(x)]


def right_within(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, radius: float) -> Tensor:
    """As `right`, for an attack without a budget: which images it has not broken within an ℓ2 distance.

    x: natural images (≥ N,C,H,W).  x_adv: (N,C,H,W), what the attack made of them.  y: labels (≥ N,).
    radius: ℓ2 norm of the change, in [0,1]-pixels, up to which a success counts; at 0 only a natural error.
    """
    natural = x[: len(x_adv)]
    far = (x_adv - natural).flatten(1).norm(dim=1) > radius
    return right(model, natural, y) & (right(model, x_adv, y) | far)


# One attack --------------------------------------------------------------------------------------


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> Rate:
    """Share of the images `x` that `model` gives their label; ADD's Acc_u (Appendix C.2) and DIR's metric.

    x: (N,C,H,W) in [0,1].  y: labels, as in `right`.
    """
    return Rate.of(right(model, x, y))


def error_rate(model: nn.Module, x: Tensor, y: Tensor) -> Rate:
    """Share of the images `x` that `model` does not give their label; ARN's metric.  As `accuracy`."""
    return complement(accuracy(model, x, y))


def targeted_accuracy(model: nn.Module, x: Tensor, y: Tensor, targets: Tensor) -> Rate:
    """ADD's Acc_t (Appendix C.2): accuracy without the images whose label is the attacker's target.

    targets: (≥ N,), the class each image was driven to.  Acc_t = (num_t − num_r) / (NUM − num_r), where
        num_r counts the images of the target class *that are classified correctly*: an image already of
        the target class costs the defense nothing, and being right about it proves nothing.
    ValueError if nothing is left.
    """
    correct = right(model, x, y)
    free = correct & (_labels(y, x) == _labels(targets, x))
    if free.all():
        raise ValueError(
            "every image belongs to its target class and is classified so: nothing is left to count"
        )
    return Rate.of(correct[~free])


def accuracy_under(attack: str, model: nn.Module, x: Tensor, y: Tensor, targets: Tensor) -> Rate:
    """ADD's metric for the images `x` of an attack: Acc_t of a targeted one (its name says so), else Acc_u.

    attack: its name in the profile, such as "pgd_targeted".  x, y, targets: as in `targeted_accuracy`.
    """
    return targeted_accuracy(model, x, y, targets) if attack.endswith("_targeted") else accuracy(model, x, y)


def accuracy_without(model: nn.Module, x: Tensor, y: Tensor, targets: Tensor) -> Rate:
    """ADD's accuracy for the hardness inversion (Appendix G.1): over the images not of the target class.

    The same images whether the attack was targeted or not, so that the two may be compared:
    Acc_u = (num_u − num_c) / (NUM − num_c), Acc_t alike.  The formula takes it that all num_c images
    of the target class are classified correctly; here they are left out, right or wrong.
    ValueError if nothing is left.
    """
    y = _labels(y, x)
    others = y != _labels(targets, x)
    if not others.any():
        raise ValueError("every image belongs to its target class: nothing is left to count")
    return accuracy(model, x[others], y[others])


def fooling_rate(model: nn.Module, natural: Tensor, adversarial: Tensor) -> Rate:
    """Share of the images whose predicted class the attack changes, right or wrong before; JATP, Figure 4(a).

    natural, adversarial: (≥ N,C,H,W), (N,C,H,W), row by row the same images.
    JATP does not define it; this is the definition of Moosavi-Dezfooli et al. (2017), used by NRP.
    """
    after, before = predict(model, adversarial), predict(model, natural[: len(adversarial)])
    return Rate.of((after != before) | (after < 0))  # NaN is no answer, and cannot be the same one


# Several attackers -------------------------------------------------------------------------------


def withstood(model: nn.Module, sets: Mapping[str, Tensor], y: Tensor, draws: int = 1) -> dict[str, Tensor]:
    """Which images `model` gives their label under each attacker: {attacker: bool (n,)}.

    sets: {attacker: images (n,C,H,W)}, row by row the same images; those that all sets have are judged.
    draws: passes that vote on an image, for a stochastic model.
    """
    n = min(len(images) for images in sets.values())
    return {
        name: vote(passes(model, images[:n], draws)) == _labels(y, images[:n])
        for name, images in sets.items()
    }


def survivors(answers: Mapping[str, Tensor]) -> Tensor:
    """Which images withstand *every* attacker: the worst case per image, (n,); of shares the smallest.

    answers: {attacker: answers (n,)}; where the lengths differ, the first images that all attackers have.
    """
    n = min(len(one) for one in answers.values())
    return torch.stack([one[:n] for one in answers.values()]).amin(0)


def broken_by_any(answers: Mapping[str, Tensor]) -> Rate | Score:
    """The robust error: share of the images that at least one of the attackers breaks; see `survivors`."""
    return complement(rate_of(survivors(answers)))


def rate_of(answers: Tensor) -> Rate | Score:
    """The share of right answers (n,): of bool a Rate, of shares of right passes a Score.

    The interval of shares is Wilson's for right or wrong, which vary at least as much.
    """
    if answers.dtype == torch.bool:
        return Rate.of(answers)
    p = answers.double().mean().item()
    return Score(100 * p, _wilson(p, len(answers)), len(answers))


# Stochastic defenses -----------------------------------------------------------------------------


@torch.no_grad()
def passes(model: nn.Module, x: Tensor, draws: int, seed: int = SEED, batch_size: int = 1000) -> Tensor:
    """Labels that `draws` passes of a stochastic model give the images `x` (N,C,H,W): (draws, N) int64.

    seed: of torch's global generators, from which the model draws; not one that an attacker has used.
    ValueError for fewer than one draw.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    parts = x.split(batch_size)
    with seeded(seed):
        # A copy each: a model may normalise its input in place.
        found = [torch.cat([labels_of(model(part.clone())) for part in parts]) for _ in range(draws)]
    labels = torch.stack(found)
    if none := int((labels < 0).sum()):
        message = f"{none} of {labels.numel()} predictions are NaN, which counts as wrong"
        warnings.warn(message, stacklevel=3)
    return labels


def labels_of(logits: Tensor) -> Tensor:
    """The label of each image, (N,K) -> (N,) int64; −1, which no label is, where a logit is NaN.

    ValueError for what are no logits, such as a tuple with them in it.
    """
    if not torch.is_tensor(logits) or logits.ndim != 2:
        given = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
        raise ValueError(f"the model must map images to logits (N, classes), it gave {given}")
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def vote(answers: Tensor) -> Tensor:
    """The label (N,) that most of the passes (draws, N) give; of tied labels the smallest."""
    return answers.mode(0).values


def shares(answers: Tensor, y: Tensor) -> Tensor:
    """Share of the passes (draws, N) that give each image its label, float64 (N,) in [0,1]; for `gain`."""
    return (answers == _labels(y, answers[0])).double().mean(0)


def mean_accuracy(answers: Tensor, y: Tensor) -> Score:
    """The accuracy to be expected of one pass: the mean over the passes (draws, N); a `Score` in percent.

    The images are what is sampled.  95 % interval: Wilson's for the mean of each image's share of right
    passes, with Kish's effective number of images (1965, "Survey Sampling"): as many as it takes for
    right-or-wrong answers to vary as little as these shares do.  It is that of a Rate if all passes agree.
    """
    draws, n = answers.shape
    share = shares(answers, y)
    p, spread = share.mean().item(), share.var(correction=0).item()
    # Independent passes over independent images would vary 1/draws as much as single answers; less is chance.
    design = max(spread / (p * (1 - p)), 1 / draws) if 0 < p < 1 else 1.0
    return Score(100 * p, _wilson(p, n / design), n)


def worst_accuracy(answers: Tensor, y: Tensor) -> Rate:
    """Share of the images that each of the passes (draws, N) gets right: an attacker may try again."""
    return Rate.of((answers == _labels(y, answers[0])).all(0))


def vote_accuracy(answers: Tensor, y: Tensor) -> Rate:
    """Share of the images that most of the passes (draws, N) get right; see `vote`."""
    return Rate.of(vote(answers) == _labels(y, answers[0]))


# Differences on the same images ------------------------------------------------------------------


def gain(defended: Tensor, bare: Tensor) -> Score:
    """What the denoiser adds to the robust accuracy of the bare target, a `Score` in percentage points.

    defended, bare: answers (N,) to the *same* images in the same order, each under its own attack.
    ValueError for anything else, such as labels.

    The images are paired, so what counts is how many only one of the two gets right.  95 % interval of
    Agresti & Min (2005, "Simple improved confidence intervals for comparing matched proportions"): Wald's,
    after 1/2 is added to each of the four cells.  For shares the same formula.
    """
    if defended.ndim != 1 or defended.shape != bare.shape or not (_judged(defended) and _judged(bare)):
        given = " and ".join(f"{answers.dtype} {tuple(answers.shape)}" for answers in (defended, bare))
        raise ValueError(
            f"gain needs two tensors (N,) of the same images, as `right` gives them, or shares, not {given}"
        )
    n, difference = len(defended), defended.double() - bare.double()
    centre = difference.sum().item() / (n + 2)
    half = Z * sqrt((difference.square().sum().item() + 1) / (n + 2) - centre**2) / sqrt(n + 2)
    interval = (100 * max(-1.0, centre - half), 100 * min(1.0, centre + half))
    return Score(100 * difference.mean().item(), interval, n, "points")


def _judged(answers: Tensor) -> bool:
    """Whether these are right or wrong, or shares in [0,1]; integers would be labels."""
    shares = answers.is_floating_point() and bool(((answers >= 0) & (answers <= 1)).all())
    return answers.dtype == torch.bool or shares


def mean_difference(one: Tensor, other: Tensor, unit: str = "points") -> Score:
    """Mean over the images of `one` minus `other` (N,), with the 95 % interval of paired images.

    one, other: a measure of the same images in the same order, in one unit.  unit: that of the `Score`.
    Images where either is NaN (not measured) are left out.
    """
    return mean(one.double() - other.double(), unit)


def mean(values: Tensor, unit: str = "") -> Score:
    """Mean over the images of a measure (N,), a `Score` in `unit` with its 95 % interval; NaN is left out."""
    values = values[~values.isnan()].double()
    centre, half = values.mean().item(), Z * values.std().item() / sqrt(len(values))
    return Score(centre, (centre - half, centre + half), len(values), unit)


def complement(rate: Rate | Score) -> Rate | Score:
    """100 % less a Rate or a Score: of an accuracy the error that goes with it."""
    if isinstance(rate, Rate):
        return Rate(rate.n - rate.count, rate.n)
    low, high = rate.interval
    return Score(100 - rate.value, (100 - high, 100 - low), rate.n)
