"""APE-GAN (Jin et al., ICASSP 2019): restore adversarial examples with a GAN in pixel space."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.losses import deceive_loss, real_fake_loss
from helpers.networks import build


class ApeGan(nn.Module):
    """The denoiser G(x̃) and its discriminator; (N,C,S,S) in [0,1] -> the same, restored.

    xi_mse, xi_adv: weights ξ₁, ξ₂ of the generator's loss (Jin et al., Eq. 3).
    natural_domain: natural images are inputs too, as one more attack (ADD, Section 4.1).
    deep: ADD's APE-GAN-D.  The paper says no more than "a deeper network"; here it has the networks of
        ADD, encoder and generator for G, image discriminator for D, so that nothing but the losses differs.
    """

    def __init__(
        self, width=1.0, in_channels=1, image_size=28, learning_rate=2e-4,
        xi_mse=0.7, xi_adv=0.3, natural_domain=False, deep=False,
    ):  # fmt: skip
        super().__init__()
        common = dict(width=width, in_channels=in_channels)
        sided = common | {"image_size": image_size}
        if deep:
            self.generator = nn.Sequential(build("encoder", **sided), build("generator", **sided))
        else:
            self.generator = build("ape_gan_generator", **common)
        self.discriminator = build("image_discriminator" if deep else "ape_gan_discriminator", **sided)
        self.learning_rate, self.xi_mse, self.xi_adv = learning_rate, xi_mse, xi_adv
        self.natural_domain = natural_domain

    def forward(self, x):
        return self.generator(x)

    def optimizers(self):
        parts = ("generator", "discriminator")
        return {p: torch.optim.Adam(getattr(self, p).parameters(), self.learning_rate, (0.5, 0.999)) for p in parts}

    def training_step(self, batch, optimizers):
        """`natural` (B,C,S,S), `adversarial` (B,K,C,S,S): the K attacks are treated alike.

        `wanted` (B,C,S,S), where the batch has it: generate these instead of the natural images (ADD, Appendix G.3).
        """
        natural, adversarial = batch["natural"], batch["adversarial"]
        if self.natural_domain:
            adversarial = torch.cat([natural[:, None], adversarial], 1)
        restored = self.generator(adversarial.transpose(0, 1).flatten(0, 1))
        wanted = batch.get("wanted", natural).repeat(adversarial.shape[1], 1, 1, 1)

        d_image = real_fake_loss(self.discriminator(wanted), self.discriminator(restored.detach()))
        self.zero_grad(set_to_none=True)
        d_image.backward()
        optimizers["discriminator"].step()

        mse = F.mse_loss(restored, wanted)
        adv = deceive_loss(self.discriminator(restored))
        loss = self.xi_mse * mse + self.xi_adv * adv
        loss.backward(inputs=list(self.generator.parameters()))
        optimizers["generator"].step()
        return {"mse": mse.detach(), "adv": adv.detach(), "d_image": d_image.detach()}
