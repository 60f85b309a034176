"""Generator and discriminator of APE-GAN (Jin et al. 2019, Section 3.2)."""

import torch
from torch import nn

from helpers.networks.scaling import scaled


class ApeGanGenerator(nn.Module):
    """Image (N,in_channels,S,S) in [0,1] -> restored image of the same shape in [0,1].

    Two stride-2 convolutions (64, 128) down, two transposed ones up; S divisible by 4.
    """

    def __init__(self, num_classes=None, width=1.0, in_channels=1):
        super().__init__()
        c1, c2 = scaled(width, 64, 128)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, c1, 4, 2, 1), nn.BatchNorm2d(c1), nn.LeakyReLU(0.2),
            nn.Conv2d(c1, c2, 4, 2, 1), nn.BatchNorm2d(c2), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(c2, c1, 4, 2, 1), nn.BatchNorm2d(c1), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(c1, in_channels, 4, 2, 1),
        )  # fmt: skip

    def forward(self, x):
        return (torch.tanh(self.layers(2 * x - 1)) + 1) / 2


class ApeGanDiscriminator(nn.Module):
    """Image (N,in_channels,S,S) in [0,1] -> (N,) logit of "is a natural example"."""

    def __init__(self, num_classes=None, width=1.0, in_channels=1, image_size=28):
        super().__init__()
        c1, c2 = scaled(width, 64, 128)
        side = image_size // 4
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, c1, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(c1, c2, 4, 2, 1), nn.BatchNorm2d(c2), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(side * side * c2, 1),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(2 * x - 1).squeeze(1)
