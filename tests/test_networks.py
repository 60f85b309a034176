"""Networks: shapes, published sizes, and that memory format and origin do not change the function."""

import pytest
import torch

from helpers.attacks.advertorch import library
from helpers.networks import NETWORKS, build

CLASSIFIERS = ["lenet5", "resnet18", "resnet110"]
SMALL = {
    "fashion_cnn": 28,
    "svhn_cnn": 32,
    "lisa_cnn": 32,
    "wrn28_20": 32,
    "vgg19": 32,
}  # made for images of one side


def small(name, in_channels=1, width=0.1, **more):
    return build(name, width=width, in_channels=in_channels, **more).eval()


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize(
    "name, side", [("lenet5", 28), ("resnet18", 28), ("resnet18", 32), ("resnet110", 32)]
)
def test_classifiers_give_a_logit_per_class(name, side, in_channels):
    x = torch.rand(2, in_channels, side, side)
    network = small(name, in_channels, num_classes=7)
    assert network(x).shape == (2, 7)
    first = network.first_features(x)
    assert first.shape[0] == 2 and first.shape[2:] == (side, side) and first.min() == 0


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name, side", SMALL.items())
def test_other_targets_give_a_logit_per_class(name, side, in_channels):
    assert small(name, in_channels, num_classes=7)(torch.rand(2, in_channels, side, side)).shape == (2, 7)


@pytest.mark.parametrize(
    "name, in_channels, more, count",
    [
        ("resnet18", 3, {}, 11_173_962),  # the usual count of this form of ResNet-18
        ("resnet110", 3, {}, 1_727_962),  # He et al., Table 6: 1.7 M
        ("wrn28_20", 3, {"width": 0.5}, 36_479_194),  # WRN-28-10; Zagoruyko & Komodakis, Table 4: 36.5 M
        (
            "vgg19",
            3,
            {},
            20_040_522 - 2 * 64 - 2 * 128 - 4 * 256 - 8 * 512,
        ),  # the usual count, less biases before BatchNorm
        ("lenet5", 1, {}, 32 * 10 + 64 * 289 + 200 * 3137 + 2010),
        # ADD-Defense, Appendix C.2
        ("fashion_cnn", 1, {}, 32 * 10 + 64 * 289 + 128 * 577 + 10 * (9 * 128 + 1)),
        ("svhn_cnn", 3, {}, 32 * 28 + 64 * 289 + 128 * 577 + 256 * 1153 + 10 * 257),
        (
            "lisa_cnn",
            3,
            {"num_classes": 16},
            64 * (8 * 8 * 3 + 1) + 128 * (6 * 6 * 64 + 1) + 128 * (5 * 5 * 128 + 1) + 16 * (512 + 1),
        ),
    ],
)
def test_the_published_networks_have_the_published_size(name, in_channels, more, count):
    assert parameters(build(name, in_channels=in_channels, **more)) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_twice_the_width_is_about_four_times_the_parameters(name):
    half, full = (parameters(small(name, width=width)) for width in (0.25, 0.5))
    assert 3 < full / half < 4.2


def test_lenet_is_advertorchs(digits):
    library()
    from advertorch.test_utils import LeNet5

    theirs, x = LeNet5().eval(), torch.rand(4, 1, 28, 28)
    ours = build("lenet5", in_channels=1).eval()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_shipped_targets_are_as_good_as_published(lenet, robust_lenet, digits):
    from conftest import error

    assert error(lenet, *digits) <= 0.02 and error(robust_lenet, *digits) <= 0.03


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_is_the_same_function(name):
    network, side = small(name), SMALL.get(name, 28)
    x = torch.rand(2, 1, side, side)
    fast = network(x)
    plain = network.to(memory_format=torch.contiguous_format)(x)
    torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_build_gives_convolutions_in_channels_last_format(name):
    weights = [p for p in small(name, in_channels=3).parameters() if p.ndim == 4]
    assert weights and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("name", CLASSIFIERS[1:])
def test_normalisation_lives_inside(name):
    """A black CIFAR image is not a zero to the network: (0 − mean)/std is."""
    from helpers.networks.resnet import CIFAR_MEAN, CIFAR_STD

    network = small(name, in_channels=3)
    mean, std = (torch.tensor(t).view(1, 3, 1, 1) for t in (CIFAR_MEAN, CIFAR_STD))
    seen = []
    network.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.rand(1, 3, 32, 32)
    network(x)
    torch.testing.assert_close(seen[0], (x - mean) / std)


@pytest.mark.parametrize("name, low", [("fashion_cnn", -1), ("svhn_cnn", -1), ("lisa_cnn", 0)])
def test_the_small_targets_first_convolution_sees_black_and_white_as_published(name, low):
    """Fashion and SVHN in [-1,1]; LISA-CNN was trained on [0,1] as it is."""
    network, seen = small(name), []
    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.rand(1, 1, SMALL[name], SMALL[name]).round()
    network(x)
    torch.testing.assert_close(seen[0], torch.where(x == 0, float(low), 1.0))


def test_svhns_dropout_silences_three_in_ten_in_training_and_none_in_use():
    network, kept = small("svhn_cnn", width=1.0), []
    drops = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    for module in drops:
        # Of the values that were not zero before: what share is not zero after?
        module.register_forward_hook(
            lambda _, args, out: kept.append((out != 0).sum() / (args[0] != 0).sum())
        )
    x = torch.rand(4, 1, 32, 32)
    network(x)
    assert len(drops) == 4 and torch.stack(kept).eq(1).all()
    kept.clear()
    network.train()(x)
    # The last layer passes about 2000 values on: five standard errors are 0.05.
    assert (torch.stack(kept) - 0.7).abs().max() < 0.05


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match="unknown network 'lenet'.*lenet5.*resnet18"):
        build("lenet")
    for width in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"width must be positive, got {width}"):
            build("lenet5", width=width)
