"""HGD: the high-level representation guided denoiser (Liao et al., CVPR 2018)."""

import torch
from torch import nn

from helpers.attacks import attackable
from helpers.networks import build


class HGD(nn.Module):
    """A denoising U-Net trained to give the target the logits it gives the natural example.

    target: the classifier that guides the training; frozen, and not part of this module (it
        has weights of its own), so it need not be given to load a trained denoiser.
    """

    def __init__(self, target=None, width=1.0, in_channels=1, learning_rate=1e-3):
        super().__init__()
        self.unet = build("hgd_unet", width=width, in_channels=in_channels)
        self.learning_rate = learning_rate
        # A plain attribute: a submodule would be saved, trained and switched to train mode.
        object.__setattr__(self, "target", target)

    def forward(self, x):
        return self.unet(x)

    def optimizers(self):
        return {"unet": torch.optim.Adam(self.unet.parameters(), self.learning_rate)}

    def training_step(self, batch, optimizers):
        """Logits-guided denoising (Liao et al., Eq. 4): ‖f(x̂) − f(x)‖₁ of the target's logits f.

        `natural` (B,C,S,S), `adversarial` (B,K,C,S,S).  As in that paper the natural examples
        are among the inputs, so that the denoiser learns to leave them alone.
        """
        natural, adversarial = batch["natural"], batch["adversarial"]
        x = torch.cat([natural, adversarial.transpose(0, 1).flatten(0, 1)])
        with attackable(self.target):  # in eval mode and frozen
            with torch.no_grad():
                wanted = self.target(natural).to(natural.dtype)
            logits = self.target(self.unet(x)).to(natural.dtype)
        guided = (logits - wanted.repeat(1 + adversarial.shape[1], 1)).abs().sum(1).mean()
        self.zero_grad(set_to_none=True)
        guided.backward(inputs=list(self.unet.parameters()))
        optimizers["unet"].step()
        return {"guided": guided.detach()}
