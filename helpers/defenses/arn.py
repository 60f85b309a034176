"""ARN: the adversarial noise removing network (Zhou et al., ICML 2021).

An encoder E learns *attack-invariant features* (AIF): codes from which a discriminator D_A
cannot tell which attack made the input.  A generator G restores the natural example from
the code; an image discriminator D_I keeps it sharp.  The equations are the paper's.
"""

from collections.abc import Callable, Collection
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from helpers.defenses.base import Denoiser, ablated, adam, descend, detached, domain_labels, stacked
from helpers.losses import cross_entropy_to, deceive_loss, moment_kl, posterior_kl, real_fake_loss
from helpers.networks.scaling import scaled
from helpers.training import Optimizers, Tensors

TERMS = ("att", "nor", "adv")
PRIORS = ("moments", "posterior")


# The networks, which are those of ADD-Defense, too (its Appendix C.3, Table 4).
#
# Five stride-2 convolutions with 4×4 kernels cannot take a 28×28 image down to 1×1 and back;
# ARN's released code uses a 2×2 kernel in the second layer for it, and so do we: 28 → 14 → 8 →
# 4 → 2 → 1.  A 32×32 image needs no such change.  Batch normalisation in encoder and generator
# follows ARN's released code; ADD's table lists none, and has no code: a deviation of ours (see `ADD`).

# side of the image -> kernel of the second convolution (of the last but one in the generator)
SECOND_KERNEL = {28: 2, 32: 4}


class Encoder(nn.Module):
    """E: image (N,in_channels,S,S) in [0,1] -> code (N,D), D = 2048·width.

    width: scales the channels.
    image_size: S, 28 or 32; else ValueError.
    variational: a second head gives the log-variance of a Gaussian posterior, so that the
        output is the pair (mean, log-variance), each (N,D), as in ARN's released code.
    """

    def __init__(
        self, width: float = 1.0, in_channels: int = 1, image_size: int = 28, variational: bool = False
    ) -> None:
        super().__init__()
        sizes = [in_channels, *scaled(width, 128, 256, 512, 1024)]
        kernels = _kernels(image_size)
        blocks = zip(pairwise(sizes), kernels[:-1], strict=True)
        self.features = nn.Sequential(*(_block(nn.Conv2d, a, b, kernel) for (a, b), kernel in blocks))
        self.code_size = scaled(width, 2048)[0]
        self.mean = nn.Conv2d(sizes[-1], self.code_size, kernels[-1], 2, 1)
        self.log_variance = nn.Conv2d(sizes[-1], self.code_size, kernels[-1], 2, 1) if variational else None
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.features(2 * x - 1)
        mean = self.mean(features).flatten(1)
        return mean if self.log_variance is None else (mean, self.log_variance(features).flatten(1))

    def code(self, x: Tensor) -> Tensor:
        """The code alone, (N,D): the mean where the output is a pair."""
        return self.mean(self.features(2 * x - 1)).flatten(1)


class Generator(nn.Module):
    """G: code (N,2048·width) -> image (N,out_channels,S,S) in [0,1]; the mirror image of the encoder."""

    def __init__(self, width: float = 1.0, out_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        sizes = scaled(width, 2048, 1024, 512, 256, 128)
        kernels = _kernels(image_size)[::-1]
        blocks = zip(pairwise(sizes), kernels[:-1], strict=True)
        self.blocks = nn.Sequential(*(_block(nn.ConvTranspose2d, a, b, kernel) for (a, b), kernel in blocks))
        self.image = nn.ConvTranspose2d(sizes[-1], out_channels, kernels[-1], 2, 1)
        self.apply(_initialise)

    def forward(self, code: Tensor) -> Tensor:
        return (torch.tanh(self.image(self.blocks(code[:, :, None, None]))) + 1) / 2


class CodeClassifier(nn.Module):
    """D_A (D_P and C in ADD): code (N,code_size) -> (N,classes) logits, of its attack type or class."""

    def __init__(self, classes: int = 3, width: float = 1.0, code_size: int = 2048) -> None:
        super().__init__()
        sizes = [code_size, *scaled(width, 1024, 256, 64)]
        layers = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, code: Tensor) -> Tensor:
        return self.layers(code)


class ImageDiscriminator(nn.Module):
    """D_I: image (N,in_channels,S,S) in [0,1] -> (N,) logit of "is a natural example"."""

    def __init__(self, width: float = 1.0, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        sizes = [in_channels, *scaled(width, 32, 64, 128, 256)]
        layers = []
        for (a, b), kernel in zip(pairwise(sizes), _kernels(image_size)[:-1], strict=True):
            layers += [nn.Conv2d(a, b, kernel, 2, 1), nn.LeakyReLU(0.2)]
        hidden = scaled(width, 512)[0]
        layers += [nn.Flatten(), nn.Linear(2 * 2 * sizes[-1], hidden), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(2 * x - 1).squeeze(1)


def _kernels(image_size: int) -> tuple[int, ...]:
    if image_size not in SECOND_KERNEL:
        raise ValueError(f"these networks exist for images of side {sorted(SECOND_KERNEL)}, got {image_size}")
    return (4, SECOND_KERNEL[image_size], 4, 4, 4)


def _block(convolution: type[nn.Module], c_in: int, c_out: int, kernel: int) -> nn.Module:
    return nn.Sequential(convolution(c_in, c_out, kernel, 2, 1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2))


def _initialise(module: nn.Module) -> None:
    """DCGAN's initialisation, as in the released code (whose BatchNorm draws around 0, ours around 1)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class ARN(Denoiser):
    """The denoiser G(E(x̃)) and all that trains it; (N,C,S,S) in [0,1] -> the same, restored.

    seen: number K of seen attack types.
    width: scales the channels of all four networks.
    in_channels, image_size: C, and S, 28 or 32.
    learning_rate: of Adam, for all four.
    lambda1, lambda2, theta: weights of Eq. 7 and 8 (Section 4.1, MNIST).
    natural_domain: natural images are one more "attack" in every sum: Section 4.2 trains on adversarial
        images "together with natural examples", and so does the released code.  False: Eq. 1-6 to the letter.
    prior: what Eq. 3 takes for P_k, which the paper calls "the feature distribution of each type of attack".
        "moments": codes are not random (as everywhere in the paper), and P_k is the diagonal Gaussian with
        the moments of the attack's codes in the batch; fitting it by its moments is ours.  "posterior": the
        released code's, each image is mapped to a Gaussian from which its code is drawn, and P_k is that one.
    without: ablation, any of "att", "nor", "adv": those losses are left out of Eq. 7 and 8.
    Raises ValueError for an unknown prior or term, or another image size.

    Images are compared in [0,1].  Where the paper sums over the N images of an attack (all but
    Eq. 3) the losses here are means over the batch, so that the weights do not depend on its size.
    """

    def __init__(
        self,
        seen: int = 2,
        width: float = 1.0,
        in_channels: int = 1,
        image_size: int = 28,
        learning_rate: float = 1e-4,
        lambda1: float = 0.1,
        lambda2: float = 0.01,
        theta: float = 0.1,
        natural_domain: bool = True,
        prior: str = "moments",
        without: Collection[str] = (),
    ) -> None:
        super().__init__()
        weights = ablated({"att": lambda1, "nor": lambda2, "adv": theta}, without)
        self.lambda1, self.lambda2, self.theta = (weights.get(term, 0.0) for term in TERMS)
        self.learning_rate, self.natural_domain = learning_rate, natural_domain
        self.encoder = Encoder(width, in_channels, image_size, variational=is_posterior(prior))
        self.generator = Generator(width, in_channels, image_size)
        self.attack_discriminator = CodeClassifier(seen + natural_domain, width, self.encoder.code_size)
        self.image_discriminator = ImageDiscriminator(width, in_channels, image_size)
        self.to(memory_format=torch.channels_last)  # faster, and the same function

    def forward(self, x: Tensor) -> Tensor:
        return self.generator(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """The AIF of images (N,C,S,S): codes (N,D), the mean where codes are random."""
        return self.encoder.code(x)

    # The losses.  `codes` holds the K domains one after the other: (K·B,D).

    def loss_attack_discriminator(self, codes: Tensor, domains: int) -> Tensor:
        """Eq. 1: ℒ_DA = −1/K Σ_k Y_k · log σ(D_A(E(X̃_k))), the discriminator names the attack."""
        return F.cross_entropy(self.attack_discriminator(codes), domain_labels(codes, domains))

    def loss_att(self, codes: Tensor, domains: int) -> Tensor:
        """Eq. 2: ℒ_att = −1/K Σ_k (1/K,…,1/K) · log σ(D_A(E(X̃_k))), the encoder confuses it."""
        return cross_entropy_to(self.attack_discriminator(codes), codes.new_full((domains,), 1 / domains))

    def loss_nor(self, mean: Tensor, domains: int, log_variance: Tensor | None = None) -> Tensor:
        """Eq. 3: ℒ_nor = 1/K Σ_k KL(P_k ‖ N(0,I)); `log_variance` for the prior "posterior"."""
        return prior_kl(mean, log_variance, domains)

    def loss_mse(self, restored: Tensor, natural: Tensor, domains: int) -> Tensor:
        """Eq. 4: ℒ_mse = Σ_k ‖G(E(X̃_k)) − X‖²; both (K·B,C,S,S)."""
        return domains * squared_error(restored, natural)

    def loss_image_discriminator(self, natural: Tensor, restored: Tensor, domains: int) -> Tensor:
        """Eq. 5 in its bounded form: −Σ_k [log D_I(X) + log(1 − D_I(G(E(X̃_k))))].

        As printed the paper minimises Σ_k [log D_I(G(E(X̃_k))) + log(1 − D_I(X))]: the same
        direction, but with no lower bound (`eq5_as_printed` below).
        """
        real, fake = self.image_discriminator(natural), self.image_discriminator(restored)
        return domains * real_fake_loss(real, fake)

    def loss_adv(self, restored: Tensor, domains: int) -> Tensor:
        """Eq. 6: ℒ_adv = −Σ_k log D_I(G(E(X̃_k)))."""
        return domains * deceive_loss(self.image_discriminator(restored))

    def optimizers(self) -> Optimizers:
        parts = ("encoder", "generator", "attack_discriminator", "image_discriminator")
        return {part: adam([getattr(self, part)], self.learning_rate, (0.5, 0.999)) for part in parts}

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """Algorithm 1 on a mini-batch: `natural` (B,C,S,S), `adversarial` (B,K,C,S,S)."""
        natural = batch["natural"]
        x = stacked(batch["adversarial"], natural if self.natural_domain else None)
        domains = len(x) // len(natural)
        codes, mean, log_variance = draw(self.encoder, x)
        restored = self.generator(codes).to(natural.dtype)

        mse = self.loss_mse(restored, natural.repeat(domains, 1, 1, 1), domains)
        att, nor = self.loss_att(codes, domains), self.loss_nor(mean, domains, log_variance)
        adv = self.loss_adv(restored, domains)
        loss_encoder = mse + self.lambda1 * att + self.lambda2 * nor  # Eq. 7
        loss_generator = mse + self.theta * adv  # Eq. 8
        self.update(loss_encoder, loss_generator, optimizers)

        d_attack = self.loss_attack_discriminator(codes.detach(), domains)
        descend(d_attack, optimizers["attack_discriminator"])
        d_image = self.loss_image_discriminator(natural, restored.detach(), domains)
        descend(d_image, optimizers["image_discriminator"])
        losses = {"mse": mse, "att": att, "nor": nor, "adv": adv, "d_attack": d_attack, "d_image": d_image}
        return detached(losses)

    def update(self, loss_encoder: Tensor, loss_generator: Tensor, optimizers: Optimizers) -> None:
        """One step of E and G, after one forward pass: each loss reaches only the network it is meant for."""
        self.zero_grad(set_to_none=True)
        loss_encoder.backward(inputs=list(self.encoder.parameters()), retain_graph=True)
        loss_generator.backward(inputs=list(self.generator.parameters()))
        optimizers["encoder"].step()
        optimizers["generator"].step()


def is_posterior(prior: str) -> bool:
    """Whether the prior is "posterior"; ValueError for one that is none of `PRIORS`."""
    if prior not in PRIORS:
        raise ValueError(f"prior is one of {', '.join(PRIORS)}; got {prior!r}")
    return prior == "posterior"


def draw(encoder: Encoder, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes of images (N,C,S,S) for training, drawn where `encoder` is variational, else its output.

    In full precision under autocast too: losses take variances, distances and sums of squares of these.
    -> codes, mean, log-variance, each (N,D); the log-variance is None where nothing is drawn
    """
    if encoder.log_variance is None:
        mean = encoder(x).to(x.dtype)
        return mean, mean, None
    mean, log_variance = (head.to(x.dtype) for head in encoder(x))
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp(), mean, log_variance


def prior_kl(mean: Tensor, log_variance: Tensor | None, domains: int) -> Tensor:
    """1/K Σ_k KL(P_k ‖ N(0,I)) for K = `domains` stacked ones; (K·B,D), (K·B,D) or None -> scalar."""
    if log_variance is None:
        return torch.stack([moment_kl(code) for code in mean.chunk(domains)]).mean()
    return posterior_kl(mean, log_variance) / len(mean)


def squared_error(restored: Tensor, natural: Tensor) -> Tensor:
    """‖restored − natural‖² summed over each image, averaged over the batch; (N,...) -> scalar."""
    return (restored - natural).square().flatten(1).sum(1).mean()


def eq5_as_printed(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
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

    seen, width, image_size, learning_rate, without: as in `ARN`.
    """

    revision = 2  # other first weights

    def __init__(
        self,
        seen: int = 2,
        width: float = 1.0,
        image_size: int = 28,
        learning_rate: float = 1e-4,
        without: Collection[str] = (),
    ) -> None:
        super().__init__(
            seen=seen,
            width=width,
            in_channels=3,
            image_size=image_size,
            learning_rate=learning_rate,
            lambda1=0.5,
            lambda2=1e-6,
            theta=0.01,
            prior="posterior",
            without=without,
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
        self.register_buffer(
            "luminance", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False
        )
        self.to(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x.expand(-1, 3, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) * self.luminance).sum(1, keepdim=True)

    def schedulers(self, optimizers: Optimizers, epochs: int) -> list[LRScheduler]:
        half = [max(1, epochs // 2)]
        return [
            MultiStepLR(o, half, 0.5 if "discriminator" in name else 0.1) for name, o in optimizers.items()
        ]

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """One update: `natural` (B,1,S,S), `adversarial` (B,K,1,S,S)."""
        natural = batch["natural"].expand(-1, 3, -1, -1)
        x = stacked(batch["adversarial"].expand(-1, -1, 3, -1, -1), natural)
        domains = len(x) // len(natural)
        wanted = natural.repeat(domains, 1, 1, 1)
        label = torch.eye(domains, device=x.device).repeat_interleave(len(natural), 0)
        confused = torch.full_like(label, 1 / domains)

        codes, mean, log_variance = draw(self.encoder, x)
        restored = self.generator(codes).to(natural.dtype)

        d_attack = F.binary_cross_entropy_with_logits(self.attack_discriminator(codes.detach()), label)
        penalty = gradient_penalty(
            lambda z: self.image_discriminator((z + 1) / 2), 2 * x - 1, 2 * restored.detach() - 1
        )
        d_image = real_fake_loss(
            self.image_discriminator(wanted), self.image_discriminator(restored.detach())
        )
        descend(d_attack, optimizers["attack_discriminator"])
        descend(d_image + 30 * penalty, optimizers["image_discriminator"])

        mse = F.mse_loss(2 * restored, 2 * wanted)
        att = F.binary_cross_entropy_with_logits(self.attack_discriminator(codes), confused)
        nor = posterior_kl(mean, log_variance)
        adv = deceive_loss(self.image_discriminator(restored))
        loss_encoder = 200 * mse + self.lambda1 * att + self.lambda2 * nor
        loss_generator = 200 * mse + self.theta * adv
        self.update(loss_encoder, loss_generator, optimizers)
        losses = {"mse": mse, "att": att, "nor": nor, "adv": adv, "d_attack": d_attack, "d_image": d_image}
        return detached(losses)


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """(‖∇_x D(x)‖ − 1)² on random mixtures x of `real` and `fake` (N,C,H,W) -> scalar.

    The norm is taken over the channels at each pixel, as in ARN's released code; WGAN-GP
    (Gulrajani et al. 2017) takes it over the whole image.
    """
    mix = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    x = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return (gradient.norm(2, dim=1) - 1).square().mean()
