"""Gradients against closed forms."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers.measure import gradients


def test_the_gradient_of_a_square_is_twice_the_weights_and_can_be_taken_again():
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    loss = sum(p.square().sum() for p in network.parameters())
    for _ in range(2):
        assert torch.allclose(gradients.of_weights(loss, network), 2 * weights)


def test_the_gradient_of_an_image_is_that_of_its_own_loss_and_of_a_linear_model_known():
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.rand(5, 3, 2, 2), torch.arange(6) % 4
    wanted = (model(x).softmax(1) - F.one_hot(y[:5], 4)) @ model[1].weight
    assert torch.allclose(gradients.of_images(model, x, y), wanted, atol=1e-6)
    assert torch.allclose(gradients.of_images(model, x[:2], y), wanted[:2], atol=1e-6)


def test_gradients_of_many_images_are_taken_in_parts(monkeypatch):
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.rand(5, 3, 2, 2), torch.arange(6) % 4
    sizes, whole = [], gradients.of_images(model, x, y)
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(gradients, "SIZE", 2)
    assert torch.allclose(gradients.of_images(model, x, y), whole, atol=1e-6) and sizes == [2, 2, 1]
