"""DIR: information Discard and robust representation Restoration (Zhou et al., ICML 2023), by equations."""

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from helpers.attacks import attackable
from helpers.attacks.pgd import in_format_of, pgd
from helpers.defenses.base import Denoiser, descend, detached, fresh_seed, own_copy
from helpers.losses import kl
from helpers.networks.scaling import scaled
from helpers.training import Optimizers, Tensors

HEADS = 3


class MaskedViT(nn.Module):
    """The masked autoencoder of He et al. (CVPR 2022), small enough for 32×32 images.

    It redraws a whole image from some of its patches; hidden patches are never computed with.
    The published network (DIR, Section 4.1; sizes from the released code): patches of 2×2 pixels, 192
    channels, 3 heads, 8 blocks that see the visible patches alone and 2 that see all places.

    width: of the 192 channels, rounded to a multiple of the heads.
    in_channels, image_size: C and S.
    patch: side of a patch in pixels.
    encoder, decoder: blocks.
    Raises ValueError for a patch that does not divide the image, and for images of another size.
    """

    def __init__(
        self,
        width: float = 1.0,
        in_channels: int = 3,
        image_size: int = 32,
        patch: int = 2,
        encoder: int = 8,
        decoder: int = 2,
    ) -> None:
        from timm.models.vision_transformer import Block  # takes a second to import

        super().__init__()
        if image_size % patch:
            raise ValueError(
                f"patches of {patch} pixels do not divide an image of {image_size}: choose a divisor"
            )
        channels = HEADS * scaled(width, 192 // HEADS)[0]
        self.size, self.patch, self.places = image_size, patch, (image_size // patch) ** 2
        self.embed = nn.Linear(in_channels * patch**2, channels)
        self.encoder = nn.Sequential(
            *(Block(channels, HEADS) for _ in range(encoder)), nn.LayerNorm(channels)
        )
        self.decoder = nn.Sequential(*(Block(channels, HEADS) for _ in range(decoder)))
        self.head = nn.Linear(channels, in_channels * patch**2)
        # Where a patch stands, told to the encoder and again to the decoder; and what stands for a hidden
        # one.
        self.encoder_places = nn.Parameter(torch.empty(self.places, channels))
        self.decoder_places = nn.Parameter(torch.empty(self.places, channels))
        self.hidden = nn.Parameter(torch.empty(channels))
        for parameter in (self.encoder_places, self.decoder_places, self.hidden):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor, visible: Tensor, slots: Tensor | None = None) -> Tensor:
        """The image redrawn, about in [0,1], without a limit: (N,C,S,S) -> (N,C,S,S).

        x: in [0,1]; only the patches `visible` (N,V), row by row from 0, are looked at.
        slots: (N,V), the places that the decoder takes the visible patches to stand at; by default their own.
        """
        if x.shape[-2:] != (self.size, self.size):
            given = tuple(x.shape[-2:])
            raise ValueError(f"made for images of {self.size}×{self.size} pixels (image_size), got {given}")
        patches = to_patches(2 * x - 1, self.patch)
        seen = self.embed(take(patches, visible)) + self.encoder_places[visible]
        code = self.encoder(seen)
        slots = visible if slots is None else slots
        every = self.hidden.to(code.dtype).expand(len(x), self.places, -1)
        every = every.scatter(1, slots[..., None].expand_as(code), code)
        decoded = self.decoder(every + self.decoder_places)
        with torch.autocast(x.device.type, enabled=False):  # an image in bfloat16 has fewer than 256 shades
            restored = self.head(decoded.float())
        return (to_images(restored, self.patch, x.shape[1]) + 1) / 2


def to_patches(x: Tensor, patch: int) -> Tensor:
    """Images (N,C,S,S) -> their patches (N,P,C·p·p), row by row."""
    n, c, size, _ = x.shape
    rows = size // patch
    return x.reshape(n, c, rows, patch, rows, patch).permute(0, 2, 4, 1, 3, 5).reshape(n, rows**2, -1)


def to_images(patches: Tensor, patch: int, channels: int) -> Tensor:
    """The inverse of `to_patches`: (N,P,C·p·p) -> (N,C,S,S)."""
    n, places, _ = patches.shape
    rows = round(places**0.5)
    images = patches.reshape(n, rows, rows, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return images.reshape(n, channels, rows * patch, rows * patch)


def take(patches: Tensor, visible: Tensor) -> Tensor:
    """The patches (N,P,D) at the places `visible` (N,V) -> (N,V,D)."""
    return patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1]))


class Discard(nn.Module):
    """The denoiser g: what masks leave of an image is restored behind each of them, and averaged.

    hidden: share of the patches that a mask hides.  A group of K masks is complementary: together they show
        every patch, with the fewest masks that can; K=2 for one half, where the two masks partition the
        patches.
    misplaced: as in the released code, what the *second* mask shows is taken to stand where the *first*
        mask's patches do.  Needs hidden=0.5.
    width, patch, encoder, decoder, in_channels, image_size: of `MaskedViT`.
    Raises ValueError for a share that shows no patch.

    Masks are drawn afresh for each image and pass, in train and eval mode alike, from torch's global
    generator: `helpers.seeded` makes a pass repeatable, `helpers.threats.fixed_mask` holds the masks still.
    """

    def __init__(self, hidden: float = 0.5, misplaced: bool = False, **network) -> None:
        super().__init__()
        self.vit = MaskedViT(**network)
        self.misplaced = misplaced
        self._hide(hidden)

    def _hide(self, hidden: float) -> None:
        """Let masks hide this share of the patches."""
        shown = round((1 - hidden) * self.vit.places)
        if not 0 < shown <= self.vit.places:
            raise ValueError(
                f"hidden={hidden} shows {shown} of {self.vit.places} patches: choose from 0 on, below 1"
            )
        if self.misplaced and 2 * shown != self.vit.places:
            raise ValueError(f"misplaced=True exchanges halves: hidden must be 0.5, got {hidden}")
        self.shown = shown

    def hiding(self, hidden: float) -> "Discard":
        """A copy, weights included, with masks that hide another share; 0: one mask that hides nothing."""
        other = own_copy(self)
        other._hide(hidden)
        return other

    def masks(self, x: Tensor) -> Tensor:
        """Complementary masks for images x (N,C,S,S): the patches that each shows, (K,N,V) int64."""
        order = torch.rand(len(x), self.vit.places, device=x.device).argsort(1)
        # Deal the shuffled patches out in turn; where the last mask runs out of new ones it begins again.
        k = ceil(self.vit.places / self.shown)
        dealt = torch.arange(k * self.shown, device=x.device).remainder(self.vit.places).view(k, self.shown)
        return order[:, dealt].transpose(0, 1)

    def each(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """g(x × m^k), one restoration for each mask; (N,C,S,S) -> (K,N,C,S,S).

        visible: as from `masks`; None: drawn.
        """
        visible = self.masks(x) if visible is None else visible
        k = len(visible)
        slots = visible[:1].expand(k, -1, -1) if self.misplaced else visible
        # All masks in one pass.
        restored = self.vit(x.repeat(k, 1, 1, 1), visible.flatten(0, 1), slots.flatten(0, 1))
        return restored.view(k, *x.shape)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """x̃ = 1/K Σ_k g(x × m^k) (Eq. 5); (N,C,S,S) -> (N,C,S,S)."""
        return self.each(x, visible).mean(0)


class DIRPretraining(Denoiser):
    """Pre-training of DIR's denoiser, to redraw natural images from what masks leave of others (Eq. 2).

    Its attacks are on the bare target.  Neither the optimizer nor its rate is in the paper: AdamW, its betas,
    decay and rate are those of the released code, whose 1000 epochs are 20 in the paper; its warm-up is left
    out.

    learning_rate: of AdamW.
    augment: random crops and mirror images, which are ours here.
    discard: settings of `Discard`.
    """

    def __init__(self, learning_rate: float = 1.5e-4, augment: bool = True, **discard) -> None:
        super().__init__(augment=augment)
        self.denoiser = Discard(**discard)
        self.learning_rate = learning_rate

    def forward(self, x: Tensor) -> Tensor:
        return self.denoiser(x)

    def optimizers(self) -> Optimizers:
        parameters = self.denoiser.parameters()
        optimizer = torch.optim.AdamW(
            parameters, self.learning_rate, (0.9, 0.95), weight_decay=0.05, fused=True
        )
        return {"adamw": optimizer}

    def schedulers(self, optimizers: Optimizers, epochs: int) -> list[LRScheduler]:
        return [CosineAnnealingLR(optimizers["adamw"], epochs)]

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """min_ω Σ_k ‖g(x' × m^k) − x‖² (Eq. 2), a mean over the pixels.

        x' is natural or adversarial (Algorithm 1); `natural` (B,C,S,S), `adversarial` (B,A,C,S,S).
        """
        batch = self.inputs(batch)
        images = torch.cat([batch["natural"][:, None], batch["adversarial"]], 1)
        wanted = images[:, :1].expand_as(images).flatten(0, 1)
        restored = self.denoiser.each(images.flatten(0, 1)).float()
        loss = F.mse_loss(restored, wanted.expand_as(restored))
        descend(loss, optimizers["adamw"])
        return detached({"restoration": loss})


class DIR(Denoiser):
    """The denoiser of `Discard`, trained in a game on what it restores; (N,C,S,S) in [0,1] -> the same.

    target: the classifier h, frozen (see `Denoiser`).
    pretrained: a `DIRPretraining` of the same `discard`, whose denoiser's weights this one begins with.
    alpha: weight of the game, L_rep (Eq. 7).
    eps, step_size, steps: of the white-box PGD that makes x' and, since the paper names no other, of the
        game's perturbation δ.
    mse: weight of ‖x̃ − x‖², for training without pre-training (Section 4.3); 0 in the method itself.
    learning_rate: of SGD with a momentum of 0.9.
    augment: random crops and mirror images, those of the released code.
    discard: settings of `Discard`.

    The paper trains the denoiser alone.  Five of the things that the released code does otherwise are
    settings:
    joint: a copy of the target is trained along, at a learning rate of 0.1 and the denoiser at 5e-5, whatever
        `learning_rate` says.  (There the classifier begins untrained, and its rate alone is lowered.)
    misplaced: see `Discard`.
    projected=False: the steps of δ are not brought back into the ball, and may reach steps·step_size.
    held: x̃ + δ is held still in L_rep, so that its gradient passes through h(x̃) alone.  Eq. 5 has x̃ in
        both places.
    alpha=1.
    Raises ValueError for `joint` without a target.
    """

    learns_from = ("natural", "label")

    def __init__(
        self,
        target: nn.Module | None = None,
        pretrained: DIRPretraining | None = None,
        alpha: float = 2.0,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 5,
        mse: float = 0.0,
        joint: bool = False,
        projected: bool = True,
        held: bool = False,
        learning_rate: float = 0.01,
        augment: bool = True,
        **discard,
    ) -> None:
        super().__init__(target, joint=joint, augment=augment)
        self.denoiser = Discard(**discard)
        if pretrained is not None:
            self.denoiser.load_state_dict(pretrained.denoiser.state_dict())
        self.attack = {"eps": eps, "step_size": step_size, "steps": steps}
        self.alpha, self.mse, self.projected, self.held = alpha, mse, projected, held
        self.learning_rate = learning_rate

    def forward(self, x: Tensor) -> Tensor:
        return self.denoiser(x)

    def masks(self, x: Tensor) -> Tensor:
        return self.denoiser.masks(x)

    def each(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        return self.denoiser.each(x, visible)

    def optimizers(self) -> Optimizers:
        if self.joint_target is None:
            groups = [{"params": self.denoiser.parameters(), "lr": self.learning_rate}]
        else:
            groups = [
                {"params": self.denoiser.parameters(), "lr": 5e-5},
                {"params": self.joint_target.parameters(), "lr": 0.1},
            ]
        return {"sgd": torch.optim.SGD(groups, momentum=0.9, weight_decay=2e-4)}

    def schedulers(self, optimizers: Optimizers, epochs: int) -> list[LRScheduler]:
        """A tenth of the rate after the 75th of 90 epochs; the second step, at the 90th, is the end."""
        return [MultiStepLR(optimizers["sgd"], [max(1, epochs * 75 // 90)])]

    def white_box(self, x: Tensor, y: Tensor, visible: Tensor) -> Tensor:
        """x' (Algorithm 1, line 5), in the ball around x: PGD on h∘g with the masks in use; (N,C,S,S)."""
        pipeline = _BehindMasks(self.full_model().target, self.denoiser, visible)
        with attackable(pipeline):
            return pgd(pipeline, x, y, targeted=False, seed=fresh_seed(), **self.attack)

    def perturbed(self, restored: Tensor) -> Tensor:
        """x̃ + δ (line 8): argmax_δ KL(h(x̃+δ), h(x̃)) in x̃'s ball (Eq. 4); (N,C,S,S) -> the same.

        Which distribution the divergence is taken from is the released code's choice: the unperturbed one.
        At δ = 0 it has no gradient, so the ascent starts from a little noise.  x̃ is not limited to [0,1],
        nor is x̃ + δ: `helpers.attacks.pgd.ascend` would cut both.
        """
        eps, step_size = self.attack["eps"], self.attack["step_size"]
        with attackable(self.full_model().target) as target:
            around = in_format_of(target, restored.detach().float())
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

    def losses(self, x_adv: Tensor, x: Tensor, y: Tensor, visible: Tensor) -> Tensors:
        """The terms of Eq. 5 and 6, and ‖x̃ − x‖², means over the batch, as {"adv", "rep", "mse"}."""
        restored = self.denoiser(x_adv, visible)
        perturbed = self.perturbed(restored)
        if not self.held:  # δ is a constant, but x̃ + δ moves with x̃
            perturbed = restored + (perturbed - restored).detach()
        with self.target_in_training() as target:
            logits, moved = target(torch.cat([restored, perturbed])).float().chunk(2)
        return {
            "adv": F.cross_entropy(logits, y),  # Eq. 6, where a minus sign is missing
            "rep": kl(logits, moved).mean(),  # Eq. 5
            "mse": F.mse_loss(restored.float(), x),
        }

    def overall(self, losses: Tensors) -> Tensor:
        """L_den = L_adv + α·L_rep (Eq. 7), and the weighted mean square where there was no pre-training."""
        return losses["adv"] + self.alpha * losses["rep"] + self.mse * losses["mse"]

    def training_step(self, batch: Tensors, optimizers: Optimizers) -> Tensors:
        """Algorithm 1, lines 3–11; `natural` (B,C,S,S), `label` (B,)."""
        batch = self.inputs(batch)
        x, y = batch["natural"], batch["label"]
        visible = self.masks(x)
        x_adv = self.white_box(x, y, visible)
        losses = self.losses(x_adv, x, y, visible)
        loss = self.overall(losses)
        descend(loss, optimizers["sgd"])
        return detached(losses | {"overall": loss})


class _BehindMasks(nn.Module):
    """target ∘ denoiser behind given masks, as a module that an attack can be run on."""

    def __init__(self, target: nn.Module, denoiser: Discard, visible: Tensor) -> None:
        super().__init__()
        self.target, self.denoiser, self.visible = target, denoiser, visible

    def forward(self, x: Tensor) -> Tensor:
        return self.target(self.denoiser(x, self.visible))
