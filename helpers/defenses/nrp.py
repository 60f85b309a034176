"""NRP: the neural representation purifier (Naseer et al., CVPR 2020), as JATP takes it for a baseline."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.attacks.representation import feature_pgd
from helpers.losses import real_fake_loss
from helpers.networks import build
from helpers.networks.features import features_at


class NRP(nn.Module):
    """A purifier P that learns, without labels, to restore hidden features; (N,C,S,S) in [0,1] -> the same.

    target: the network F whose features are disturbed and restored; frozen, and not part of this module, so
        that it need not be given to load a trained purifier.  NRP's is an ImageNet VGG-16, up to conv3-3; here
        it is the target, so that this purifier, unlike NRP's, is made for one target.
    layer: F's layer, a name of its `named_modules()`.
    eps, step_size, steps: the self-supervised perturbation; eps is JATP's.  The released attack makes 100 steps
        of 0.01; ten are enough to cross a ball of 8/255.
    alpha, gamma, lambda_: weights of the critic's, the pixel and the feature loss.
    width, in_channels, blocks: as in `NRPPurifier`.

    NRP's training is not released; its author names ESRGAN's code for it.  The weights, Adam's settings and the
    relativistic average critic are ESRGAN's; the learning rate stays constant.
    """

    def __init__(
        self, target=None, layer="blocks.2.conv2", eps=8 / 255, step_size=0.01, steps=10,
        alpha=5e-3, gamma=1e-2, lambda_=1.0, width=1.0, in_channels=3, blocks=3, learning_rate=1e-4,
    ):  # fmt: skip
        super().__init__()
        self.purifier = build("nrp_purifier", width=width, in_channels=in_channels, blocks=blocks)
        self.critic = build("nrp_discriminator", width=width, in_channels=in_channels)
        # A plain attribute: a submodule would be saved, trained and switched to train mode.
        object.__setattr__(self, "target", target)
        self.layer, self.attack = layer, {"eps": eps, "step_size": step_size, "steps": steps}
        self.alpha, self.gamma, self.lambda_ = alpha, gamma, lambda_
        self.learning_rate = learning_rate

    def forward(self, x):
        return self.purifier(x)

    def optimizers(self):
        parts = ("purifier", "critic")
        return {p: torch.optim.Adam(getattr(self, p).parameters(), self.learning_rate, (0.9, 0.99)) for p in parts}

    def self_supervised_perturbation(self, x):
        """SSP: x̃ = argmax ‖F(x̃) − F(x)‖² in the ball around x, from a random start; (N,C,S,S) -> the same."""
        seed = int(torch.randint(2**31, ()))  # a fresh start, from the generator that the epoch has seeded
        with attackable(self.target):
            return feature_pgd(self.target, x, None, targeted=False, layer=self.layer, seed=seed, **self.attack)

    def loss_feature(self, restored, natural):
        """Mean square difference of F(P(x̃)) and F(x)."""
        with attackable(self.target), features_at(self.target, self.layer) as see:
            with torch.no_grad():
                wanted = see(natural)[1]
            return F.mse_loss(see(restored)[1].float(), wanted.float())

    def training_step(self, batch, optimizers):
        """`natural` (B,C,S,S); `adversarial` (B,K,C,S,S), where the batch has it: learn from these, not from SSP."""
        natural = batch["natural"]
        if "adversarial" in batch:
            x = batch["adversarial"].transpose(0, 1).flatten(0, 1)
            natural = natural.repeat(batch["adversarial"].shape[1], 1, 1, 1)
        else:
            x = self.self_supervised_perturbation(natural)
        restored = self.purifier(x)

        critic = relativistic_loss(self.critic(natural), self.critic(restored.detach()))
        self.zero_grad(set_to_none=True)
        critic.backward()
        optimizers["critic"].step()

        with torch.no_grad():
            natural_score = self.critic(natural)
        losses = {
            "adv": relativistic_loss(self.critic(restored), natural_score),
            "pixel": F.mse_loss(restored.float(), natural.float()),
            "feature": self.loss_feature(restored, natural),
        }
        loss = self.alpha * losses["adv"] + self.gamma * losses["pixel"] + self.lambda_ * losses["feature"]
        loss.backward(inputs=list(self.purifier.parameters()))
        optimizers["purifier"].step()
        return {name: value.detach() for name, value in (losses | {"critic": critic}).items()}


def relativistic_loss(real, fake):
    """The critic's loss in a relativistic average GAN; scores (N,), (M,) -> scalar.  The generator's: swap the two.

    −E log σ(C(real) − E C(fake)) − E log(1 − σ(C(fake) − E C(real))): is an image more natural than the
    others are on average? (Jolicoeur-Martineau, ICLR 2019)
    """
    real, fake = real.float(), fake.float()
    return real_fake_loss(real - fake.mean(), fake - real.mean())
