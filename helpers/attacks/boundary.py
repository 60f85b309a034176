"""The boundary attack (Brendel, Rauber & Bethge 2018) from foolbox: decisions only, no gradient, no score."""

import torch
from torch import Tensor, nn

from helpers import seeded
from helpers.attacks.contract import attack
from helpers.data import check_images


@attack(revision=1)
def ba(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    steps: int = 25000,
    starts: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Walk along the decision boundary towards the image; minimal ℓ2 norm, no budget.

    steps: >= 1; the default is foolbox's.
    starts: images (N,C,H,W) from which to walk, each already a success; without them, noise and
        flat images are tried.  A targeted attack needs them: noise is rarely the class wanted.
    seed: of the noise, and of the walk, which is the same noise for all images.
    An example without a successful start, or already misclassified, is handed back unchanged.
    """
    import foolbox

    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if targeted and starts is None:
        raise ValueError("a targeted boundary attack needs starts: images (N,C,H,W) of the target classes")
    starts = _noise_starts(model, x, y, seed) if starts is None else starts
    check_images(starts)
    if starts.shape != x.shape:
        raise ValueError(f"starts has shape {tuple(starts.shape)}, the images {tuple(x.shape)}")
    with torch.no_grad():
        done, started = ((model(images).argmax(1) == y) == targeted for images in (x, starts))
    walk = (~done & started).nonzero().squeeze(1)
    x_adv = x.clone()
    if len(walk):
        criteria = foolbox.criteria
        criterion = criteria.TargetedMisclassification if targeted else criteria.Misclassification
        boundary = foolbox.attacks.BoundaryAttack(steps=steps)
        with seeded(seed):  # it draws from torch's global generator
            box = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
            x_adv[walk] = boundary.run(box, x[walk], criterion(y[walk]), starting_points=starts[walk])
    return x_adv


def _noise_starts(model, x, y, seed):
    """For each image, the first of some twenty noisy and flat ones that is not classified as `y`."""
    generator = torch.Generator(x.device).manual_seed(seed)
    starts = x.clone()
    missing = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for i in range(24):
        noise = torch.rand(1, *x.shape[1:], generator=generator, device=x.device)
        # uniform noise, noise of black and white pixels with more and more white, flat grey
        image = [noise, (noise < (i + 1) / 24).float(), torch.full_like(noise, i / 23)][i % 3].to(x.dtype)
        with torch.no_grad():
            succeeds = missing & (model(image).argmax(1) != y)
        starts = torch.where(succeeds.view(-1, 1, 1, 1), image, starts)
        missing &= ~succeeds
    return starts
