"""The words of a verdict, once for all notebooks, and what each of them means.

In this order: does the pipeline work on natural images; what does it add to the bare target under the worst
of all attackers, image by image; and, at the paper's scale only, is its published number ours, too.
"""

from torch import Tensor

from helpers.measure.rates import Rate, Score, complement, rate_of

# Percent of the images that the bare target reads rightly which a defense must keep: each defense of the four
# papers' tables does (ADD on CIFAR-10 the fewest, 80.2 %).
KEPT = 80.0
MARGIN = 5.0  # points beyond its interval before a number is called another one than the published
CLAIM = 5.0  # points that a defense is taken to promise where its paper does not print a gain

ERRORS = {"error_rate", "fooling_rate", "success_rate"}  # metrics of which more is worse for the defense
DETECTION = {"roc_auc", "precision", "recall"}  # ... and those of a detector: neither better nor worse

NATURAL, FAILS, YARDSTICK = "works on natural images", "does not work on natural images", "the yardstick"

_READS = f"{KEPT:g} % of the images that the bare target reads rightly"
_LOOKED_FOR = f"{CLAIM:g} points, or what the paper prints where the table goes by it"
_PRINTED = f"the gain that is looked for ({_LOOKED_FOR})"

# Each meaning for itself: below a table stand those of its own words.
LEGEND = {
    FAILS: f"the pipeline keeps fewer than {_READS}, its interval included; nothing else is judged",
    NATURAL: f"the pipeline keeps {_READS}, or its interval reaches so far",
    "gains": "right on more images than what it is held against, if not said otherwise the bare target, each"
    " under its own worst attacker: the 95 % interval of the paired difference lies above 0",
    "loses": "right on fewer images than what it is held against: the interval lies below 0",
    "no difference seen": f"the interval of the paired difference holds 0 and is no wider than {_PRINTED}",
    "undecided": f"the interval holds 0 and is wider than {_PRINTED}: too few images to tell",
    YARDSTICK: "the bare target, against which the others are held",
    "as claimed": f"the published number is within {MARGIN:g} points of ours and its interval",
    "better than claimed": f"for the defense, ours is better by more than {MARGIN:g} points and its interval",
    "worse than claimed": f"for the defense, ours is worse by more than {MARGIN:g} points and its interval",
    "higher than claimed": f"a detector's number is higher by more than {MARGIN:g} points and its interval",
    "lower than claimed": f"a detector's number is lower by more than {MARGIN:g} points and its interval",
    "published only": "not measured here",
}


def kept(defended: Tensor, bare: Tensor) -> Rate | Score:
    """The share of the natural images which the bare target reads rightly that the pipeline does, too.

    defended, bare: answers to the same natural images, as in `helpers.measure.rates`; where one has more, the
        first that both have.
    """
    n = min(len(defended), len(bare))
    return rate_of(defended[:n][bare[:n] > 0.5])


def works(natural: Rate | Score) -> bool:
    """Whether so much `kept` is enough: the interval must reach KEPT."""
    return natural.interval[1] >= KEPT


def gain_verdict(score: Score, yardstick: float = 0.0, claimed: float = CLAIM) -> str:
    """What a `gain` says: "gains", "loses", "no difference seen" or "undecided"; see LEGEND.

    yardstick: points that chance alone moves, such as what another seed changes; a difference that is not
        larger is not seen.
    claimed: points to be expected; an interval that holds 0 and is wider decides nothing.
    """
    low, high = score.interval
    if low <= 0 <= high:
        return "undecided" if high - low > claimed else "no difference seen"
    if abs(score.value) <= yardstick:
        return "no difference seen"
    return "gains" if low > 0 else "loses"


def claim_verdict(metric: str, paper: float, ours: Rate | Score) -> str:
    """What `ours`, at the paper's scale, says of a published number: "as claimed", "worse than claimed" …

    metric: of the ledger, in which both are.
    """
    if metric in ERRORS:
        paper, ours = 100 - paper, complement(ours)
    more, less = ("higher", "lower") if metric in DETECTION else ("better", "worse")
    low, high = ours.interval
    if low > paper + MARGIN:
        return f"{more} than claimed"
    return f"{less} than claimed" if high < paper - MARGIN else "as claimed"


def verdict(
    defense: str,
    attack: str,
    ours: Rate | Score | None,
    *,
    kept: Rate | Score | None,
    gained: Score | None,
    promised: float = CLAIM,
    metric: str = "accuracy",
    paper: float | None = None,
) -> str:
    """The words of one row of a table, in their order, joined by ", "; "" where nothing can be said.

    defense, attack: by the ledger's names.  ours: in the paper's `metric`; None where it was not measured.
    kept, gained: as the functions `kept` and `gain` give them, under the worst of all attackers; None where
        natural answers, or an attacker who knows the defense, are missing.
    promised: the gain that the paper prints, in points.
    paper: the published number; None where there is none, or ours may not be held against it.
    """
    if ours is None:
        return "published only"
    words = []
    if defense == "none":
        words.append(YARDSTICK)
    elif kept is not None and not works(kept):
        return FAILS
    elif attack == "natural" and kept is not None:
        words.append(NATURAL)
    elif gained is not None:
        words.append(gain_verdict(gained, claimed=promised))
    if paper is not None:
        words.append(claim_verdict(metric, paper, ours))
    return ", ".join(words)
