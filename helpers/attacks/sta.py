"""Spatially transformed adversarial examples (STA; Xiao et al. 2018), our own implementation.

Instead of changing pixel values the attack moves pixels: a flow field says from where each
pixel is fetched.  Where it fails, advertorch's version, `sta`, has nothing to hand back; ours returns the
image it reached.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.attacks.contract import attack
from helpers.attacks.pgd import margin


@attack(revision=1)
def sta_own(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    steps: int = 100,
    learning_rate: float = 0.05,
    tau: float = 0.05,
    confidence: float = 0.0,
) -> Tensor:
    """Minimise  ℒ_adv + τ·ℒ_flow  over the flow (Xiao et al., Eq. 2-4); returns warped images.

    ℒ_adv is Carlini & Wagner's margin (zero once it exceeds `confidence`), ℒ_flow the
    flow's total variation, in pixels; optimised by Adam, whose steps, unlike L-BFGS's, treat each
    image by itself.  Of the iterates that succeed, the one with the smoothest flow is kept.
    steps: of Adam.
    learning_rate: Adam's, in pixels.
    tau: τ >= 0.
    confidence: in units of the logits, >= 0.
    """
    sign = -1 if targeted else 1
    grid = identity_grid(x)
    flow = x.new_zeros(len(x), 2, *x.shape[2:], requires_grad=True)
    optimizer = torch.optim.Adam([flow], lr=learning_rate)
    best, best_roughness = x.clone(), x.new_full((len(x),), torch.inf)
    for _ in range(steps):
        warped = warp(x, flow, grid)
        lead = sign * margin(model(warped), y)  # negative exactly where the attack has reached its goal
        roughness = total_variation(flow)
        with torch.no_grad():
            better = (lead < 0) & (roughness < best_roughness)
            keep = better | best_roughness.isinf()  # until it succeeds, follow the attack
            best = torch.where(keep.view(-1, 1, 1, 1), warped, best)
            best_roughness = torch.where(better, roughness, best_roughness)
        optimizer.zero_grad()
        (lead.clamp(min=-confidence) + tau * roughness).sum().backward()
        optimizer.step()
    return best.clamp(0, 1)


def warp(x: Tensor, flow: Tensor, grid: Tensor | None = None) -> Tensor:
    """Fetch each pixel of `x` (N,C,H,W) from its place plus `flow` (N,2,H,W; Δu, Δv in pixels).

    grid: `identity_grid(x)`, where it is at hand.
    """
    h, w = x.shape[2:]
    u, v = flow.unbind(1)
    offset = torch.stack([u * (2 / (w - 1)), v * (2 / (h - 1))], -1)
    grid = identity_grid(x) if grid is None else grid
    return F.grid_sample(x, grid + offset, align_corners=True, padding_mode="border")


def identity_grid(x: Tensor) -> Tensor:
    """The sampling grid (N,H,W,2) that leaves `x` (N,C,H,W) as it is; corners at ±1."""
    return F.affine_grid(torch.eye(2, 3).to(x).expand(len(x), 2, 3), list(x.shape), align_corners=True)


def total_variation(flow: Tensor) -> Tensor:
    """Σ over pixels of the Euclidean distance to the right and lower neighbour's flow; (N,2,H,W) -> (N,)."""
    right = (flow[:, :, :, 1:] - flow[:, :, :, :-1]).square().sum(1)
    down = (flow[:, :, 1:, :] - flow[:, :, :-1, :]).square().sum(1)
    return (right + 1e-8).sqrt().sum((1, 2)) + (down + 1e-8).sqrt().sum((1, 2))
