"""AutoAttack (Croce & Hein 2020) for counting: its four parts, without what changes no verdict.

The original code (package `pyautoattack`) attacks one wrong class after another and takes every image through
all steps.  Here an image leaves as soon as the judge has seen it broken, several classes share a batch, and
two rules of thumb, the only place where less is done than in the original, save most of a survivor's cost:

1. FAB comes before the targeted APGD and tells it how far each class is (`CLOSE`).  FAB itself goes
   on only while the distance may still fall below the radius (`FALL`).
2. Square leaves an image whose margin falls too slowly (`HOPE`).

`benchmarks/autoattack.py` compares verdicts and seconds with the original's, also where gradients are masked.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import seeded
from helpers.attacks.pgd import margin
from helpers.measure.judge import Ball, Judge

# The original's: steps of APGD and FAB, wrong classes, and queries of Square.
STEPS, CLASSES, QUERIES = 100, 9, 5000

# The least distance that FAB has found in i steps will not fall by more than this share over i ...
FALL = 5
# ... after so many steps at least, ...
SETTLED = 10
# ... and APGD tries the classes within so many radii.
CLOSE = 1.5

# Each doubling of the queries is taken to lower the margin by up to so many times the mean of the last two.
HOPE = 1.5
# Doublings are counted from this query.
FIRST = 156

# Square's squares shrink after so many queries.
SHRINK_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Fewer images than `FULL` would leave a batch nearly empty: then up to `WIDEST` squares are tried at once.
FULL, WIDEST = 32, 8


class Batch:
    """Tensors with an entry for each attacked image: its number (`rows`), `x`, `y`, `target` class, …"""

    def __init__(self, judge: Judge, rows: Tensor, target: Tensor) -> None:
        self.rows, self.target, self.x, self.y = rows, target, judge.x[rows], judge.y[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, chosen: Tensor) -> None:
        """Forget all but the chosen, (n,) bool."""
        if not chosen.all():
            vars(self).update({name: tensor[chosen] for name, tensor in vars(self).items()})


def autoattack(judge: Judge, source: nn.Module, *, blind: nn.Module | None = None, seed: int) -> None:
    """All parts, each on what the `judge` has not yet seen broken.

    source: what is attacked in place of the judge's model.
    blind: what Square attacks, which needs no gradients; by default `source`.
    ValueError for a targeted attack and fewer than four classes.
    """
    classes = judge.logits.shape[1]
    if judge.targeted or classes < 4:
        given = f"targeted={judge.targeted}, {classes} classes"
        raise ValueError(f"AutoAttack is untargeted and needs at least 4 classes; {given}")
    with seeded(seed):
        _attack(judge, source, blind or source, ~judge.broken)
        # Where a stand-in was wrong and the model right, it is no guide.
        _attack(judge, judge.model, judge.model, judge.doubtful & ~judge.broken)


def _attack(judge, source, blind, chosen):
    rows = chosen.nonzero().squeeze(1)
    rows = rows[margin(judge.logits[rows], judge.y[rows]).argsort()]  # the least sure first
    for batch in _batches(judge, rows, judge.y[rows]):
        apgd(judge, source, batch, cross_entropy)
    # Before the dear targeted parts: where gradients are masked, Square breaks a good deal of what is left.
    for batch in _batches(judge, rows, judge.y[rows]):
        square(judge, blind, batch)
    # All images with their likeliest wrong class, then all with the next.
    wrong = judge.logits[rows].argsort(1, descending=True)[:, 1 : CLASSES + 1]
    pairs = rows.repeat(wrong.shape[1]), wrong.T.flatten()
    within = [fab(judge, source, batch) for batch in _batches(judge, *pairs)]
    if within:
        distance, *pairs = (torch.cat(part) for part in zip(*within, strict=True))
        order = distance.argsort()
        for batch in _batches(judge, *(part[order] for part in pairs)):
            apgd(judge, source, batch, targeted_dlr)


def _batches(judge: Judge, rows: Tensor, target: Tensor) -> Iterator[Batch]:
    """Those images (n,), each with a class (n,), that still stand when their turn comes."""
    while len(rows):
        standing = ~judge.broken[rows]
        rows, target = rows[standing], target[standing]
        if len(rows):
            yield Batch(judge, rows[: judge.batch_size], target[: judge.batch_size])
        rows, target = rows[judge.batch_size :], target[judge.batch_size :]


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """(n,K) -> (n,)"""
    return F.cross_entropy(logits, batch.y, reduction="none")


def towards(logits: Tensor, batch: Batch) -> Tensor:
    """Logit of the target class minus that of the true one, (n,K) -> (n,)."""
    both = logits.gather(1, torch.stack([batch.target, batch.y], 1))
    return both[:, 0] - both[:, 1]


def targeted_dlr(logits: Tensor, batch: Batch) -> Tensor:
    """Croce & Hein, Eq. 7: as `towards`, in units of the spread of the largest logits, (n,K) -> (n,)."""
    top = logits.topk(4, 1).values
    return towards(logits, batch) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def _climbed(source: nn.Module, s: Batch, loss: Callable) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, losses (n,) and the losses' gradients at the images `s.at`."""
    with torch.enable_grad():
        images = s.at.detach().requires_grad_()
        logits = source(images)
        losses = loss(logits, s)
        (gradient,) = torch.autograd.grad(losses.sum(), images)
    return logits.detach(), losses.detach(), gradient


def apgd(judge: Judge, source: nn.Module, s: Batch, loss: Callable) -> None:
    """Auto-PGD: ascent with momentum; who is stuck at a checkpoint goes back to the best at half the step."""
    ball = judge.ball
    s.at = s.before = ball.start(s.x)
    logits, s.loss, s.gradient = _climbed(source, s, loss)
    s.best, s.best_loss, s.best_gradient = s.at, s.loss, s.gradient
    s.step = torch.full_like(s.loss, 2 * ball.eps).view(-1, 1, 1, 1)
    s.rises, s.checked = torch.zeros_like(s.loss), s.loss
    s.halved = torch.ones_like(s.loss, dtype=torch.bool)
    judge.look(s.rows, s.at, logits)
    # Without any gradient, every step would end where it began.
    s.keep(~judge.broken[s.rows] & s.gradient.flatten(1).any(1))
    stretch = checkpoint = int(0.22 * STEPS)
    for step in range(STEPS):
        if not len(s):
            return
        to = ball.project(s.x, s.at + s.step * ball.uphill(s.gradient))
        if step > 0:
            to = ball.project(s.x, s.at + 0.75 * (to - s.at) + 0.25 * (s.at - s.before))
        s.before, s.at, previous = s.at, to, s.loss
        logits, s.loss, s.gradient = _climbed(source, s, loss)
        s.rises = s.rises + (s.loss > previous)
        better = s.loss > s.best_loss
        s.best_loss = torch.where(better, s.loss, s.best_loss)
        s.best = _where(better, s.at, s.best)
        s.best_gradient = _where(better, s.gradient, s.best_gradient)
        judge.look(s.rows, s.at, logits)
        s.keep(~judge.broken[s.rows])
        if step + 1 == checkpoint:
            stuck = (s.rises <= 0.75 * stretch) | (~s.halved & (s.checked >= s.best_loss))
            s.step = _where(stuck, s.step / 2, s.step)
            s.at = _where(stuck, s.best, s.at)
            s.gradient = _where(stuck, s.best_gradient, s.gradient)
            s.halved, s.checked, s.rises = stuck, s.best_loss, torch.zeros_like(s.rises)
            stretch = max(stretch - int(0.03 * STEPS), int(0.06 * STEPS), 1)
            checkpoint += stretch


def _where(chosen: Tensor, images: Tensor, others: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, 1, 1, 1), images, others)


def fab(judge: Judge, source: nn.Module, s: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Fast adaptive boundary attack: to the boundary as it looks from here, a bit towards the image, and on.

    -> distance (m,), image (m,) and class (m,) of what may be within reach; infinity where nothing was found.
    """
    ball = judge.ball
    s.at, s.nearest = s.x, torch.full_like(s.x[:, 0, 0, 0], torch.inf)
    within = []

    def leave(leaving: Tensor) -> None:
        told = leaving & ((s.nearest < CLOSE * ball.eps) | s.nearest.isinf())
        within.append((s.nearest[told], s.rows[told], s.target[told]))
        s.keep(~leaving)

    for step in range(1, STEPS + 1):
        _, s.apart, s.normal = _climbed(source, s, towards)
        if step == 1:
            leave(~s.normal.flatten(1).any(1))
        if not len(s):
            break
        # The plane on which both classes are alike, as it looks from here: how far it is, and from the image.
        apart = s.apart + (s.normal * (s.x - s.at)).flatten(1).sum(1)
        points, normals = torch.cat([s.at, s.x]), torch.cat([s.normal, s.normal])
        here, there = ball.to_plane(points, normals, torch.cat([s.apart, apart])).chunk(2)
        share = ball.length(here) / (ball.length(here) + ball.length(there))
        share.clamp_(max=0.1)
        s.at = ((s.at + 1.05 * here) * (1 - share) + (s.x + 1.05 * there) * share).clamp_(0, 1)
        with torch.no_grad():
            logits = source(s.at)
        wrong, distance = logits.argmax(1) != s.y, ball.length(s.at - s.x).view(-1)
        s.nearest = torch.where(wrong & (distance < s.nearest), distance, s.nearest)
        near = distance <= 1.05 * ball.eps  # the judge pulls it into the ball
        judge.look(s.rows[near], s.at[near], logits[near])
        s.at = _where(wrong, s.x + 0.9 * (s.at - s.x), s.at)
        s.keep(~judge.broken[s.rows])
        if step >= SETTLED:
            leave(s.nearest.isfinite() & (s.nearest * (1 - FALL / step) > ball.eps))
    leave(s.rows == s.rows)
    return tuple(torch.cat(part) for part in zip(*within, strict=True))


@torch.no_grad()
def square(judge: Judge, source: nn.Module, s: Batch) -> None:
    """Square attack: a random square in a random place, kept where it lowers the margin; no gradient."""
    start, changed = SQUARES[judge.ball.norm]
    s.at = start(judge.ball, s.x)
    logits = source(s.at)
    s.margin = s.before = s.long_before = margin(logits, s.y)
    judge.look(s.rows, s.at, logits)
    s.keep(~judge.broken[s.rows])
    done, doubling = 1, FIRST
    while done < QUERIES and len(s):
        area = 0.8 / 2 ** bisect_left(SHRINK_AT, done) * s.x[0, 0].numel()
        many = max(1, min(WIDEST, FULL // len(s)))
        tried = torch.cat([changed(judge.ball, s, round(area**0.5)) for _ in range(many)])
        logits = source(tried)
        least, which = margin(logits, s.y.repeat(many)).view(many, -1).min(0)
        best = which * len(s) + torch.arange(len(s), device=which.device)
        better = (least < s.margin) | (least <= 0)
        s.at = _where(better, tried[best], s.at)
        s.margin = torch.where(better, least, s.margin)
        judge.look(s.rows[better], s.at[better], logits[best][better])
        s.keep(~judge.broken[s.rows])
        done += many
        if done >= doubling:
            to_come = HOPE * log2(QUERIES / done) * (s.long_before - s.margin) / 2
            s.long_before, s.before = s.before, s.margin
            if doubling >= 4 * FIRST:
                s.keep(s.margin <= to_come)
            doubling *= 2


def _window(s: Batch, side: int) -> tuple:
    """The place of a square, the same in all images."""
    corner = (int(torch.randint(length - side + 1, ())) for length in s.x.shape[2:])
    return (..., *(slice(first, first + side) for first in corner))


def _stripes(ball: Ball, x: Tensor) -> Tensor:
    """The start in ℓ∞: in each column and channel up or down by the radius."""
    n, c, _, w = x.shape
    return (x + ball.eps * _signs(n, c, 1, w, like=x)).clamp_(0, 1)


def _to_the_edge(ball: Ball, s: Batch, side: int) -> Tensor:
    """A change in ℓ∞: a square goes to the top or the bottom of the ball, each channel for itself."""
    place = _window(s, max(1, min(side, *s.x.shape[2:])))
    new = s.at.clone()
    new[place] = (s.x[place] + ball.eps * _signs(s.x.shape[1], 1, 1, like=s.x)).clamp_(0, 1)
    return new


def _tiles(ball: Ball, x: Tensor) -> Tensor:
    """The start in ℓ2: bumps side by side, up or down in each channel."""
    n, c, h, w = x.shape
    side, change = max(min(h, w) // 5, 3), torch.zeros_like(x)
    for top in range((h % side) // 2, h - side + 1, side):
        for left in range((w % side) // 2, w - side + 1, side):
            bump = _bump(side, x) * _signs(n, c, 1, 1, like=x)
            change[:, :, top : top + side, left : left + side] = bump
    return (x + ball.eps * change / ball.length(change)).clamp_(0, 1)


def _carried_over(ball: Ball, s: Batch, side: int) -> Tensor:
    """A change in ℓ2: one square gives its part of the radius up, and another gets it and a bump."""
    n, c, h, w = s.x.shape
    side = min(max(side, 3) // 2 * 2 + 1, h, w)
    change, here, there = s.at - s.x, _window(s, side), _window(s, side)
    both = torch.zeros_like(change[0, 0])
    both[here] = both[there] = 1
    free = (ball.eps**2 - ball.length(change) ** 2).clamp_(min=0) / c + _energy(change * both)
    new = _unit(change[here]) + _bump(side, s.x) * _signs(n, c, 1, 1, like=s.x)
    change[there] = 0
    change[here] = _unit(new) * free.sqrt()
    return (s.x + ball.eps * change / ball.length(change)).clamp_(0, 1)


def _signs(*shape: int, like: Tensor) -> Tensor:
    return (torch.randint(2, shape, device=like.device) * 2 - 1).to(like.dtype)


def _energy(change: Tensor) -> Tensor:
    """Sum of squares in each channel, (n,c,1,1)."""
    return (change**2).sum((2, 3), keepdim=True)


def _unit(change: Tensor) -> Tensor:
    return change / (_energy(change).sqrt() + 1e-12)


def _bump(side: int, like: Tensor) -> Tensor:
    """A hill above a hollow, or beside it, of norm 1, (side,side)."""
    half = side // 2
    bump = torch.cat([_hill(half, side, like), -_hill(side - half, side, like)])
    bump = bump / bump.norm()
    return bump.T if torch.rand(()) > 0.5 else bump


def _hill(height: int, width: int, like: Tensor) -> Tensor:
    """Falls off in square rings around the middle, of norm 1."""
    up, across = ((torch.arange(length) - length // 2).abs() for length in (height, width))
    ring = torch.maximum(up[:, None], across)
    steps = 1.0 / (torch.arange(int(ring.max()) + 1) + 1) ** 2
    hill = steps.flip(0).cumsum(0).flip(0)[ring]
    return (hill / hill.norm()).to(like)


SQUARES = {"linf": (_stripes, _to_the_edge), "l2": (_tiles, _carried_over)}
