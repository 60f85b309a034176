"""Robust accuracy, fast: which images does an attack break?

`broken` need not hand back adversarial images, only say who is broken.  So it attacks the model's quickest
stand-in (`accelerate.quickest`) and drops images once they are broken.  The stand-in proposes, the model
disposes: an image counts as broken only if the untouched model, in fp32, is wrong on an image in its ball.

Only for counting: training data, and the `paper` profile, come from `helpers.attacks`.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from helpers.attacks import ATTACKS, attackable, check_model
from helpers.attacks.contract import as_labels, as_module, gradients_on, heeded, watched
from helpers.attacks.pgd import LOSSES, ascend, in_format_of, in_range
from helpers.data import check_images
from helpers.measure.accelerate import quickest
from helpers.measure.autoattack import autoattack
from helpers.measure.judge import Ball, Judge

# What settings must be that are numbers.
NUMBERS = {"eps": Real, "step_size": Real, "steps": Integral, "restarts": Integral, "every": Integral}


def broken(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: str = "pgd",
    *,
    eps: float,
    norm: str = "linf",
    seed: int = 0,
    targeted: bool = False,
    fast: nn.Module | None = None,
    batch_size: int | None = None,
    **settings,
) -> Tensor:
    """Which of the images `x` (N,C,H,W) in [0,1] with labels `y` (N,) does the attack break? -> bool (N,)

    Images that `model` misclassifies unattacked are broken from the start; with `targeted`, an
    image is broken if it is given the label `y`.
    attack: "pgd" with the settings of `helpers.attacks.pgd`, and `restarts`, `every` and `drop`; "aa"; or any
        other of `helpers.attacks` with its settings, such as "cw" and "ddn".
    eps: radius > 0 of the ball, in units of the [0,1] image.  An attack without a budget of its own breaks
        what it breaks within that radius; `math.inf` allows any.
    norm: "linf" or "l2".
    fast: the model that is attacked in place of `model`; by default `accelerate.quickest(model, x, y)`.
    batch_size: images attacked at a time; by default 100 on a CPU, whose cache holds no more, 1000 on a GPU.
    ValueError for a stochastic model, and for what the attack cannot work with.
    """
    if attack not in ATTACKS:
        raise ValueError(f"attack is one of {', '.join(ATTACKS)}, got {attack!r}")
    for name, value in {"eps": eps, **settings}.items():
        if (kind := NUMBERS.get(name)) and value is not None and not isinstance(value, kind):
            raise ValueError(f"{name} must be a {'whole ' * (kind is Integral)}number, got {value!r}")
    if not eps > 0 or norm not in ("linf", "l2"):
        raise ValueError(f"eps must be positive and norm linf or l2, got {eps} and {norm}")
    if norm == "linf" and eps != math.inf:
        in_range(eps)
    model, y = as_module(model), as_labels(y, x)
    check_images(x, y)
    with gradients_on(), attackable(model):
        x, y = in_format_of(model, x.detach().clone()), y.clone()
        check_model(model, x, y, targeted)
        _check_repeatable(model, x)
        batch_size = batch_size or (1000 if x.is_cuda else 100)
        judge = Judge(model, x, y, Ball(eps, norm), targeted, batch_size)
        if fast is None:
            fast = quickest(model, x, y)
            if attack == "aa":
                settings["blind"] = quickest(model, x, y, gradients=False)
        else:
            _compare(judge, fast)
        # Watched are the model's gradients, and those of what is attacked in its place.
        inside = any(part is model for part in fast.modules())
        with (
            watched(model, "fast.broken"),
            nullcontext() if inside else fast.register_forward_pre_hook(_heed),
        ):
            run = _OWN.get(attack) or partial(_registered, attack)
            run(judge, fast, seed=seed, **settings)
    return judge.broken


def _heed(_, given):
    return heeded(given[0])


def _check_repeatable(model, x):
    if not torch.equal(model(x[:1].clone()), model(x[:1].clone())):
        raise ValueError(
            "the model is stochastic, and being wrong in one of many passes is not being broken: attack it "
            'with ATTACKS["aa"](..., version="rand") or threats.eot, and judge it by fresh passes'
        )


@torch.no_grad()
def _compare(judge, fast):
    """A stand-in that is another function would be an easy way to look robust."""
    some = slice(judge.batch_size)
    differ = judge.won(fast(judge.x[some].clone()), judge.y[some]) != judge.broken[some]
    if (share := differ.float().mean().item()) > 0.05:
        message = f"the accelerated model disagrees with the model on {share:.0%} of the images"
        warnings.warn(message, stacklevel=3)


def _pgd(
    judge: Judge,
    fast: nn.Module,
    *,
    seed: int,
    steps: int = 40,
    step_size: float | None = None,
    loss: str = "ce",
    restarts: int = 1,
    every: int = 2,
    random_start: bool = True,
    drop: bool = True,
) -> None:
    """Restarted PGD; after each `every` steps, the images on which `fast` is wrong go before the judge.

    drop: forget images once they are broken; else only their last iterates are judged.
    """
    if loss not in LOSSES or min(steps, restarts, every) < 1:
        given = f"{loss}, {steps}, {restarts}, {every}"
        raise ValueError(f"loss is one of {sorted(LOSSES)}, steps, restarts, every >= 1; got {given}")
    pause = every if drop else steps
    stretches = [min(pause, steps - done) for done in range(0, steps, pause)]
    ball = {"eps": judge.ball.eps, "norm": judge.ball.norm, "random_start": random_start}
    ball["step_size"] = 2.5 * judge.ball.eps / steps if step_size is None else step_size
    for restart in range(restarts):
        for rows in (~judge.broken).nonzero().squeeze(1).split(judge.batch_size):
            _ascend_and_drop(judge, fast, rows, stretches, loss, seed=seed + restart, **ball)


def _ascend_and_drop(
    judge: Judge, fast: nn.Module, rows: Tensor, stretches: Sequence[int], loss: str, **settings
) -> None:
    """PGD on the images `rows`: `stretches` of steps, a look after each; broken ones are dropped."""
    images = None
    for number, steps in enumerate(stretches, start=1):
        if not len(rows):
            return
        objective = _Objective(judge, fast, rows, LOSSES[loss])
        images = ascend(objective, judge.x[rows], start=images, steps=steps, **settings)
        if number == len(stretches):
            judge.show(rows, images)
            return
        # The last step's gradient has shown the logits of the image before it: a look that costs nothing.
        judge.look(rows, objective.images, objective.logits)
        standing = ~judge.broken[rows]
        rows, images = rows[standing], images[standing]


class _Objective:
    """The loss to ascend, which remembers the images it has seen last and their logits."""

    def __init__(self, judge: Judge, fast: nn.Module, rows: Tensor, loss: Callable):
        self.fast, self.y, self.loss, self.sign = fast, judge.y[rows], loss, -1 if judge.targeted else 1

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.fast(images)
        self.images, self.logits = images.detach(), logits.detach()
        return self.sign * self.loss(logits, self.y)


def _registered(name: str, judge: Judge, fast: nn.Module, *, seed: int, **settings) -> None:
    """Any attack of `helpers.attacks`, as it is, on the images that stand."""
    attack = ATTACKS[name]
    known = {"eps": judge.ball.eps, "norm": judge.ball.norm, "seed": seed}
    settings |= {key: known[key] for key in known if key in inspect.signature(attack).parameters}
    for rows in (~judge.broken).nonzero().squeeze(1).split(judge.batch_size):
        images = attack(fast, judge.x[rows], judge.y[rows], targeted=judge.targeted, **settings)
        judge.show(rows, images)


_OWN: dict[str, Callable] = {"pgd": _pgd, "aa": autoattack}
