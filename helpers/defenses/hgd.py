"""HGD: the high-level representation guided denoiser (Liao et al., CVPR 2018)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.defenses.base import Denoiser, adam, descend, detached, stacked
from helpers.networks.scaling import scaled
from helpers.training import Optimizers, Tensors


class DenoisingUNet(nn.Module):
    """DUNET (Section 3.2, Fig. 3): image (N,C,S,S) in [0,1] -> restored image of its shape, about in [0,1].

    It predicts the noise, x̂ = x − d̂: clean input is left alone by predicting zero.  Like the
    published one it does not clip x̂, since clipping would hide gradients from an attacker.
    Four stride-2 stages down, 32 → 16 → 8 → 4 → 2 or 28 → 14 → 7 → 4 → 2, and four up, of the
    published widths and depths; the published images have 299×299 pixels.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        first, *deeper = scaled(width, 64, 128, 256, 256, 256)
        steps = list(pairwise([first, *deeper]))
        self.down = nn.ModuleList([_stack(in_channels, first, 2, 1), *(_stack(a, b, 3, 2) for a, b in steps)])
        self.up = nn.ModuleList(_stack(a + b, a, 3, 1) for a, b in steps[:0:-1])
        self.up.append(_stack(first + deeper[0], first, 2, 1))
        self.noise = nn.Conv2d(first, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for stage in self.down:
            features.append(stage(features[-1]))
        out = features.pop()
        for stage in self.up:
            beside = features.pop()
            larger = F.interpolate(out, beside.shape[2:], mode="bilinear")
            out = stage(torch.cat([larger, beside], 1))
        return x - self.noise(out)


def _stack(c_in: int, c_out: int, depth: int, stride: int) -> nn.Module:
    """`depth` 3×3 convolutions with BatchNorm and ReLU; the first one has the stride."""
    layers = []
    for i in range(depth):
        conv = nn.Conv2d(c_in if i == 0 else c_out, c_out, 3, stride if i == 0 else 1, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers)


class HGD(Denoiser):
    """A denoising U-Net trained to give the target the logits it gives the natural example.

    target, full, augment: as in `Denoiser`; the target guides the training.
    width: scales the channels.
    in_channels: C.
    learning_rate: of Adam.
    natural_domain: natural images are inputs too, as one more attack, as in the released code of Liao et al.
        ("noop" in its `train_attack.txt`).  False: attacked images only, as ARN's Section 4.2 is read here.
    """

    revision = 2  # four stages, bilinear

    def __init__(
        self,
        target: nn.Module | None = None,
        full: dict | None = None,
        width: float = 1.0,
        in_channels: int = 1,
        learning_rate: float = 1e-3,
        natural_domain: bool = True,
        augment: bool = False,
    ) -> None:
        super().__init__(target, full, augment=augment)
        self.unet = DenoisingUNet(width, in_channels)
        self.learning_rate, self.natural_domain = learning_rate, natural_domain
        self.to(memory_format=torch.channels_last)  # faster, and the same function

    def forward(self, x: Tensor) -> Tensor:
        return self.unet(x)

    def optimizers(self) -> Optimizers:
        return {"unet": adam([self.unet], self.learning_rate)}

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """Logits-guided denoising (Liao et al., Eq. 4): ‖f(x̂) − f(x)‖₁ of the target's logits f.

        `natural` (B,C,S,S), `adversarial` (B,K,C,S,S); `label` (B,): with `full`, instead of `adversarial`.
        With `natural_domain` the denoiser learns to leave natural examples alone.
        """
        batch = self.inputs(batch)
        natural = batch["natural"]
        x = stacked(self.adversarial(batch), natural if self.natural_domain else None)
        with attackable(self.target) as target:  # in eval mode and frozen
            with torch.no_grad():
                wanted = target(natural).to(natural.dtype)
            logits = target(self.unet(x)).to(natural.dtype)
        guided = (logits - wanted.repeat(len(x) // len(natural), 1)).abs().sum(1).mean()
        descend(guided, optimizers["unet"])
        return detached({"guided": guided})
