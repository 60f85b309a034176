"""APE-GAN (Jin et al., ICASSP 2019): restore adversarial examples with a GAN in pixel space."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.defenses.arn import Encoder, Generator, ImageDiscriminator
from helpers.defenses.base import Denoiser, adam, descend, detached, stacked
from helpers.losses import deceive_loss, real_fake_loss
from helpers.networks.scaling import scaled
from helpers.training import Optimizers, Tensors


class ApeGanGenerator(nn.Module):
    """Image (N,in_channels,S,S) in [0,1] -> restored image of the same shape in [0,1] (Section 3.2).

    Two stride-2 convolutions (64, 128) down, two transposed ones up; S divisible by 4.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        c1, c2 = scaled(width, 64, 128)
        self.layers = nn.Sequential(
            *_stage(nn.Conv2d, in_channels, c1),
            *_stage(nn.Conv2d, c1, c2),
            *_stage(nn.ConvTranspose2d, c2, c1),
            nn.ConvTranspose2d(c1, in_channels, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(self.layers(2 * x - 1)) + 1) / 2


class ApeGanDiscriminator(nn.Module):
    """Image (N,in_channels,S,S) in [0,1] -> (N,) logit of "is a natural example"."""

    def __init__(self, width: float = 1.0, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        c1, c2 = scaled(width, 64, 128)
        layers = [nn.Conv2d(in_channels, c1, 4, 2, 1), nn.LeakyReLU(0.2), *_stage(nn.Conv2d, c1, c2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear((image_size // 4) ** 2 * c2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(2 * x - 1).squeeze(1)


def _stage(convolution: type[nn.Module], c_in: int, c_out: int) -> list[nn.Module]:
    return [convolution(c_in, c_out, 4, 2, 1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)]


class ApeGan(Denoiser):
    """The denoiser G(x̃) and its discriminator; (N,C,S,S) in [0,1] -> the same, restored.

    target, full, augment: as in `Denoiser`; without `full` no target is needed.
    width: scales the channels.
    in_channels, image_size: C and S.
    learning_rate: of Adam, for both networks.
    xi_mse, xi_adv: weights ξ₁, ξ₂ of the generator's loss (Jin et al., Eq. 3).
    natural_domain: natural images are inputs too, as one more attack (ADD, Section 4.1; ARN, Section 4.2).
    deep: ADD's APE-GAN-D.  The paper says no more than "a deeper network"; here it has the networks of
        ADD, encoder and generator for G, image discriminator for D, so that nothing but the losses differs.
    """

    def __init__(
        self,
        target: nn.Module | None = None,
        full: dict | None = None,
        width: float = 1.0,
        in_channels: int = 1,
        image_size: int = 28,
        learning_rate: float = 2e-4,
        xi_mse: float = 0.7,
        xi_adv: float = 0.3,
        natural_domain: bool = False,
        deep: bool = False,
        augment: bool = False,
    ) -> None:
        super().__init__(target, full, augment=augment)
        if deep:
            encoder, generator = (
                Encoder(width, in_channels, image_size),
                Generator(width, in_channels, image_size),
            )
            self.generator = nn.Sequential(encoder, generator)
            self.discriminator = ImageDiscriminator(width, in_channels, image_size)
        else:
            self.generator = ApeGanGenerator(width, in_channels)
            self.discriminator = ApeGanDiscriminator(width, in_channels, image_size)
        self.learning_rate, self.xi_mse, self.xi_adv = learning_rate, xi_mse, xi_adv
        self.natural_domain = natural_domain
        self.to(memory_format=torch.channels_last)  # faster, and the same function

    def forward(self, x: Tensor) -> Tensor:
        return self.generator(x)

    def optimizers(self) -> Optimizers:
        parts = ("generator", "discriminator")
        return {part: adam([getattr(self, part)], self.learning_rate, (0.5, 0.999)) for part in parts}

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """`natural` (B,C,S,S), `adversarial` (B,K,C,S,S): the K attacks are treated alike.

        `label` (B,): with `full`, instead of `adversarial`.
        `wanted` (B,C,S,S), where the batch has it: generate these instead of the natural images (ADD,
        Appendix G.3).
        """
        batch = self.inputs(batch)
        natural = batch["natural"]
        x = stacked(self.adversarial(batch), natural if self.natural_domain else None)
        wanted = batch.get("wanted", natural).repeat(len(x) // len(natural), 1, 1, 1)
        restored = self.generator(x)

        d_image = real_fake_loss(self.discriminator(wanted), self.discriminator(restored.detach()))
        descend(d_image, optimizers["discriminator"])

        mse = F.mse_loss(restored, wanted)
        adv = deceive_loss(self.discriminator(restored))
        descend(self.xi_mse * mse + self.xi_adv * adv, optimizers["generator"])
        return detached({"mse": mse, "adv": adv, "d_image": d_image})
