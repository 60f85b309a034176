"""HGD: the high-level representation guided denoiser (Liao et al., CVPR 2018)."""

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
    The published network has four stride-2 stages for 299×299 images; a 28 or 32 pixel image
    is left with at least 4×4 by two, so two are used, with the published widths.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        c1, c2, c3 = scaled(width, 64, 128, 256)
        self.down1 = _stack(in_channels, c1, 2, 1)
        self.down2 = _stack(c1, c2, 3, 2)
        self.down3 = _stack(c2, c3, 3, 2)
        self.up2 = _stack(c3 + c2, c2, 3, 1)
        self.up1 = _stack(c2 + c1, c1, 2, 1)
        self.noise = nn.Conv2d(c1, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        d1 = self.down1(x)
        d2 = self.down2(d1)
        d3 = self.down3(d2)
        u2 = self.up2(torch.cat([F.interpolate(d3, d2.shape[2:]), d2], 1))
        u1 = self.up1(torch.cat([F.interpolate(u2, d1.shape[2:]), d1], 1))
        return x - self.noise(u1)


def _stack(c_in: int, c_out: int, depth: int, stride: int) -> nn.Module:
    """`depth` 3×3 convolutions with BatchNorm and ReLU; the first one has the stride."""
    layers = []
    for i in range(depth):
        conv = nn.Conv2d(c_in if i == 0 else c_out, c_out, 3, stride if i == 0 else 1, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers)


class HGD(Denoiser):
    """A denoising U-Net trained to give the target the logits it gives the natural example.

    target, full: as in `Denoiser`; the target guides the training.
    width: scales the channels.
    in_channels: C.
    learning_rate: of Adam.
    """

    def __init__(
        self,
        target: nn.Module | None = None,
        full: dict | None = None,
        width: float = 1.0,
        in_channels: int = 1,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(target, full)
        self.unet = DenoisingUNet(width, in_channels)
        self.learning_rate = learning_rate
        self.to(memory_format=torch.channels_last)  # faster, and the same function

    def forward(self, x: Tensor) -> Tensor:
        return self.unet(x)

    def optimizers(self) -> Optimizers:
        return {"unet": adam([self.unet], self.learning_rate)}

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """Logits-guided denoising (Liao et al., Eq. 4): ‖f(x̂) − f(x)‖₁ of the target's logits f.

        `natural` (B,C,S,S), `adversarial` (B,K,C,S,S); `label` (B,): with `full`, instead of `adversarial`.
        As in that paper the natural examples are among the inputs, so that the denoiser learns to leave them
        alone.
        """
        natural = batch["natural"]
        x = stacked(self.adversarial(batch), natural)
        with attackable(self.target) as target:  # in eval mode and frozen
            with torch.no_grad():
                wanted = target(natural).to(natural.dtype)
            logits = target(self.unet(x)).to(natural.dtype)
        guided = (logits - wanted.repeat(len(x) // len(natural), 1)).abs().sum(1).mean()
        descend(guided, optimizers["unet"])
        return detached({"guided": guided})
