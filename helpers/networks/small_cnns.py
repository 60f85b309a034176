"""ADD's small targets (Appendix C.2): (N,in_channels,S,S) in [0,1] -> (N,num_classes) logits."""

from itertools import pairwise

from torch import Tensor, nn

from helpers.networks.scaling import scaled


class _Centred(nn.Module):
    """[0,1] -> [-1,1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def fashion_cnn(num_classes: int = 10, width: float = 1.0, in_channels: int = 1) -> nn.Module:
    """Fashion-MNIST, S = 28: three convolutions, each with ReLU and max-pooling, and one linear layer.

    The paper gives no sizes; 3×3 kernels and 32, 64, 128 channels are ours: 28 → 14 → 7 → 3.
    """
    sizes = [in_channels, *scaled(width, 32, 64, 128)]
    stages = []
    for a, b in pairwise(sizes):
        stages += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(_Centred(), *stages, nn.Flatten(), nn.Linear(3 * 3 * sizes[-1], num_classes))


def svhn_cnn(num_classes: int = 10, width: float = 1.0, in_channels: int = 3) -> nn.Module:
    """SVHN, S = 32: four convolutions, each with max-pooling and dropout 0.3, and one fully connected layer.

    Its stages are those of the network that the paper cites (pytorch-playground: 3×3 kernels, 32 to 256
    channels, BatchNorm without gains, 32 → 16 → 8 → 4 → 1).  That one has a second convolution in the
    first three of them, seven in all; we follow the paper's text.
    """
    sizes = [in_channels, *scaled(width, 32, 64, 128, 256)]
    stages = []
    for (a, b), padding in zip(pairwise(sizes), (1, 1, 1, 0), strict=True):
        norm = nn.BatchNorm2d(b, affine=False)
        stages += [nn.Conv2d(a, b, 3, padding=padding), norm, nn.ReLU(), nn.Dropout(0.3), nn.MaxPool2d(2)]
    return nn.Sequential(_Centred(), *stages, nn.Flatten(), nn.Linear(sizes[-1], num_classes))


def lisa_cnn(num_classes: int = 16, width: float = 1.0, in_channels: int = 3) -> nn.Module:
    """LISA's traffic signs, S = 32: LISA-CNN of Eykholt et al. 2018, as in Wu et al. 2020.

    32 → 16 → 6 → 2, so that the fully connected layer has 512 inputs.  It takes [0,1] as it is.
    """
    c1, c2, c3 = scaled(width, 64, 128, 128)
    convolutions = [nn.Conv2d(in_channels, c1, 8, 2, 3), nn.Conv2d(c1, c2, 6, 2), nn.Conv2d(c2, c3, 5)]
    stages = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(2 * 2 * c3, num_classes))
