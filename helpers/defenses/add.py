"""ADD-Defense: the perturbation-invariant representation (submitted to ICLR 2021, anonymous).

An encoder E learns a *perturbation-invariant representation* (PIR): codes that are alike for all
attacks (MMD), from which a discriminator D_P cannot tell the attack, which follow a Gaussian prior
and still tell a classifier C the class.  A generator G draws the natural example from the code; an
image discriminator D_I keeps it sharp.  The equations are the paper's.
"""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.defenses.arn import (
    CodeClassifier,
    Encoder,
    Generator,
    ImageDiscriminator,
    draw,
    is_posterior,
    prior_kl,
)
from helpers.defenses.base import Denoiser, ablated, adam, descend, detached, domain_labels, stacked
from helpers.losses import cross_entropy_to, deceive_loss, real_fake_loss
from helpers.training import Optimizers, Tensors


class ADD(Denoiser):
    """The denoiser G(E(x̃)) and all that trains it; (N,C,S,S) in [0,1] -> the same, restored.

    seen: number of known attacks.
    num_classes: of the classifier C.
    width: scales the channels of all networks, which are ARN's.
    in_channels, image_size: C, and S, 28 or 32.
    learning_rate: of Adam, for all networks.
    exponents, base: λ₁, λ₂, λ₃, θ of Eq. 5 and 7 as powers; the paper prints them like "e-4"
        (Appendix D: e-4, e0, e-3, e3 on MNIST), which is read as 10⁻⁴; base=math.e is the other reading.
    prior: what Eq. 3 takes for P_k.  "posterior": each image is mapped to a Gaussian from which its code is
        drawn (Section 3.1), and P_k is that Gaussian; "moments": codes are not random, and P_k is
        the Gaussian with the moments of the attack's codes in the batch.
    natural_domain: natural images are encoded too, as one more attack in every sum: D_P has three outputs
        for two known attacks (Table 4).
    without: ablation, any of "mmd", "prior", "perturbation", "class", "adv": those losses are left out
        ("prior" and "perturbation": Fig. 12).
    Raises ValueError for an unknown prior or term, or another image size.

    The paper gives neither optimiser nor C's layers nor the kernel's bandwidth: here ARN's optimiser,
    layers like D_P's, and the median distance (`mmd`).  Its Table 4 lists no normalisation; encoder and
    generator have ARN's BatchNorm here, since the same authors' code for these layers has it.  Losses are
    means over the batch, and L_mse is a mean over pixels as its name says, though the formula beside it is a
    sum.
    """

    learns_from = ("natural", "adversarial", "label")

    def __init__(
        self,
        seen: int = 2,
        num_classes: int = 10,
        width: float = 1.0,
        in_channels: int = 1,
        image_size: int = 28,
        learning_rate: float = 1e-4,
        exponents: tuple[float, float, float, float] = (-4, 0, -3, 3),
        base: float = 10.0,
        prior: str = "posterior",
        natural_domain: bool = True,
        without: Collection[str] = (),
    ) -> None:
        super().__init__()
        lambda1, lambda2, lambda3, self.theta = (base**e for e in exponents)
        weights = {"mmd": 1.0, "prior": lambda1, "perturbation": lambda2, "class": lambda3, "adv": 1.0}
        self.weights = ablated(weights, without)
        self.learning_rate, self.natural_domain = learning_rate, natural_domain
        self.domains = seen + natural_domain
        self.encoder = Encoder(width, in_channels, image_size, variational=is_posterior(prior))
        self.generator = Generator(width, in_channels, image_size)
        self.image_discriminator = ImageDiscriminator(width, in_channels, image_size)
        self.perturbation_discriminator = CodeClassifier(self.domains, width, self.encoder.code_size)
        self.classifier = CodeClassifier(num_classes, width, self.encoder.code_size)
        self.to(memory_format=torch.channels_last)  # faster, and the same function

    def forward(self, x: Tensor) -> Tensor:
        return self.generator(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """The PIR of images (N,C,S,S): codes (N,D), the mean where codes are random."""
        return self.encoder.code(x)

    # The losses.  `codes` holds the K domains one after the other: (K·B,D).

    def loss_mmd(self, codes: Tensor) -> Tensor:
        """Eq. 1: ℒ_mmd = 1/K² Σ_{k,l} MMD(Z_k, Z_l)."""
        return mmd(codes, self.domains)

    def loss_perturbation_discriminator(self, codes: Tensor) -> Tensor:
        """Eq. 2, its maximum over D_P: −Σ_k Y_k · log soft(D_P(E(X_k))), D_P names the attack.

        As printed, D_P maximises Σ_k [Y_k − (1/K,…,1/K)] · log soft(D_P(·)), which has no bound
        (`eq2_as_printed`); "trained with perturbation-specific label", it needs the first half only.
        """
        return F.cross_entropy(self.perturbation_discriminator(codes), domain_labels(codes, self.domains))

    def loss_perturbation(self, codes: Tensor) -> Tensor:
        """Eq. 2, its minimum over E: −Σ_k (1/K,…,1/K) · log soft(D_P(E(X_k))), E confuses D_P."""
        uniform = codes.new_full((self.domains,), 1 / self.domains)
        return cross_entropy_to(self.perturbation_discriminator(codes), uniform)

    def loss_prior(self, mean: Tensor, log_variance: Tensor | None) -> Tensor:
        """Eq. 3: ℒ_g = 1/K Σ_k KL(P_k ‖ N(0,I)); `log_variance` is None for the prior "moments"."""
        return prior_kl(mean, log_variance, self.domains)

    def loss_class(self, codes: Tensor, label: Tensor) -> Tensor:
        """Eq. 4: ℒ_c = −Σ_k Y · log soft(C(E(X_k))); label (K·B,)."""
        return F.cross_entropy(self.classifier(codes), label)

    def loss_mse(self, restored: Tensor, wanted: Tensor) -> Tensor:
        """ℒ_mse = Σ_k ‖X̂_k − X_o‖² (Section 3.2); both (K·B,C,S,S)."""
        return F.mse_loss(restored, wanted)

    def loss_image_discriminator(self, wanted: Tensor, restored: Tensor) -> Tensor:
        """Eq. 6, its maximum over D_I, in the bounded form: −log D_I(x_o) − log(1 − D_I(x̂))."""
        return real_fake_loss(self.image_discriminator(wanted), self.image_discriminator(restored))

    def loss_adv(self, restored: Tensor) -> Tensor:
        """Eq. 6, its minimum over G and E: −log D_I(x̂)."""
        return deceive_loss(self.image_discriminator(restored))

    def optimizers(self) -> Optimizers:
        players = {
            "defense": [self.encoder, self.classifier, self.generator],
            "perturbation_discriminator": [self.perturbation_discriminator],
            "image_discriminator": [self.image_discriminator],
        }
        return {name: adam(networks, self.learning_rate, (0.5, 0.999)) for name, networks in players.items()}

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """One update of Eq. 5 and 7: `natural` (B,C,S,S), `adversarial` (B,K,C,S,S), `label` (B,).

        `wanted` (B,C,S,S), if given, is generated instead of `natural` (Appendix G.3).
        """
        natural = batch["natural"]
        x = stacked(batch["adversarial"], natural if self.natural_domain else None)
        wanted = batch.get("wanted", natural).repeat(self.domains, 1, 1, 1)
        label = batch["label"].repeat(self.domains)

        codes, mean, log_variance = draw(self.encoder, x)
        restored = self.generator(codes).to(natural.dtype)

        mse = self.loss_mse(restored, wanted)
        losses = {
            "mmd": self.loss_mmd(codes),
            "prior": self.loss_prior(mean, log_variance),
            "perturbation": self.loss_perturbation(codes),
            "class": self.loss_class(codes, label),
            "adv": self.loss_adv(restored),
        }
        # Eq. 5 and 7 at once: E plays in both, and what G does not enter gives it no gradient.
        loss = self.theta * mse + sum(weight * losses[term] for term, weight in self.weights.items())
        descend(loss, optimizers["defense"])

        d_perturbation = self.loss_perturbation_discriminator(codes.detach())
        descend(d_perturbation, optimizers["perturbation_discriminator"])
        d_image = self.loss_image_discriminator(wanted, restored.detach())
        descend(d_image, optimizers["image_discriminator"])
        return detached(losses | {"mse": mse, "d_perturbation": d_perturbation, "d_image": d_image})


def mmd(codes: Tensor, domains: int) -> Tensor:
    """Mean MMD over all pairs of domains: 1/K² Σ_{k,l} MMD(Z_k, Z_l); (K·B,D) -> scalar.

    ADD, Eq. 1 and Appendix B.
    MMD(Z_k, Z_l) is the distance of the means in the feature space of a Gaussian kernel, estimated with
    all pairs (n = n' included, as printed).  The paper leaves its bandwidth σ open: here the median distance
    of the codes at hand (Gretton et al. 2012), through which no gradient flows.

    codes: those of the K = `domains` domains one after the other, B each.
    """
    squared = torch.cdist(codes, codes, compute_mode="donot_use_mm_for_euclid_dist").square()
    bandwidth = squared.detach().median().clamp_min(torch.finfo(codes.dtype).tiny)  # σ²
    kernel = torch.exp(-squared / (2 * bandwidth))
    means = kernel.unflatten(0, (domains, -1)).unflatten(2, (domains, -1)).mean((1, 3))  # (K,K)
    own = means.diagonal()
    first, second = torch.triu_indices(domains, domains, 1, device=codes.device)
    # Each pair counts twice, a domain is at distance 0 from itself; the root has no slope at 0.
    between = (
        (own[first] + own[second] - 2 * means[first, second]).clamp_min(torch.finfo(codes.dtype).eps).sqrt()
    )
    return 2 * between.sum() / domains**2


def eq2_as_printed(logits: Tensor, domain: Tensor) -> Tensor:
    """Eq. 2 word for word, a mean over the batch: Σ_k [Y_k − (1/K,…,1/K)] · log soft(D_P(·)).

    logits: D_P(·), (N,K).
    domain: the attack of each, (N,).
    -> scalar

    It grows without bound as D_P grows sure of itself, which is why `ADD` does not train on it.
    """
    log_soft = F.log_softmax(logits, 1)
    return (log_soft.gather(1, domain[:, None]).squeeze(1) - log_soft.mean(1)).mean()
