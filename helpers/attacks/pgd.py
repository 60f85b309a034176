"""FGSM (Goodfellow et al. 2015) and PGD (Madry et al. 2018): the plain loop.

By hand because the training loops live on it: advertorch takes 1.3 times as long for the
same steps.  A test holds it to advertorch's result, step for step.
"""

import torch
from torch.nn import functional as F


def dlr_loss(logits, y):
    """Difference-of-logits ratio (Croce & Hein 2020, Eq. 6), summed; (N,K), (N,) -> scalar.

    Invariant to shifting and scaling the logits, so that a defense cannot hide behind large
    logits that make the cross-entropy's gradient vanish.  Needs at least three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"the dlr loss needs at least three classes, got {logits.shape[1]}")
    top = logits.topk(3, 1).values
    own = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return ((other - own) / (top[:, 0] - top[:, 2] + 1e-12)).sum()


def cross_entropy(logits, y):
    """Cross-entropy, summed over the batch; (N,K), (N,) -> scalar."""
    return F.cross_entropy(logits, y, reduction="sum")


LOSSES = {"ce": cross_entropy, "dlr": dlr_loss}


def pgd(model, x, y, *, targeted, eps, steps=40, step_size=None, norm="linf", random_start=True, loss="ce", seed=0):
    """Projected gradient ascent on the loss in the `norm` ball of radius `eps`, then [0,1].

    eps, step_size: in units of the [0,1] image; step_size defaults to 2.5·eps/steps (Madry's rule).
    random_start: uniform in the ball.  loss: "ce" or "dlr".  With `targeted` the loss
    towards `y` is minimised.
    """
    if norm not in ("linf", "l2") or loss not in LOSSES or steps < 1:
        raise ValueError(f"norm is linf or l2, loss one of {sorted(LOSSES)}, steps >= 1; got {norm}, {loss}, {steps}")
    step_size = 2.5 * eps / steps if step_size is None else step_size
    step_size = -step_size if targeted else step_size
    objective = LOSSES[loss]
    # The memory format of the convolutions, once, instead of a conversion in each layer and step.
    x = x.contiguous(memory_format=torch.channels_last)
    low, high = (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)
    x_adv = _start(x, eps, norm, seed).clamp_(0, 1) if random_start else x
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(model(x_adv), y), x_adv)
        with torch.no_grad():
            if norm == "linf":
                x_adv = torch.clamp(x_adv.add(gradient.sign_(), alpha=step_size), low, high)
            else:
                x_adv = x_adv + step_size * gradient / _length(gradient)
                x_adv = x_adv.sub_(x).mul_((eps / _length(x_adv)).clamp_(max=1)).add_(x).clamp_(0, 1)
    return x_adv


def fgsm(model, x, y, *, targeted, eps):
    """One signed gradient step of length `eps`, without a random start."""
    return pgd(model, x, y, targeted=targeted, eps=eps, steps=1, step_size=eps, random_start=False)


def _start(x, eps, norm, seed):
    generator = torch.Generator(x.device).manual_seed(seed)
    if norm == "linf":
        return x + eps * (2 * torch.rand(x.shape, generator=generator, device=x.device) - 1)
    direction = torch.randn(x.shape, generator=generator, device=x.device)
    radius = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) ** (1 / x[0].numel())
    return x + eps * radius * direction / _length(direction)


def _length(t):
    """Euclidean norm of each image, (N,1,1,1), kept off zero."""
    return t.flatten(1).norm(dim=1).clamp_(min=1e-12).view(-1, 1, 1, 1)
