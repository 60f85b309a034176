"""The attacks that the papers take from advertorch: CW, DDN, JSMA, and its STA and local search.

advertorch 0.2.3 predates today's torch; what it needs, and its defects, are contained here.
"""

import functools
import sys
import warnings

import torch

from helpers import seeded


@functools.cache
def library():
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


def cw(model, x, y, *, targeted, steps=500, search_steps=4, confidence=1.0, learning_rate=0.01, initial_const=1.0):
    """Carlini & Wagner's ℓ2 attack; the defaults are those of ARN's released code.

    steps: Adam steps for each of the `search_steps` values of the trade-off constant.
    An example on which it fails is handed back unchanged.
    """
    if x.dtype != torch.float32:
        raise ValueError(f"advertorch's cw computes in float32, the images are {x.dtype}: use x.float(), model.float()")
    attack = library().CarliniWagnerL2Attack(
        model, num_classes(model, x), confidence=confidence, targeted=targeted, max_iterations=steps,
        binary_search_steps=search_steps, learning_rate=learning_rate, initial_const=initial_const,
        abort_early=False,  # stopping early looks at the whole batch: an example's result would depend on its neighbours
    )  # fmt: skip
    return attack.perturb(x, y)


def ddn(model, x, y, *, targeted, steps=100, gamma=0.05, init_norm=1.0, quantize=True):
    """Decoupled direction and norm (Rony et al. 2019), ℓ2; the defaults are ARN's released ones.

    quantize: results lie on the 256 levels of an 8-bit image; without it the attack loses
    some of its success when the image is stored.  Failures are handed back unchanged.
    """
    attack = library().DDNL2Attack(
        model, nb_iter=steps, gamma=gamma, init_norm=init_norm, quantize=quantize, levels=256, targeted=targeted
    )
    # Where a gradient is zero the library takes a random direction from torch's global generator.
    with seeded(0), warnings.catch_warnings():
        # The library steps its scheduler before its optimizer; this only skips one value of the schedule.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        return attack.perturb(x, y)


def jsma(model, x, y, *, targeted, theta=1.0, gamma=1.0):
    """Jacobian-based saliency map attack (Papernot et al. 2016); y are target labels.

    theta: change per chosen pixel.  gamma: largest fraction of pixels changed.
    """
    if not targeted:
        raise ValueError("jsma is a targeted attack: pass targeted=True and target labels as y")
    attack = library().JacobianSaliencyMapAttack(model, num_classes(model, x), theta=theta, gamma=gamma)
    # It holds a number for every pair of pixels: 100 MNIST images at a time take 1.5 GB.
    size = max(1, 50 * 784**2 // x[0].numel() ** 2)
    return torch.cat([attack.perturb(*part) for part in zip(x.split(size), y.split(size), strict=True)])


def spatial(model, x, y, *, targeted, steps, search_steps):
    """advertorch's spatial transform attack, with its failures handed back unchanged.

    It returns a black image for an example on which it fails, and a black image often counts
    as a success: on an adversarially trained net it "succeeds" far more often than it does.
    """
    attack = library().SpatialTransformAttack(
        model, num_classes(model, x), max_iterations=steps, search_steps=search_steps, targeted=targeted
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Default grid_sample")
        x_adv = attack.perturb(x, y)
    failed = (x_adv == 0).flatten(1).all(1).view(-1, 1, 1, 1)
    return torch.where(failed, x, x_adv)


def local_search(model, x, y, *, targeted, rounds, p, r, changed, reach, candidates, seed):
    """advertorch's local search: it takes the pixels that help the *label* most, and starts anew each round.

    Beyond the candidates it tries one by one nothing can succeed; failures are handed back unchanged.
    """
    attack = library().LocalSearchAttack(
        model, p=p, r=r, t=changed, d=reach, round_ub=rounds, max_nb_seeds=candidates, targeted=targeted
    )
    with seeded(seed):
        return attack.perturb(x, y).clamp(0, 1)


def num_classes(model, x):
    """Number of logits that `model` gives for an image of `x`."""
    with torch.no_grad():
        return model(x[:1]).shape[1]
