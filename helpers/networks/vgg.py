"""VGG-19 for 32×32 images (Simonyan & Zisserman, ICLR 2015): ARN's third target for CIFAR-10."""

from torch import nn

from helpers.networks.resnet import Standardised
from helpers.networks.scaling import scaled

# Channels, and 3×3 convolutions of each stage; a 2×2 pooling ends it: 32 → 16 → 8 → 4 → 2 → 1.
CHANNELS, DEPTHS = (64, 128, 256, 512, 512), (2, 2, 4, 4, 4)


def vgg19(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> nn.Module:
    """Classifier: (N,in_channels,32,32) in [0,1] -> (N,num_classes) logits; configuration E of the VGG paper.

    As is usual for CIFAR-10: BatchNorm after each convolution, and one fully connected layer instead of
    three, whose 4096 units were made for images of 224×224.  ARN does not say which form it takes.
    """
    layers, c_in = [Standardised(in_channels)], in_channels
    for c_out, depth in zip(scaled(width, *CHANNELS), DEPTHS, strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
            c_in = c_out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(c_in, num_classes))
