"""HGD: its loss, what it leaves alone, and its U-Net."""

import copy

import pytest
import torch
from steps import pairs, step

from helpers import device
from helpers.defenses.hgd import HGD, DenoisingUNet
from helpers.networks import build
from helpers.training import fit


@pytest.mark.parametrize("natural_domain", [True, False])
def test_hgd_minimises_the_l1_distance_of_the_targets_logits(lenet, natural_domain):
    lenet, batch = copy.deepcopy(lenet).cpu().double(), pairs()
    method = HGD(target=lenet, width=0.05, natural_domain=natural_domain).double()
    reference = copy.deepcopy(method.unet)
    got, reported = step(method, batch)
    wanted, total = lenet(batch["natural"]), 0.0
    inputs = [batch["natural"]] * natural_domain + list(batch["adversarial"].transpose(0, 1))
    restored = reference(torch.cat(inputs)).split(4)  # one batch, as BatchNorm sees it
    for part in restored:
        total = total + sum((lenet(part)[i] - wanted[i]).abs().sum() for i in range(4)) / (4 * len(inputs))
    assert reported["guided"].item() == pytest.approx(total.item())
    expected = torch.autograd.grad(total, reference.parameters())
    for (name, _), gradient in zip(reference.named_parameters(), expected, strict=True):
        torch.testing.assert_close(got[f"unet.{name}"], gradient, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_hgd_leaves_its_target_alone(training):
    """Its weights, its BatchNorm statistics, its gradients, its mode: even if it comes in train mode."""
    target = build("resnet18", width=0.05, in_channels=1).to(device()).train(training)
    before = {name: t.clone() for name, t in target.state_dict().items()}
    method = HGD(target=target, width=0.05)
    fit(method, {name: t.float() for name, t in pairs().items()}, epochs=2, batch_size=2, seed=0)
    after = target.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and p.requires_grad for p in target.parameters())
    assert all(module.training == training for module in target.modules())


def test_hgd_does_not_hold_its_target():
    method = HGD(target=build("lenet5", in_channels=1), width=0.05)
    assert all(name.startswith("unet.") for name in method.state_dict())
    assert len(list(method.parameters())) == len(list(method.unet.parameters()))
    HGD(width=0.05).load_state_dict(method.state_dict())  # a target is not needed to load it


def test_the_unet_subtracts_the_noise_it_predicts():
    network, x = DenoisingUNet(0.1), torch.rand(2, 1, 28, 28)
    network.noise.weight.data.zero_()
    network.noise.bias.data.fill_(0.25)
    torch.testing.assert_close(network(x), x - 0.25)


def test_the_unet_has_the_published_stages():
    """Liao et al., Fig. 3: five blocks down, four of them halving the image, and four up."""
    network = DenoisingUNet(in_channels=3)
    shapes = []
    for stage in [*network.down, *network.up]:
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.rand(1, 3, 32, 32))
    down = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (256, 4, 4), (256, 2, 2)]
    assert shapes == [*down, (256, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32)]
    assert [len(stage) // 3 for stage in network.down] == [2, 3, 3, 3, 3]
    assert [len(stage) // 3 for stage in network.up] == [3, 3, 3, 2]


@pytest.mark.parametrize("in_channels, side", [(1, 28), (3, 32)])
def test_the_unet_keeps_the_shape(in_channels, side):
    x = torch.rand(2, in_channels, side, side)
    assert DenoisingUNet(0.1, in_channels)(x).shape == x.shape
