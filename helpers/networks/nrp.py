"""Purifier and critic of NRP (Naseer et al., CVPR 2020); the purifier is JATP's denoiser, too (JATP, Section 4.1)."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.networks.scaling import scaled


class DenseBlock(nn.Module):
    """Five 3×3 convolutions, each of which sees the input and all before it: (N,c,H,W) -> (N,c,H,W).

    growth: channels that each of the first four adds.
    """

    def __init__(self, c, growth):
        super().__init__()
        sizes = [growth] * 4 + [c]
        self.convs = nn.ModuleList(nn.Conv2d(c + i * growth, size, 3, 1, 1) for i, size in enumerate(sizes))
        # As in ESRGAN: He et al.'s weights, a tenth of them, so that a block starts near the identity.
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), 0.2)], 1)
        return x + 0.2 * self.convs[-1](seen)


class BasicBlock(nn.Module):
    """ESRGAN's residual-in-residual dense block (Wang et al. 2018, Fig. 4): three dense blocks and a shortcut."""

    def __init__(self, c, growth):
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(c, growth) for _ in range(3)))

    def forward(self, x):
        return x + 0.2 * self.dense(x)


class NRPPurifier(nn.Module):
    """Image (N,in_channels,S,S) in [0,1] -> restored image of the same shape, about in [0,1].

    blocks: basic blocks; NRP has 23, JATP takes 3 for 32×32 images, both for its own denoiser and for NRP.
    As published, there is neither a shortcut from the input to the output (ESRGAN has one around its blocks),
    so that even the identity has to be learned, nor a clipping of the output.
    """

    def __init__(self, num_classes=None, width=1.0, in_channels=3, blocks=3):
        super().__init__()
        c, growth = scaled(width, 64, 32)
        self.first = nn.Conv2d(in_channels, c, 3, 1, 1)
        self.blocks = nn.Sequential(*(BasicBlock(c, growth) for _ in range(blocks)))
        self.last = nn.Conv2d(c, in_channels, 3, 1, 1)

    def forward(self, x):
        return self.last(self.blocks(self.first(x)))


class NRPDiscriminator(nn.Module):
    """Critic C: image (N,in_channels,S,S) in [0,1], S >= 8 -> (N,) score, the higher the more natural.

    NRP's critic is not released.  This is the one of the ESRGAN code that NRP was trained with: stages of a 3×3 and
    a stride-2 4×4 convolution down to 4×4, five of them at 128×128; 32×32 images are left with 4×4 by three.
    """

    def __init__(self, num_classes=None, width=1.0, in_channels=3):
        super().__init__()
        *sizes, hidden = scaled(width, 64, 128, 256, 100)
        layers = [nn.Conv2d(in_channels, sizes[0], 3, 1, 1), nn.LeakyReLU(0.2), *_conv(sizes[0], sizes[0], 4, 2)]
        for a, b in zip(sizes, sizes[1:]):
            layers += _conv(a, b, 3, 1) + _conv(b, b, 4, 2)
        # Pooling does nothing at 32×32; it lets the critic take other sizes.
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * sizes[-1], hidden), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def forward(self, x):
        return self.layers(x).squeeze(1)


def _conv(c_in, c_out, kernel, stride):
    return [nn.Conv2d(c_in, c_out, kernel, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)]
