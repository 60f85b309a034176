"""Diagrams: what they draw is what the code does."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from helpers import seeded
from helpers.defenses.add import ADD
from helpers.defenses.arn import ARN
from helpers.defenses.dir import Discard
from helpers.show import diagrams

PARTS = {
    "E": "encoder",
    "G": "generator",
    "C": "classifier",
    "D_A": "attack_discriminator",
    "D_P": "perturbation_discriminator",
    "D_I": "image_discriminator",
}
# How the methods call the losses that they can leave out, or weigh otherwise.
ARN_TERMS = {f"λ_{i} ℒ_{term}": {"without": [term]} for i, term in ((1, "att"), (2, "nor"))}
ARN_TERMS |= {"θ ℒ_adv": {"without": ["adv"]}}
ADD_TERMS = {"λ_1 ℒ_g": "prior", "λ_2 ℒ_p": "perturbation", "λ_3 ℒ_c": "class"}
ADD_TERMS |= {"ℒ_mmd": "mmd", "ℒ_adv": "adv"}
ADD_TERMS = {loss: {"without": [term]} for loss, term in ADD_TERMS.items()}
ADD_TERMS |= {"θ ℒ_mse": {"exponents": (-4, 0, -3, 2)}}


@pytest.fixture(autouse=True)
def close_all():
    yield
    plt.close("all")


def after_a_step(method, **settings):
    """{network: its parameters} after one training step, always from the same start on the same images."""
    with seeded(0):
        learner = method(width=1 / 32, **settings)
        learner.train()
        batch = {"natural": torch.rand(4, 1, 28, 28), "adversarial": torch.rand(4, 2, 1, 28, 28)}
        batch["label"] = torch.tensor([0, 1, 2, 3])
        learner.training_step(batch, learner.optimizers())
    parts = {short: getattr(learner, name) for short, name in PARTS.items() if hasattr(learner, name)}
    return {
        short: torch.cat([p.detach().flatten() for p in part.parameters()]) for short, part in parts.items()
    }


@pytest.mark.parametrize("paper, method, terms", [("arn", ARN, ARN_TERMS), ("add", ADD, ADD_TERMS)])
def test_a_loss_changes_the_networks_that_its_line_says(paper, method, terms):
    whole, seen = after_a_step(method), set()
    for loss, _, stops, _ in diagrams.lanes(diagrams.PANELS["networks"][paper][0]):
        changed = {stop[1:] for stop in stops if stop[0] == "●"}
        if loss not in terms or not changed & {"E", "G"}:  # ℒ_adv is the loss of D_I, too
            continue
        other = after_a_step(method, **terms[loss])
        assert {name for name in whole if not torch.equal(whole[name], other[name])} == changed, loss
        seen.add(loss)
    assert seen == terms.keys()


def test_every_box_that_a_gradient_or_an_arrow_comes_to_is_there():
    groups = [diagrams.PANELS["threats"], *diagrams.PANELS["networks"].values()]
    groups += diagrams.PANELS["loops"].values()
    panels = [panel for group in groups for panel in (group.values() if isinstance(group, dict) else group)]
    assert len(panels) == 13
    for panel in panels:
        boxes = {word.lstrip("^#") for word in panel["boxes"].split()}
        named = {name for chain in panel["arrows"] for name in chain.split()}
        for _, start, stops, note in diagrams.lanes(panel):
            named |= {start} | {stop[1:] for stop in stops}
            assert {stop[0] for stop in stops} <= set("●○=") and note
        assert named <= boxes, panel["title"]


@pytest.mark.parametrize(
    "draw, told",
    [
        (diagrams.threats, "passes a stand-in for denoiser"),
        (lambda: diagrams.threats("white_box"), "passes denoiser, changes x̃"),
        (lambda: diagrams.networks("arn"), "passes D_I, changes G (deceive"),
        (lambda: diagrams.networks("add"), "passes D_I, changes G, changes E"),
        (lambda: diagrams.training_loop("jatp"), "passes T, passes P, changes x̃*"),
        (lambda: diagrams.training_loop("dir"), "changes x̃+δ"),
        (diagrams.pgd_in_its_ball, "from three starts"),
    ],
)
def test_a_diagram_is_opaque_and_says_what_it_shows(draw, told):
    figure = draw()
    assert told in figure.alt and figure.get_facecolor() == (1, 1, 1, 1)


def test_threats_are_drawn_in_the_order_asked_for():
    told = diagrams.threats("bpda", "oblivious").alt
    assert told.startswith("BPDA") and "Oblivious" in told and "EOT" not in told


@pytest.mark.parametrize("ball, norm", [(0, np.inf), (1, 2)])
def test_pgd_climbs_and_ends_on_the_edge_of_its_ball(ball, norm):
    axis = diagrams.pgd_in_its_ball(eps=0.25).axes[ball]
    paths = [line.get_xydata() for line in axis.lines if len(line.get_xydata()) > 1]
    loss = [diagrams._hills(torch.tensor(path)) for path in paths]
    lengths = [np.linalg.norm(path - [0.42, 0.5], norm, axis=1) for path in paths]
    assert len(paths) == 3 and all(length.max() < 0.25 + 1e-5 for length in lengths)
    assert all(length[-1] > 0.25 - 1e-5 for length in lengths) and all(one[-1] > 2 * one[0] for one in loss)


def test_masks_are_those_of_the_denoiser():
    denoiser, image = Discard(width=1 / 64, patch=4, encoder=1, decoder=1), torch.zeros(3, 32, 32)
    figure = diagrams.masks(denoiser, image)
    shown = [torch.as_tensor(axis.images[0].get_array()).mean().item() for axis in figure.axes[:3]]
    assert shown == [0, 0.5, 0.5]  # hidden patches are white, on a black image
    assert "each of 2 masks shows of it: 32 of 64 patches of 4×4 pixels" in figure.alt
