"""Defenses by name, one file each: networks wired, losses equation by equation, training step."""

from torch import nn

from helpers.defenses.add import ADD
from helpers.defenses.adversarial_training import AdversarialTraining
from helpers.defenses.ape_gan import ApeGan
from helpers.defenses.arn import ARN, ReleasedARN
from helpers.defenses.classifier import Classifier
from helpers.defenses.dir import DIR, DIRPretraining
from helpers.defenses.full import FullAdversarial
from helpers.defenses.hgd import HGD
from helpers.defenses.jatp import JATP
from helpers.defenses.mart import Mart
from helpers.defenses.me_net import MeNet
from helpers.defenses.mma import Mma
from helpers.defenses.nrp import NRP
from helpers.defenses.smoothing import Smoothed
from helpers.defenses.trades import Trades

DEFENSES = {
    "ape_gan": ApeGan,
    "hgd": HGD,
    "arn": ARN,
    "arn_released": ReleasedARN,
    "add": ADD,
    "nrp": NRP,
    "jatp": JATP,
    "dir_pretraining": DIRPretraining,
    "dir": DIR,
    "classifier": Classifier,
    "adversarial_training": AdversarialTraining,
    "trades": Trades,
    "mart": Mart,
    "mma": Mma,
    "me_net": MeNet,
    "smoothing": Smoothed,
}


# Denoisers that a target guides in training.
GUIDED = ("hgd", "nrp", "jatp", "dir")


def build(name, target=None, full=None, **settings):
    """A freshly initialised method, ready for `helpers.training.fit`.

    Denoisers map images (N,C,H,W) in [0,1] to restored images of the same shape;
    `classifier`, `adversarial_training`, `trades`, `mart`, `mma`, `me_net` and `smoothing` are classifiers instead,
    which learn from `natural` and `label` alone (`mma` also needs each image's `index`).  `settings` are those of the class.
    target: the classifier that guides the training of a denoiser (GUIDED), or that is attacked along with it (`full`).
    full: train a denoiser on full adversarial examples, `FullAdversarial`; settings of that attack.
    Raises ValueError for an unknown name.
    """
    if name not in DEFENSES:
        raise ValueError(f"unknown defense {name!r}; choose one of {', '.join(DEFENSES)}")
    method = DEFENSES[name](**({"target": target} if name in GUIDED else {}), **settings)
    return method if full is None else FullAdversarial(method, target, **full)


class Defended(nn.Module):
    """The whole pipeline, target ∘ denoiser: images (N,C,H,W) in [0,1] -> logits (N,K)."""

    def __init__(self, target, denoiser):
        super().__init__()
        self.target, self.denoiser = target, denoiser

    def forward(self, x):
        return self.target(self.denoiser(x))
