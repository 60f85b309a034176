"""The ladder: one defense under attackers who know more and more, and the alarms of a weak evaluation.

A robust accuracy is only as good as the best attack that was tried.  `climb` tries them in
order; `alarms` reads from the results whether a stronger attack is still missing.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jinja2 import Template
from torch.nn import functional as F

from helpers import threats
from helpers import write_atomically
from helpers.attacks import ATTACKS, attackable
from helpers.attacks.advertorch import num_classes
from helpers.measure.rates import Rate, passes

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
    broken: torch.Tensor
    seconds: float


def climb(defended, x, y, *, eps, steps=40, substitute=None, surrogate=None, samples=(5, 20), queries=1000, autoattack=False, seed=0):
    """One Rung for each attacker, all in the ℓ∞ ball of radius `eps` but the one without a budget; a list.

    defended: a `helpers.defenses.Defended`.  x (N,C,H,W) in [0,1], y (N,).
    steps: of PGD and of APGD.  queries: of the Square attack.
    substitute: another denoiser, for the gray-box rung.  surrogate: a classifier (or pipeline) of
        the attacker's own, for the transfer rung.  Both rungs are left out without it.
    samples: how many passes EOT averages, one rung each; for stochastic defenses only, as is the fixed mask,
        which is judged with that mask in place: what is left when the attacker can foresee it.
    autoattack: whether the ensemble is run on the whole pipeline, too: long where much survives.
    An attack that needs a gradient where there is none is left out, as is the loss of differences for two
    classes, and the fixed mask of a denoiser whose randomness cannot be held still.
    """
    pgd = apgd = {"eps": eps, "steps": steps, "seed": seed}
    stochastic = is_stochastic(defended, x)
    rungs = [_judge(defended, y, "none", "natural", lambda: x, seed)]

    classes = num_classes(defended, x)

    def rung(threat, attack, victim, judge=defended, **settings):
        if attack == "square" or has_gradient(victim, x[:1]):
            rungs.append(_judge(judge, y, threat, attack, lambda: ATTACKS[attack](victim, x, y, **settings), seed))

    rung("oblivious", "pgd", threats.oblivious(defended), **pgd)
    if substitute is not None:
        rung("gray box", "pgd", threats.gray_box(substitute, defended.target), **pgd)
    rung("white box", "pgd", threats.white_box(defended), **pgd)
    rung("white box", "apgd_ce", threats.white_box(defended), **apgd)
    if classes > 2:
        rung("white box", "apgd_dlr", threats.white_box(defended), **apgd)
    if autoattack and classes > 3:
        version = "rand" if stochastic else "standard"
        rung("white box", "aa", threats.white_box(defended), eps=eps, version=version, seed=seed)
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
    rung("no budget", "pgd", threats.white_box(defended), eps=1.0, steps=steps, seed=seed)
    return rungs


def strongest(rungs):
    """Share of the images that any attacker within the budget broke, without foresight: the robust error, a Rate."""
    broken = torch.stack([rung.broken for rung in rungs if rung.threat not in ("no budget", "fixed mask")]).any(0)
    return Rate(int(broken.sum()), len(broken))


@dataclass(frozen=True)
class Check:
    """One point of the checklist: what should hold, what was found, and whether it does."""

    point: str
    evidence: str
    holds: bool


def checklist(defended, x, y, rungs):
    """What a reader may ask of a robustness evaluation, answered from its `rungs`; a list of Check."""
    best = {}
    for rung in rungs:
        kind = "EOT" if rung.threat.startswith("EOT") else rung.threat
        best[kind] = max(best.get(kind, 0.0), rung.error.value)
    white = max(best.get("white box", 0.0), best["none"])
    checks = []
    if has_gradient(defended, x[:1]):
        share = vanished(defended, x, y)
        evidence = f"at {share:.0f} % of the images the gradient is exactly zero, or not finite"
        checks.append(Check("the attack has a gradient to follow", evidence, share < VANISHED))
    else:
        evidence = "the pipeline hands back no gradient at all: white-box attacks cannot even start"
        checks.append(Check("the attack has a gradient to follow", evidence, False))
    informed = max(white, best.get("EOT", 0.0))
    for kind in ("oblivious", "gray box", "transfer", "BPDA", "black box"):
        if kind in best:
            wins = best[kind] > informed + MARGIN
            evidence = f"{kind} finds {best[kind]:.0f} % errors, white box {informed:.0f} %"
            evidence += ": gradients are masked" if wins else ""
            checks.append(Check(f"{kind} does not beat white box", evidence, not wins))
    for kind in ("EOT", "fixed mask"):
        if kind in best:
            wins = best[kind] > white + MARGIN
            evidence = f"{kind} finds {best[kind]:.0f} % errors, one pass per step {white:.0f} %"
            evidence += ": randomness hid them" if wins else ""
            checks.append(Check(f"{kind} does not beat one pass per step", evidence, not wins))
    curve = [rung.error.value for rung in rungs if rung.threat.startswith("EOT")]
    if len(curve) > 1:
        flat = curve[-1] <= curve[-2] + MARGIN
        evidence = "EOT's errors with more and more passes: " + ", ".join(f"{value:.0f} %" for value in curve)
        checks.append(Check("more passes in EOT change nothing", evidence + ("" if flat else ": still rising"), flat))
    if "no budget" in best:
        stuck = best["no budget"] < UNBOUNDED
        evidence = f"with the whole range [0,1] PGD finds {best['no budget']:.0f} % errors" + (": it is stuck" if stuck else "")
        checks.append(Check("without a budget the attack always wins", evidence, not stuck))
    return checks


def alarms(defended, x, y, rungs):
    """Signs that the evaluation, not the defense, is what holds: the evidence of the points that fail."""
    return [check.evidence for check in checklist(defended, x, y, rungs) if not check.holds]


def table(rungs):
    """The rungs as a DataFrame: error with its 95 % interval, worst and vote (of `DRAWS` passes), in percent."""
    return pd.DataFrame([
        {
            "attacker": rung.threat, "attack": rung.attack, "error": str(rung.error),
            "95 %": "{:.0f}–{:.0f}".format(*rung.error.interval), "worst": str(rung.worst), "vote": str(rung.vote),
            "seconds": f"{rung.seconds:.1f}",
        }
        for rung in rungs
    ])  # fmt: skip


def report(file, title, rungs, checks, facts):
    """Write a page (HTML that needs nothing else) with the verdict, the ladder and the checklist; -> `file`.

    facts: {name: text} of what was evaluated.
    """
    template = Template((Path(__file__).parent / "ladder.html.j2").read_text(encoding="utf-8"), autoescape=True)
    best = strongest(rungs)
    text = template.render(
        title=title, facts=facts, best=best, interval="{:.0f}–{:.0f}".format(*best.interval), natural=rungs[0].vote,
        rows=table(rungs).to_dict("records"), checks=checks, alarms=sum(not check.holds for check in checks),
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda f: f.write_text(text, encoding="utf-8"))
    return file


def is_stochastic(model, x):
    """Whether two passes of `model` over the same images differ."""
    with torch.no_grad(), attackable(model):
        return not torch.equal(model(x), model(x))


def _stands_still(model, x):
    try:
        return not is_stochastic(model, x)
    except RuntimeError:  # from vmap: the defense does what it cannot follow
        return False


def has_gradient(model, x):
    """Whether the logits depend on `x` for autograd at all."""
    with attackable(model), torch.enable_grad():
        return model(x.clone().requires_grad_()).requires_grad


def vanished(model, x, y):
    """Percent of the images at which the cross-entropy's gradient for the image is exactly zero, or not finite."""
    with attackable(model), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    useless = (gradient == 0).flatten(1).all(1) | ~gradient.isfinite().flatten(1).all(1)
    return 100 * useless.float().mean().item()


def _judge(defended, y, threat, attack, make, seed):
    started = time.perf_counter()
    x_adv = make()
    seconds = time.perf_counter() - started
    # Judged by random numbers the attacker has not seen.
    with attackable(defended):
        answers = passes(defended, x_adv, DRAWS, seed + 1)
    wrong, outvoted, n = answers != y, answers.mode(0).values != y, len(y)
    return Rung(
        threat, attack, Rate(round(wrong.float().mean(0).sum().item()), n), Rate(int(wrong.any(0).sum()), n),
        Rate(int(outvoted.sum()), n), outvoted, seconds,
    )  # fmt: skip
