"""Local search (Narodytska & Kasiviswanathan 2017), our own implementation: a black-box attack on few pixels.

A pixel is tried by exaggerating it (±p, by its sign around mid-grey) and changed by multiplying
it with r, which wraps around and so turns black and white into grey: the opposite direction.
Hence the pixels to change are those whose exaggeration *helps* the label.  advertorch's version, `lsa`, takes
those whose exaggeration hurts it, and forgets its perturbation each round: it breaks fewer images, by fewer
pixels.
"""

import torch
from torch import Tensor, nn

from helpers.attacks.contract import attack
from helpers.attacks.pgd import log_odds


@attack(revision=1)
def lsa_own(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    rounds: int = 150,
    p: float = 1.0,
    r: float = 1.5,
    changed: int = 5,
    reach: int = 5,
    candidates: int = 128,
    seed: int = 0,
) -> Tensor:
    """Change, round by round, the `changed` pixels whose exaggeration helps the label most (Algorithm 3).

    Only the model's scores are used.  Pixels are thought of in [-0.5, 0.5].
    rounds, changed, reach: whole numbers >= 1.
    candidates: pixels tried in a round, drawn from the (2·reach+1)² neighbourhoods of those
        changed in the round before; in the first round from the whole image.
    p: a tried pixel becomes ±p, by its sign; tried images may leave the range, as in the paper.
    r: a chosen pixel is multiplied by it, and wraps around at the ends of the range.
    seed: of the draw, which all images share.
    With `targeted`, those whose exaggeration keeps the target away.  An example on which it fails is
    handed back as the image it reached.
    """
    if min(rounds, changed, reach, candidates) < 1:
        raise ValueError(
            f"rounds, changed, reach, candidates >= 1; got {rounds}, {changed}, {reach}, {candidates}"
        )
    step = {"p": p, "r": r, "changed": changed, "reach": reach, "candidates": candidates}
    x_adv = x.clone()
    # Images still to be broken; the draws are shared by all images, so that neighbours do not matter.
    active = _unbroken(model, x_adv, y, targeted)
    generator = torch.Generator(x.device).manual_seed(seed)
    allowed = torch.ones(len(x), *x.shape[2:], dtype=torch.bool, device=x.device)
    for _ in range(rounds):
        if len(active) == 0:
            break
        lottery = torch.rand(x.shape[2:], generator=generator, device=x.device)
        for part in active.split(64):  # each image is tried in `candidates` variants
            x_adv[part], allowed[part] = _round(
                model, x_adv[part], y[part], allowed[part], lottery, targeted, **step
            )
        active = active[_unbroken(model, x_adv[active], y[active], targeted)]
    return x_adv


@torch.no_grad()
def _round(model, x, y, allowed, lottery, targeted, *, p, r, changed, reach, candidates):
    """One round for images x (N,C,H,W): -> the changed images, and where the next round looks (N,H,W)."""
    n, c, h, w = x.shape
    drawn = torch.where(allowed, lottery, -1.0).flatten(1).topk(min(candidates, h * w), 1)
    places = drawn.indices  # (N,k): flat pixel numbers
    v = (x - 0.5).flatten(2)
    k = places.shape[1]
    at = places.view(n, k, 1, 1).expand(n, k, c, 1)
    tries = v[:, None].expand(n, k, c, h * w)
    tried = tries.gather(3, at).sign() * p
    images = tries.scatter(3, at, tried).add(0.5).view(n * k, c, h, w)
    logits = torch.cat([model(part) for part in images.split(2048)])
    # Same order as the probability, which in float32 is simply 1 for a confident model.
    odds = log_odds(logits, y.repeat_interleave(k))
    gain = (-odds if targeted else odds).view(n, k)
    gain = gain.masked_fill(drawn.values < 0, -torch.inf)  # drawn where none was allowed
    best = gain.topk(min(changed, k), 1)
    chosen = torch.zeros(n, h * w, dtype=torch.bool, device=x.device)
    chosen = chosen.scatter(1, places.gather(1, best.indices), best.values > -torch.inf)
    x_new = torch.where(chosen[:, None], _cyclic(r * v), v).add(0.5).clamp(0, 1).view_as(x)
    near = chosen.view(n, 1, h, w).float()
    near = torch.nn.functional.max_pool2d(near, 2 * reach + 1, 1, reach)
    return x_new, near.squeeze(1) > 0


def _cyclic(v):
    """Wrap around at ±0.5 (the paper's Algorithm 2)."""
    return torch.where(v < -0.5, v + 1, torch.where(v > 0.5, v - 1, v))


@torch.no_grad()
def _unbroken(model, x, y, targeted):
    """Numbers of the images whose attack has not reached its goal."""
    hit = model(x).argmax(1) == y
    return (~hit if targeted else hit).nonzero().squeeze(1)
