"""FGSM (Goodfellow et al. 2015), PGD (Madry et al. 2018), and the loop that all of its kin share.

Our own implementation, because the training loops live on it: advertorch takes 1.3 times as long for the
same steps.  A test holds it to advertorch's result, step for step.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.attacks.contract import attack


def dlr_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Difference-of-logits ratio (Croce & Hein 2020, Eq. 6), summed; (N,K), (N,) -> scalar.

    Invariant to shifting and scaling the logits, so that a defense cannot hide behind large
    logits that make the cross-entropy's gradient vanish.  ValueError for fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"the dlr loss needs at least three classes, got {logits.shape[1]}")
    top = logits.topk(3, 1).values
    return (-margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)).sum()


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, summed over the batch; (N,K), (N,) -> scalar."""
    return F.cross_entropy(logits, y, reduction="sum")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of class `y` minus the largest other one; (N,K), (N,) -> (N,).  Negative: not predicted."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return own - other


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log(p/(1−p)) of class `y`'s probability p; (N,K), (N,) -> (N,).

    It orders images, and its gradient points, as log p does, but it does not round to nothing
    where the model is sure.
    """
    own = logits.gather(1, y[:, None]).squeeze(1)
    return own - logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)


LOSSES = {"ce": cross_entropy, "dlr": dlr_loss}


@attack(revision=1)
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    steps: int = 40,
    step_size: float | None = None,
    norm: str = "linf",
    random_start: bool = True,
    loss: str = "ce",
    seed: int = 0,
) -> Tensor:
    """Projected gradient ascent on the loss in the `norm` ball of radius `eps`, then [0,1].

    eps: radius > 0, in units of the [0,1] image.
    steps: >= 1.
    step_size: in units of the [0,1] image; None: 2.5·eps/steps (Madry's rule).
    norm: "linf" or "l2".
    random_start: from a uniform point of the ball, drawn by `seed` and by an image's place in the batch.
    loss: "ce" or "dlr".
    With `targeted` the loss towards `y` is minimised; "dlr" is a poor one for that, since it is served by
    confidence in any label: the targeted form of Croce & Hein (Eq. 7), which `aa` uses, knows the true
    label, too.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is one of {sorted(LOSSES)}, got {loss!r}")
    sign = -1 if targeted else 1
    return ascend(
        lambda x_adv: sign * LOSSES[loss](model(x_adv), y),
        in_format_of(model, x),
        eps=eps,
        steps=steps,
        step_size=step_size,
        norm=norm,
        random_start=random_start,
        seed=seed,
    )


@attack(revision=1)
def pgd_dlr(model: nn.Module, x: Tensor, y: Tensor, *, targeted: bool, **settings) -> Tensor:
    """PGD on the difference-of-logits ratio; the settings are those of `pgd`, which says what to mind."""
    return pgd(model, x, y, targeted=targeted, loss="dlr", **settings)


@attack(revision=1)
def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, targeted: bool, eps: float) -> Tensor:
    """One signed gradient step of length `eps` > 0 (units of the [0,1] image), without a random start."""
    return pgd(model, x, y, targeted=targeted, eps=eps, steps=1, step_size=eps, random_start=False)


def ascend(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    eps: float,
    steps: int = 40,
    step_size: float | None = None,
    norm: str = "linf",
    random_start: bool = True,
    seed: int = 0,
    start: Tensor | None = None,
) -> Tensor:
    """The projected ascent itself: `steps` steps up `loss`, from images `x` (N,C,H,W) in [0,1].

    loss: images -> scalar, a sum over the images, so that each one's gradient is its own.
    start: images from which to go on, instead of `x` or a random start.
    The other settings are those of `pgd`.  The random start goes by an image's place in the batch; apart
    from it an image's result does not depend on its neighbours.
    ValueError for an unknown norm, steps < 1 and step_size <= 0.
    """
    if norm not in ("linf", "l2") or steps < 1:
        raise ValueError(f"norm is linf or l2, steps >= 1; got {norm}, {steps}")
    step_size = positive_step(2.5 * eps / steps if step_size is None else step_size)
    if norm == "linf":
        low, high = box(x, eps)
    if start is None:
        start = _start(x, eps, norm, seed).clamp_(0, 1) if random_start else x
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x_adv), x_adv)
        with torch.no_grad():
            if norm == "linf":
                x_adv = torch.clamp(x_adv.add(gradient.sign(), alpha=step_size), low, high)
            else:
                x_adv = x_adv + step_size * gradient / _length(gradient)
                x_adv = x_adv.sub_(x).mul_((eps / _length(x_adv)).clamp_(max=1)).add_(x).clamp_(0, 1)
    return x_adv


def in_format_of(model: nn.Module, x: Tensor) -> Tensor:
    """`x` in the memory format of the model's convolutions: converted once, not in each layer and step."""
    weights = (p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    last = any(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def positive_step(step_size: float) -> float:
    """`step_size`; ValueError unless it is positive: downhill, an attack repairs images."""
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}: leave it out for the default")
    return step_size


def box(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The ℓ∞ ball around `x` within [0,1]: its lower and upper corner, each of x's shape (`in_range`)."""
    eps = in_range(eps)
    return (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)


def in_range(eps: float) -> float:
    """The ℓ∞ radius `eps`; ValueError where it is more than 1, the whole range of a pixel."""
    if eps > 1:
        raise ValueError(f"eps={eps:g} is more than the whole range [0,1]: did you mean {eps:g}/255?")
    return eps


def _start(x, eps, norm, seed):
    generator = torch.Generator(x.device).manual_seed(seed)
    drawn = {"generator": generator, "device": x.device, "dtype": torch.float32}  # whatever the default is
    if norm == "linf":
        return x + eps * (2 * torch.rand(x.shape, **drawn) - 1)
    direction = torch.randn(x.shape, **drawn)
    radius = torch.rand(len(x), 1, 1, 1, **drawn) ** (1 / x[0].numel())
    return x + eps * radius * direction / _length(direction)


def _length(t):
    """Euclidean norm of each image, (N,1,1,1), kept off zero."""
    return t.flatten(1).norm(dim=1).clamp_(min=1e-12).view(-1, 1, 1, 1)
