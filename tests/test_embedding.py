"""Maps of latent codes: groups stay groups, the same seed gives the same map."""

import warnings

import numpy as np
import pytest
import torch

from helpers.measure.embedding import MAX_POINTS, embed, inputs_of, probe, read_off, separation


def groups(dimensions):
    """80 points around two far centres, and the number of each one's centre."""
    labels = torch.arange(80) % 2
    return torch.randn(80, dimensions) + 20 * labels[:, None], labels


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
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
    assert separation(points, np.array(["PGD", "CW"])[labels]) > 0.9  # names will do
    assert abs(separation(points[labels == 0], labels[:40])) < 0.1


def test_bad_requests_name_the_remedy():
    with pytest.raises(ValueError, match="tsne, umap, got 'pca'"):
        embed(torch.rand(50, 3), "pca")
    with pytest.raises(ValueError, match=f"at most {MAX_POINTS}"):
        embed(torch.rand(MAX_POINTS + 1, 3), "tsne")


@pytest.mark.slow
def test_a_map_leaves_torchs_threads_alone():
    before = torch.get_num_threads()
    embed(torch.rand(30, 5), "umap")
    assert torch.get_num_threads() == before


def test_a_layers_inputs_are_what_it_is_given():
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    )
    images = torch.rand(7, 1, 2, 2)
    features = inputs_of(model, "3", images)
    assert torch.equal(features, model[:3](images).detach()) and not features.requires_grad
    assert not model[3]._forward_pre_hooks
    with pytest.raises(AttributeError):
        inputs_of(model, "last", images)


# --- judges ---


def test_a_judge_finds_what_is_there_and_guesses_what_is_not():
    points, labels = groups(dimensions=10)
    found = read_off(points, labels)
    assert found.value > 95 and found.n == len(points)
    images = torch.randn(100, 1, 4, 4)
    assert probe([images, images + 3]).value > 95 and probe([images, images + 3]).n == 100
    assert abs(probe([images, torch.randn(100, 1, 4, 4)]).value - 50) < 15


def test_twins_of_one_image_are_on_one_side_of_the_split():
    """Identical twins cannot be told apart, and a judge that had seen one would learn nothing of use."""
    images = torch.randn(100, 20)
    assert abs(probe([images, images]).value - 50) < 1e-6  # of each pair one answer is right
    twins, secret = images.repeat(2, 1), (torch.arange(100) % 2).repeat(2)
    honest = read_off(twins, secret, images=torch.arange(100).repeat(2))
    by_heart = read_off(twins, secret)
    assert abs(honest.value - 50) < 15 and by_heart.value > honest.value + 10
    assert (honest.n, by_heart.n) == (100, 200)


def test_a_judge_needs_the_same_images_in_every_group():
    with pytest.raises(ValueError, match=r"got \[3, 4\] rows"):
        probe([torch.zeros(3, 2), torch.zeros(4, 2)])
