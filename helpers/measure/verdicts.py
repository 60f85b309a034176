"""The words of a verdict, once for all notebooks."""

from helpers.measure.rates import Rate, Score, complement

MARGIN = 5.0  # points beyond the confidence intervals before a difference is called one
BROKEN = 90.0  # error under the adaptive attack from which on a defense is called broken
STANDS = 50.0  # ... and below which it may be said to stand

# Metrics of which more is better for the defense, and those of a detector, of which neither more nor less is.
ACCURACIES = {"accuracy", "targeted_accuracy"}
DETECTION = {"roc_auc", "precision", "recall"}

# What each word means, for the line below a table.
LEGEND = {
    "as claimed": f"within {MARGIN:g} points of the paper's number, or our interval is",
    "not comparable": "the profile's scale, or a protocol the paper does not state, forbids the comparison",
    "broken": f"{BROKEN:g} % errors or more under the adaptive attack",
    "stands": f"fewer than {STANDS:g} % errors under it, and no more than under the paper's protocol",
    "weakened": "in between",
}


def verdict(
    paper: float | None, ours: Rate | Score, adaptive: Rate | Score | None = None, comparable: bool = True
) -> str:
    """What the numbers say, in words; error rates in percent, lower is better for the defense.

    paper: the published number; None where there is none.  ours: the same under the paper's protocol.
    adaptive: the same under an adaptive attack, or None if the table's attack has no adaptive form.
    comparable: False where ours may not be held against the paper's (the quick profile, or a protocol the
        paper does not state).

    First, of a published number: "as claimed", "worse than claimed" or "better than claimed", by more than
    MARGIN points beyond the interval; else "not comparable".  Second, of the adaptive attack, `standing`.
    "" where there is neither.
    """
    words = []
    if paper is not None:
        claim = _difference(paper, ours, "worse than", "better than")
        words.append(f"{claim} claimed" if comparable else "not comparable")
    if adaptive is not None:
        words.append(standing(adaptive, ours))
    return ", ".join(words)


def standing(adaptive: Rate | Score, ours: Rate | Score | None = None) -> str:
    """How a defense fares by its errors under the adaptive attack: "broken", "stands" or "weakened".

    "broken": BROKEN % errors or more.  "stands": less than STANDS %, and no more than MARGIN points beyond
    both intervals above `ours`, its errors under the paper's protocol.  "weakened": in between.
    """
    if adaptive.value >= BROKEN:
        return "broken"
    no_worse = ours is None or adaptive.interval[0] <= ours.interval[1] + MARGIN
    return "stands" if adaptive.value < STANDS and no_worse else "weakened"


def detector_verdict(paper: float, ours: Rate | Score, comparable: bool = True) -> str:
    """What `ours` says of a detector's published number, in words that take no side.

    "as published", "higher than published" or "lower than published", by the rule of `verdict`;
    else "not comparable".
    """
    if not comparable:
        return "not comparable"
    return f"{_difference(paper, ours, 'higher than', 'lower than')} published"


def _difference(paper: float, ours: Rate | Score, more: str, less: str) -> str:
    """`more` or `less` if `ours` differs by more than MARGIN points beyond its interval; else "as"."""
    low, high = ours.interval
    if low > paper + MARGIN:
        return more
    return less if high < paper - MARGIN else "as"


def gain_verdict(score: Score, yardstick: float = 0.0) -> str:
    """What a `gain` says: "gains", "loses", or "no difference seen" where its interval covers 0.

    yardstick: points that chance alone moves, such as what another seed changes; a difference that is not
        larger is not seen either.
    """
    low, high = score.interval
    if low <= 0 <= high or abs(score.value) <= yardstick:
        return "no difference seen"
    return "gains" if low > 0 else "loses"


def words(
    metric: str,
    paper: float | None,
    ours: Rate | Score | None,
    adaptive: Rate | Score | None,
    comparable: bool,
) -> str:
    """The verdict in the words that fit `metric`; accuracies are judged by the errors that go with them.

    paper, ours, adaptive, comparable: as in `verdict`, in the metric itself; ours is None for a number that
        is only shown.
    """
    if ours is None:
        return "published only"
    if metric in DETECTION:
        return detector_verdict(paper, ours, comparable) if paper is not None else ""
    if metric in ACCURACIES:
        paper = None if paper is None else 100 - paper
        ours, adaptive = complement(ours), None if adaptive is None else complement(adaptive)
    return verdict(paper, ours, adaptive, comparable)
