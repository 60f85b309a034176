"""ADD-Defense: the perturbation-invariant representation (submitted to ICLR 2021, anonymous).

An encoder E learns a *perturbation-invariant representation* (PIR): codes that are alike for all
attacks (MMD), from which a discriminator D_P cannot tell the attack, which follow a Gaussian prior
and still tell a classifier C the class.  A generator G draws the natural example from the code; an
image discriminator D_I keeps it sharp.  The equations are the paper's.
"""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.losses import cross_entropy_to, deceive_loss, mmd, moment_kl, posterior_kl, real_fake_loss
from helpers.networks import build

TERMS = ("mmd", "prior", "perturbation", "class", "adv")
PRIORS = ("posterior", "moments")


class ADD(nn.Module):
    """The denoiser G(E(x̃)) and all that trains it; (N,C,S,S) in [0,1] -> the same, restored.

    seen: number of known attacks.  num_classes: of the classifier C.  width: scales the channels of all networks.
    exponents, base: λ₁, λ₂, λ₃, θ of Eq. 5 and 7 as powers; the paper prints them like "e-4" (Appendix
        D: e-4, e0, e-3, e3 on MNIST), which is read as 10⁻⁴; base=math.e is the other reading.
    prior: what Eq. 3 takes for P_k.  "posterior": each image is mapped to a Gaussian from which its code is
        drawn (Section 3.1), and P_k is that Gaussian; "moments": codes are not random, and P_k is
        the Gaussian with the moments of the attack's codes in the batch.
    natural_domain: natural images are encoded too, as one more attack in every sum: D_P has three outputs
        for two known attacks (Table 4).
    without: ablation, any of TERMS: those losses are left out ("prior" and "perturbation": Fig. 12).
    Raises ValueError for an unknown prior or term.

    The paper gives neither optimiser nor C's layers nor the kernel's bandwidth: here ARN's optimiser,
    layers like D_P's, and the median distance (`helpers.losses.mmd`).  Losses are means over the batch, and
    L_mse is a mean over pixels as its name says, though the formula beside it is a sum.
    """

    def __init__(
        self, seen=2, num_classes=10, width=1.0, in_channels=1, image_size=28, learning_rate=1e-4,
        exponents=(-4, 0, -3, 3), base=10.0, prior="posterior", natural_domain=True, without=(),
    ):  # fmt: skip
        super().__init__()
        if unknown := set(without) - set(TERMS):
            raise ValueError(f"without: unknown loss terms {sorted(unknown)}; choose from {', '.join(TERMS)}")
        if prior not in PRIORS:
            raise ValueError(f"prior is one of {', '.join(PRIORS)}; got {prior!r}")
        common = dict(width=width, image_size=image_size, in_channels=in_channels)
        self.encoder = build("encoder", variational=prior == "posterior", **common)
        self.generator = build("generator", **common)
        self.image_discriminator = build("image_discriminator", **common)
        self.domains = seen + natural_domain
        size = self.encoder.code_size
        self.perturbation_discriminator = build(
            "attack_discriminator", num_classes=self.domains, width=width, in_channels=size
        )
        self.classifier = build("attack_discriminator", num_classes=num_classes, width=width, in_channels=size)
        self.learning_rate, self.prior, self.natural_domain = learning_rate, prior, natural_domain
        lambda1, lambda2, lambda3, self.theta = (base**e for e in exponents)
        weights = {"mmd": 1.0, "prior": lambda1, "perturbation": lambda2, "class": lambda3, "adv": 1.0}
        self.weights = {term: weight * (term not in without) for term, weight in weights.items()}

    def forward(self, x):
        return self.generator(self.encode(x))

    def encode(self, x):
        """The PIR of images (N,C,S,S): codes (N,D), the mean where codes are random."""
        code = self.encoder(x)
        return code[0] if self.prior == "posterior" else code

    # The losses.  `codes` holds the K domains one after the other: (K·B,D).

    def loss_mmd(self, codes):
        """Eq. 1: ℒ_mmd = 1/K² Σ_{k,l} MMD(Z_k, Z_l)."""
        return mmd(codes, self.domains)

    def loss_perturbation_discriminator(self, codes):
        """Eq. 2, its maximum over D_P: −Σ_k Y_k · log soft(D_P(E(X_k))), D_P names the attack.

        As printed, D_P maximises Σ_k [Y_k − (1/K,…,1/K)] · log soft(D_P(·)), which has no bound
        (`eq2_as_printed`); "trained with perturbation-specific label", it needs the first half only.
        """
        domain = torch.arange(self.domains, device=codes.device).repeat_interleave(len(codes) // self.domains)
        return F.cross_entropy(self.perturbation_discriminator(codes), domain)

    def loss_perturbation(self, codes):
        """Eq. 2, its minimum over E: −Σ_k (1/K,…,1/K) · log soft(D_P(E(X_k))), E confuses D_P."""
        return cross_entropy_to(self.perturbation_discriminator(codes), codes.new_full((self.domains,), 1 / self.domains))

    def loss_prior(self, mean, log_variance):
        """Eq. 3: ℒ_g = 1/K Σ_k KL(P_k ‖ N(0,I)); `log_variance` is None for the prior "moments"."""
        if log_variance is None:
            return torch.stack([moment_kl(code) for code in mean.chunk(self.domains)]).mean()
        return posterior_kl(mean, log_variance) / len(mean)

    def loss_class(self, codes, label):
        """Eq. 4: ℒ_c = −Σ_k Y · log soft(C(E(X_k)))."""
        return F.cross_entropy(self.classifier(codes), label)

    def loss_mse(self, restored, wanted):
        """ℒ_mse = Σ_k ‖X̂_k − X_o‖² (Section 3.2)."""
        return F.mse_loss(restored, wanted)

    def loss_image_discriminator(self, wanted, restored):
        """Eq. 6, its maximum over D_I, in the bounded form: −log D_I(x_o) − log(1 − D_I(x̂))."""
        return real_fake_loss(self.image_discriminator(wanted), self.image_discriminator(restored))

    def loss_adv(self, restored):
        """Eq. 6, its minimum over G and E: −log D_I(x̂)."""
        return deceive_loss(self.image_discriminator(restored))

    def optimizers(self):
        players = {
            "defense": [self.encoder, self.classifier, self.generator],
            "perturbation_discriminator": [self.perturbation_discriminator],
            "image_discriminator": [self.image_discriminator],
        }
        return {
            name: torch.optim.Adam([p for net in nets for p in net.parameters()], self.learning_rate, (0.5, 0.999))
            for name, nets in players.items()
        }

    def training_step(self, batch, optimizers):
        """One update of Eq. 5 and 7: `natural` (B,C,S,S), `adversarial` (B,K,C,S,S), `label` (B,).

        `wanted` (B,C,S,S), if given, is generated instead of `natural` (Appendix G.3).
        """
        natural, adversarial = batch["natural"], batch["adversarial"]
        if self.natural_domain:
            adversarial = torch.cat([natural[:, None], adversarial], 1)
        wanted = batch.get("wanted", natural).repeat(self.domains, 1, 1, 1)
        label = batch["label"].repeat(self.domains)

        # In full precision under autocast too: the losses take distances, logarithms and sums of these.
        codes, log_variance = self.encoder(adversarial.transpose(0, 1).flatten(0, 1)), None
        if self.prior == "posterior":
            mean, log_variance = (head.to(natural.dtype) for head in codes)
            codes = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        else:
            mean = codes = codes.to(natural.dtype)
        restored = self.generator(codes).to(natural.dtype)

        losses = {
            "mmd": self.loss_mmd(codes), "prior": self.loss_prior(mean, log_variance),
            "perturbation": self.loss_perturbation(codes), "class": self.loss_class(codes, label),
            "adv": self.loss_adv(restored),
        }  # fmt: skip
        mse = self.loss_mse(restored, wanted)
        # Eq. 5 and 7 at once: E plays in both, and what G does not enter gives it no gradient.
        loss = self.theta * mse + sum(self.weights[term] * value for term, value in losses.items())
        self.zero_grad(set_to_none=True)
        defense = [p for group in optimizers["defense"].param_groups for p in group["params"]]
        loss.backward(inputs=defense)
        optimizers["defense"].step()

        d_perturbation = self.loss_perturbation_discriminator(codes.detach())
        d_image = self.loss_image_discriminator(wanted, restored.detach())
        (d_perturbation + d_image).backward()
        optimizers["perturbation_discriminator"].step()
        optimizers["image_discriminator"].step()
        losses |= {"mse": mse, "d_perturbation": d_perturbation, "d_image": d_image}
        return {name: value.detach() for name, value in losses.items()}


def eq2_as_printed(logits, domain):
    """Eq. 2 word for word: Σ_k [Y_k − (1/K,…,1/K)] · log soft(D_P(·)), a mean over the batch; (N,K), (N,) -> scalar.

    It grows without bound as D_P grows sure of itself, which is why `ADD` does not train on it.
    """
    log_soft = F.log_softmax(logits, 1)
    return (log_soft.gather(1, domain[:, None]).squeeze(1) - log_soft.mean(1)).mean()
