"""What a number that could be anything must stand beside: the same of noise, and of other images.

A cosine of 0.85 between the features of a natural image and of the attacked one says nothing by itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers import seeded
from helpers.measure.lid import noisy
from helpers.measure.rates import in_parts


def cosines(
    features: Callable[[Tensor], Tensor], x: Tensor, x_adv: Tensor, y: Tensor, seed: int = 0
) -> dict[str, Tensor]:
    """The cosines of each natural image's features and those of four others: {which: (N,)}.

    Of the attacked image; of the natural one with noise of random signs as long as the attack's change; of
    another image of its class, and of another class, NaN where there is none.  Means with intervals:
    `helpers.measure.rates.mean` and, of two of them, `mean_difference`.

    features: images (N,C,H,W) -> (N,...).
    x, x_adv: natural images (≥ N,C,H,W) in [0,1], and what the attack made of the first N.
    y: labels (≥ N,).
    seed: of the noise and of the choice of the other images.
    """
    x, y = x[: len(x_adv)], y[: len(x_adv)]
    with seeded(seed):
        shuffled = torch.randperm(len(x)).to(y.device)
    counts = y.bincount().tolist()
    order = shuffled[y[shuffled].argsort(stable=True)]  # class by class
    next_in_class = torch.cat([members.roll(1) for members in order.split(counts)])
    class_after = order.roll(max(counts))  # so far on, another class begins
    natural = in_parts(features, x).flatten(1)

    def with_other(partner: Tensor, same: bool) -> Tensor:
        fits = (y[order] == y[partner]) == same
        found = F.cosine_similarity(natural[order], natural[partner])
        found = found.masked_fill(~fits | (order == partner), torch.nan)
        return torch.empty_like(found).index_copy(0, order, found)

    signs = noisy(x, x_adv, seed, signs=True)
    return {
        "attacked": F.cosine_similarity(natural, in_parts(features, x_adv).flatten(1)),
        "random signs, as long": F.cosine_similarity(natural, in_parts(features, signs).flatten(1)),
        "another of its class": with_other(next_in_class, same=True),
        "one of another class": with_other(class_after, same=False),
    }
