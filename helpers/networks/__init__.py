"""Networks by name.  All take images in [0,1] and keep their normalisation inside."""

import torch

from helpers.networks.ape_gan import ApeGanDiscriminator, ApeGanGenerator
from helpers.networks.arn import AttackDiscriminator, Encoder, Generator, ImageDiscriminator
from helpers.networks.hgd import DenoisingUNet
from helpers.networks.lenet import LeNet5
from helpers.networks.masked_vit import MaskedViT
from helpers.networks.nrp import NRPDiscriminator, NRPPurifier
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
    "encoder": Encoder,
    "generator": Generator,
    "attack_discriminator": AttackDiscriminator,
    "image_discriminator": ImageDiscriminator,
    "ape_gan_generator": ApeGanGenerator,
    "ape_gan_discriminator": ApeGanDiscriminator,
    "hgd_unet": DenoisingUNet,
    "masked_vit": MaskedViT,
    "nrp_purifier": NRPPurifier,
    "nrp_discriminator": NRPDiscriminator,
}


def build(name, num_classes=10, width=1.0, in_channels=3, **more):
    """A freshly initialised network in channels_last format (faster, and the same function).

    num_classes: outputs of a classifier (attack types for `attack_discriminator`).
    width: scales all channel counts (but those of `wrn28_20`'s first layer); 1.0 is the published network.
    in_channels: 1 or 3 image channels.
    more: `image_size` (28 or 32) for `encoder`, `generator`, `image_discriminator`,
        `ape_gan_discriminator`, `masked_vit`; `variational` for `encoder`; `out_channels` for `generator`;
        `patch`, `encoder` and `decoder` for `masked_vit`.
    Raises ValueError for an unknown name, a width that is not positive, or an image size a
    network has no published form for.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    network = NETWORKS[name](num_classes=num_classes, width=width, in_channels=in_channels, **more)
    return network.to(memory_format=torch.channels_last)
