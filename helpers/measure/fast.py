"""Robust accuracy, fast: which images does an attack break?

`broken` need not hand back adversarial images, only say who is broken.  So it attacks an
accelerated copy of the model (`accelerate`) and drops images once they are broken.  The copy
proposes, the model disposes: an image counts as broken only if the untouched model, in fp32, is
wrong on the very image that the attack has found.

Only for counting: training data, and the `paper` profile, come from `helpers.attacks`.
"""

import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from helpers import seeded
from helpers.attacks import attackable, check_model, num_classes
from helpers.attacks.autoattack import NORMS
from helpers.attacks.pgd import LOSSES, ascend
from helpers.data import check_images
from helpers.measure.accelerate import accelerate

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")  # of AutoAttack's standard version, in its order


def broken(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: str = "pgd",
    *,
    targeted: bool = False,
    fast: nn.Module | None = None,
    drop: bool = True,
    batch_size: int = 256,
    **settings,
) -> Tensor:
    """Which of the images `x` (N,C,H,W) in [0,1] with labels `y` (N,) does the attack break? -> bool (N,)

    Images that `model` misclassifies unattacked are broken from the start; with `targeted`, an
    image is broken if it is given the label `y`.
    attack: "pgd" with the settings of `helpers.attacks.pgd`, and `restarts` and `every`; or "aa"
        with `eps`, `norm`, `seed`.
    fast: the model that is attacked in place of `model`; by default `accelerate(model)`.
    drop: forget images once they are broken.  PGD then counts an image that one of the iterates it looks at
        (each second one, see `every`) breaks, and AutoAttack is preceded by ten steps of PGD.
    batch_size: images attacked at a time.
    ValueError for a stochastic model, and for what the attack cannot work with.
    """
    if attack not in _ATTACKS:
        raise ValueError(f"attack is one of {', '.join(_ATTACKS)}, got {attack!r}")
    if not settings.get("eps", 0) > 0:
        raise ValueError(f"eps must be positive, got {settings.get('eps')}")
    check_images(x, y)
    with attackable(model), torch.enable_grad():
        check_model(model, x, y, targeted)
        classes = num_classes(model, x)
        if attack == "aa" and (targeted or classes < 4):
            given = f"targeted={targeted}, {classes} classes"
            raise ValueError(f"AutoAttack is untargeted and needs at least 4 classes; {given}")
        fast = accelerate(model) if fast is None else fast
        if not torch.equal(model(x[:1]), model(x[:1])):
            raise ValueError(
                "the model is stochastic, and being wrong in one of many passes is not being broken: "
                "attack it with helpers.attacks and judge it by fresh passes"
            )
        judge = _Judge(model, x.detach(), y, targeted, batch_size)
        judge.compare(fast)
        _ATTACKS[attack](judge, fast, drop=drop, **settings)
    return judge.broken


class _Judge:
    """The untouched model, and who has been broken before its eyes: `broken` (N,)."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, targeted: bool, batch_size: int):
        self.model, self.x, self.y, self.targeted, self.batch_size = model, x, y, targeted, batch_size
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.see(torch.arange(len(x), device=x.device), x)

    def won(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Whether `logits` of the images `rows` are what the attacker wants."""
        return (logits.argmax(1) == self.y[rows]) == self.targeted

    @torch.no_grad()
    def see(self, rows: Tensor, images: Tensor) -> None:
        """Look at `images`, attacks on the images `rows`; the ones that break them are noted."""
        for part, seen in zip(rows.split(self.batch_size), images.split(self.batch_size), strict=True):
            self.broken[part] |= self.won(self.model(seen), part)

    def standing(self) -> Sequence[Tensor]:
        """The unbroken images, in batches of their indices."""
        rows = (~self.broken).nonzero().squeeze(1)
        return rows.split(self.batch_size) if len(rows) else ()

    @torch.no_grad()
    def compare(self, fast: nn.Module) -> None:
        """A copy that is another function would be an easy way to look robust."""
        rows = torch.arange(min(len(self.x), self.batch_size), device=self.x.device)
        differ = (self.won(fast(self.x[rows]), rows) != self.broken[rows]).float().mean().item()
        if differ > 0.05:
            message = f"the accelerated model disagrees with the model on {differ:.0%} of the images"
            warnings.warn(message, stacklevel=4)


def _pgd(
    judge: _Judge,
    fast: nn.Module,
    *,
    drop: bool,
    eps: float,
    steps: int = 40,
    step_size: float | None = None,
    loss: str = "ce",
    restarts: int = 1,
    every: int = 2,
    seed: int = 0,
    norm: str = "linf",
    random_start: bool = True,
) -> None:
    """Restarted PGD; after each `every` steps, the images on which `fast` is wrong go before the judge."""
    if loss not in LOSSES or min(steps, restarts, every) < 1:
        given = f"{loss}, {steps}, {restarts}, {every}"
        raise ValueError(f"loss is one of {sorted(LOSSES)}, steps, restarts, every >= 1; got {given}")
    step_size = 2.5 * eps / steps if step_size is None else step_size
    pause = every if drop else steps
    stretches = [min(pause, steps - done) for done in range(0, steps, pause)]
    ball = {"eps": eps, "step_size": step_size, "norm": norm, "random_start": random_start}
    for restart in range(restarts):
        for rows in judge.standing():
            _ascend_and_drop(judge, fast, rows, stretches, loss, seed=seed + restart, **ball)


def _ascend_and_drop(
    judge: _Judge, fast: nn.Module, rows: Tensor, stretches: Sequence[int], loss: str, **settings
) -> None:
    """PGD on the images `rows`: `stretches` of steps, a look after each; broken ones are dropped."""
    images = None
    for number, steps in enumerate(stretches, start=1):
        objective = _Objective(fast, judge.y[rows], loss, sign=-1 if judge.targeted else 1)
        images = ascend(objective, judge.x[rows], start=images, steps=steps, **settings)
        if number == len(stretches):
            judge.see(rows, images)
            return
        # The last step's gradient has shown the logits of the image before it: a look that costs nothing.
        proposed = judge.won(objective.logits, rows)
        if not proposed.any():
            continue
        judge.see(rows[proposed], objective.images[proposed])
        standing = ~judge.broken[rows]
        rows, images = rows[standing], images[standing]
        if not len(rows):
            return


class _Objective:
    """The loss to ascend, which remembers the images it has seen last and their logits."""

    def __init__(self, fast: nn.Module, y: Tensor, loss: str, sign: int):
        self.fast, self.y, self.loss, self.sign = fast, y, LOSSES[loss], sign

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.fast(images)
        self.images, self.logits = images.detach(), logits.detach()
        return self.sign * self.loss(logits, self.y)


def _autoattack(
    judge: _Judge, fast: nn.Module, *, drop: bool, eps: float, norm: str = "linf", seed: int = 0
) -> None:
    """AutoAttack's parts in their order, each on what stands before the judge."""
    if norm not in NORMS:
        raise ValueError(f"norm is linf or l2, got {norm}")
    if drop:
        # Most of what can be broken falls here, and not in the 100 steps of APGD, which go to the end.
        _pgd(judge, fast, drop=True, eps=eps, norm=norm, steps=10, seed=seed)
    doubtful = torch.zeros_like(judge.broken)
    for part in PARTS:
        for rows in judge.standing():
            doubtful[rows] |= _run(part, judge, fast, rows, eps, norm, seed)
    # The package lets go of an image once `fast` is wrong on it.  Where the judge was not convinced
    # in the end, the attack was not made to the end: again, in fp32, on the model itself.
    for part in PARTS:
        for rows in judge.standing():
            if doubtful[rows].any():
                _run(part, judge, judge.model, rows[doubtful[rows]], eps, norm, seed)


def _run(
    part: str, judge: _Judge, victim: nn.Module, rows: Tensor, eps: float, norm: str, seed: int
) -> Tensor:
    """One part of AutoAttack on `victim`, its results shown to the judge; -> where it is wrong, (n,)."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.WARNING)
    x, y = judge.x[rows], judge.y[rows]
    attack = AutoAttack(victim, eps=eps, norm=NORMS[norm], version="standard", seed=seed, device=x.device)
    attack.attacks_to_run = [part]
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, num_classes(victim, x) - 1)
    with seeded(seed):
        x_adv, labels = attack.run_standard_evaluation(x, y, batch_size=len(x))
    judge.see(rows, x_adv.clamp(0, 1))
    return labels != y


_ATTACKS: dict[str, Callable] = {"pgd": _pgd, "aa": _autoattack}
