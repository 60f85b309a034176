"""Classifiers by name.  All take images in [0,1] and keep their normalisation inside."""

import torch
from torch import nn

from helpers.networks.lenet import LeNet5
from helpers.networks.resnet import resnet18, resnet110
from helpers.networks.small_cnns import fashion_cnn, lisa_cnn, svhn_cnn
from helpers.networks.vgg import vgg19
from helpers.networks.wide_resnet import WideResNet

NETWORKS = {
    "lenet5": LeNet5,
    "resnet18": resnet18,
    "resnet110": resnet110,
    "wrn28_20": WideResNet,
    "vgg19": vgg19,
    "fashion_cnn": fashion_cnn,
    "svhn_cnn": svhn_cnn,
    "lisa_cnn": lisa_cnn,
}


def build(name: str, num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> nn.Module:
    """A freshly initialised classifier in channels_last format (faster, and the same function).

    name: one of `NETWORKS`.
    num_classes: outputs.
    width: scales all channel counts (but those of `wrn28_20`'s first layer); 1.0 is the published network.
    in_channels: 1 or 3 image channels.
    Raises ValueError for an unknown name, or a width that is not positive.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    network = NETWORKS[name](num_classes=num_classes, width=width, in_channels=in_channels)
    return network.to(memory_format=torch.channels_last)
