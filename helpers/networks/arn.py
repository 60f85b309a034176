"""The four networks of ARN (and of ADD-Defense, Appendix C.3, Table 4).

Five stride-2 convolutions with 4×4 kernels cannot take a 28×28 image down to 1×1 and back;
ARN's released code uses a 2×2 kernel in the second layer for it, and so do we: 28 → 14 → 8 →
4 → 2 → 1.  A 32×32 image needs no such change.  Batch normalisation in encoder and generator
follows ARN's released code (ADD's table does not list it).
"""

import torch
from torch import nn

from helpers.networks.scaling import scaled

# side of the image -> kernel of the second convolution (of the last but one in the generator)
SECOND_KERNEL = {28: 2, 32: 4}


def _kernels(image_size):
    if image_size not in SECOND_KERNEL:
        raise ValueError(f"the ARN networks exist for images of side {sorted(SECOND_KERNEL)}, got {image_size}")
    return (4, SECOND_KERNEL[image_size], 4, 4, 4)


def _block(conv, c_in, c_out, kernel):
    return nn.Sequential(conv(c_in, c_out, kernel, 2, 1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2))


def _initialise(module):
    """DCGAN's initialisation, as in the released code (whose BatchNorm draws around 0, ours around 1)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class Encoder(nn.Module):
    """E: image (N,in_channels,S,S) in [0,1] -> code (N,D), D = 2048·width.

    variational: a second head gives the log-variance of a Gaussian posterior, so that the
    output is the pair (mean, log-variance), each (N,D), as in ARN's released code.
    """

    def __init__(self, num_classes=None, width=1.0, in_channels=1, image_size=28, variational=False):
        super().__init__()
        sizes = [in_channels, *scaled(width, 128, 256, 512, 1024)]
        kernels = _kernels(image_size)
        self.features = nn.Sequential(*(_block(nn.Conv2d, a, b, k) for a, b, k in zip(sizes, sizes[1:], kernels)))
        self.code_size = scaled(width, 2048)[0]
        self.mean = nn.Conv2d(sizes[-1], self.code_size, kernels[-1], 2, 1)
        self.log_variance = nn.Conv2d(sizes[-1], self.code_size, kernels[-1], 2, 1) if variational else None
        self.apply(_initialise)

    def forward(self, x):
        features = self.features(2 * x - 1)
        mean = self.mean(features).flatten(1)
        return mean if self.log_variance is None else (mean, self.log_variance(features).flatten(1))


class Generator(nn.Module):
    """G: code (N,D) -> image (N,out_channels,S,S) in [0,1]; the mirror image of the encoder."""

    def __init__(self, num_classes=None, width=1.0, in_channels=1, image_size=28, out_channels=None):
        super().__init__()
        sizes = scaled(width, 2048, 1024, 512, 256, 128)
        kernels = _kernels(image_size)[::-1]
        self.blocks = nn.Sequential(*(_block(nn.ConvTranspose2d, a, b, k) for a, b, k in zip(sizes, sizes[1:], kernels)))
        self.image = nn.ConvTranspose2d(sizes[-1], out_channels or in_channels, kernels[-1], 2, 1)
        self.apply(_initialise)

    def forward(self, code):
        return (torch.tanh(self.image(self.blocks(code[:, :, None, None]))) + 1) / 2


class AttackDiscriminator(nn.Module):
    """D_A (D_P in ADD): code (N,in_channels) -> (N,num_classes) logits of the attack type."""

    def __init__(self, num_classes=3, width=1.0, in_channels=2048):
        super().__init__()
        sizes = [in_channels, *scaled(width, 1024, 256, 64)]
        hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], num_classes))

    def forward(self, code):
        return self.layers(code)


class ImageDiscriminator(nn.Module):
    """D_I: image (N,in_channels,S,S) in [0,1] -> (N,) logit of "is a natural example"."""

    def __init__(self, num_classes=None, width=1.0, in_channels=1, image_size=28):
        super().__init__()
        sizes = [in_channels, *scaled(width, 32, 64, 128, 256)]
        layers = []
        for a, b, kernel in zip(sizes, sizes[1:], _kernels(image_size)):
            layers += [nn.Conv2d(a, b, kernel, 2, 1), nn.LeakyReLU(0.2)]
        hidden = scaled(width, 512)[0]
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(2 * 2 * sizes[-1], hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )
        self.apply(_initialise)

    def forward(self, x):
        return self.layers(2 * x - 1).squeeze(1)
