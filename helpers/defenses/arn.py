"""ARN: the adversarial noise removing network (Zhou et al., ICML 2021).

An encoder E learns *attack-invariant features* (AIF): codes from which a discriminator D_A
cannot tell which attack made the input.  A generator G restores the natural example from
the code; an image discriminator D_I keeps it sharp.  The equations are the paper's.
"""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.losses import cross_entropy_to, deceive_loss, gradient_penalty, moment_kl, posterior_kl, real_fake_loss, squared_error
from helpers.networks import build

TERMS = ("att", "nor", "adv")


class ARN(nn.Module):
    """The denoiser G(E(x̃)) and all that trains it; (N,C,S,S) in [0,1] -> the same, restored.

    seen: number K of seen attack types.  width: scales the channels of all four networks.
    lambda1, lambda2, theta: weights of Eq. 7 and 8 (Section 4.1, MNIST).
    natural_domain: natural images are encoded too, as one more "attack" in every sum.  Eq. 1-6 encode
        attacked images only; Section 4.2 uses them "together with natural examples", which can
        be read either way.
    without: ablation, any of "att", "nor", "adv": those losses are left out of Eq. 7 and 8.
    Raises ValueError for an unknown term.

    Images are compared in [0,1].  Where the paper sums over the N images of an attack (all but
    Eq. 3) the losses here are means over the batch, so that the weights do not depend on its size.
    """

    def __init__(
        self, seen=2, width=1.0, in_channels=1, image_size=28, learning_rate=1e-4,
        lambda1=0.1, lambda2=0.01, theta=0.1, natural_domain=False, without=(),
    ):  # fmt: skip
        super().__init__()
        if unknown := set(without) - set(TERMS):
            raise ValueError(f"without: unknown loss terms {sorted(unknown)}; choose from {', '.join(TERMS)}")
        common = dict(width=width, image_size=image_size)
        self.encoder = build("encoder", in_channels=in_channels, **common)
        self.generator = build("generator", in_channels=in_channels, **common)
        self.attack_discriminator = build(
            "attack_discriminator", num_classes=seen + natural_domain, width=width, in_channels=self.encoder.code_size
        )
        self.image_discriminator = build("image_discriminator", in_channels=in_channels, **common)
        self.learning_rate, self.natural_domain = learning_rate, natural_domain
        self.lambda1 = lambda1 * ("att" not in without)
        self.lambda2 = lambda2 * ("nor" not in without)
        self.theta = theta * ("adv" not in without)

    def forward(self, x):
        return self.generator(self.encoder(x))

    # The losses.  `codes` holds the K attacks one after the other: (K·B, D).

    def loss_attack_discriminator(self, codes, seen):
        """Eq. 1: ℒ_DA = −1/K Σ_k Y_k · log σ(D_A(E(X̃_k))), the discriminator names the attack."""
        attack = torch.arange(seen, device=codes.device).repeat_interleave(len(codes) // seen)
        return F.cross_entropy(self.attack_discriminator(codes), attack)

    def loss_att(self, codes, seen):
        """Eq. 2: ℒ_att = −1/K Σ_k (1/K,…,1/K) · log σ(D_A(E(X̃_k))), the encoder confuses it."""
        return cross_entropy_to(self.attack_discriminator(codes), codes.new_full((seen,), 1 / seen))

    def loss_nor(self, codes, seen):
        """Eq. 3: ℒ_nor = 1/K Σ_k KL(P_k ‖ N(0,I)).

        The paper does not say how P_k, the distribution of attack k's features, is taken: here it
        is the diagonal Gaussian with the batch's moments.
        """
        return torch.stack([moment_kl(code) for code in codes.chunk(seen)]).mean()

    def loss_mse(self, restored, natural, seen):
        """Eq. 4: ℒ_mse = Σ_k ‖G(E(X̃_k)) − X‖²."""
        return seen * squared_error(restored, natural)

    def loss_image_discriminator(self, natural, restored, seen):
        """Eq. 5 in its bounded form: −Σ_k [log D_I(X) + log(1 − D_I(G(E(X̃_k))))].

        As printed the paper minimises Σ_k [log D_I(G(E(X̃_k))) + log(1 − D_I(X))]: the same
        direction, but with no lower bound (`eq5_as_printed` below).
        """
        return seen * real_fake_loss(self.image_discriminator(natural), self.image_discriminator(restored))

    def loss_adv(self, restored, seen):
        """Eq. 6: ℒ_adv = −Σ_k log D_I(G(E(X̃_k)))."""
        return seen * deceive_loss(self.image_discriminator(restored))

    def optimizers(self):
        parts = ("encoder", "generator", "attack_discriminator", "image_discriminator")
        return {p: torch.optim.Adam(getattr(self, p).parameters(), self.learning_rate, (0.5, 0.999)) for p in parts}

    def training_step(self, batch, optimizers):
        """Algorithm 1 on a mini-batch: `natural` (B,C,S,S), `adversarial` (B,K,C,S,S)."""
        natural, adversarial = batch["natural"], batch["adversarial"]
        if self.natural_domain:
            adversarial = torch.cat([natural[:, None], adversarial], 1)
        seen = adversarial.shape[1]
        # In full precision under autocast too: the losses take variances and sums of squares of these.
        codes = self.encoder(adversarial.transpose(0, 1).flatten(0, 1)).to(natural.dtype)
        restored = self.generator(codes).to(natural.dtype)

        mse = self.loss_mse(restored, natural.repeat(seen, 1, 1, 1), seen)
        att, nor = self.loss_att(codes, seen), self.loss_nor(codes, seen)
        adv = self.loss_adv(restored, seen)
        loss_encoder = mse + self.lambda1 * att + self.lambda2 * nor  # Eq. 7
        loss_generator = mse + self.theta * adv  # Eq. 8
        # One forward pass serves both: each loss reaches only the network it is meant for.
        self.zero_grad(set_to_none=True)
        loss_encoder.backward(inputs=list(self.encoder.parameters()), retain_graph=True)
        loss_generator.backward(inputs=list(self.generator.parameters()))
        optimizers["encoder"].step()
        optimizers["generator"].step()

        d_attack = self.loss_attack_discriminator(codes.detach(), seen)
        d_image = self.loss_image_discriminator(natural, restored.detach(), seen)
        (d_attack + d_image).backward()
        optimizers["attack_discriminator"].step()
        optimizers["image_discriminator"].step()
        losses = {"mse": mse, "att": att, "nor": nor, "adv": adv, "d_attack": d_attack, "d_image": d_image}
        return {name: loss.detach() for name, loss in losses.items()}


def eq5_as_printed(real_logits, fake_logits):
    """Eq. 5 word for word, from logits: mean log D_I(fake) + mean log(1 − D_I(real)); -> scalar.

    It falls without bound as the discriminator improves, which is why `ARN` does not train on it.
    """
    return F.logsigmoid(fake_logits).mean() + F.logsigmoid(-real_logits).mean()


class ReleasedARN(ARN):
    """ARN as in the authors' released code, where that differs from the paper.

    * natural examples are a further domain: K attacks and the natural images,
    * D_A's loss is a binary cross-entropy per class instead of Eq. 1 and 2,
    * E is variational: codes are drawn from N(mean, variance) in training, and the KL of Eq. 3
      is that of the single posteriors, summed over the batch,
    * images are repeated to three channels; restored ones are turned back to gray by luminance,
    * weights 200, 0.5, 10⁻⁶, 0.01 on MSE (a mean, of images in [−1,1]), att, nor, adv,
    * a gradient penalty of 30 on D_I, which the paper does not mention,
    * the discriminators are updated before E and G,
    * BatchNorm gains start around 0; learning rates fall after half of the epochs (the code's
      milestones are epochs 50 and 100, and its 20,000 steps of 300 images are 100 epochs).

    One thing is not copied: a step of the released code encodes the same batch five times, with
    fresh noise each time; here all losses of a step share one pass.
    """

    def __init__(self, seen=2, width=1.0, image_size=28, learning_rate=1e-4, without=()):
        super().__init__(seen, width, 3, image_size, learning_rate, 0.5, 1e-6, 0.01, True, without)
        self.encoder = build("encoder", width=width, in_channels=3, image_size=image_size, variational=True)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
        self.register_buffer("luminance", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        mean, _ = self.encoder(x.expand(-1, 3, -1, -1))
        return (self.generator(mean) * self.luminance).sum(1, keepdim=True)

    def schedulers(self, optimizers, epochs):
        half = [max(1, epochs // 2)]
        step = torch.optim.lr_scheduler.MultiStepLR
        return [step(o, half, 0.5 if "discriminator" in name else 0.1) for name, o in optimizers.items()]

    def training_step(self, batch, optimizers):
        natural = batch["natural"].expand(-1, 3, -1, -1)
        adversarial = batch["adversarial"].expand(-1, -1, 3, -1, -1)
        domains = 1 + adversarial.shape[1]
        x = torch.cat([natural, adversarial.transpose(0, 1).flatten(0, 1)])
        target = natural.repeat(domains, 1, 1, 1)
        label = torch.eye(domains, device=x.device).repeat_interleave(len(natural), 0)
        confused = torch.full_like(label, 1 / domains)

        mean, log_variance = (head.to(natural.dtype) for head in self.encoder(x))
        codes = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        restored = self.generator(codes).to(natural.dtype)

        d_attack = F.binary_cross_entropy_with_logits(self.attack_discriminator(codes.detach()), label)
        penalty = gradient_penalty(
            lambda z: self.image_discriminator((z + 1) / 2), 2 * x - 1, 2 * restored.detach() - 1
        )
        d_image = real_fake_loss(self.image_discriminator(target), self.image_discriminator(restored.detach()))
        self.zero_grad(set_to_none=True)
        (d_attack + d_image + 30 * penalty).backward()
        optimizers["attack_discriminator"].step()
        optimizers["image_discriminator"].step()

        mse = F.mse_loss(2 * restored, 2 * target)
        att = F.binary_cross_entropy_with_logits(self.attack_discriminator(codes), confused)
        nor = posterior_kl(mean, log_variance)
        adv = deceive_loss(self.image_discriminator(restored))
        loss_encoder = 200 * mse + self.lambda1 * att + self.lambda2 * nor
        loss_encoder.backward(inputs=list(self.encoder.parameters()), retain_graph=True)
        (200 * mse + self.theta * adv).backward(inputs=list(self.generator.parameters()))
        optimizers["encoder"].step()
        optimizers["generator"].step()
        losses = {"mse": mse, "att": att, "nor": nor, "adv": adv, "d_attack": d_attack, "d_image": d_image}
        return {name: loss.detach() for name, loss in losses.items()}
