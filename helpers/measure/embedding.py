"""Two-dimensional maps of latent codes, and numbers for what they keep apart."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from helpers.measure.rates import Rate, Score, in_parts, rate_of

METHODS = ("tsne", "umap")
MAX_POINTS = 2000  # t-SNE of so many takes most of a minute on one core
FOLDS = 5  # of a judge's cross-validation
COMPONENTS = 50  # van der Maaten and Hinton (2008) reduce to 30 first: less noise, quicker distances


def embed(points: Tensor, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """t-SNE or UMAP of `points`, a tensor (N,...) flattened to (N,D); -> (N,2), the same for the same seed.

    method: "tsne" or "umap", each with its library's settings.  UMAP compiles itself first, once a process:
        seconds, however few the points are.
    More than 50 dimensions are first reduced to the 50 principal components.  The axes have no unit, and
    distances between far groups mean little.  ValueError for another method or more than 2000 points.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}")
    if len(points) > MAX_POINTS:
        raise ValueError(
            f"{len(points)} points take too long and overfill the map; give at most {MAX_POINTS}"
        )
    flat = _flat(points)
    if flat.shape[1] > COMPONENTS:
        flat = PCA(min(COMPONENTS, len(flat)), random_state=seed).fit_transform(flat)
    if method == "tsne":
        return TSNE(random_state=seed).fit_transform(flat)
    from umap import UMAP  # takes seconds to import

    threads = torch.get_num_threads()
    try:
        # A seed makes UMAP single-threaded; saying so spares its warning.
        return UMAP(random_state=seed, n_jobs=1).fit_transform(flat)
    finally:
        # Numba, its compiler, gives the whole process all cores: torch's last digits would depend on a map.
        torch.set_num_threads(threads)


def inputs_of(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """What the submodule `layer` of `model` is given for `images` (N,C,H,W): (N,D), on the CPU.

    layer: a name of `model.named_modules()`; of a classifier's last layer these are its features.
    AttributeError if there is none.
    """
    given = []

    def keep(module: nn.Module, inputs: tuple) -> None:
        given[:] = [inputs[0].flatten(1)]

    def features(part: Tensor) -> Tensor:
        model(part.clone())  # it may work in place
        return given[0].cpu()

    hook = model.get_submodule(layer).register_forward_pre_hook(keep)
    try:
        return in_parts(features, images)
    finally:
        hook.remove()


def separation(points: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> float:
    """Silhouette score of `labels` (N,) in `points` (N,D): 1 for groups apart, 0 for mixed, −1 for wrong.

    labels: numbers or names.
    """
    points, labels = (g.cpu().numpy() if isinstance(g, Tensor) else g for g in (points, labels))
    return float(silhouette_score(points, labels))


def probe(groups: Sequence[Tensor]) -> Rate | Score:
    """Is it gone? The accuracy of a fresh linear judge that says which of `groups` a code is from.

    groups: one tensor (N,...) for each answer; row i of all of them must stem from the same image, as do
        natural images and the attacks on them.
    Guessing finds 100 / len(groups).  The rest is as in `read_off`.
    ValueError for groups of different sizes.
    """
    if len({len(group) for group in groups}) != 1:
        raise ValueError(
            f"each row needs its like in every group: got {[len(group) for group in groups]} rows"
        )
    n = len(groups[0])
    answers, images = torch.arange(len(groups)).repeat_interleave(n), torch.arange(n).repeat(len(groups))
    return read_off(torch.cat(list(groups)), answers, images)


def read_off(points: Tensor, labels: Tensor, images: Tensor | None = None) -> Rate | Score:
    """Accuracy of a fresh linear judge that reads `labels` (N,) off `points` (N,...).

    The judge is a logistic regression on standardised points, cross-validated.
    images: (N,), which image each point stems from, numbered from 0, where several stem from one: all of them
        are on the same side of each split, so that no image is learned by heart, and count as one in the n of
        the interval.
    """
    judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    answers = torch.as_tensor(labels).cpu().numpy()
    splits = {"cv": FOLDS} if images is None else {"cv": GroupKFold(FOLDS), "groups": images.cpu().numpy()}
    right = torch.from_numpy(cross_val_predict(judge, _flat(points), answers, **splits) == answers)
    if images is None:
        return rate_of(right)
    images = images.cpu()
    return rate_of(images.bincount(weights=right.double()) / images.bincount())


def _flat(points: Tensor) -> np.ndarray:
    return torch.as_tensor(points).detach().flatten(1).cpu().numpy()
