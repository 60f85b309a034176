"""The denoising U-Net of HGD (Liao et al. 2018, Section 3.2 and Fig. 3)."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.networks.scaling import scaled


def _stack(c_in, c_out, depth, stride):
    """`depth` 3×3 convolutions with BatchNorm and ReLU; the first one has the stride."""
    layers = []
    for i in range(depth):
        conv = nn.Conv2d(c_in if i == 0 else c_out, c_out, 3, stride if i == 0 else 1, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers)


class DenoisingUNet(nn.Module):
    """DUNET: image (N,C,S,S) in [0,1] -> restored image of the same shape, about in [0,1].

    It predicts the noise, x̂ = x − d̂: clean input is left alone by predicting zero.  Like the
    published one it does not clip x̂, since clipping would hide gradients from an attacker.
    The published network has four stride-2 stages for 299×299 images; a 28 or 32 pixel image
    is left with at least 4×4 by two, so two are used, with the published widths.
    """

    def __init__(self, num_classes=None, width=1.0, in_channels=1):
        super().__init__()
        c1, c2, c3 = scaled(width, 64, 128, 256)
        self.down1 = _stack(in_channels, c1, 2, 1)
        self.down2 = _stack(c1, c2, 3, 2)
        self.down3 = _stack(c2, c3, 3, 2)
        self.up2 = _stack(c3 + c2, c2, 3, 1)
        self.up1 = _stack(c2 + c1, c1, 2, 1)
        self.noise = nn.Conv2d(c1, in_channels, 1)

    def forward(self, x):
        d1 = self.down1(x)
        d2 = self.down2(d1)
        d3 = self.down3(d2)
        u2 = self.up2(torch.cat([F.interpolate(d3, d2.shape[2:]), d2], 1))
        u1 = self.up1(torch.cat([F.interpolate(u2, d1.shape[2:]), d1], 1))
        return x - self.noise(u1)
