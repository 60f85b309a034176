"""DIR: information Discard and robust representation Restoration (Zhou et al., ICML 2023), equation by equation."""

import copy
from contextlib import nullcontext
from math import ceil

import torch
from torch import nn
from torch.nn import functional as F

from helpers.attacks import attackable
from helpers.attacks.pgd import in_format_of, pgd
from helpers.defenses.trades import kl
from helpers.networks import build
from helpers.training import crop_and_flip


class Discard(nn.Module):
    """The denoiser g: what masks leave of an image is restored behind each of them, and averaged.

    hidden: share of the patches that a mask hides.  A group of K masks is complementary: together they show every
        patch, with the fewest masks that can; K=2 for one half, where the two masks partition the patches.
    misplaced: as in the released code, what the *second* mask shows is taken to stand where the *first* mask's
        patches do.  Needs hidden=0.5.
    width, patch, encoder, decoder, in_channels, image_size: of `helpers.networks.masked_vit`.
    Raises ValueError for a share that shows no patch.

    Masks are drawn afresh for each image and pass, in train and eval mode alike, from torch's global generator:
    `helpers.seeded` makes a pass repeatable, `helpers.threats.fixed_mask` holds the masks still.
    """

    def __init__(self, hidden=0.5, misplaced=False, **network):
        super().__init__()
        self.vit = build("masked_vit", **network)
        self.misplaced = misplaced
        self.shown = self._shown(hidden)

    def _shown(self, hidden):
        shown = round((1 - hidden) * self.vit.places)
        if not 0 < shown <= self.vit.places:
            raise ValueError(f"hidden={hidden} shows {shown} of {self.vit.places} patches: choose at least 0, and less than 1")
        if self.misplaced and 2 * shown != self.vit.places:
            raise ValueError(f"misplaced=True exchanges halves: hidden must be 0.5, got {hidden}")
        return shown

    def hiding(self, hidden):
        """The same denoiser, weights included, with masks that hide another share; 0: one mask that hides nothing."""
        other = copy.copy(self)
        other.shown = other._shown(hidden)
        return other

    def masks(self, x):
        """Complementary masks for images x (N,C,S,S): the patches that each shows, (K,N,V) int64."""
        order = torch.rand(len(x), self.vit.places, device=x.device).argsort(1)
        # Deal the shuffled patches out in turn; where the last mask runs out of new ones it begins again.
        k = ceil(self.vit.places / self.shown)
        dealt = torch.arange(k * self.shown, device=x.device).remainder(self.vit.places).view(k, self.shown)
        return order[:, dealt].transpose(0, 1)

    def each(self, x, visible=None):
        """g(x × m^k), one restoration for each mask; (N,C,S,S) -> (K,N,C,S,S).  visible: as from `masks`; None: drawn."""
        visible = self.masks(x) if visible is None else visible
        k, n, _ = visible.shape
        slots = visible[:1].expand(k, -1, -1) if self.misplaced else visible
        # All masks in one pass.
        restored = self.vit(x.repeat(k, 1, 1, 1), visible.flatten(0, 1), slots.flatten(0, 1))
        return restored.view(k, *x.shape)

    def forward(self, x, visible=None):
        """x̃ = 1/K Σ_k g(x × m^k) (Eq. 5); (N,C,S,S) -> (N,C,S,S)."""
        return self.each(x, visible).mean(0)


class DIRPretraining(nn.Module):
    """Pre-training of DIR's denoiser to redraw natural images from what masks leave of adversarial ones (Eq. 2).

    Its attacks are on the bare target.  Neither the optimizer nor its rate is in the paper: AdamW, its betas, decay
    and rate are those of the released code, whose 1000 epochs are 20 in the paper; its warm-up is left out.
    augment: random crops and mirror images, which are ours here.  discard: settings of `Discard`.
    """

    def __init__(self, learning_rate=1.5e-4, augment=True, **discard):
        super().__init__()
        self.denoiser = Discard(**discard)
        self.learning_rate, self.augment = learning_rate, augment

    def forward(self, x):
        return self.denoiser(x)

    def optimizers(self):
        parameters = self.denoiser.parameters()
        return {"adamw": torch.optim.AdamW(parameters, self.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)}

    def schedulers(self, optimizers, epochs):
        return [torch.optim.lr_scheduler.CosineAnnealingLR(optimizers["adamw"], epochs)]

    def training_step(self, batch, optimizers):
        """min_ω Σ_k ‖g(x' × m^k) − x‖² (Eq. 2), a mean over the pixels; x' is natural or adversarial (Algorithm 1).

        `natural` (B,C,S,S), `adversarial` (B,A,C,S,S).
        """
        natural = batch["natural"]
        images = torch.cat([natural[:, None], batch["adversarial"]], 1)
        if self.augment:  # an image and its adversarial examples are cut alike
            images = crop_and_flip(images.flatten(1, 2)).view_as(images)
        wanted = images[:, :1].expand_as(images).flatten(0, 1)
        restored = self.denoiser.each(images.flatten(0, 1)).float()
        loss = F.mse_loss(restored, wanted.expand_as(restored))
        self.zero_grad(set_to_none=True)
        loss.backward()
        optimizers["adamw"].step()
        return {"restoration": loss.detach()}


class DIR(nn.Module):
    """The denoiser of `Discard`, trained in a game on what it restores; (N,C,S,S) in [0,1] -> the same.

    target: the classifier h; frozen, and not part of this module, so that it need not be given to load a
        trained denoiser.
    alpha: weight of the game, L_rep (Eq. 7).
    eps, step_size, steps: of the white-box PGD that makes x' and, since the paper names no other, of the game's
        perturbation δ.
    mse: weight of ‖x̃ − x‖², for training without pre-training (Section 4.3); 0 in the method itself.
    augment: random crops and mirror images.  discard: settings of `Discard`.

    The paper trains the denoiser alone.  Five of the things that the released code does otherwise are settings:
    joint: a copy of the target is trained along, at a learning rate of 0.1 and the denoiser at 5e-5, whatever
        `learning_rate` says.  (There the classifier begins untrained, and its rate alone is lowered.)
    misplaced: see `Discard`.
    projected=False: the steps of δ are not brought back into the ball, so that it may reach steps·step_size.
    held: x̃ + δ is held still in L_rep, so that its gradient passes through h(x̃) alone.  Eq. 5 has x̃ in both places.
    alpha=1.
    Raises ValueError for `joint` without a target.
    """

    def __init__(
        self, target=None, alpha=2.0, eps=8 / 255, step_size=2 / 255, steps=5, mse=0.0, joint=False, projected=True,
        held=False, learning_rate=0.01, augment=True, **discard,
    ):  # fmt: skip
        super().__init__()
        if joint and target is None:
            raise ValueError("joint=True trains the target along: give it")
        self.denoiser = Discard(**discard)
        self.joint_target = copy.deepcopy(target).requires_grad_() if joint else None
        # A plain attribute: a submodule would be saved, trained and switched to train mode.
        object.__setattr__(self, "target", target)
        self.attack = {"eps": eps, "step_size": step_size, "steps": steps}
        self.alpha, self.mse, self.projected, self.held = alpha, mse, projected, held
        self.learning_rate, self.augment = learning_rate, augment

    def forward(self, x):
        return self.denoiser(x)

    def masks(self, x):
        return self.denoiser.masks(x)

    def each(self, x, visible=None):
        return self.denoiser.each(x, visible)

    def optimizers(self):
        groups = [{"params": self.denoiser.parameters(), "lr": self.learning_rate}]
        if self.joint_target is not None:
            groups = [groups[0] | {"lr": 5e-5}, {"params": self.joint_target.parameters(), "lr": 0.1}]
        return {"sgd": torch.optim.SGD(groups, momentum=0.9, weight_decay=2e-4)}

    def schedulers(self, optimizers, epochs):
        """A tenth of the learning rate after the 75th of 90 epochs; the second step, at the 90th, ends the training."""
        return [torch.optim.lr_scheduler.MultiStepLR(optimizers["sgd"], [max(1, epochs * 75 // 90)])]

    def classifier(self):
        """h: the target, or its copy that is trained along."""
        return self.target if self.joint_target is None else self.joint_target

    def white_box(self, x, y, visible):
        """x' (Algorithm 1, line 5): PGD on h∘g with the masks in use; (N,C,S,S) -> the same, in the ball around x."""
        defended = _DefendedBehind(self.classifier(), self.denoiser, visible)
        with attackable(defended):
            return pgd(defended, x, y, targeted=False, seed=int(torch.randint(2**31, ())), **self.attack)

    def perturbed(self, restored):
        """x̃ + δ (line 8): argmax_δ KL(h(x̃+δ), h(x̃)) in the ball around x̃ (Eq. 4); (N,C,S,S) -> the same.

        Which distribution the divergence is taken from is the released code's choice: the unperturbed one.
        At δ = 0 it has no gradient, so the ascent starts from a little noise.  x̃ is not limited to [0,1], nor is
        x̃ + δ: `helpers.attacks.pgd.ascend` would cut both.
        """
        target, around = self.classifier(), restored.detach().float()
        eps, step_size = self.attack["eps"], self.attack["step_size"]
        with attackable(target):
            around = in_format_of(target, around)
            with torch.no_grad():
                unperturbed = target(around).float()
            moved = around + 0.001 * torch.randn_like(around)
            for _ in range(self.attack["steps"]):
                moved.requires_grad_()
                (gradient,) = torch.autograd.grad(kl(unperturbed, target(moved).float()).sum(), moved)
                moved = moved.detach() + step_size * gradient.sign()
                if self.projected:
                    moved = moved.clamp(around - eps, around + eps)
        return moved

    def losses(self, x_adv, x, y, visible):
        """The terms of Eq. 5 and 6, and ‖x̃ − x‖², means over the batch, as {"adv", "rep", "mse"}."""
        restored = self.denoiser(x_adv, visible)
        perturbed = self.perturbed(restored)
        if not self.held:  # δ is a constant, but x̃ + δ moves with x̃
            perturbed = restored + (perturbed - restored).detach()
        target = self.classifier()
        with attackable(target) if self.joint_target is None else nullcontext():
            logits, moved = target(torch.cat([restored, perturbed])).float().chunk(2)
        return {
            "adv": F.cross_entropy(logits, y),  # Eq. 6, where a minus sign is missing
            "rep": kl(logits, moved).mean(),  # Eq. 5
            "mse": F.mse_loss(restored.float(), x),
        }

    def overall(self, losses):
        """L_den = L_adv + α·L_rep (Eq. 7), and the weighted mean square where there was no pre-training."""
        return losses["adv"] + self.alpha * losses["rep"] + self.mse * losses["mse"]

    def training_step(self, batch, optimizers):
        """Algorithm 1, lines 3–11; `natural` (B,C,S,S), `label` (B,)."""
        x, y = batch["natural"], batch["label"]
        if self.augment:
            x = crop_and_flip(x)
        visible = self.masks(x)
        x_adv = self.white_box(x, y, visible)
        losses = self.losses(x_adv, x, y, visible)
        loss = self.overall(losses)
        self.zero_grad(set_to_none=True)
        loss.backward()
        optimizers["sgd"].step()
        return {name: value.detach() for name, value in losses.items()} | {"overall": loss.detach()}


class _DefendedBehind(nn.Module):
    """target ∘ denoiser behind given masks, as a module that an attack can be run on."""

    def __init__(self, target, denoiser, visible):
        super().__init__()
        self.target, self.denoiser, self.visible = target, denoiser, visible

    def forward(self, x):
        return self.target(self.denoiser(x, self.visible))
