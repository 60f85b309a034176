"""ResNets for 32×32 images (He et al. 2016): the CIFAR ResNet-110, and ResNet-18 with a 3×3 stem."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.networks.scaling import scaled

# Per-channel mean and standard deviation of CIFAR-10's training images.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Standardised(nn.Module):
    """Images (N,C,H,W) in [0,1] -> the same by CIFAR-10's statistics if of three channels, else in [-1,1]."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        mean, std = (
            (CIFAR_MEAN, CIFAR_STD) if in_channels == 3 else ((0.5,) * in_channels, (0.5,) * in_channels)
        )
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride).

    pad_shortcut: the parameter-free shortcut of the CIFAR ResNets (subsample, pad with zero
    channels), instead of a 1×1 convolution.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, pad_shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride, self.extra = stride, c_out - c_in
        self.shortcut = None
        if (stride != 1 or c_in != c_out) and not pad_shortcut:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride != 1 or self.extra:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(out + x)


class ResNet(Standardised):
    """Classifier: (N,in_channels,H,W) in [0,1] -> (N,num_classes) logits.

    channels, blocks: channels and number of basic blocks of each stage; every stage after
    the first halves the resolution.  It is a Standardised one, rather than to hold one, for the names of its
    weights.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: Sequence[int],
        num_classes: int,
        in_channels: int,
        pad_shortcut: bool,
    ) -> None:
        super().__init__(in_channels)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 3, 1, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()
        )
        stages, c_in = [], channels[0]
        for stage, (c_out, count) in enumerate(zip(channels, blocks, strict=True)):
            for block in range(count):
                stages.append(BasicBlock(c_in, c_out, 2 if stage and not block else 1, pad_shortcut))
                c_in = c_out
        self.blocks = nn.Sequential(*stages)
        self.linear = nn.Linear(c_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(super().forward(x)))
        return self.linear(x.mean((2, 3)))

    def first_features(self, x: Tensor) -> Tensor:
        """Output of the first ReLU, (N,channels[0],H,W): the latent feature ℱ of ARN Fig. 1."""
        return self.stem(super().forward(x))


def resnet18(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> ResNet:
    """ResNet-18 with a 3×3 stem and no initial pooling (11.2 M parameters at width 1)."""
    return ResNet(
        scaled(width, 64, 128, 256, 512), (2, 2, 2, 2), num_classes, in_channels, pad_shortcut=False
    )


def resnet110(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> ResNet:
    """The CIFAR ResNet of 6·18+2 layers with parameter-free shortcuts (1.7 M at width 1)."""
    return ResNet(scaled(width, 16, 32, 64), (18, 18, 18), num_classes, in_channels, pad_shortcut=True)
