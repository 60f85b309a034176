"""Wasserstein attack (FWA; Wu, Wang & Yu, ICML 2020, "Stronger and Faster Wasserstein Adversarial Attacks").

Instead of changing values the attack moves them: pixel values are mass, and moving mass m over
d pixels costs m·d.  What is optimised is the *plan* Π: the mass that goes from each pixel to each
pixel of the k×k window around it, within its channel.  A plan is a tensor (N,C,k²,H,W): entry
[n,c,o,i,j] leaves pixel (i,j) for its o-th window place, counted row by row; the middle one stays.

Our own implementation, because none of the libraries has it.  It differs from the paper's code where it
must return what it promises: there pixels grow beyond 1 and on MNIST are clipped, which destroys mass;
see `admit`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.attacks.contract import attack
from helpers.attacks.pgd import cross_entropy, margin

METHODS = ("frank_wolfe", "projected_gradient")

HALVINGS = 16  # of the interval that holds the price of transport
NEWTON_STEPS = 8  # in the simplex projection; six reach float32's precision
ROUNDS = 10  # of admitting mass to full pixels


@attack(revision=1)
def fwa(
    model: nn.Module, x: Tensor, y: Tensor, *, targeted: bool, kernel_size: int = 5, **settings
) -> Tensor:
    """The image of `attack_plan`, (N,C,H,W) in [0,1]; same settings."""
    plan = attack_plan(model, x, y, targeted=targeted, kernel_size=kernel_size, **settings)
    return Window(kernel_size, x).receive(plan).clamp(0, 1)  # a rounding error at most


@torch.no_grad()
def attack_plan(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    steps: int = 300,
    method: str = "frank_wolfe",
    step_size: float | None = None,
    kernel_size: int = 5,
) -> Tensor:
    """The plan Π >= 0, Π1 = x, ⟨Π,C⟩ <= ε·Σx, Πᵀ1 <= 1: Πᵀ1 has the largest cross-entropy.

    eps: mean distance in pixels over which an image's mass may move (C is Euclidean; the image
        is thought of as unit mass over all its channels).  0.5 moves half the mass by one pixel.
        Its authors' scripts: MNIST 0.5, CIFAR-10 0.005.
    steps: >= 1.
    method: "frank_wolfe" goes 2/(t+2) of the way to the plan that is best for the gradient;
        "projected_gradient" goes along the gradient, scaled to a largest entry of 1, by
        `step_size`, and projects.  A step of the first takes a quarter of the time.  Step for step
        it is far ahead on a robust net and a little behind on an undefended one.
    step_size: of "projected_gradient" only; None: 0.1, as their scripts on MNIST (0.01 on CIFAR-10).
    kernel_size: odd k >= 3; the paper's is 5.
    -> (N,C,k²,H,W).  Of the iterates each image keeps the one with the smallest margin.  With `targeted`
    the loss towards `y` is minimised.  A black image has no mass and stays as it is.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {METHODS}, got {method!r}")
    if steps < 1 or kernel_size < 3 or kernel_size % 2 == 0:
        raise ValueError(f"steps >= 1, kernel_size odd and >= 3; got {steps}, {kernel_size}")
    if method == "frank_wolfe" and step_size is not None:
        raise ValueError(
            f"frank_wolfe has no step_size, got {step_size}: leave it out or use projected_gradient"
        )
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}")
    step_size = 0.1 if step_size is None else step_size
    sign = -1 if targeted else 1
    window, budget = Window(kernel_size, x), eps * x.sum((1, 2, 3))
    plan = torch.where(window.cost == 0, x[:, :, None], 0)  # everything stays
    fee = torch.zeros_like(x)
    best, best_lead = plan, x.new_full((len(x),), torch.inf)
    for step in range(steps + 1):
        admitted = admit(plan, x, window)
        with torch.enable_grad():
            image = window.receive(admitted).clamp(0, 1).requires_grad_()
            logits = model(image)
            (gradient,) = torch.autograd.grad(sign * cross_entropy(logits, y), image)
        lead = sign * margin(logits.detach(), y)  # negative exactly where the attack has reached its goal
        better = lead < best_lead
        best, best_lead = torch.where(_fit(better), admitted, best), torch.where(better, lead, best_lead)
        if step == steps:
            return best
        # Overfilled pixels charge a fee: the multiplier of Πᵀ1 <= 1, which rises as long as the plan
        # overfills them, and a penalty (augmented Lagrangian; the two rates were found by trial).
        # Without it the budget is spent on mass that `admit` sends back.
        overfull = window.receive(plan) - 1
        fee = (fee + overfull / 2).clamp(min=0)
        value = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        value = value - (fee + overfull).clamp(min=0)
        if method == "frank_wolfe":
            plan = torch.lerp(plan, best_plan(value, x, budget, window), 2 / (step + 2))
        else:
            plan = project(plan + step_size * window.look(value, -torch.inf), x, budget, window)


class Window:
    """The k×k window around each pixel, and what plans over it mean.

    cost: distance of the window's places from its middle, (k²,1,1) pixels.
    rings: the places at the same distance, nearest first; radii: these distances, (R,1,1).
    """

    def __init__(self, k: int, like: Tensor) -> None:
        offset = torch.arange(k) - k // 2
        squared = (offset[:, None] ** 2 + offset**2).flatten()
        self.k, self.middle = k, k * k // 2
        self.cost = squared.to(like).sqrt().view(-1, 1, 1)
        self.radii = squared.unique().to(like).sqrt().view(-1, 1, 1)
        self.rings = [(squared == s).nonzero().flatten().to(like.device) for s in squared.unique()]

    def look(self, image: Tensor, outside: float = 0.0) -> Tensor:
        """What each pixel sees in its window, (N,C,H,W) -> (N,C,k²,H,W); `outside` beyond the border."""
        padded = F.pad(image, [self.k // 2] * 4, value=outside)
        return padded.unfold(2, self.k, 1).unfold(3, self.k, 1).permute(0, 1, 4, 5, 2, 3).flatten(2, 3)

    def receive(self, plan: Tensor) -> Tensor:
        """The image Πᵀ1: what arrives at each pixel; the adjoint of `look`."""
        return F.fold(plan.flatten(1, 2).flatten(2), plan.shape[3:], self.k, padding=self.k // 2)

    def spent(self, plan: Tensor) -> Tensor:
        """Transport cost ⟨Π,C⟩ of each image's plan, (N,)."""
        return (plan * self.cost).sum((1, 2, 3, 4))


def admit(plan: Tensor, x: Tensor, window: Window) -> Tensor:
    """Send back what does not fit: the plan with the moves into each pixel scaled so that Πᵀ1 <= 1.

    What is sent back stays where it came from, so that rows, sign and mass are kept and the cost
    can only fall; but it takes up room there.  So each pixel's admitted share is a function of
    its neighbours' shares, and grows with them (who admits more, relieves others).  Starting
    from nothing admitted, every round therefore is feasible, and better than the one before.
    """
    moves = plan * (window.cost > 0)
    demand = window.receive(moves).clamp(min=1e-12)
    share = torch.zeros_like(x)
    for _ in range(ROUNDS):
        leaving = (moves * window.look(share)).sum(2)
        share = ((1 - x + leaving) / demand).clamp(max=1)
    moves = moves * window.look(share)
    moves[:, :, window.middle] = (x - moves.sum(2)).clamp(min=0)
    return moves


def best_plan(value: Tensor, x: Tensor, budget: Tensor, window: Window) -> Tensor:
    """Linear maximisation oracle: Π >= 0, Π1 = x, ⟨Π,C⟩ <= budget of the largest ⟨Πᵀ1, value⟩.

    At a price λ per pixel of distance all mass of a pixel goes where value − λ·distance is
    largest.  The paper smooths this choice by an entropy; mixing the plans on both sides of the
    right λ (see `_spend`) is exact, has no parameter, and is faster.
    """
    seen = window.look(value, -torch.inf)
    tops, places = zip(*(seen[:, :, ring].max(2) for ring in window.rings), strict=True)
    top = torch.stack(tops, 2)  # (N,C,R,H,W): the best value at each distance, and its place
    place = torch.stack([ring[i] for ring, i in zip(window.rings, places, strict=True)], 2)

    def plan_at(price):
        ring = (top - _fit(price) * window.radii).argmax(2, keepdim=True)
        return torch.zeros_like(seen).scatter_(2, place.gather(2, ring), x[:, :, None])

    def spent_at(price):  # of `plan_at`, several times as fast
        net = top - _fit(price) * window.radii
        radius = torch.where(net == net.amax(2, keepdim=True), window.radii, torch.inf).amin(2)
        return (x * radius).sum((1, 2, 3))

    highest = value.amax((1, 2, 3)) - value.amin((1, 2, 3))
    return _spend(plan_at, spent_at, highest, budget, window)


def project(target: Tensor, x: Tensor, budget: Tensor, window: Window) -> Tensor:
    """The plan of Π >= 0, Π1 = x, ⟨Π,C⟩ <= budget nearest to `target` (N,C,k²,H,W; −inf: no place).

    At a price λ of distance the rows are independent: target − λC, projected onto the simplex.
    """

    def plan_at(price):
        return to_simplex(target - _fit(price) * window.cost, x)

    highest = target.amax((1, 2, 3, 4)) - target[:, :, window.middle].amin((1, 2, 3)) + x.amax((1, 2, 3))
    return _spend(plan_at, lambda price: window.spent(plan_at(price)), highest, budget, window)


def to_simplex(target: Tensor, x: Tensor) -> Tensor:
    """Project each row of `target` (N,C,k²,H,W) onto {π >= 0, Σπ = x}: π = (target − level)₊.

    The level is found by Newton's method from below; Σπ is convex in it, so that no step goes too far.
    (Ten times as fast as sorting.)  The last rounding error goes into the scale.
    """
    x = x[:, :, None]
    level = target.amax(2, keepdim=True) - x
    for _ in range(NEWTON_STEPS):
        above = (target - level).clamp_(min=0)
        level = level + (above.sum(2, keepdim=True) - x) / above.sign_().sum(2, keepdim=True).clamp_(min=1)
    plan = (target - level).clamp_(min=0)
    return plan * (x / plan.sum(2, keepdim=True).clamp_(min=1e-12))


def _spend(plan_at: Callable, spent_at: Callable, highest: Tensor, budget: Tensor, window: Window) -> Tensor:
    """Bisect the price of transport (N,) in [0, highest]; mix the plans on both sides to cost the budget.

    plan_at, spent_at: price (N,) -> plan, and its cost (N,), which falls as the price rises; at
    `highest` nothing moves.  A mixture of plans is a plan, and its cost the mixture of theirs.
    """
    low, high = torch.zeros_like(highest), highest
    for _ in range(HALVINGS):
        price = (low + high) / 2
        over = spent_at(price) > budget
        low, high = torch.where(over, price, low), torch.where(over, high, price)
    cheap, dear = plan_at(high), plan_at(low)
    cost, more = window.spent(cheap), window.spent(dear)
    share = ((budget - cost) / (more - cost).clamp(min=1e-12)).clamp(0, 1)
    return torch.lerp(cheap, dear, _fit(share))


def _fit(t):
    """(N,) -> (N,1,1,1,1), to go with plans."""
    return t.view(-1, 1, 1, 1, 1)
