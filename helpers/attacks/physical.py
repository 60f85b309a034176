"""Attacks that change a small region at will: stickers under a mask (RP2) and a placed rectangle (ROA).

RP2: Eykholt et al. 2018.  ROA: Wu, Tong & Vorobeychik 2020, who also turned RP2 into the digital,
untargeted attack on traffic signs with which ARN and ADD evaluate.  Our own implementation: no
library offers them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.attacks.contract import attack
from helpers.attacks.pgd import ascend, in_format_of, log_odds

GREY = 0.5  # ROA looks for its place with a rectangle of this value, and starts from it

ORDERS = {"l1": 1, "l2": 2}


@attack(revision=1)
def rp2(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    mask: Tensor,
    steps: int = 100,
    learning_rate: float = 0.1,
    regularisation: float = 0.0,
    norm: str = "l2",
    seed: int = 0,
) -> Tensor:
    """Minimise  λ·‖M·δ‖ ± J(f(x + M·δ), y)  over δ by Adam, within [0,1].

    Eykholt et al.'s Eq. 3; ADD, Eq. 13 and 14.

    J is the cross-entropy, + with `targeted` (towards `y`), − without (away from `y`).
    mask: M, 1 or True where the sticker may be; (H,W) or (1,1,H,W) for all images, (N,1,H,W)
        for one each.  Elsewhere the result is `x`, bit for bit.
    steps: of Adam, >= 1.
    learning_rate: Adam's, > 0, in units of the [0,1] image.
    regularisation: λ >= 0.  Wu et al.'s code takes no gradient of this term, hence 0: against an image
        that the model is sure of, J's gradient is the smaller one, and λ drives the sticker back to
        the image it covers.
    norm: "l1" or "l2", of each image's M·δ.
    seed: the start is a uniform random sticker, the same for all images: what becomes of an
        image does not depend on its neighbours.
    Each image has a δ of its own, as in Wu et al.'s evaluation.  Left out are the terms for an object
    that is printed and photographed: one δ over many photographs and transformations, and printability.
    Of the iterates that succeed the one with the lowest objective is returned, without one the last.
    """
    _whole(steps=steps)
    if not learning_rate > 0 or not regularisation >= 0 or norm not in ORDERS:
        raise ValueError(
            "rp2 needs learning_rate > 0, regularisation >= 0 and norm 'l1' or 'l2', got "
            f"{learning_rate}, {regularisation}, {norm!r}"
        )
    mask = _checked(mask, x)
    generator = torch.Generator(x.device).manual_seed(seed)
    start = torch.rand(x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
    sticker = start.repeat(len(x), 1, 1, 1).requires_grad_()  # x + δ; so δ's borders are 0 and 1
    # Where the model is sure, gradients are tiny; with its usual eps of 1e-8 Adam would stand still there.
    optimizer = torch.optim.Adam([sticker], lr=learning_rate, eps=1e-30)
    best, lowest = x, x.new_full((len(x),), torch.inf)
    for step in range(steps + 1):  # the last round only looks where the last step has led
        x_adv = torch.where(mask, sticker, x)
        logits = model(x_adv)
        distance = torch.linalg.vector_norm((x_adv - x).flatten(1), ORDERS[norm], dim=1)
        objective = regularisation * distance + (1 if targeted else -1) * _cross_entropy(logits, y)
        with torch.no_grad():
            better = ((logits.argmax(1) == y) == targeted) & (objective < lowest)
            keep = better | lowest.isinf()  # until it succeeds, follow the attack
            best = torch.where(keep.view(-1, 1, 1, 1), x_adv, best)
            lowest = torch.where(better, objective, lowest)
        if step < steps:
            optimizer.zero_grad()
            objective.sum().backward()
            optimizer.step()
            with torch.no_grad():
                sticker.clamp_(0, 1)
    return best


@attack(revision=1)
def roa(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    steps: int = 30,
    step_size: float | None = None,
    **where,
) -> Tensor:
    """Rectangular occlusion: find a rectangle's place, then PGD on the pixels inside, free in [0,1].

    where: the settings of `rectangle`; 10 x 5 and 7 x 7 are the sizes for 32 x 32 traffic signs.
    steps: of the PGD, >= 1.
    step_size: > 0, in units of the [0,1] image; None: 2.5·0.5/steps (Madry's rule; every value is
        within 0.5 of the grey start).
    The attack draws nothing at random.
    """
    _whole(steps=steps)
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}: leave it out for 2.5·0.5/steps")
    mask = rectangle(model, x, y, targeted=targeted, **where)
    grey = in_format_of(model, torch.where(mask, GREY, x))

    def loss(x_adv):
        return _success(model(torch.where(mask, x_adv, x)), y, targeted).sum()

    return ascend(loss, grey, eps=GREY, steps=steps, step_size=step_size, random_start=False)


def rectangle(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool = False,
    height: int = 7,
    width: int = 7,
    stride: int = 2,
    search: str = "exhaustive",
    candidates: int = 5,
) -> Tensor:
    """Where a grey rectangle hurts most: a mask (N,1,H,W), True inside (Wu et al.'s abstract attack).

    height, width: in pixels, no larger than the image.
    stride: >= 1; the places lie `stride` pixels apart, and along the right and lower border.
    search: "exhaustive" tries all places, one pass of the model for each; "gradient" only those with
        the largest sum of squares of the input gradient inside.
    candidates: how many places "gradient" tries, >= 1.
    Called by itself it wants the model in `helpers.attacks.attackable`.
    """
    h, w = x.shape[2:]
    _whole(height=height, width=width, stride=stride, candidates=candidates)
    if height > h or width > w:
        raise ValueError(
            f"a rectangle of height {height} and width {width} does not fit into images of height {h} "
            f"and width {w}: choose a smaller one"
        )
    if search not in ("exhaustive", "gradient"):
        raise ValueError(f"search is 'exhaustive' or 'gradient', got {search!r}")
    tops, lefts = (
        torch.tensor(sorted({*range(0, room, stride), room}), device=x.device)
        for room in (h - height, w - width)
    )
    places = len(tops) * len(lefts)
    if search == "exhaustive":
        tried = torch.arange(places, device=x.device).expand(len(x), places)
    else:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(_success(model(leaf), y, targeted).sum(), leaf)
        energy = F.avg_pool2d(gradient.square().sum(1, keepdim=True), (height, width), stride=1)
        tried = energy[:, 0, tops][:, :, lefts].flatten(1).topk(min(candidates, places)).indices
    best, highest = tried[:, 0], x.new_full((len(x),), -torch.inf)
    with torch.no_grad():
        for place in tried.T:  # (N,), so that memory does not grow with the number of places
            mask = _rectangles(tops[place // len(lefts)], lefts[place % len(lefts)], height, width, h, w)
            success = _success(model(torch.where(mask, GREY, x)), y, targeted)
            best = torch.where(success > highest, place, best)
            highest = torch.maximum(success, highest)
    return _rectangles(tops[best // len(lefts)], lefts[best % len(lefts)], height, width, h, w)


def _rectangles(top, left, height, width, h, w):
    """Masks (N,1,h,w), True in the rectangles whose upper left pixels are `top`, `left`, both (N,)."""
    row = torch.arange(h, device=top.device) - top[:, None]
    column = torch.arange(w, device=left.device) - left[:, None]
    rows, columns = (row >= 0) & (row < height), (column >= 0) & (column < width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _success(logits, y, targeted):
    """How near the attacker is to success, comparable even where the model is sure; (N,K), (N,) -> (N,)."""
    return log_odds(logits, y) if targeted else -log_odds(logits, y)


def _cross_entropy(logits, y):
    """The cross-entropy of each image, exact also near zero; (N,K), (N,) -> (N,)."""
    return F.softplus(-log_odds(logits, y))


def _checked(mask, x):
    """`mask` as booleans on x's device, (1,1,H,W) or (N,1,H,W)."""
    mask = torch.as_tensor(mask, device=x.device)
    n, _, h, w = x.shape
    if mask.shape not in {(h, w), (1, 1, h, w), (n, 1, h, w)}:
        raise ValueError(
            f"mask must have shape {(h, w)}, {(1, 1, h, w)} or {(n, 1, h, w)}, got {tuple(mask.shape)}: "
            "resize it to the images, and give it one channel"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            "mask must hold nothing but 0 and 1, got values in "
            f"[{mask.min():.6g}, {mask.max():.6g}]: threshold it, for example mask > 0.5"
        )
    mask = mask.bool().view(-1, 1, h, w)
    if not mask.flatten(1).any(1).all():
        raise ValueError("mask is empty (0 everywhere) for an image: set to 1 where the sticker may be")
    return mask


def _whole(**settings):
    for name, value in settings.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
