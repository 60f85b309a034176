"""Randomised smoothing (Cohen et al., ICML 2019): classify many noisy copies of an image, and let them vote."""

import torch
from torch.nn import functional as F

from helpers.defenses.classifier import Classifier
from helpers.threats import eot


class Smoothed(Classifier):
    """A classifier smoothed by Gaussian noise: (N,C,S,S) in [0,1] -> (N,num_classes) logits.

    sigma: standard deviation of the noise, in units of the [0,1] image (ADD, Appendix E: 0.25, 0.5 and 1).
        Noisy images are not clipped.
    samples: noisy copies of an image in a pass in eval mode.
    network, width, in_channels, num_classes, learning_rate: as in `Classifier`.
    Raises ValueError for a sigma that is not positive, or at the first pass for fewer than one sample.

    In train mode it is the base classifier f on noisy images, which `helpers.training.fit` trains as Cohen
    et al. do.  In eval mode it is the *soft* smoothed classifier of Salman et al. 2019, the logarithm of
    the mean of f's probabilities over `samples` copies: it has gradients, so that it can be attacked.
    `votes` counts Cohen's hard votes.  Noise is drawn from torch's global generator, for a whole batch at once.
    """

    def __init__(self, sigma=0.25, samples=16, **network):
        super().__init__(**network)
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}: without noise use `classifier`")
        self.sigma, self.samples = sigma, samples

    def forward(self, x):
        return self.noisy(x) if self.training else eot(self.noisy, self.samples)(x)

    @property
    def deployed(self):
        """The whole of it: the network is only its base classifier."""
        return self

    def noisy(self, x):
        """Logits f(x + σε), ε ~ N(0,I)."""
        return self.network(x + self.sigma * torch.randn_like(x))


@torch.no_grad()
def votes(smoothed, x, samples=100):
    """How many of `samples` noisy copies of each image are given each class; (N,C,S,S) -> (N,num_classes) int64.

    The most frequent class, `votes(...).argmax(1)`, is the prediction of Cohen et al.'s Predict.  Theirs abstains
    where the two largest counts do not differ significantly; ADD counts a right or a wrong answer for each image.
    """
    counts = 0
    for _ in range(samples):
        logits = smoothed.noisy(x)
        counts = counts + F.one_hot(logits.argmax(1), logits.shape[1])
    return counts
