"""What tests of several defenses share."""

import torch


def pairs():
    """Four natural images under two attacks, in double precision."""
    torch.manual_seed(1)
    natural = torch.rand(4, 1, 28, 28).double()
    return {
        "natural": natural,
        "adversarial": (natural[:, None] + 0.3 * torch.rand(4, 2, 1, 28, 28)).clamp(0, 1),
    }


def step(method, batch):
    """One training step under plain gradient descent with rate 1.

    -> the gradient of each parameter, by name; the losses that the step reports
    """
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    parts = {
        part: torch.optim.SGD(getattr(method, part).parameters(), lr=1.0) for part in method.optimizers()
    }
    reported = method.training_step(batch, parts)
    return {name: before[name] - p.detach() for name, p in method.named_parameters()}, reported


def assert_gradient(got, loss, method, part):
    """`got`, as from `step`, holds the gradient of `loss` with respect to a part of `method`."""
    named = {f"{part}.{name}": p for name, p in getattr(method, part).named_parameters()}
    for name, expected in zip(
        named, torch.autograd.grad(loss, named.values(), retain_graph=True), strict=True
    ):
        torch.testing.assert_close(got[name], expected, atol=1e-9, rtol=1e-6)
