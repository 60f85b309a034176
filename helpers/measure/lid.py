"""Detection of adversarial examples by local intrinsic dimensionality (Ma et al. 2018; ADD, Appendix G.2).

How fast the number of neighbours grows with the distance tells the dimension of the data around a
point.  Ma et al. find it higher around adversarial examples than around natural images in the layers
of a target; a logistic regression on these numbers tells the two apart.  ADD asks it about restored
examples: where the defense has removed the perturbation, nothing is left to find.

    train, test = slice(0, 500), slice(500, 1000)
    features = {name: lid_features(target, images, natural, layers) for name, images in sets.items()}
    detector = train_detector(*(features[name][train] for name in ("natural", "noisy", "adversarial")))
    detect(detector, *(features[name][test] for name in ("natural", "noisy", "restored")))

Minibatches that lie wholly in one half, as here, keep the halves apart.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from scipy.stats import bootstrap, rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from helpers import seeded
from helpers.measure.rates import Rate, Score

NEIGHBOURS, MINIBATCH = 20, 100  # as in Ma et al.'s released code

# The estimate -------------------------------------------------------------------------------------


def lid(x: Tensor, reference: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Maximum-likelihood estimate of the local intrinsic dimensionality (Ma et al., Eq. 4).

    −( 1/k Σ_i log(r_i / r_k) )⁻¹, with r_1 ≤ … ≤ r_k the Euclidean distances of a row of `x`
    (N,D) to its k nearest neighbours among the rows of `reference` (M,D).  -> (N,), float64

    Rows at distance zero are no neighbours: that is the point itself, where x is part of the reference,
    or a copy of it, and log 0 would end the estimate.  Infinite where all k distances are equal.
    ValueError if a point has fewer than k neighbours.
    """
    return _estimate(_distances(x, reference), k)


def _distances(x: Tensor, reference: Tensor) -> Tensor:
    # Not by matrix products: they leave a small distance where it should be zero.
    return torch.cdist(x.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _estimate(distances: Tensor, k: int) -> Tensor:
    distances = distances.masked_fill(distances == 0, torch.inf)
    fewest = int(distances.isfinite().sum(1).min())
    if fewest < k:
        raise ValueError(
            f"k={k} neighbours are asked for, but a point has only {fewest}; lower k or give more points"
        )
    nearest = distances.topk(k, largest=False).values
    return -1 / (nearest / nearest[:, -1:]).log().mean(1)


# Its features -------------------------------------------------------------------------------------


@torch.no_grad()
def activations(model: nn.Module, x: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """Outputs of the submodules `layers` (as in `named_modules()`) and the logits, for images (N,C,H,W).

    -> list of len(layers) + 1 tensors (N,D), D differing.  The model as it is: put it in eval mode.
    ValueError for a name it does not have.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules or not name]
    if unknown:
        raise ValueError(
            f"the model has no layers {unknown}; it has {', '.join(filter(None, modules)) or 'none'}"
        )
    outputs = {}

    def keep(name, module, inputs, output):
        # A copy: an in-place ReLU after the layer would overwrite it.
        outputs[name] = output.flatten(1).clone()

    hooks = [modules[name].register_forward_hook(partial(keep, name)) for name in layers]
    try:
        logits = model(x.clone())  # it may work in place
    finally:
        for hook in hooks:
            hook.remove()
    return [*(outputs[name] for name in layers), logits]


def lid_features(
    model: nn.Module,
    x: Tensor,
    natural: Tensor,
    layers: Sequence[str],
    k: int = NEIGHBOURS,
    minibatch: int = MINIBATCH,
) -> np.ndarray:
    """LID of images `x` (N,C,H,W) at each of `layers` and at the logits; -> (N, len(layers) + 1).

    natural: (N,C,H,W), the images that x was made from, row by row; x itself for the features of the
        natural class.  An image's neighbours are the natural images of its minibatch *without its own*:
        a detector in use never has the natural image behind an adversarial one, and keeping it for the
        other classes only would give them away.  (Ma et al.'s released code leaves out whichever
        natural image is nearest, mostly the same one.)
    minibatch: natural images at a time; the last minibatch is filled up with images before it, since
        LID depends on how many there are.
    ValueError if there are not k + 1 images, or the two are not of the same number.
    """
    if len(x) != len(natural):
        raise ValueError(
            f"each image needs the natural image it was made from: got {len(x)} and {len(natural)}"
        )
    features = []
    for start in range(0, len(x), minibatch):
        first = max(0, min(start, len(x) - minibatch))
        batch = slice(first, start + minibatch)
        columns = []
        pairs = zip(
            activations(model, x[batch], layers), activations(model, natural[batch], layers), strict=True
        )
        for ours, theirs in pairs:
            columns.append(_estimate(_distances(ours, theirs).fill_diagonal_(torch.inf), k))
        features.append(torch.stack(columns, 1)[start - first :])
    return torch.cat(features).cpu().numpy()


def noisy(x: Tensor, adversarial: Tensor, seed: int = 0, signs: bool = False) -> Tensor:
    """Natural images with Gaussian noise as long as the attack's perturbation, Ma et al.'s third class.

    signs: noise of ±1 instead, as attacks in an ℓ∞ ball make.
    x, adversarial: (N,C,H,W) in [0,1].  -> the same, each image as far from x in ℓ2 as its adversarial
    example *after* clipping to [0,1], so that length alone tells nothing; shorter only where no such
    noise is long enough.
    """
    with seeded(seed):
        noise = torch.randn_like(x).sign() if signs else torch.randn_like(x)
    shape = (-1, *[1] * (x.dim() - 1))
    wanted = (adversarial - x).flatten(1).norm(dim=1)
    scale = wanted / noise.flatten(1).norm(dim=1)
    for _ in range(50):  # the length is concave in the scale, so this climbs to the root
        length = ((x + scale.view(shape) * noise).clamp(0, 1) - x).flatten(1).norm(dim=1)
        scale = scale * wanted / length.clamp_min(1e-12)
    return (x + scale.view(shape) * noise).clamp(0, 1)


# The detector -------------------------------------------------------------------------------------


def train_detector(natural: np.ndarray, noisy: np.ndarray, adversarial: np.ndarray) -> Pipeline:
    """Logistic regression on standardised LID features, each (N,L): adversarial against natural and noisy.

    -> a fitted scikit-learn pipeline.
    """
    features, labels = _examples(natural, noisy, adversarial)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)


def detect(
    detector: Pipeline, natural: np.ndarray, noisy: np.ndarray, positives: np.ndarray, seed: int = 0
) -> dict[str, Rate | Score | None]:
    """How well `detector` tells `positives` (adversarial or restored examples) from natural and noisy ones.

    Features as for training, row i of all three from the same image.
    -> {"roc_auc": Score, "precision": Rate, "recall": Rate}: precision is the share of positives among the
    examples called adversarial (probability 0.5 or more), recall the share of positives called so.
    Precision is None where nothing was called adversarial.

    The interval of the area is that of 1000 bootstrap samples of the *images*: a positive and a negative
    example that were made from the same image are drawn together.  At an area of exactly 100 it has no width.
    """
    features, labels = _examples(natural, noisy, positives)
    scores = detector.predict_proba(features)[:, 1]
    called = scores >= 0.5
    found, n = int((called & labels).sum()), len(positives)
    pairs = scores.reshape(2, n)  # a negative and a positive example of each image

    def area(rows: np.ndarray) -> float:
        return _area(pairs[:, rows])

    images = np.arange(n)
    drawn = bootstrap((images,), area, vectorized=False, n_resamples=1000, method="percentile", rng=seed)
    interval = tuple(map(float, drawn.confidence_interval))
    return {
        "roc_auc": Score(area(images), interval, n),
        "precision": Rate(found, int(called.sum())) if called.any() else None,
        "recall": Rate(found, n),
    }


def _examples(natural: np.ndarray, noisy: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many negatives as positives (ADD, G.2): natural images of even rows, noisy ones of odd rows."""
    if not len(natural) == len(noisy) == len(positives):
        sizes = f"{len(natural)} natural, {len(noisy)} noisy, {len(positives)} positives"
        raise ValueError(f"the classes must hold the same images, one row each: got {sizes}")
    negatives = np.array(natural)
    negatives[1::2] = noisy[1::2]
    return np.concatenate([negatives, positives]), np.repeat([False, True], len(negatives))


def _area(scores: np.ndarray) -> float:
    """ROC-AUC in percent of scores (2,N), negatives and positives, from ranks: quick enough to bootstrap."""
    n = scores.shape[1]
    return 100 * float(rankdata(scores)[n:].sum() - n * (n + 1) / 2) / n**2
