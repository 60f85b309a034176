"""NRP: the neural representation purifier (Naseer et al., CVPR 2020), as JATP takes it for a baseline."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.attacks.representation import feature_pgd
from helpers.defenses.base import Denoiser, adam, descend, detached, fresh_seed, stacked
from helpers.losses import real_fake_loss
from helpers.networks.features import features_at
from helpers.networks.scaling import scaled
from helpers.training import Optimizers, Tensors


class DenseBlock(nn.Module):
    """Five 3×3 convolutions, each of which sees the input and all before it: (N,c,H,W) -> (N,c,H,W).

    growth: channels that each of the first four adds.
    """

    def __init__(self, c: int, growth: int) -> None:
        super().__init__()
        sizes = [growth] * 4 + [c]
        self.convs = nn.ModuleList(nn.Conv2d(c + i * growth, size, 3, 1, 1) for i, size in enumerate(sizes))
        # As in ESRGAN: He et al.'s weights, a tenth of them, so that a block starts near the identity.
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), 0.2)], 1)
        return x + 0.2 * self.convs[-1](seen)


class BasicBlock(nn.Module):
    """ESRGAN's residual-in-residual dense block (Wang et al. 2018, Fig. 4): three of them and a shortcut."""

    def __init__(self, c: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(c, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.dense(x)


class NRPPurifier(nn.Module):
    """Image (N,in_channels,S,S) in [0,1] -> restored image of the same shape, about in [0,1].

    width: scales the channels.
    blocks: basic blocks; NRP has 23, JATP takes 3 for 32×32 images, both for its own denoiser and for NRP.

    As published, there is neither a shortcut from the input to the output (ESRGAN has one around its blocks),
    so that even the identity has to be learned, nor a clipping of the output.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 3, blocks: int = 3) -> None:
        super().__init__()
        c, growth = scaled(width, 64, 32)
        self.first = nn.Conv2d(in_channels, c, 3, 1, 1)
        self.blocks = nn.Sequential(*(BasicBlock(c, growth) for _ in range(blocks)))
        self.last = nn.Conv2d(c, in_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)))


class NRPDiscriminator(nn.Module):
    """Critic C: image (N,in_channels,S,S) in [0,1], S >= 8 -> (N,) score, the higher the more natural.

    NRP's critic is not released.  This is the one of the ESRGAN code that NRP was trained with: stages of a
    3×3 and a stride-2 4×4 convolution down to 4×4, five of them at 128×128; 32×32 images are left with
    4×4 by three.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 3) -> None:
        super().__init__()
        *sizes, hidden = scaled(width, 64, 128, 256, 100)
        layers = [
            nn.Conv2d(in_channels, sizes[0], 3, 1, 1),
            nn.LeakyReLU(0.2),
            *_conv(sizes[0], sizes[0], 4, 2),
        ]
        for a, b in pairwise(sizes):
            layers += _conv(a, b, 3, 1) + _conv(b, b, 4, 2)
        # Pooling does nothing at 32×32; it lets the critic take other sizes.
        layers += [
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * sizes[-1], hidden),
            nn.LeakyReLU(0.2),
        ]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)


def _conv(c_in: int, c_out: int, kernel: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, kernel, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)]


class NRP(Denoiser):
    """A purifier P that learns, without labels, to restore hidden features; (N,C,S,S) in [0,1] -> the same.

    target: the network F whose features are disturbed and restored, frozen (see `Denoiser`).  NRP's is an
        ImageNet VGG-16, up to conv3-3; here it is the target, so that this purifier, unlike NRP's, is made
        for one target.
    full, augment: as in `Denoiser`.
    self_supervised: learn from the self-supervised perturbation, unless there is `full`.  False: from the
        adversarial examples of the batch (DIR, Section 4.1).
    layer: F's layer, a name of its `named_modules()`.
    eps, step_size, steps: the self-supervised perturbation; eps is JATP's.  The released attack makes 100
        steps of 0.01; ten are enough to cross a ball of 8/255.
    alpha, gamma, lambda_: weights of the critic's, the pixel and the feature loss.
    width, in_channels, blocks: as in `NRPPurifier`.
    learning_rate: of Adam, for both networks.

    NRP's training is not released; its author names ESRGAN's code for it.  The weights, Adam's settings and
    the relativistic average critic are ESRGAN's; the learning rate stays constant.
    """

    def __init__(
        self,
        target: nn.Module | None = None,
        full: dict | None = None,
        layer: str = "blocks.2.conv2",
        eps: float = 8 / 255,
        step_size: float = 0.01,
        steps: int = 10,
        alpha: float = 5e-3,
        gamma: float = 1e-2,
        lambda_: float = 1.0,
        width: float = 1.0,
        in_channels: int = 3,
        blocks: int = 3,
        learning_rate: float = 1e-4,
        self_supervised: bool = True,
        augment: bool = False,
    ) -> None:
        super().__init__(target, full, augment=augment)
        self.purifier = NRPPurifier(width, in_channels, blocks)
        self.critic = NRPDiscriminator(width, in_channels)
        self.layer, self.attack = layer, {"eps": eps, "step_size": step_size, "steps": steps}
        self.alpha, self.gamma, self.lambda_ = alpha, gamma, lambda_
        self.learning_rate, self.self_supervised = learning_rate, self_supervised and full is None
        self.to(memory_format=torch.channels_last)  # faster, and the same function

    @property
    def learns_from(self) -> tuple[str, ...]:
        return ("natural",) if self.self_supervised else super().learns_from

    def forward(self, x: Tensor) -> Tensor:
        return self.purifier(x)

    def optimizers(self) -> Optimizers:
        return {
            part: adam([getattr(self, part)], self.learning_rate, (0.9, 0.99))
            for part in ("purifier", "critic")
        }

    def self_supervised_perturbation(self, x: Tensor) -> Tensor:
        """SSP: x̃ = argmax ‖F(x̃) − F(x)‖² in the ball around x, from a random start; (N,C,S,S)."""
        with attackable(self.target) as target:
            return feature_pgd(
                target, x, None, targeted=False, layer=self.layer, seed=fresh_seed(), **self.attack
            )

    def loss_feature(self, restored: Tensor, natural: Tensor) -> Tensor:
        """Mean square difference of F(P(x̃)) and F(x)."""
        with attackable(self.target) as target, features_at(target, self.layer) as see:
            with torch.no_grad():
                wanted = see(natural)[1]
            return F.mse_loss(see(restored)[1].float(), wanted.float())

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """`natural` (B,C,S,S), and unless it is `self_supervised` what `adversarial` takes."""
        batch = self.inputs(batch)
        natural = batch["natural"]
        if self.self_supervised:
            x = self.self_supervised_perturbation(natural)
        else:
            x = stacked(self.adversarial(batch))
            natural = natural.repeat(len(x) // len(natural), 1, 1, 1)
        restored = self.purifier(x)

        critic = relativistic_loss(self.critic(natural), self.critic(restored.detach()))
        descend(critic, optimizers["critic"])

        with torch.no_grad():
            natural_score = self.critic(natural)
        losses = {
            "adv": relativistic_loss(self.critic(restored), natural_score),
            "pixel": F.mse_loss(restored.float(), natural.float()),
            "feature": self.loss_feature(restored, natural),
        }
        loss = self.alpha * losses["adv"] + self.gamma * losses["pixel"] + self.lambda_ * losses["feature"]
        descend(loss, optimizers["purifier"])
        return detached(losses | {"critic": critic})


def relativistic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's loss in a relativistic average GAN; scores (N,), (M,) -> scalar.

    The generator's: swap the two.

    −E log σ(C(real) − E C(fake)) − E log(1 − σ(C(fake) − E C(real))): is an image more natural
    than the others are on average? (Jolicoeur-Martineau, ICLR 2019)
    """
    real, fake = real.float(), fake.float()
    return real_fake_loss(real - fake.mean(), fake - real.mean())
