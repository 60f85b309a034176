"""Shared by all tests: an artifact folder of their own, one thread, a fixed seed, small real things."""

import os

import pytest
import torch
from torch import nn

# Subprocesses too: with more threads the last digits of a sum depend on the number of cores.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No test sees another's artifacts or random numbers."""
    monkeypatch.setenv("ARTIFACT_DIR", str(tmp_path / "artifacts"))
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def lenet():
    """The clean LeNet-5 that ARN attacks and defends."""
    from helpers.networks.zoo import load_target

    return load_target("lenet5_clean")


@pytest.fixture(scope="session")
def robust_lenet():
    """The adversarially trained LeNet-5."""
    from helpers.networks.zoo import load_target

    return load_target("lenet5_adv")


@pytest.fixture(scope="session")
def digits():
    """200 test images of MNIST and their labels, on the device."""
    from helpers import data, device

    x, y = data.load("mnist", "test", n=200)
    return x.to(device()), y.to(device())


class Linear(nn.Module):
    """Logits Wx + b for images of any shape: every attack's best answer is known in closed form."""

    def __init__(self, classes, shape, scale=1.0):
        super().__init__()
        self.layer = nn.Linear(torch.Size(shape).numel(), classes)
        nn.init.normal_(self.layer.weight, std=scale)

    def forward(self, x):
        return self.layer(x.flatten(1))


class InPlace(nn.Module):
    """Normalises its input in place, as many people's forward does, and answers as `model`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        x -= 0.5
        x /= 0.25
        return self.model(x * 0.25 + 0.5)


def error(model, x, y):
    """Share of the images that `model` does not give their label."""
    with torch.no_grad():
        return (model(x).argmax(1) != y).float().mean().item()
