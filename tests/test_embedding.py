"""Maps of latent codes: groups stay groups, the same seed gives the same map."""

import warnings

import numpy as np
import pytest
import torch

from helpers.embedding import MAX_POINTS, embed, separation


def groups(dimensions):
    """80 points around two far centres, and the number of each one's centre."""
    labels = torch.arange(80) % 2
    return torch.randn(80, dimensions) + 20 * labels[:, None], labels


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_groups_stay_apart_and_a_seed_repeats(method):
    points, labels = groups(dimensions=70)  # more than PCA leaves
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        once, again = embed(points, method, seed=3), embed(points, method, seed=3)
    assert once.shape == (80, 2) and np.array_equal(once, again)
    assert separation(once, labels) > 0.5


def test_maps_of_images_flatten_them():
    images = torch.rand(40, 1, 5, 5, requires_grad=True)
    assert np.array_equal(embed(images, "tsne"), embed(images.detach().flatten(1), "tsne"))


def test_separation_tells_groups_from_a_mixture():
    points, labels = groups(dimensions=2)
    assert separation(points, labels) > 0.9
    assert abs(separation(points[labels == 0], labels[:40])) < 0.1


def test_bad_requests_name_the_remedy():
    with pytest.raises(ValueError, match="tsne, umap, got 'pca'"):
        embed(torch.rand(50, 3), "pca")
    with pytest.raises(ValueError, match=f"at most {MAX_POINTS}"):
        embed(torch.rand(MAX_POINTS + 1, 3), "tsne")


def test_a_map_leaves_torchs_threads_alone():
    before = torch.get_num_threads()
    embed(torch.rand(30, 5), "umap")
    assert torch.get_num_threads() == before
