"""What two defenses share: a frozen target, full adversarial examples, stacked domains, an update."""

import copy
import inspect
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers.attacks import attackable
from helpers.attacks.pgd import pgd
from helpers.threats import Defended
from helpers.training import Tensors, crop_and_flip


class Denoiser(nn.Module):
    """Base of the methods that train a denoiser: images (N,C,S,S) in [0,1] -> the same, restored.

    A subclass gives `forward`, `optimizers` and `training_step`, as in `helpers.training`.

    target: the classifier that guides the training, or is attacked in it.  It is frozen, and no part of this
        module: it has weights of its own, and need not be given to load a trained denoiser.
    full: train on full adversarial examples, those of the whole pipeline, rebuilt in each step (JATP, Section
        2.2); settings of that PGD (`helpers.attacks.pgd`).  None: on the adversarial examples of the batch.
    joint: a copy of the target is trained along, and kept as `joint_target`.
    augment: train on random crops and mirror images.
    Raises ValueError for `joint` without a target, or settings that PGD does not take.
    """

    revision: int = 1  # see `helpers.defenses`

    def __init__(
        self,
        target: nn.Module | None = None,
        full: dict | None = None,
        joint: bool = False,
        augment: bool = False,
    ) -> None:
        super().__init__()
        if joint and target is None:
            raise ValueError("joint=True trains the target along: give it")
        if full is not None:
            check_settings(pgd, full)
        # A plain attribute: a submodule would be saved, trained and switched to train mode.
        object.__setattr__(self, "target", target)
        self.joint_target = own_copy(target).requires_grad_() if joint else None
        self.full, self.augment = full, augment

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Names of what a batch has to hold."""
        return ("natural", "adversarial") if self.full is None else ("natural", "label")

    def full_model(self) -> Defended:
        """F = T∘P as it is trained: in front of the target, or of its copy that is trained along."""
        return self.defended(self.target)

    def defended(self, target: nn.Module) -> Defended:
        """What is deployed: this denoiser in front of `target`, or of the one trained along with it."""
        return Defended(target if self.joint_target is None else self.joint_target, self)

    def target_in_training(self) -> AbstractContextManager[nn.Module]:
        """`with` this as target: in eval mode and frozen, or the copy that is trained along, as it is."""
        return attackable(self.target) if self.joint_target is None else nullcontext(self.joint_target)

    def inputs(self, batch: Tensors) -> Tensors:
        """The batch; with `augment` each image is cropped and mirrored, and all its versions are alike."""
        if not self.augment:
            return batch
        versions = {name: t.flatten(1, -3) for name, t in batch.items() if t.dim() > 3}
        cut = crop_and_flip(torch.cat(list(versions.values()), 1))
        parts = cut.split([t.shape[1] for t in versions.values()], 1)
        return batch | {
            name: part.reshape(batch[name].shape) for name, part in zip(versions, parts, strict=True)
        }

    def adversarial(self, batch: Tensors) -> Tensor:
        """The batch's adversarial examples (B,K,C,S,S), or with `full` those of the pipeline, (B,1,C,S,S).

        JATP, Eq. 3: x̃* = argmax 𝟙(T(P(x̃)) ≠ y) in the ball around x.
        """
        if self.full is None:
            return batch["adversarial"]
        with attackable(self.full_model()) as model:
            x_adv = pgd(
                model, batch["natural"], batch["label"], targeted=False, seed=fresh_seed(), **self.full
            )
        return x_adv[:, None]


def own_copy(module: nn.Module) -> nn.Module:
    """A copy to be changed, weights included: it is no longer what the lab made `module` from."""
    other = copy.deepcopy(module)
    vars(other).pop("recipe", None)
    return other


def fresh_seed() -> int:
    """A seed for an attack's random start, from torch's generator, which each epoch of a training seeds."""
    return int(torch.randint(2**31, ()))


def stacked(adversarial: Tensor, natural: Tensor | None = None) -> Tensor:
    """The K domains one after the other: (B,K,C,S,S) -> (K·B,C,S,S).

    natural: (B,C,S,S), one more domain, the first.
    """
    if natural is not None:
        adversarial = torch.cat([natural[:, None], adversarial], 1)
    return adversarial.transpose(0, 1).flatten(0, 1)


def domain_labels(codes: Tensor, domains: int) -> Tensor:
    """Which of the `domains` stacked domains each of the codes (K·B,D) is from: (K·B,), 0…K−1."""
    return torch.arange(domains, device=codes.device).repeat_interleave(len(codes) // domains)


def ablated(weights: dict[str, float], without: Collection[str]) -> dict[str, float]:
    """The weights of the loss terms that an ablation leaves; ValueError for a term that there is not."""
    if unknown := set(without) - set(weights):
        raise ValueError(f"without: unknown loss terms {sorted(unknown)}; choose from {', '.join(weights)}")
    return {term: weight for term, weight in weights.items() if term not in without}


def check_settings(attack: Callable, settings: dict) -> None:
    """ValueError unless the attack function takes `settings`, before a training that could make no step."""
    try:
        inspect.signature(attack).bind("model", "x", "y", targeted=False, **settings)
    except TypeError as error:
        raise ValueError(f"attack settings of {attack.__name__}: {error}") from None


def adam(
    networks: Iterable[nn.Module],
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam over all of their parameters, in one fused pass: faster for small networks."""
    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.Adam(parameters, learning_rate, betas, weight_decay=weight_decay, fused=True)


def descend(loss: Tensor, optimizer: Optimizer) -> None:
    """One update of what `optimizer` trains, and of nothing else, down `loss`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
    optimizer.step()


def detached(losses: Tensors) -> Tensors:
    """The losses as a training step reports them."""
    return {name: value.detach() for name, value in losses.items()}
