"""The attacks that the papers take from advertorch: CW, DDN, JSMA, and its STA and local search.

advertorch 0.2.3 predates today's torch; what it needs, and its defects, are contained here.
"""

import functools
import sys
import warnings
from types import ModuleType

import torch
from torch import Tensor, nn

from helpers import seeded
from helpers.attacks.contract import attack, num_classes


@functools.cache
def library() -> ModuleType:
    """The module `advertorch.attacks`, made importable on a modern torch.

    It imports `torch.autograd.gradcheck.zero_gradients`, gone since torch 1.9.  The name
    `torch.autograd.gradcheck` is bound to the *function*, so the module is found in sys.modules.
    """

    def zero_gradients(x):
        if x.grad is not None:
            x.grad.zero_()

    sys.modules["torch.autograd.gradcheck"].zero_gradients = zero_gradients
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import advertorch.attacks
    return advertorch.attacks


@attack(revision=1)
def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    steps: int = 500,
    search_steps: int = 4,
    confidence: float = 1.0,
    learning_rate: float = 0.01,
    initial_const: float = 1.0,
) -> Tensor:
    """Carlini & Wagner's ℓ2 attack; the defaults are those of ARN's released code.

    steps: Adam steps for each value of the trade-off constant.
    search_steps: how many values of it are tried, by bisection.
    confidence: by how much the wrong logit must lead, >= 0.
    learning_rate: Adam's, in the units of tanh⁻¹ of the image.
    initial_const: the first value of the constant.
    An example on which it fails is handed back unchanged.  ValueError for images that are not float32.
    """
    if x.dtype != torch.float32:
        raise ValueError(
            f"advertorch's cw computes in float32, the images are {x.dtype}: use x.float(), model.float()"
        )
    carlini_wagner = library().CarliniWagnerL2Attack(
        model,
        num_classes(model, x),
        confidence=confidence,
        targeted=targeted,
        max_iterations=steps,
        binary_search_steps=search_steps,
        learning_rate=learning_rate,
        initial_const=initial_const,
        # Stopping early looks at the whole batch: an example's result would depend on its neighbours.
        abort_early=False,
    )
    return carlini_wagner.perturb(x, y)


@attack(revision=1)
def ddn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    steps: int = 100,
    gamma: float = 0.05,
    init_norm: float = 1.0,
    quantize: bool = True,
) -> Tensor:
    """Decoupled direction and norm (Rony et al. 2019), ℓ2; the defaults are ARN's released ones.

    steps: iterations.
    gamma: share by which a step changes the norm.
    init_norm: the norm to begin with, in units of the [0,1] image.
    quantize: results lie on the 256 levels of an 8-bit image; without it the attack loses
    some of its success when the image is stored.  Failures are handed back unchanged.
    """
    decoupled = library().DDNL2Attack(
        model,
        nb_iter=steps,
        gamma=gamma,
        init_norm=init_norm,
        quantize=quantize,
        levels=256,
        targeted=targeted,
    )
    # Where a gradient is zero the library takes a random direction from torch's global generator.
    with seeded(0), warnings.catch_warnings():
        # The library steps its scheduler before its optimizer; this only skips one value of the schedule.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        return decoupled.perturb(x, y)


@attack(revision=1)
def jsma(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    theta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """Jacobian-based saliency map attack (Papernot et al. 2016); y are target labels.

    theta: change of a chosen pixel, in units of the [0,1] image.
    gamma: largest share of pixels changed, in (0,1].
    ValueError unless `targeted`.
    """
    if not targeted:
        raise ValueError("jsma is a targeted attack: pass targeted=True and target labels as y")
    saliency_map = library().JacobianSaliencyMapAttack(model, num_classes(model, x), theta=theta, gamma=gamma)
    # It holds a number for every pair of pixels: 100 MNIST images at a time take 1.5 GB.
    size = max(1, 50 * 784**2 // x[0].numel() ** 2)
    return torch.cat([saliency_map.perturb(*part) for part in zip(x.split(size), y.split(size), strict=True)])


def spatial(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    steps: int,
    search_steps: int,
) -> Tensor:
    """advertorch's spatial transform attack, with its failures handed back unchanged.

    It returns a black image for an example on which it fails, and a black image often counts
    as a success: on an adversarially trained net it "succeeds" far more often than it does.
    """
    transform = library().SpatialTransformAttack(
        model, num_classes(model, x), max_iterations=steps, search_steps=search_steps, targeted=targeted
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Default grid_sample")
        x_adv = transform.perturb(x, y)
    failed = (x_adv == 0).flatten(1).all(1).view(-1, 1, 1, 1)
    return torch.where(failed, x, x_adv)


def local_search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    rounds: int,
    p: float,
    r: float,
    changed: int,
    reach: int,
    candidates: int,
    seed: int,
) -> Tensor:
    """advertorch's local search, with the settings of `lsa`: it takes the pixels that help the *label* most.

    Each round forgets the changes of the one before.
    So nothing can succeed that is not among the candidates; failures are handed back unchanged.
    """
    search = library().LocalSearchAttack(
        model, p=p, r=r, t=changed, d=reach, round_ub=rounds, max_nb_seeds=candidates, targeted=targeted
    )
    with seeded(seed):
        return search.perturb(x, y).clamp(0, 1)
