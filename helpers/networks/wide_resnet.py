"""WRN-28-20 for 32×32 images (Zagoruyko & Komodakis, BMVC 2016): ARN's second target for CIFAR-10."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from helpers.networks.resnet import Standardised
from helpers.networks.scaling import scaled

STEM, BLOCKS = 16, 4  # channels of the first convolution; blocks of each group, (28 − 4) / 6


class WideBlock(nn.Module):
    """BatchNorm, ReLU before each of two 3×3 convolutions: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.shortcut = (
            None if c_in == c_out and stride == 1 else nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Classifier: (N,in_channels,H,W) in [0,1] -> (N,num_classes) logits.

    The published one has 320, 640 and 1280 channels in its three groups, 20 times those of the first
    convolution, which keeps its 16 at any `width`: a slim network would see the image through one channel.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> None:
        super().__init__()
        sizes = [STEM, *scaled(width, 320, 640, 1280)]
        self.stem = nn.Sequential(
            Standardised(in_channels), nn.Conv2d(in_channels, STEM, 3, 1, 1, bias=False)
        )
        blocks = []
        for group, (a, b) in enumerate(pairwise(sizes)):
            strides = [2 if group else 1] + [1] * (BLOCKS - 1)
            blocks += [WideBlock(b if i else a, b, stride) for i, stride in enumerate(strides)]
        self.blocks = nn.Sequential(*blocks, nn.BatchNorm2d(sizes[-1]), nn.ReLU())
        self.linear = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.blocks(self.stem(x)).mean((2, 3)))
