"""Gradients as rows of numbers, to be measured and held against one another."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 200  # images at a time: a pass of a large pipeline keeps tens of megabytes of each


def of_weights(loss: Tensor, network: nn.Module) -> Tensor:
    """The gradient of `loss`, a scalar, with respect to all parameters of `network`, in one row (P,).

    Other losses that share its graph can still be differentiated afterwards.
    """
    parts = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def of_images(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each image's cross-entropy with respect to its pixels: (N,C,H,W), (≥ N,) -> (N,D).

    Each image's own in eval mode only: in training mode BatchNorm mixes the images of a batch.
    """
    found = []
    for part, labels in zip(x.split(SIZE), y[: len(x)].split(SIZE), strict=True):
        images = part.clone().requires_grad_()
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        found.append(torch.autograd.grad(loss, images)[0].flatten(1))
    return torch.cat(found)
