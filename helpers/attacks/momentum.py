"""Gradient attacks made to transfer: momentum, variance tuning, translation invariance.

All three are the signed ℓ∞ iteration with another direction, so that what they add to it can be
read off.  Our own implementation: the kept libraries lack them, or do not follow the papers' formulas.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.attacks.contract import attack
from helpers.attacks.pgd import box, cross_entropy, positive_step


@attack(revision=1)
def mi_fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
) -> Tensor:
    """Momentum iterative FGSM (Dong et al. 2018, Algorithm 1).

    eps: ℓ∞ radius > 0, in units of the [0,1] image.
    steps: >= 1.
    step_size: in the same units; None: eps/steps, as in the paper.
    decay: μ, the share of the past that a step keeps.
    """

    def direction(x_adv, state):
        momentum = decay * state.get("momentum", 0) + _unit(_gradient(model, x_adv, y, targeted))
        return momentum, {"momentum": momentum}

    return _iterate(direction, x, eps, steps, step_size)


@attack(revision=2)
def vni_fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    samples: int = 20,
    radius: float = 1.5,
    seed: int = 0,
) -> Tensor:
    """Variance-tuned Nesterov iterative FGSM (Wang & He 2021, Algorithm 1 with Nesterov's look-ahead).

    The gradient is corrected by how much it varied around the previous iterate.
    eps, steps, step_size, decay: as for `mi_fgsm`.
    samples: neighbours of the iterate, >= 1.
    radius: β, in units of eps: neighbours are uniform within it, and may leave [0,1], as in the paper.
    seed: of the neighbours, the same for all images: an image's result does not depend on its batch.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    generator = torch.Generator(x.device).manual_seed(seed)
    step = eps / steps if step_size is None else step_size

    def direction(x_adv, state):
        momentum = state.get("momentum", torch.zeros_like(x_adv))
        gradient = _gradient(model, x_adv + decay * step * momentum, y, targeted)
        momentum = decay * momentum + _unit(gradient + state.get("variance", 0))
        around = torch.zeros_like(x_adv)
        for _ in range(samples):
            noise = 2 * torch.rand(x.shape[1:], generator=generator, device=x.device, dtype=x.dtype) - 1
            around += _gradient(model, x_adv + radius * eps * noise, y, targeted)
        return momentum, {"momentum": momentum, "variance": around / samples - gradient}

    return _iterate(direction, x, eps, steps, step_size)


@attack(revision=1)
def ti_bim(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    kernel_size: int = 7,
) -> Tensor:
    """Translation-invariant BIM (Dong et al. 2019): each channel's gradient is smoothed by a Gaussian.

    eps, steps, step_size: as for `mi_fgsm`.
    kernel_size: odd, in pixels; the Gaussian's standard deviation is a third of its half width,
    as in the paper, whose 15 pixels are meant for images of 299; images of 32 get 7.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is odd and positive, so that it has a centre; got {kernel_size}")
    bell = torch.exp(-torch.linspace(-3, 3, kernel_size).square() / 2) if kernel_size > 1 else torch.ones(1)
    kernel = torch.outer(bell, bell).to(x) / bell.sum() ** 2
    kernel = kernel.expand(x.shape[1], 1, -1, -1)

    def direction(x_adv, state):
        gradient = _gradient(model, x_adv, y, targeted)
        return F.conv2d(gradient, kernel, padding=kernel_size // 2, groups=x.shape[1]), state

    return _iterate(direction, x, eps, steps, step_size)


def _iterate(direction, x, eps, steps, step_size):
    """Signed steps along `direction(x_adv, state) -> direction, state` within the ℓ∞ ball."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    step_size = positive_step(eps / steps if step_size is None else step_size)
    low, high = box(x, eps)
    x_adv, state = x, {}
    for _ in range(steps):
        along, state = direction(x_adv, state)
        x_adv = torch.clamp(x_adv + step_size * along.sign(), low, high)
    return x_adv


def _gradient(model, x_adv, y, targeted):
    """Uphill for the attacker: of the cross-entropy, or down it with `targeted`; (N,C,H,W)."""
    x_adv = x_adv.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(x_adv), y), x_adv)
    return -gradient if targeted else gradient


def _unit(gradient):
    """Each image's gradient over its ℓ1 norm; a zero gradient stays zero."""
    return gradient / gradient.flatten(1).norm(1, dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
