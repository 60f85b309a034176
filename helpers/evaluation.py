"""Evaluation: rates with confidence intervals, and each published number beside ours."""

import json
import subprocess
from dataclasses import dataclass
from math import sqrt

import pandas as pd
import torch

from helpers import ROOT, artifacts, ledger, profiles, seeded

# 97.5th percentile of the standard normal distribution: two-sided 95 % intervals.
Z = 1.959964

# A stochastic defense is judged by random numbers that no attacker has seen: theirs start from small seeds.
SEED = 1_000_003


@dataclass(frozen=True)
class Rate:
    """A share of `count` among `n` images; `value` and `interval` are in percent."""

    count: int
    n: int

    @property
    def value(self):
        return 100 * self.count / self.n

    @property
    def interval(self):
        """Wilson's 95 % confidence interval (low, high), in percent; fair near 0 and 100 too."""
        return _wilson(self.count / self.n, self.n)

    def __str__(self):
        return f"{self.value:.1f}"


@dataclass(frozen=True)
class Score:
    """A measure of `n` images that is no share of them, a ROC AUC, `gain` or `mean_accuracy`; in percent (points)."""

    value: float
    interval: tuple[float, float]
    n: int

    __str__ = Rate.__str__


def _wilson(p, n):
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def predict(model, x, batch_size=1000):
    """Predicted labels (N,) of images `x` (N,C,H,W), the model as it is (put it in eval mode).

    Of a stochastic model the first of its `passes`, so that a second call says the same.
    """
    return passes(model, x, 1, batch_size=batch_size)[0]


def right(model, x, y):
    """Which of the images `x` (N,C,H,W) `model` gives their label: bool (N,).

    Labels `y` may be longer than `x`: attacks that are run on fewer images use the first ones.
    `&` of several attacks' answers: the images that withstand all of them.
    """
    return predict(model, x) == y[: len(x)]


def error_rate(model, x, y):
    """Share of the images `x` (N,C,H,W) that `model` does not give their label; ARN's metric.  `y` as in `right`."""
    return _complement(accuracy(model, x, y))


def broken_by_any(*withstood):
    """Share of the images that at least one of several attackers breaks: the robust error against all of them.

    withstood: what `right` (N,) says of each attacker's images; where the lengths differ, the first images that all have.
    """
    n = min(map(len, withstood))
    left = torch.stack([answers[:n] for answers in withstood]).all(0)
    return Rate(int((~left).sum()), n)


# Stochastic defenses -----------------------------------------------------------------------------


@torch.no_grad()
def passes(model, x, draws, seed=SEED, batch_size=1000):
    """Labels that `draws` passes of a stochastic model give the images `x` (N,C,H,W): (draws, N) int64.

    seed: of torch's global generators, from which the model draws; not one that an attacker has used.
    Fewer than one draw is a ValueError.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    parts = x.split(batch_size)
    with seeded(seed):
        return torch.stack([torch.cat([model(part).argmax(1) for part in parts]) for _ in range(draws)])


def mean_accuracy(passes, y):
    """The accuracy to be expected of one pass: the mean over `passes` (draws, N); a Score.  `y` as in `right`.

    The images are what is sampled.  95 % interval: Wilson's for the mean of each image's share of right passes, with
    Kish's effective number of images (1965, "Survey Sampling"): as many as it takes for right-or-wrong answers to
    vary as little as these shares do.  It is that of a Rate if all passes agree.
    """
    draws, n = passes.shape
    shares = (passes == y[:n]).double().mean(0)
    p, spread = shares.mean().item(), shares.var(correction=0).item()
    # Independent passes over independent images would vary 1/draws as much as single answers; less is chance.
    design = max(spread / (p * (1 - p)), 1 / draws) if 0 < p < 1 else 1.0
    return Score(100 * p, _wilson(p, n / design), n)


def worst_accuracy(passes, y):
    """Share of the images that each of the `passes` (draws, N) gets right: an attacker may try again."""
    correct = (passes == y[: passes.shape[1]]).all(0)
    return Rate(int(correct.sum()), len(correct))


def vote_accuracy(passes, y):
    """Share of the images that most of the `passes` (draws, N) get right; of tied labels the smallest counts."""
    correct = passes.mode(0).values == y[: passes.shape[1]]
    return Rate(int(correct.sum()), len(correct))


# The metrics of the other papers ------------------------------------------------------------------


def accuracy(model, x, y):
    """Share of the images `x` that `model` gives their label; ADD's Acc_u (Appendix C.2) and DIR's metric."""
    correct = right(model, x, y)
    return Rate(int(correct.sum()), len(correct))


def targeted_accuracy(model, x, y, targets):
    """ADD's Acc_t (Appendix C.2): accuracy without the images whose label is the attacker's target.

    targets: (N,), the class each image was driven to.  Acc_t = (num_t − num_r) / (NUM − num_r), where
    num_r counts the images of the target class *that are classified correctly*: an image already of
    the target class costs the defense nothing, and being right about it proves nothing.
    ValueError if nothing is left.
    """
    correct = right(model, x, y)
    free = correct & (y[: len(x)] == targets[: len(x)])
    if free.all():
        raise ValueError("every image belongs to its target class and is classified so: nothing is left to count")
    return Rate(int((correct & ~free).sum()), int((~free).sum()))


def accuracy_without(model, x, y, targets):
    """ADD's accuracy for the hardness inversion (Appendix G.1): over the images not of the target class.

    The same images whether the attack was targeted or not, so that the two may be compared:
    Acc_u = (num_u − num_c) / (NUM − num_c), Acc_t alike.  The formula takes it that all num_c images
    of the target class are classified correctly; here they are left out, right or wrong.
    """
    others = y[: len(x)] != targets[: len(x)]
    if not others.any():
        raise ValueError("every image belongs to its target class: nothing is left to count")
    return accuracy(model, x[others], y[: len(x)][others])


def fooling_rate(model, natural, adversarial):
    """Share of the images whose predicted class the attack changes, right or wrong before; JATP, Figure 4(a).

    JATP does not define it; this is the definition of Moosavi-Dezfooli et al. (2017), used by NRP.
    """
    changed = predict(model, adversarial) != predict(model, natural[: len(adversarial)])
    return Rate(int(changed.sum()), len(changed))


# The gain over the bare target -------------------------------------------------------------------


def gain(defended, bare):
    """What the denoiser adds to the robust accuracy of the bare target, a `Score` in percentage points.

    defended, bare: (N,), the *same* images in the same order: bool, True where the pipeline, or the bare
    target, still gives the true label under its own attack (`right`); or, of a stochastic one, each image's share of
    right `passes`, in [0,1].  ValueError for anything else.

    The images are paired, so what counts is how many only one of the two gets right.  95 % interval of
    Agresti & Min (2005, "Simple improved confidence intervals for comparing matched proportions"): Wald's,
    after 1/2 is added to each of the four cells.  For shares the same formula.
    """
    one, other = (answers.double() for answers in (defended, bare))
    fit = one.shape == other.shape == (one.numel(),) and torch.cat([one, other]).sub(0.5).abs().le(0.5).all()
    if not fit or any(answers.dtype == torch.int64 for answers in (defended, bare)):  # labels
        given = " and ".join(f"{answers.dtype} {tuple(answers.shape)}" for answers in (defended, bare))
        raise ValueError(f"gain needs two tensors (N,) of the same images, as `right` gives them, or shares, not {given}")
    n, d = len(one), one - other
    centre = d.sum().item() / (n + 2)
    half = Z * sqrt((d.square().sum().item() + 1) / (n + 2) - centre**2) / sqrt(n + 2)
    return Score(100 * d.mean().item(), (100 * max(-1.0, centre - half), 100 * min(1.0, centre + half)), n)


def gain_verdict(score):
    """What a `gain` says, by its interval alone: "gains", "loses", or "no difference seen" where it covers 0."""
    low, high = score.interval
    return "gains" if low > 0 else "loses" if high < 0 else "no difference seen"


# The verdict -----------------------------------------------------------------------------------

MARGIN = 5.0  # points beyond the confidence intervals before a difference is called one
BROKEN = 90.0  # error under the adaptive attack from which on a defense is called broken
STANDS = 50.0  # ... and below which it may be said to stand

# Metrics of which more is better for the defense, and those of a detector, of which neither more nor less is.
ACCURACIES = {"accuracy", "targeted_accuracy"}
DETECTION = {"roc_auc", "precision", "recall"}


def verdict(paper, ours, adaptive=None, comparable=True):
    """What the numbers say, in words; error rates in percent, lower is better for the defense.

    paper: float.  ours: Rate (or Score) under the paper's protocol.  adaptive: the same under an
    adaptive attack, or None if the table's attack has no adaptive form.  comparable: False where ours
    may not be held against the paper's (the quick profile, or a protocol the paper does not state).

    First: "as claimed", "worse than claimed" or "better than claimed", by more than MARGIN
    points beyond the interval; else "not comparable".  Second, of the adaptive attack:
    "broken" (BROKEN % errors or more); "stands" (less than STANDS %, and no more than MARGIN points
    beyond both intervals above ours); else "weakened".
    """
    claim = _difference(paper, ours, "worse than", "better than")
    words = [f"{claim} claimed" if comparable else "not comparable"]
    if adaptive is not None:
        stands = adaptive.value < STANDS and adaptive.interval[0] <= ours.interval[1] + MARGIN
        words.append("broken" if adaptive.value >= BROKEN else "stands" if stands else "weakened")
    return ", ".join(words)


def detector_verdict(paper, ours, comparable=True):
    """What `ours` (Rate or Score) says of a detector's published number, in words that take no side.

    "as published", "higher than published" or "lower than published", by the rule of `verdict`;
    else "not comparable".
    """
    return f"{_difference(paper, ours, 'higher than', 'lower than')} published" if comparable else "not comparable"


def _difference(paper, ours, more, less):
    """`more` or `less` if `ours` differs from `paper` by more than MARGIN points beyond its interval; else "as"."""
    low, high = ours.interval
    return more if low > paper + MARGIN else less if high < paper - MARGIN else "as"


class Comparison:
    """Published numbers beside ours: filled row by row in a notebook, shown and saved at its end.

    notebook: name without suffix, also that of the JSON file.  lab: the Experiment, whose paper's
    numbers are meant.
    """

    def __init__(self, notebook, lab):
        self.notebook, self.lab = notebook, lab
        self.profile = profiles.load(lab.profile)
        self.facts = ledger.load(lab.paper).set_index("id")
        self.rows = []

    def add(self, ledger_id, ours, adaptive=None, reason=""):
        """Set `ours` (and `adaptive`), Rates or Scores in the paper's metric, beside the published `ledger_id`.

        ours: None for a number that is only shown, such as other people's ("published only").  Neither that nor a
        detector's metric (DETECTION) goes with an adaptive number: ValueError.
        reason: why the numbers may differ, in a few words; the profile's own come first.
        LookupError for an id not in the ledger of the lab's paper; ValueError for a number that is no rate.
        """
        paper = ledger.published(ledger_id)
        fact = self.facts.loc[ledger_id]
        if fact.metric not in ledger.RATES:
            raise ValueError(f"{ledger_id} ({fact.metric}) is no rate: show it with helpers.ledger.published")
        if adaptive is not None and (ours is None or fact.metric in DETECTION):
            raise ValueError(f"{ledger_id} ({fact.metric}, ours {ours}) has no adaptive number: leave {adaptive} out")
        stated = fact.threat != "unstated"
        words = _words(fact.metric, paper, ours, adaptive, self.profile.comparable and stated)
        reasons = [self.profile.deviation, reason, "" if stated else "threat model not stated"]
        *_, defense, attack = ledger_id.split("/")
        self.rows.append(
            {
                "id": ledger_id, "dataset": fact.dataset, "target": fact.target, "defense": defense,
                "attack": attack, "metric": fact.metric, "paper": paper, "ours": ours, "adaptive": adaptive,
                "verdict": words, "deviation": reason if ours is None else "; ".join(filter(None, reasons)),
            }
        )  # fmt: skip

    def frame(self):
        """One row a published number: paper | ours (95 % interval) | adaptive | verdict | deviation; in percent.

        In the paper's own metric, with a column `dataset`, `target` or `metric` if there is more than one.
        """
        shown = [
            row | {
                "paper": f"{row['paper']:.1f}", "ours": _with_interval(row["ours"]),
                "adaptive": _with_interval(row["adaptive"]),
            }
            for row in self.rows
        ]  # fmt: skip
        frame = pd.DataFrame(shown)
        constant = [column for column in ("dataset", "target", "metric") if frame[column].nunique() == 1]
        return frame.drop(columns=["id", *constant])

    def save(self):
        """Write results/<profile>/<notebook>.json (and `.seed<k>` for seeds above 0); -> its path."""
        suffix = f".seed{self.lab.seed}" if self.lab.seed else ""
        file = ROOT / "results" / self.lab.profile / f"{self.notebook}{suffix}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [row | {"ours": _numbers(row["ours"]), "adaptive": _numbers(row["adaptive"])} for row in self.rows]
        content = {
            "notebook": self.notebook, "paper": self.lab.paper, "profile": self.lab.profile,
            "comparable": self.profile.comparable, "dataset": self.lab.dataset, "seed": self.lab.seed,
            "commit": _commit(), **artifacts.provenance(), "rows": rows,
        }  # fmt: skip
        artifacts.write_atomically(file, lambda f: f.write_text(json.dumps(content, indent=1, ensure_ascii=False)))
        return file.relative_to(ROOT)


def _words(metric, paper, ours, adaptive, comparable):
    """The verdict in the words that fit `metric`; accuracies are judged by the errors that go with them."""
    if ours is None:
        return "published only"
    if metric in DETECTION:
        return detector_verdict(paper, ours, comparable)
    if metric in ACCURACIES:
        paper, ours, adaptive = 100 - paper, _complement(ours), adaptive and _complement(adaptive)
    return verdict(paper, ours, adaptive, comparable)


def _complement(rate):
    """100 % less a Rate or a Score: of an accuracy the error that goes with it."""
    if isinstance(rate, Rate):
        return Rate(rate.n - rate.count, rate.n)
    low, high = rate.interval
    return Score(100 - rate.value, (100 - high, 100 - low), rate.n)


def _with_interval(rate):
    if rate is None:
        return "–"
    low, high = rate.interval
    return f"{rate.value:.1f} ({low:.0f}–{high:.0f})"


def _numbers(rate):
    if rate is None:
        return None
    low, high = rate.interval
    return {"value": round(rate.value, 3), "n": rate.n, "low": round(low, 3), "high": round(high, 3)}


def _commit():
    """The commit of the working tree, with a + if files differ from it; None outside git."""
    try:
        git = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
