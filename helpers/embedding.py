"""Two-dimensional maps of latent codes, and a number for how well they keep classes apart."""

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

METHODS = ("tsne", "umap")
MAX_POINTS = 2000  # t-SNE of so many takes most of a minute on one core
COMPONENTS = 50  # van der Maaten and Hinton (2008) reduce to 30 first: less noise, quicker distances


def embed(points, method, seed=0):
    """t-SNE or UMAP of `points`, a tensor (N,...) flattened to (N,D); -> (N,2) numpy, the same for the same seed.

    method: "tsne" or "umap", each with its library's settings.  More than 50 dimensions are first
    reduced to the 50 principal components.  The axes have no unit, and distances between far groups
    mean little.  ValueError for another method or more than 2000 points.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}")
    if len(points) > MAX_POINTS:
        raise ValueError(f"{len(points)} points take too long and overfill the map; give at most {MAX_POINTS} of them")
    points = torch.as_tensor(points).detach().flatten(1).cpu().numpy()
    if points.shape[1] > COMPONENTS:
        points = PCA(min(COMPONENTS, len(points)), random_state=seed).fit_transform(points)
    if method == "tsne":
        return TSNE(random_state=seed).fit_transform(points)
    from umap import UMAP  # takes seconds to import

    threads = torch.get_num_threads()
    try:
        # A seed makes UMAP single-threaded; saying so spares its warning.
        return UMAP(random_state=seed, n_jobs=1).fit_transform(points)
    finally:
        # Numba, its compiler, gives the whole process all cores: torch's last digits would depend on a map.
        torch.set_num_threads(threads)


def separation(points, labels):
    """Silhouette score of `labels` (N,) in `points` (N,D): 1 for groups apart, 0 for mixed, below 0 for wrong ones."""
    return float(silhouette_score(points, labels))
