"""LeNet-5 as in advertorch, whose package carries the weights that ARN attacks and defends."""

from torch import Tensor, nn
from torch.nn import functional as F

from helpers.networks.scaling import scaled


class LeNet5(nn.Module):
    """Classifier for 28×28 images: (N,in_channels,28,28) in [0,1] -> (N,num_classes) logits.

    Two 3×3 convolutions (32, 64), each with ReLU and 2×2 max-pooling, then 200 hidden units.
    The attribute names are advertorch's, so that its state dicts load as they are.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        c1, c2, hidden = scaled(width, 32, 64, 200)
        self.conv1 = nn.Conv2d(in_channels, c1, 3, padding=1)
        self.conv2 = nn.Conv2d(c1, c2, 3, padding=1)
        self.linear1 = nn.Linear(7 * 7 * c2, hidden)
        self.linear2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))

    def first_features(self, x: Tensor) -> Tensor:
        """Output of the first ReLU, (N,32·width,28,28): the latent feature ℱ of ARN Fig. 1."""
        return F.relu(self.conv1(x))
