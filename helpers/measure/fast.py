"""Robust accuracy, fast: which images does an attack break?

`broken` need not hand back adversarial images, only say who is broken.  So it attacks an
accelerated copy of the model (`accelerate`) and drops images once they are broken.  The copy
proposes, the model disposes: an image counts as broken only if the untouched model, in fp32, is
wrong on the very image that the attack has found.

Only for counting: training data, and the `paper` profile, come from `helpers.attacks`.
"""

import logging
import warnings
from contextlib import contextmanager
from unittest import mock

import torch

from helpers import seeded
from helpers.measure.accelerate import accelerate
from helpers.attacks import attackable, check_model
from helpers.attacks.advertorch import num_classes
from helpers.attacks.autoattack import NORMS
from helpers.attacks.pgd import LOSSES, ascend
from helpers.data import check_images

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")  # of AutoAttack's standard version, in its order


def broken(model, x, y, attack="pgd", *, targeted=False, fast=None, drop=True, batch_size=256, **settings):
    """Which of the images `x` (N,C,H,W) in [0,1] with labels `y` (N,) does the attack break? -> bool (N,)

    Images that `model` misclassifies unattacked are broken from the start; with `targeted`, an
    image is broken if it is given the label `y`.
    attack: "pgd" with the settings of `helpers.attacks.pgd`, and `restarts` and `every`; or "aa"
        with `eps`, `norm`, `seed`.
    fast: the model that is attacked in place of `model`; by default `accelerate(model)`.
    drop: forget images once they are broken.  PGD then counts an image that one of the iterates it looks at
        (each second one, see `every`) breaks,
        and AutoAttack is preceded by ten steps of PGD.
    batch_size: images attacked at a time.
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
            raise ValueError(f"AutoAttack is untargeted and needs at least 4 classes; targeted={targeted}, {classes} classes")
        fast = accelerate(model) if fast is None else fast
        if not torch.equal(model(x[:1]), model(x[:1])):
            raise ValueError("the model is stochastic, and being wrong in one of many passes is not being broken: "
                             "attack it with helpers.attacks and judge it by fresh passes")  # fmt: skip
        judge = _Judge(model, x.detach(), y, targeted, batch_size)
        judge.compare(fast)
        _ATTACKS[attack](judge, fast, drop=drop, **settings)
    return judge.broken


class _Judge:
    """The untouched model, and who has been broken before its eyes: `broken` (N,)."""

    def __init__(self, model, x, y, targeted, batch_size):
        self.model, self.x, self.y, self.targeted, self.batch_size = model, x, y, targeted, batch_size
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.see(torch.arange(len(x), device=x.device), x)

    def won(self, logits, rows):
        """Whether `logits` of the images `rows` are what the attacker wants."""
        return (logits.argmax(1) == self.y[rows]) == self.targeted

    @torch.no_grad()
    def see(self, rows, images):
        """Look at `images`, attacks on the images `rows`; the ones that break them are noted."""
        for part, seen in zip(rows.split(self.batch_size), images.split(self.batch_size), strict=True):
            self.broken[part] |= self.won(self.model(seen), part)

    def standing(self):
        """The unbroken images, in batches of their indices."""
        rows = (~self.broken).nonzero().squeeze(1)
        return rows.split(self.batch_size) if len(rows) else ()

    @torch.no_grad()
    def compare(self, fast):
        """A copy that is another function would be an easy way to look robust."""
        rows = torch.arange(min(len(self.x), self.batch_size), device=self.x.device)
        differ = (self.won(fast(self.x[rows]), rows) != self.broken[rows]).float().mean().item()
        if differ > 0.05:
            warnings.warn(f"the accelerated model disagrees with the model on {differ:.0%} of the images", stacklevel=4)


def _pgd(judge, fast, *, drop, eps, steps=40, step_size=None, loss="ce", restarts=1, every=2, seed=0, **settings):
    """Restarted PGD; after each `every` steps, the images on which `fast` is wrong go before the judge."""
    if loss not in LOSSES or min(steps, restarts, every) < 1:
        raise ValueError(
            f"loss is one of {sorted(LOSSES)}, steps, restarts, every >= 1; got {loss}, {steps}, {restarts}, {every}"
        )
    step_size = 2.5 * eps / steps if step_size is None else step_size
    sign, latest = -1 if judge.targeted else 1, {}

    def objective(z):
        latest.update(images=z.detach(), logits=fast(z))
        return sign * LOSSES[loss](latest["logits"], judge.y[rows])

    for seed in range(seed, seed + restarts):
        for rows in judge.standing():
            images = None
            for done in range(0, steps, every if drop else steps):
                more = min(every, steps - done) if drop else steps
                images = ascend(
                    objective, judge.x[rows], start=images, eps=eps, steps=more, step_size=step_size, seed=seed, **settings
                )
                if done + more == steps:
                    judge.see(rows, images)
                # The last step's gradient has shown the logits of the image before it: a look that costs nothing.
                elif (proposed := judge.won(latest["logits"], rows)).any():
                    judge.see(rows[proposed], latest["images"][proposed])
                    standing = ~judge.broken[rows]
                    rows, images = rows[standing], images[standing]
                    if not len(rows):
                        break


def _autoattack(judge, fast, *, drop, eps, norm="linf", seed=0):
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
            if len(rows := rows[doubtful[rows]]):
                _run(part, judge, judge.model, rows, eps, norm, seed)


def _run(part, judge, victim, rows, eps, norm, seed):
    """One part of AutoAttack on `victim`, its results shown to the judge.  -> where `victim` is wrong, (len(rows),)"""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.WARNING)
    x, y = judge.x[rows], judge.y[rows]
    attack = AutoAttack(victim, eps=eps, norm=NORMS[norm], version="standard", seed=seed, device=x.device)
    attack.attacks_to_run = [part]
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, num_classes(victim, x) - 1)
    with seeded(seed), quick_projection():
        x_adv, labels = attack.run_standard_evaluation(x, y, batch_size=len(x))
    judge.see(rows, x_adv.clamp(0, 1))
    return labels != y


@contextmanager
def quick_projection():
    """FAB with `project_linf`: the package's sorts all pixels of each image in each step, which takes as
    long as a pass through a small network."""
    from pyautoattack import fab_base

    with mock.patch.object(fab_base, "projection_linf", project_linf):
        yield


def project_linf(points, w, b):
    """The shortest step in ℓ∞ from each of the `points` (N,D) in [0,1] to its hyperplane w·z = b, within [0,1].

    w: (N,D).  b: (N,).  -> steps (N,D); where the box does not meet the hyperplane, as near as it gets.
    Each pixel moves by λ or as far as it can; Newton's method finds λ in a few passes, exactly: what
    the step gains is concave and piecewise linear in λ.
    """
    gap = (w * points).sum(1) - b
    w = torch.where((gap < 0)[:, None], -w, w)
    weight = w.abs()
    room = torch.where(w < 0, 1 - points, points)
    length = gap.abs() / weight.sum(1).clamp_(min=1e-12)
    for _ in range(50):
        gained = (weight * room.clamp(max=length[:, None])).sum(1)
        slope = (weight * (room > length[:, None])).sum(1)
        more = torch.where(slope > 0, (gap.abs() - gained) / slope.clamp(min=1e-12), 0)
        length = length + more.clamp_(min=0)
        if not (more > 1e-6 * length).any():
            break
    return -w.sign() * room.clamp(max=length[:, None])


_ATTACKS = {"pgd": _pgd, "aa": _autoattack}
