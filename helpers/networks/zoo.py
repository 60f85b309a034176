"""Ready-made classifiers by name: those inside the advertorch package, and those in `data/zoo`."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from helpers import ROOT, device, networks

# Weights that ship inside the advertorch package.
ADVERTORCH_WEIGHTS = {
    "lenet5_clean": "mnist_lenet5_clntrained.pt",
    "lenet5_adv": "mnist_lenet5_advtrained.pt",
}

# ... and those in data/zoo: the file, the network, its width and its image channels.
ZOO = {
    "fashion_cnn_nat": ("fashion_mnist_cnn_nat.safetensors", "fashion_cnn", 1.0, 1),
    "resnet18_quarter_nat": ("cifar10_resnet18_quarter_nat.safetensors", "resnet18", 0.25, 3),
    "resnet18_quarter_adv": ("cifar10_resnet18_quarter_adv.safetensors", "resnet18", 0.25, 3),
    # trained adversarially, each by another strategy
    "resnet18_eighth_at": ("cifar10_resnet18_eighth_at.safetensors", "resnet18", 0.125, 3),
    "resnet18_eighth_trades": ("cifar10_resnet18_eighth_trades.safetensors", "resnet18", 0.125, 3),
    "resnet18_eighth_mart": ("cifar10_resnet18_eighth_mart.safetensors", "resnet18", 0.125, 3),
    "resnet18_eighth_mma": ("cifar10_resnet18_eighth_mma.safetensors", "resnet18", 0.125, 3),
}


def load_target(name: str) -> nn.Module:
    """A ready-made classifier, in eval mode and frozen, on the device.

    name: "lenet5_clean" and "lenet5_adv", for MNIST, come with the advertorch package, trained on clean
        images and by PGD adversarial training; those of `ZOO`, for Fashion-MNIST and CIFAR-10, are from
        `data/zoo`. No code in a file can run.
    ValueError for another name, with the choices.
    """
    if name in ZOO:
        file, network, width, in_channels = ZOO[name]
        net = networks.build(network, width=width, in_channels=in_channels)
        net.load_state_dict(load_file(ROOT / "data" / "zoo" / file))
    elif name in ADVERTORCH_WEIGHTS:
        import advertorch_examples

        folder = Path(advertorch_examples.__file__).parent / "trained_models"
        net = networks.build("lenet5", in_channels=1)
        weights = torch.load(folder / ADVERTORCH_WEIGHTS[name], map_location="cpu", weights_only=True)
        net.load_state_dict(weights)
    else:
        raise ValueError(f"unknown target: {name!r}; choose one of {', '.join([*ADVERTORCH_WEIGHTS, *ZOO])}")
    return net.to(device()).eval().requires_grad_(False)
