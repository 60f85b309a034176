"""Defenses by name, one file each: networks wired, losses equation by equation, training step."""

from torch import nn

from helpers.defenses.add import ADD
from helpers.defenses.adversarial_training import AdversarialTraining
from helpers.defenses.ape_gan import ApeGan
from helpers.defenses.arn import ARN, ReleasedARN
from helpers.defenses.classifier import Classifier
from helpers.defenses.hgd import HGD
from helpers.defenses.smoothing import Smoothed

DEFENSES = {
    "ape_gan": ApeGan,
    "hgd": HGD,
    "arn": ARN,
    "arn_released": ReleasedARN,
    "add": ADD,
    "classifier": Classifier,
    "adversarial_training": AdversarialTraining,
    "smoothing": Smoothed,
}


def build(name, **settings):
    """A freshly initialised method, ready for `helpers.training.fit`.

    Denoisers map images (N,C,H,W) in [0,1] to restored images of the same shape;
    `classifier`, `adversarial_training` and `smoothing` are classifiers instead, which learn from
    `natural` and `label` alone.  `settings` are those of the class.
    Raises ValueError for an unknown name.
    """
    if name not in DEFENSES:
        raise ValueError(f"unknown defense {name!r}; choose one of {', '.join(DEFENSES)}")
    return DEFENSES[name](**settings)


class Defended(nn.Module):
    """The whole pipeline, target ∘ denoiser: images (N,C,H,W) in [0,1] -> logits (N,K)."""

    def __init__(self, target, denoiser):
        super().__init__()
        self.target, self.denoiser = target, denoiser

    def forward(self, x):
        return self.target(self.denoiser(x))
