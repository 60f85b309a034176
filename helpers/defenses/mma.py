"""MMA: max-margin adversarial training (Ding et al., ICLR 2020): push the decision boundary away from each image."""

import torch
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.attacks.pgd import ascend, box, in_format_of, log_odds
from helpers.defenses.classifier import Classifier

# The search looks a little beyond d_max, to tell an image whose margin is that large.
BEYOND = 1.05


class Mma(Classifier):
    """A classifier with margins of up to `d_max` around its images: (N,C,S,S) in [0,1] -> (N,num_classes) logits.

    images: how many the training set holds.  The margin found for an image, kept in the buffer `margins`,
        is where the search for it starts in the next epoch.
    d_max: in units of the [0,1] image, a larger margin is large enough; the paper's models for CIFAR-10 have
        12, 20 and 32/255.
    first_eps: where the search starts for an image not seen before, or misclassified the last time.
    steps: of the ascent that gives the direction; each goes 2.5·eps/steps.  search_steps: halvings of the
        interval that holds the margin, which begins as d_max.
    network: as in `Classifier`.

    An image counts as correct where its class is likelier than all others together, and its margin ends
    where it is not: the zero of the soft logit margin loss log Σ_{k≠y} exp f_k − f_y (here −`log_odds`).
    A training step costs, forward and backward, `steps` and two more passes, and `search_steps` forward.
    """

    def __init__(self, images=50_000, d_max=12 / 255, first_eps=0.005, steps=10, search_steps=10, **network):
        super().__init__(**network)
        if not 0 < first_eps <= d_max:
            raise ValueError(f"first_eps is above 0 and at most d_max={d_max}, got {first_eps}")
        self.d_max, self.first_eps, self.steps, self.search_steps = d_max, first_eps, steps, search_steps
        self.register_buffer("margins", torch.zeros(images))

    def training_step(self, batch, optimizers):
        """min_θ ⅓ CE(f(x), y) + ⅔ CE(f(x + δ*), y), the latter over correct images with ‖δ*‖ < d_max.

        Misclassified images stand for themselves, δ* = 0; `natural` (B,C,S,S), `label` (B,), and
        `index` (B,), each image's place in the training set.
        """
        x, y, index = self.images(batch), batch["label"], batch["index"]
        logits = self.network(x).float()
        correct = log_odds(logits.detach(), y) > 0
        x_margin, margin = self.at_margin(x, y, self.margins[index].clamp(min=self.first_eps))
        margin = torch.where(correct, margin, 0)  # ‖δ*‖
        self.margins[index] = margin
        x_margin = torch.where(correct.view(-1, 1, 1, 1), x_margin, x)
        risks = F.cross_entropy(self.network(x_margin).float(), y, reduction="none")
        # The hinge max(0, d_max − ‖δ*‖) is flat beyond d_max; the mean is over all images nevertheless.
        margin_risk = (risks * (margin < self.d_max)).mean()
        natural_risk = F.cross_entropy(logits, y)
        self.descend(natural_risk / 3 + 2 / 3 * margin_risk, optimizers)
        return {"natural_risk": natural_risk.detach(), "margin_risk": margin_risk.detach(), "margin": margin.mean()}

    def at_margin(self, x, y, eps):
        """Adaptive-norm PGD (Algorithm 1): ascent in each image's own ball, then search along its direction.

        x: (N,C,S,S).  y: (N,).  eps: radii of the balls, (N,).
        -> the images on the decision boundary (N,C,S,S), their ℓ∞ distance (N,), at most 1.05·d_max
        """
        eps = eps.view(-1, 1, 1, 1)
        with attackable(self.network):
            x = in_format_of(self.network, x)
            low, high = box(x, eps)
            # `ascend` knows one radius for all: it walks the unit cube, which stands for each image's box.
            seed = int(torch.randint(2**31, ()))  # from the generator that the epoch has seeded
            place = ascend(
                lambda t: -log_odds(self.network(torch.lerp(low, high, t)).float(), y).sum(),
                torch.full_like(x, 0.5), eps=0.5, steps=self.steps, seed=seed,
            )  # fmt: skip
            direction = (torch.lerp(low, high, place) - x) / eps
            return self.search(x, y, direction, eps)

    @torch.no_grad()
    def search(self, x, y, direction, eps):
        """Halve the interval that holds the zero of the soft logit margin along `direction`, from `eps` on."""
        near, far = torch.zeros_like(eps), torch.full_like(eps, BEYOND * self.d_max)
        for _ in range(self.search_steps):
            correct = (log_odds(self.network((x + eps * direction).clamp(0, 1)).float(), y) > 0).view(-1, 1, 1, 1)
            near, far = torch.where(correct, eps, near), torch.where(correct, far, eps)
            eps = (near + far) / 2
        return (x + eps * direction).clamp(0, 1), eps.flatten()
