"""The ladder: one defense under attackers who know more and more, and the alarms of a weak evaluation.

A robust accuracy is only as good as the best attack that was tried.  `climb` tries them in
order; `alarms` reads from the results whether a stronger attack is still missing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jinja2 import Template
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import seeded, threats, write_atomically
from helpers.attacks import ATTACKS, NoGradient, as_labels, attackable, following, gradients_on, num_classes
from helpers.measure.rates import Rate, passes, vote
from helpers.threats import Defended

MARGIN = 5.0  # points by which an attacker who knows less must not beat one who knows more
DRAWS = 5  # passes over the images by which a stochastic defense is judged
VANISHED = 10.0  # percent of the images without a gradient from which on gradients prove nothing
UNBOUNDED = 95.0  # percent of errors that a gradient attack with the whole range [0,1] must reach


@dataclass(frozen=True)
class Rung:
    """One attacker: whom they attack (`threat`), with which `attack`, and what came of it.

    error: share of wrong predictions, the mean over `DRAWS` passes for a stochastic defense.
    worst: share of the images wrong in at least one pass; vote: wrong where the passes vote.
    broken: bool (N,), the images that are wrong by vote.
    """

    threat: str
    attack: str
    error: Rate
    worst: Rate
    vote: Rate
    broken: Tensor
    seconds: float


def climb(
    defended: Defended,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 40,
    substitute: nn.Module | None = None,
    surrogate: nn.Module | None = None,
    samples: Sequence[int] = (5, 20),
    queries: int = 1000,
    autoattack: bool = False,
    seed: int = 0,
) -> list[Rung]:
    """One Rung for each attacker, all in the ℓ∞ ball of radius `eps` but the one without a budget.

    defended: the pipeline.  x: images (N,C,H,W) in [0,1].  y: labels (N,).
    steps: of PGD and of APGD.  queries: of the Square attack.
    substitute: another denoiser, for the gray-box rung.  surrogate: a classifier (or pipeline) of
        the attacker's own, for the transfer rung.  Both rungs are left out without it.
    samples: how many passes EOT averages, one rung each; for stochastic defenses only, as is the fixed mask,
        which is judged with that mask in place: what is left when the attacker can foresee it.
    autoattack: whether the ensemble is run on the whole pipeline, too: long where much survives.
    An attack that needs a gradient where there is none that is finite is left out, as is the loss of
    differences for two classes, and the fixed mask of a denoiser whose randomness cannot be held still.
    """
    pgd = apgd = {"eps": eps, "steps": steps, "seed": seed}
    y = as_labels(y, x)
    rungs = [_judge(defended, y, "none", "natural", lambda: x, seed)]  # and says so if it is no classifier
    stochastic = is_stochastic(defended, x)
    with seeded(seed):
        classes = num_classes(defended, x)
    white = threats.white_box(defended)

    def rung(threat: str, attack: str, victim: nn.Module, judge: nn.Module = defended, **settings) -> None:
        with suppress(NoGradient):
            rungs.append(
                _judge(judge, y, threat, attack, lambda: ATTACKS[attack](victim, x, y, **settings), seed)
            )

    rung("oblivious", "pgd", threats.oblivious(defended), **pgd)
    if substitute is not None:
        rung("gray box", "pgd", threats.gray_box(substitute, defended.target), **pgd)
    rung("white box", "pgd", white, **pgd)
    rung("white box", "apgd_ce", white, **apgd)
    if classes > 2:
        rung("white box", "apgd_dlr", white, **apgd)
    if autoattack and classes > 3:
        rung("white box", "aa", white, eps=eps, version="rand" if stochastic else "standard", seed=seed)
    if stochastic:
        for count in samples:
            rung(f"EOT {count}", "pgd", threats.eot(defended, count), **pgd)
        still = threats.fixed_mask(defended, seed)
        if _stands_still(still, x[:2]):
            rung("fixed mask", "apgd_ce", still, judge=still, **apgd)
    if surrogate is not None:
        rung("transfer", "pgd", threats.transfer(surrogate), **pgd)
    rung("BPDA", "pgd", threats.bpda(defended), **pgd)
    rung("black box", "square", defended, eps=eps, queries=queries, seed=seed)
    rung("no budget", "pgd", white, eps=1.0, steps=steps, seed=seed)
    return rungs


def withstands(rungs: Sequence[Rung]) -> Tensor:
    """Which images no attacker within the budget broke, without foresight: bool (N,), the worst case."""
    within = [rung.broken for rung in rungs if rung.threat not in ("no budget", "fixed mask")]
    return ~torch.stack(within).any(0)


def strongest(rungs: Sequence[Rung]) -> Rate:
    """The robust error: share of the images that some attacker of `withstands` broke."""
    return Rate.of(~withstands(rungs))


@dataclass(frozen=True)
class Check:
    """One point of the checklist: what should hold, what was found, and whether it does."""

    point: str
    evidence: str
    holds: bool


def checklist(defended: Defended, x: Tensor, y: Tensor, rungs: Sequence[Rung]) -> list[Check]:
    """What a reader may ask of a robustness evaluation, answered from its `rungs`."""
    best = {}
    for rung in rungs:
        kind = "EOT" if rung.threat.startswith("EOT") else rung.threat
        best[kind] = max(best.get(kind, 0.0), rung.error.value)
    white = max(best.get("white box", 0.0), best["none"])
    informed = max(white, best.get("EOT", 0.0))
    checks = [_gradient_check(defended, x, y)]
    for kind in ("oblivious", "gray box", "transfer", "BPDA", "black box"):
        if kind in best:
            evidence = f"{kind} finds {best[kind]:.0f} % errors, white box {informed:.0f} %"
            holds = best[kind] <= informed + MARGIN
            checks.append(_check(f"{kind} does not beat white box", evidence, holds, "gradients are masked"))
    for kind in ("EOT", "fixed mask"):
        if kind in best:
            evidence = f"{kind} finds {best[kind]:.0f} % errors, one pass per step {white:.0f} %"
            holds = best[kind] <= white + MARGIN
            point = f"{kind} does not beat one pass per step"
            checks.append(_check(point, evidence, holds, "randomness hid them"))
    curve = [rung.error.value for rung in rungs if rung.threat.startswith("EOT")]
    if len(curve) > 1:
        shown = ", ".join(f"{value:.0f} %" for value in curve)
        evidence = f"EOT's errors with more and more passes: {shown}"
        holds = curve[-1] <= curve[-2] + MARGIN
        checks.append(_check("more passes in EOT change nothing", evidence, holds, "still rising"))
    if "no budget" in best:
        evidence = f"with the whole range [0,1] PGD finds {best['no budget']:.0f} % errors"
        holds = best["no budget"] >= UNBOUNDED
        checks.append(_check("without a budget the attack always wins", evidence, holds, "it is stuck"))
    return checks


def _check(point: str, evidence: str, holds: bool, otherwise: str) -> Check:
    return Check(point, evidence if holds else f"{evidence}: {otherwise}", holds)


def _gradient_check(defended: Defended, x: Tensor, y: Tensor) -> Check:
    point = "the attack has a gradient to follow"
    if not has_gradient(defended, x[:1]):
        evidence = "the pipeline hands back no gradient at all: white-box attacks cannot even start"
        return Check(point, evidence, False)
    share = vanished(defended, x, y)
    evidence = f"at {share:.0f} % of the images the gradient is exactly zero, or not finite"
    return Check(point, evidence, share < VANISHED)


def alarms(defended: Defended, x: Tensor, y: Tensor, rungs: Sequence[Rung]) -> list[str]:
    """Signs that the evaluation, not the defense, is what holds: the evidence of the points that fail."""
    return [check.evidence for check in checklist(defended, x, y, rungs) if not check.holds]


def table(rungs: Sequence[Rung]) -> pd.DataFrame:
    """The rungs, one a row: error with its 95 % interval, worst and vote (of `DRAWS` passes), in percent."""
    return pd.DataFrame([_row(rung) for rung in rungs])


def _row(rung: Rung) -> dict[str, str]:
    low, high = rung.error.interval
    return {
        "attacker": rung.threat,
        "attack": rung.attack,
        "error": f"{rung.error:.1f}",
        "95 %": f"{low:.0f}–{high:.0f}",
        "worst": f"{rung.worst:.1f}",
        "vote": f"{rung.vote:.1f}",
        "seconds": f"{rung.seconds:.1f}",
    }


def report(
    file: Path, title: str, rungs: Sequence[Rung], checks: Sequence[Check], facts: Mapping[str, str]
) -> Path:
    """Write a page (HTML that needs nothing else) with the verdict, the ladder and the checklist; -> `file`.

    facts: {name: text} of what was evaluated.
    """
    source = Path(__file__).with_name("ladder.html.j2").read_text(encoding="utf-8")
    text = Template(source, autoescape=True).render(
        title=title,
        facts=facts,
        best=strongest(rungs),
        natural=rungs[0].vote,
        rows=table(rungs).to_dict("records"),
        checks=checks,
        alarms=sum(not check.holds for check in checks),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda f: f.write_text(text, encoding="utf-8"))
    return file


def is_stochastic(model: nn.Module, x: Tensor) -> bool:
    """Whether two passes of `model` over the same images differ."""
    with torch.no_grad(), attackable(model), seeded(0):
        return not torch.equal(model(x.clone()), model(x.clone()))


def _stands_still(model: nn.Module, x: Tensor) -> bool:
    try:
        return not is_stochastic(model, x)
    except RuntimeError:  # from vmap: the defense does what it cannot follow
        return False


def has_gradient(model: nn.Module, x: Tensor) -> bool:
    """Whether the logits depend on `x` for autograd at all."""
    try:
        with following("the ladder"):
            _gradient(model, x, lambda logits: logits.sum())
        return True
    except NoGradient:
        return False


def vanished(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percent of the images at which the cross-entropy's gradient is exactly zero, or not finite."""
    labels = as_labels(y, x)
    flat = _gradient(model, x, lambda logits: F.cross_entropy(logits, labels, reduction="sum")).flatten(1)
    useless = (flat == 0).all(1) | ~flat.isfinite().all(1)
    return 100 * useless.float().mean().item()


def _gradient(model, x, loss):
    with attackable(model), gradients_on(), seeded(0):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(loss(model(leaf.clone())), leaf)[0]


def _judge(
    defended: nn.Module, y: Tensor, threat: str, attack: str, make: Callable[[], Tensor], seed: int
) -> Rung:
    """Time `make`, and judge the images it hands back."""
    started = time.perf_counter()
    x_adv = make()
    seconds = time.perf_counter() - started
    # Judged by random numbers the attacker has not seen.
    with attackable(defended):
        answers = passes(defended, x_adv, DRAWS, seed + 1)
    wrong, outvoted = answers != y, vote(answers) != y
    error = Rate(round(wrong.float().mean(0).sum().item()), len(y))
    return Rung(threat, attack, error, Rate.of(wrong.any(0)), Rate.of(outvoted), outvoted, seconds)
