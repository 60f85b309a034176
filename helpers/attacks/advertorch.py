"""The attacks that the papers take from advertorch: CW, DDN, JSMA, STA, local search.

advertorch 0.2.3 predates today's torch; what it needs, and its defects, are contained here.  Its STA and
local search are weak: `sta_own` and `lsa_own` are the stronger ones.
"""

import functools
import sys
import warnings
from types import ModuleType

import numpy as np
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
    steps: int = 1000,
    search_steps: int = 9,
    confidence: float = 0.0,
    learning_rate: float = 0.01,
    initial_const: float = 0.001,
) -> Tensor:
    """Carlini & Wagner's ℓ2 attack; the defaults are the library's, but for its 10,000 steps.

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
    """Decoupled direction and norm (Rony et al. 2019), ℓ2; the defaults are the library's.

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


@attack(revision=2)
def sta(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    steps: int = 1000,
    search_steps: int = 1,
) -> Tensor:
    """The library's spatial transform attack; the defaults are the library's.

    steps: of L-BFGS, at most, over the flows of all images together: they depend on the batch.
    search_steps: how often L-BFGS is started again where it has ended; no constant is searched.
    The library returns a black image where it fails, and a black image often counts as a success: on an
    adversarially trained net it "succeeds" far more often than it does.  Here failures are handed back
    unchanged.
    """
    transform = library().SpatialTransformAttack(
        model, num_classes(model, x), max_iterations=steps, search_steps=search_steps, targeted=targeted
    )
    evaluate = transform._loss_fn_spatial

    def finite(*arguments):
        # One loss that is not finite gets into the flow of every image, and a NaN there ends Python itself.
        loss, gradient = evaluate(*arguments)
        return np.nan_to_num(loss, nan=1e10, posinf=1e10), np.nan_to_num(gradient)

    transform._loss_fn_spatial = finite
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Default grid_sample")
        x_adv = transform.perturb(x, y)
    failed = (x_adv == 0).flatten(1).all(1).view(-1, 1, 1, 1)
    return torch.where(failed, x, x_adv)


@attack(revision=2)
def lsa(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    rounds: int = 10,
    p: float = 1.0,
    r: float = 1.5,
    changed: int = 5,
    reach: int = 5,
    candidates: int = 128,
    seed: int = 0,
) -> Tensor:
    """The library's local search (Narodytska & Kasiviswanathan 2017); the defaults are the library's.

    The settings are those of `lsa_own`.  It differs from the paper: it changes the pixels whose exaggeration
    *hurts* the label most, each round begins with the image, and no more than a tenth of the pixels are
    candidates in the first.  A candidate's image, cut to [0,1], may be a success, too.
    Failures are handed back unchanged.  ValueError for images that are not square, where the library fails.
    """
    if x.shape[2] != x.shape[3]:
        raise ValueError(f"advertorch's lsa takes square images only, got {tuple(x.shape)}: use lsa_own")
    search = library().LocalSearchAttack(
        model, p=p, r=r, t=changed, d=reach, round_ub=rounds, max_nb_seeds=candidates, targeted=targeted
    )
    with seeded(seed):
        return search.perturb(x, y).clamp(0, 1)
