"""APE-GAN: its losses, who learns from what, and its networks."""

import copy

import pytest
import torch
from steps import assert_gradient, pairs, step

from helpers.defenses.ape_gan import ApeGan, ApeGanDiscriminator, ApeGanGenerator
from helpers.defenses.arn import ARN


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    "more", [{}, {"xi_mse": 0.2, "xi_adv": 5.0}, {"natural_domain": True}, {"wanted": True}]
)
def test_ape_gan_weighs_its_losses_and_trains_each_network_on_its_own(more, deep):
    settings = {name: value for name, value in more.items() if name != "wanted"}
    method, batch = ApeGan(width=0.1, deep=deep, **settings).double(), pairs()
    if "wanted" in more:
        batch["wanted"] = torch.rand_like(batch["natural"])
    assert "xi_mse" in more or (method.xi_mse, method.xi_adv) == (0.7, 0.3)  # Jin et al., Section 4
    reference = copy.deepcopy(method)
    got, reported = step(method, batch)
    inputs = [batch["natural"]] * ("natural_domain" in more) + list(batch["adversarial"].transpose(0, 1))
    restored = reference.generator(torch.cat(inputs))
    wanted = batch["wanted" if "wanted" in more else "natural"].repeat(len(inputs), 1, 1, 1)

    real, fake = (reference.discriminator(x).sigmoid() for x in (wanted, restored.detach()))
    d_image = -real.log().mean() - (1 - fake).log().mean()
    assert_gradient(got, d_image, reference, "discriminator")

    reference.discriminator.load_state_dict(method.discriminator.state_dict())  # G meets the updated D
    mse = (restored - wanted).square().mean()
    adv = -reference.discriminator(restored).sigmoid().log().mean()
    xi_mse, xi_adv = more.get("xi_mse", 0.7), more.get("xi_adv", 0.3)
    assert_gradient(got, xi_mse * mse + xi_adv * adv, reference, "generator")
    assert [reported[k].item() for k in ("mse", "adv", "d_image")] == pytest.approx(
        [mse.item(), adv.item(), d_image.item()]
    )


def test_the_deep_ape_gan_has_the_networks_of_arn_and_add():
    def shapes(*networks):
        return [p.shape for network in networks for p in network.parameters()]

    deep, arn = ApeGan(deep=True, width=0.1), ARN(width=0.1)
    assert shapes(deep.generator) == shapes(arn.encoder, arn.generator)
    assert shapes(deep.discriminator) == shapes(arn.image_discriminator)


def test_the_generator_stays_in_the_unit_range_however_wild_its_weights():
    network = ApeGanGenerator(0.1)
    for p in network.parameters():
        p.data.mul_(30)
    out = network(torch.rand(4, 1, 28, 28))
    assert out.min() >= 0 and out.max() <= 1 and out.max() - out.min() > 0.5


@pytest.mark.parametrize("in_channels, side", [(1, 28), (3, 32)])
def test_the_generator_keeps_the_shape_and_the_discriminator_gives_one_logit_an_image(in_channels, side):
    x = torch.rand(2, in_channels, side, side)
    assert ApeGanGenerator(0.1, in_channels)(x).shape == x.shape
    assert ApeGanDiscriminator(0.1, in_channels, side)(x).shape == (2,)
