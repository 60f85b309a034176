"""Training of a classifier: plainly, on adversarial examples, and by three strategies that go beyond that.

The targets of all papers, and the baselines that need no denoiser: adversarial training (Madry et al., ICLR
2018; with FGSM it is ADD's Def-adv, Fig. 1(a), with ROA it is DOA, Wu et al., ICLR 2020), TRADES (Zhang et
al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019), MART (Wang et al., ICLR
2020) and MMA (Ding et al., ICLR 2020).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from helpers.attacks import ATTACKS, attackable, draws
from helpers.attacks.pgd import ascend, in_format_of, log_odds, pgd
from helpers.defenses.base import adam, check_settings, descend, detached, fresh_seed
from helpers.losses import boosted_cross_entropy, kl
from helpers.networks import build
from helpers.threats import Defended
from helpers.training import Optimizers, Tensors, crop_and_flip

# Madry et al.'s attack on MNIST, an ℓ∞ ball in units of the [0,1] image.
MADRY = {"eps": 0.3, "steps": 40, "step_size": 0.01}

# The training attack of JATP's targets (Section 4.1), in units of the [0,1] image.
INNER = {"eps": 8 / 255, "steps": 10, "step_size": 0.007}

# MMA's search looks a little beyond d_max, to tell an image whose margin is that large.
BEYOND = 1.05


class Classifier(nn.Module):
    """A network trained on labelled images: (N,C,S,S) in [0,1] -> (N,num_classes) logits.

    network: a name of `helpers.networks`.
    width, in_channels, num_classes: as in `helpers.networks.build`.
    learning_rate: the largest, where there is a schedule.
    augment: train on random crops and mirror images.
    optimizer: "adam", or "sgd" with a momentum of 0.9.
    weight_decay: of either.
    schedule: of the learning rate, by whole epochs.  None: constant.  Fractions of the training, such as
        [0.75, 0.9]: divided by 10 after each.  "cyclic": straight up to `learning_rate` over the first 40 %
        of the training and down to nothing at its end; each epoch has the rate of its middle.
    start: a trained network of the same kind, whose weights this one begins with; None: random ones.
    behind: a denoiser, frozen, that restores whatever the network sees: images in training, and behind which
        it is deployed (ADD-re; ADD, Section 4.2).  None: nothing stands in front.
    Raises ValueError for an unknown optimizer or schedule.
    """

    revision: int = 1  # see `helpers.defenses`
    learns_from: tuple[str, ...] = ("natural", "label")

    def __init__(
        self,
        network: str = "lenet5",
        width: float = 1.0,
        in_channels: int = 1,
        num_classes: int = 10,
        learning_rate: float = 1e-3,
        augment: bool = False,
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        schedule: str | Sequence[float] | None = None,
        start: nn.Module | None = None,
        behind: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if optimizer not in ("adam", "sgd"):
            raise ValueError(f"unknown optimizer {optimizer!r}; choose one of adam, sgd")
        fractions = isinstance(schedule, list | tuple) and all(0 < fraction < 1 for fraction in schedule)
        if not (schedule is None or schedule == "cyclic" or fractions):
            raise ValueError(f"schedule is None, 'cyclic' or fractions between 0 and 1, got {schedule!r}")
        self.network = build(network, num_classes, width, in_channels)
        if start is not None:
            self.network.load_state_dict(start.state_dict())
        # A plain attribute: a submodule would be saved, trained and switched to train mode.
        object.__setattr__(self, "behind", nn.Identity() if behind is None else behind)
        self.learning_rate, self.augment = learning_rate, augment
        self.optimizer, self.weight_decay, self.schedule = optimizer, weight_decay, schedule

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    @property
    def deployed(self) -> nn.Module:
        """What is used as a target once it is trained: the network alone, with the names of its layers."""
        return self.network

    def defended(self, target: nn.Module | None = None) -> Defended:
        """What is deployed, in the place of `target`: this classifier, behind what it was trained behind."""
        return Defended(self.deployed, self.behind)

    def optimizers(self) -> Optimizers:
        if self.optimizer == "adam":
            return {"network": adam([self.network], self.learning_rate, weight_decay=self.weight_decay)}
        parameters, decay = self.network.parameters(), self.weight_decay
        return {"network": torch.optim.SGD(parameters, self.learning_rate, 0.9, weight_decay=decay)}

    def schedulers(self, optimizers: Optimizers, epochs: int) -> list[LRScheduler]:
        def factor(epoch: int) -> float:
            if self.schedule == "cyclic":
                middle = (epoch + 0.5) / epochs
                return min(middle / 0.4, (1 - middle) / 0.6)
            passed = [fraction for fraction in self.schedule if epoch / epochs >= fraction]
            return 0.1 ** len(passed)

        return [LambdaLR(o, factor) for o in optimizers.values()] if self.schedule else []

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """min_θ CE(f(x), y): `natural` (B,C,S,S), `label` (B,)."""
        x, y = self.inputs(batch)
        risk = F.cross_entropy(self(x), y)
        descend(risk, optimizers["network"])
        return detached({"risk": risk})

    def inputs(self, batch: Tensors) -> tuple[Tensor, Tensor]:
        """The batch's images (B,C,S,S), cropped and mirrored (`augment`), restored (`behind`); labels."""
        x = crop_and_flip(batch["natural"]) if self.augment else batch["natural"]
        with attackable(self.behind) as denoiser, torch.no_grad():
            return denoiser(x), batch["label"]


class AdversarialTraining(Classifier):
    """A classifier trained on adversarial examples of itself: (N,C,S,S) in [0,1] -> (N,num_classes) logits.

    attack: a name of `helpers.attacks`.
    attack_settings: its keyword arguments.
    with_natural: learn from natural and adversarial examples, half each, as where ADD speaks of *augmenting*
        the training data; Madry et al. and Wu et al. learn from adversarial ones alone.
    network, width, learning_rate, augment, and so on: as in `Classifier`.  Cropped and mirrored images are
        attacked, not the other way round.
    Raises ValueError for an unknown attack, or settings that it does not take.

    A training step costs as many passes as the attack makes, and one more.  On 32×32 images ROA (30 steps,
    stride 2) makes one forward pass for each place, 196 for a 7×7 and 180 for a 10×5 rectangle, when its
    search is exhaustive; six, one of them also backward, when it goes by the gradient; and 30 forward and
    backward.  Twice the stride is a quarter of the places.
    """

    def __init__(
        self,
        attack: str = "pgd",
        attack_settings: dict = MADRY,
        with_natural: bool = False,
        learning_rate: float = 1e-4,
        **network,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **network)
        if attack not in ATTACKS:
            raise ValueError(f"unknown attack {attack!r}; choose one of {', '.join(ATTACKS)}")
        # The function itself: a training step needs no check of the inputs, which are its own.
        self.attack, self.draws = ATTACKS[attack].function, draws(attack)
        check_settings(self.attack, attack_settings)
        self.attack_settings, self.with_natural = attack_settings, with_natural

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """min_θ max_x̃ CE(f(x̃), y) (Madry et al., Eq. 2.1); `natural` (B,C,S,S), `label` (B,)."""
        x, y = self.inputs(batch)
        settings = self.attack_settings | ({"seed": fresh_seed()} if self.draws else {})
        with attackable(self.network):
            x_adv = self.attack(self.network, x, y, targeted=False, **settings)
        images = {"adversarial_risk": x_adv} | ({"natural_risk": x} if self.with_natural else {})
        # One pass for both, so that BatchNorm sees them together.
        logits = self.network(torch.cat(list(images.values()))).chunk(len(images))
        risks = {name: F.cross_entropy(part, y) for name, part in zip(images, logits, strict=True)}
        descend(sum(risks.values()) / len(risks), optimizers["network"])
        return detached(risks)


class Trades(Classifier):
    """A classifier that is right about x, and says the same all around it: (N,C,S,S) in [0,1] -> logits.

    weight: λ of JATP, 1/λ of the paper: how much the second counts.
    attack_settings: eps, steps, step_size and norm of the inner ascent, as in `helpers.attacks.pgd`; of that
        one's other settings loss and start are TRADES' own.
    network: as in `Classifier`.
    Raises ValueError for settings that PGD does not take.

    A training step costs, forward and backward, the steps of the ascent and two more passes, and one forward.
    """

    def __init__(self, weight: float = 6.0, attack_settings: dict = INNER, **network) -> None:
        super().__init__(**network)
        check_settings(pgd, attack_settings)
        ascent = ("eps", "steps", "step_size", "norm")
        self.ascent = {name: value for name, value in attack_settings.items() if name in ascent}
        self.weight = weight

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """min_θ CE(f(x), y) + λ max_x̃ KL(f(x) ‖ f(x̃)) (Alg. 1); `natural` (B,C,S,S), `label` (B,)."""
        x, y = self.inputs(batch)
        x_adv = self.attacked(x)
        natural, adversarial = self.network(x).float(), self.network(x_adv).float()
        risk = F.cross_entropy(natural, y)
        divergence = kl(natural, adversarial).mean()
        descend(risk + self.weight * divergence, optimizers["network"])
        return detached({"natural_risk": risk, "divergence": divergence})

    def attacked(self, x: Tensor) -> Tensor:
        """argmax_x̃ KL(f(x) ‖ f(x̃)) in the ball around x (N,C,S,S), of the same shape."""
        with attackable(self.network):
            x = in_format_of(self.network, x)
            with torch.no_grad():
                natural = self.network(x).float()
            # The divergence is smallest at x itself: without noise the ascent would not leave it.
            start = (x + 0.001 * torch.randn_like(x)).clamp_(0, 1)

            def divergence(x_adv: Tensor) -> Tensor:
                return kl(natural, self.network(x_adv).float()).sum()

            return ascend(divergence, x, start=start, **self.ascent)


class Mart(Classifier):
    """A classifier right about x̃, and steady most of all where it is wrong: (N,C,S,S) in [0,1] -> logits.

    weight: λ, how much steadiness counts.
    attack_settings: those of `helpers.attacks.pgd` on the cross-entropy.
    network: as in `Classifier`.
    Raises ValueError for settings that PGD does not take.

    A training step costs, forward and backward, the steps of the attack and two more passes.
    """

    def __init__(self, weight: float = 6.0, attack_settings: dict = INNER, **network) -> None:
        super().__init__(**network)
        check_settings(pgd, attack_settings)
        self.weight, self.attack_settings = weight, attack_settings

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """min_θ BCE(f(x̃), y) + λ KL(f(x)‖f(x̃))·(1 − p_y(x)); `natural` (B,C,S,S), `label` (B,)."""
        x, y = self.inputs(batch)
        with attackable(self.network):
            x_adv = pgd(self.network, x, y, targeted=False, seed=fresh_seed(), **self.attack_settings)
        natural, adversarial = self.network(x).float(), self.network(x_adv).float()
        # −log p_y(x̃) − log(1 − max_{k≠y} p_k(x̃))
        boosted = boosted_cross_entropy(adversarial, y).mean()
        # The gradient flows through all three: through the natural image's probabilities too.
        doubt = 1 - natural.softmax(1).gather(1, y[:, None]).squeeze(1)
        divergence = (kl(natural, adversarial) * doubt).mean()
        descend(boosted + self.weight * divergence, optimizers["network"])
        return detached({"boosted_risk": boosted, "divergence": divergence})


class Mma(Classifier):
    """A classifier with margins of up to `d_max` around its images: (N,C,S,S) in [0,1] -> logits.

    images: how many the training set holds.  The margin found for an image, kept in the buffer `margins`,
        is where the search for it starts in the next epoch.
    d_max: in units of the [0,1] image, a larger margin is large enough; the paper's models for CIFAR-10 have
        12, 20 and 32/255.
    first_eps: where the search starts for an image not seen before, or misclassified the last time.
    steps: of the ascent that gives the direction; each goes 2.5·eps/steps.
    search_steps: halvings of the interval that holds the margin, which begins as d_max.
    network: as in `Classifier`.
    Raises ValueError for a first_eps outside of (0, d_max].

    An image counts as correct where its class is likelier than all others together, and its margin ends
    where it is not: the zero of the soft logit margin loss log Σ_{k≠y} exp f_k − f_y,
    here −`log_odds`.
    A training step costs, forward and backward, `steps` and two more passes, and `search_steps` forward.
    """

    learns_from = ("natural", "label", "index")

    def __init__(
        self,
        images: int = 50_000,
        d_max: float = 12 / 255,
        first_eps: float = 0.005,
        steps: int = 10,
        search_steps: int = 10,
        **network,
    ) -> None:
        super().__init__(**network)
        if not 0 < first_eps <= d_max:
            raise ValueError(f"first_eps is above 0 and at most d_max={d_max}, got {first_eps}")
        self.d_max, self.first_eps, self.steps, self.search_steps = d_max, first_eps, steps, search_steps
        self.register_buffer("margins", torch.zeros(images))

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """min_θ ⅓ CE(f(x), y) + ⅔ CE(f(x + δ*), y), this over correct images with ‖δ*‖ < d_max.

        Misclassified images stand for themselves, δ* = 0; `natural` (B,C,S,S), `label` (B,), and
        `index` (B,), each image's place in the training set.
        """
        x, y = self.inputs(batch)
        index = batch["index"]
        logits = self.network(x).float()
        correct = log_odds(logits.detach(), y) > 0
        x_margin, margin = self.at_margin(x, y, self.margins[index].clamp(min=self.first_eps))
        margin = torch.where(correct, margin, 0)  # ‖δ*‖
        self.margins[index] = margin
        x_margin = torch.where(correct.view(-1, 1, 1, 1), x_margin, x)
        risks = F.cross_entropy(self.network(x_margin).float(), y, reduction="none")
        # The hinge max(0, d_max − ‖δ*‖) is flat beyond d_max; the mean is over all images even so.
        margin_risk = torch.where(margin < self.d_max, risks, 0).mean()
        natural_risk = F.cross_entropy(logits, y)
        descend(natural_risk / 3 + 2 / 3 * margin_risk, optimizers["network"])
        return detached({"natural_risk": natural_risk, "margin_risk": margin_risk, "margin": margin.mean()})

    def at_margin(self, x: Tensor, y: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Adaptive-norm PGD (Algorithm 1): ascent in each image's own ball, then search along its direction.

        x: (N,C,S,S).
        y: (N,).
        eps: radii of the balls, (N,).
        -> the images on the decision boundary (N,C,S,S), their ℓ∞ distance (N,), at most 1.05·d_max
        """
        eps = eps.view(-1, 1, 1, 1)
        with attackable(self.network):
            x = in_format_of(self.network, x)
            low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)

            # `ascend` knows one radius for all: it walks the unit cube, which stands for each image's box.
            def loss(place: Tensor) -> Tensor:
                return -log_odds(self.network(torch.lerp(low, high, place)).float(), y).sum()

            middle = torch.full_like(x, 0.5)
            place = ascend(loss, middle, eps=0.5, steps=self.steps, seed=fresh_seed())
            direction = (torch.lerp(low, high, place) - x) / eps
            return self.search(x, y, direction, eps)

    @torch.no_grad()
    def search(self, x: Tensor, y: Tensor, direction: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Halve the interval that holds the zero of the soft logit margin along `direction`, from `eps` on.

        direction: (N,C,S,S), of ℓ∞ length 1 at most.
        eps: (N,1,1,1).
        x, y, and the result: as in `at_margin`.
        """
        near, far = torch.zeros_like(eps), torch.full_like(eps, BEYOND * self.d_max)
        for _ in range(self.search_steps):
            logits = self.network((x + eps * direction).clamp(0, 1)).float()
            correct = (log_odds(logits, y) > 0).view(-1, 1, 1, 1)
            near, far = torch.where(correct, eps, near), torch.where(correct, far, eps)
            eps = (near + far) / 2
        return (x + eps * direction).clamp(0, 1), eps.flatten()
