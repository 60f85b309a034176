"""Local intrinsic dimensionality on manifolds of known dimension; what the detector finds and does not."""

from math import log

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from helpers.attacks import pgd
from helpers.measure import lid


def manifold(kind, dimension, points=1500, ambient=50):
    """Points spread evenly on a flat or spherical piece of `dimension`, turned at random in `ambient`."""
    if kind == "plane":
        flat = torch.rand(points, dimension)
    else:
        flat = nn.functional.normalize(torch.randn(points, dimension + 1))
    turn = torch.linalg.qr(torch.randn(ambient, flat.shape[1])).Q
    return flat @ turn.T


@pytest.mark.parametrize("kind", ["plane", "sphere"])
@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_the_estimate_finds_the_dimension_of_a_manifold(kind, dimension):
    # In expectation the estimate is k/(k−2) of the dimension; border and curvature, felt more the higher
    # the dimension, lower it again.
    points = manifold(kind, dimension)
    assert 0.8 * dimension < lid.lid(points, points).mean() < 1.25 * dimension


def test_the_estimate_is_the_formula():
    # distances 1, 2, 4: −(1/3 (log 1/4 + log 2/4 + log 4/4))⁻¹ = 1 / log 2
    x, reference = torch.tensor([[0.0]]), torch.tensor([[-2.0], [100.0], [1.0], [4.0]])
    assert lid.lid(x, reference, k=3).item() == pytest.approx(1 / log(2))


def test_the_estimate_knows_no_scale_and_no_direction():
    points = torch.randn(60, 8)
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    moved = 7 * points @ turn + 3
    torch.testing.assert_close(lid.lid(moved, moved), lid.lid(points, points), rtol=1e-3, atol=0)


def test_a_point_and_its_copies_are_not_its_neighbours():
    points = 10 + torch.randn(40, 500)  # far from the origin, where distances by matrix products are not zero
    alone = torch.stack(
        [lid.lid(points[[i]], torch.cat([points[:i], points[i + 1 :]]))[0] for i in range(40)]
    )
    torch.testing.assert_close(lid.lid(points, torch.cat([points, points[:1]]))[0], alone[0])
    torch.testing.assert_close(lid.lid(points, points), alone)


def test_too_few_neighbours_are_an_error():
    with pytest.raises(ValueError, match="k=20.*only 9"):
        lid.lid(torch.randn(10, 3)[:1], torch.zeros(9, 3))
    points = torch.randn(10, 3)
    with pytest.raises(ValueError, match="k=20.*only 9"):
        lid.lid(points, points)


class Small(nn.Module):
    """Two layers, the first followed by a ReLU that overwrites its output."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 3, 3), nn.LazyLinear(4)

    def forward(self, x):
        return self.last(torch.relu_(self.first(x)).flatten(1))


def test_activations_are_the_outputs_of_the_layers():
    model, x = Small(), torch.rand(5, 1, 6, 6)
    first, logits = lid.activations(model, x, ["first"])
    assert torch.equal(first, model.first(x).flatten(1)) and torch.equal(logits, model(x))
    assert not model.first._forward_hooks
    with pytest.raises(ValueError, match="'second'.*first"):
        lid.activations(model, x, ["second"])


def test_features_are_the_lid_among_the_other_natural_images_of_the_minibatch():
    model, natural = Small(), torch.rand(25, 1, 6, 6)
    x = natural + 0.01 * torch.randn_like(natural)
    features = lid.lid_features(model, x, natural, ["first"], k=4, minibatch=10)
    assert features.shape == (25, 2)
    # row 3 in images 0 to 9; row 22 in the last minibatch, filled up to 15 to 24
    for row, images in ((3, range(10)), (22, range(15, 25))):
        others = natural[[i for i in images if i != row]]
        layers = zip(
            lid.activations(model, x[[row]], ["first"]),
            lid.activations(model, others, ["first"]),
            strict=True,
        )
        expected = [lid.lid(ours, theirs, k=4).item() for ours, theirs in layers]
        assert features[row] == pytest.approx(expected, rel=1e-3)  # the batch size changes the last digits


def test_features_need_the_natural_images():
    with pytest.raises(ValueError, match="3 and 5"):
        lid.lid_features(Small(), torch.rand(3, 1, 6, 6), torch.rand(5, 1, 6, 6), [])


def test_noise_is_as_long_as_the_perturbation_and_stays_an_image(digits):
    x = digits[0][:50]
    adversarial = (x + 0.2 * torch.randn_like(x).sign()).clamp(0, 1)
    adversarial[0] = x[0]  # a failed attack
    noise = lid.noisy(x, adversarial, seed=1)
    assert noise.min() >= 0 and noise.max() <= 1
    lengths = [(images - x).flatten(1).norm(dim=1) for images in (noise, adversarial)]
    torch.testing.assert_close(*lengths, rtol=1e-3, atol=1e-6)
    assert torch.equal(noise, lid.noisy(x, adversarial, seed=1))
    assert not torch.equal(noise, lid.noisy(x, adversarial, seed=2))


def test_the_detector_finds_shifted_features_and_nothing_in_equal_ones():
    natural, noisy, same = np.random.default_rng(0).normal(size=(3, 400, 3))
    detector = lid.train_detector(natural[:200], noisy[:200], same[:200] + 3)
    found = lid.detect(detector, natural[200:], noisy[200:], same[200:] + 3)
    assert found["roc_auc"].value > 95 and found["recall"].value > 90 and found["precision"].value > 90
    missed = lid.detect(detector, natural[200:], noisy[200:], same[200:])
    low, high = missed["roc_auc"].interval
    assert low < 50 < high and missed["recall"].value < 10
    assert found["recall"].n == found["roc_auc"].n == 200


def test_half_of_the_examples_are_negative_and_half_of_those_noisy():
    """A score that is 1 on noisy images and on positives, 0 on natural ones."""

    class Told:
        def predict_proba(self, features):
            return np.concatenate([1 - features, features], 1)

    n = 40
    natural, noisy, positives = np.zeros((n, 1)), np.ones((n, 1)), np.ones((n, 1))
    result = lid.detect(Told(), natural, noisy, positives)
    assert (result["precision"].count, result["precision"].n) == (n, n + n // 2)
    assert (result["recall"].count, result["recall"].n) == (n, n)
    assert result["roc_auc"].value == 100 * roc_auc_score([0] * n + [1] * n, [0, 1] * (n // 2) + [1] * n)
    low, high = result["roc_auc"].interval
    assert low < result["roc_auc"].value < high


def test_precision_is_none_where_nothing_is_called_adversarial():
    class Silent:
        def predict_proba(self, features):
            return np.tile([0.9, 0.1], (len(features), 1))

    result = lid.detect(Silent(), *np.zeros((3, 10, 1)))
    assert result["precision"] is None and result["recall"].count == 0 and result["roc_auc"].value == 50


def test_classes_of_different_images_are_an_error():
    with pytest.raises(ValueError, match="3 natural, 4 noisy, 4 positives"):
        lid.train_detector(np.zeros((3, 1)), np.zeros((4, 1)), np.zeros((4, 1)))


def test_lid_detects_pgd_on_a_digit_classifier(lenet, digits):
    x, y = digits
    adversarial = pgd(lenet, x, y, targeted=False, eps=0.3, steps=10, step_size=0.06)
    noisy = lid.noisy(x, adversarial)
    features = [
        lid.lid_features(lenet, images, x, ["conv2", "linear1"]) for images in (x, noisy, adversarial)
    ]
    detector = lid.train_detector(*(part[:100] for part in features))
    result = lid.detect(detector, *(part[100:] for part in features))
    assert result["roc_auc"].interval[0] > 50
