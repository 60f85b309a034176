"""What a cosine stands beside."""

import pytest
import torch

from helpers.measure.baselines import cosines
from helpers.measure.rates import mean

# Four classes, each with a direction of its own and a little of its image's.
LABELS = torch.arange(12) % 4
IMAGES = (torch.eye(4)[LABELS] * 0.8 + 0.1 * torch.rand(12, 4)).view(12, 1, 2, 2)


def test_the_cosines_of_images_of_one_class_of_two_and_of_noise_as_long_as_the_attack():
    attacked = IMAGES[:8].flip(1, 3)  # another direction
    found = cosines(torch.nn.Identity(), IMAGES, attacked, LABELS)
    assert all(len(one) == 8 and not one.isnan().any() for one in found.values())
    same, other = found["another of its class"], found["one of another class"]
    assert same.min() > 0.9 and other.max() < 0.6
    assert torch.equal(same, cosines(torch.nn.Identity(), IMAGES, attacked, LABELS)["another of its class"])
    by_hand = torch.cosine_similarity(IMAGES[:8].flatten(1), attacked.flatten(1))
    assert torch.equal(found["attacked"], by_hand) and by_hand.max() < 0.6
    unchanged = cosines(torch.nn.Identity(), IMAGES, IMAGES, LABELS)["random signs, as long"]
    assert unchanged.tolist() == pytest.approx([1] * 12)
    assert found["random signs, as long"].max() < 0.99


def test_an_image_without_its_like_has_no_such_cosine():
    found = cosines(torch.nn.Identity(), IMAGES, IMAGES[:3], torch.tensor([0, 0, 1]))
    assert found["another of its class"].isnan().tolist() == [False, False, True]
    assert mean(found["another of its class"]).n == 2
    assert found["one of another class"].isnan().sum() == 1  # two of one class, and one other
