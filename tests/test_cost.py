"""The estimate of a GPU's time: its tables against the networks, its passes against the attacks."""

import json
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers import networks, source
from helpers.data import DATASETS
from helpers.defenses import add, ape_gan, arn, hgd, jatp, nrp
from helpers.defenses import dir as dir_
from helpers.lab import cost, make, profiles
from helpers.lab.recipes import Recipes, again, artifacts
from helpers.run import grids, plan

CLASSES = {"ARN": arn.ARN, "ReleasedARN": arn.ReleasedARN, "ADD": add.ADD, "ApeGan": ape_gan.ApeGan}
CLASSES |= {"HGD": hgd.HGD, "JATP": jatp.JATP, "NRP": nrp.NRP, "DIR": dir_.DIR}
SMALL = ("lenet5", "fashion_cnn", "ARN", "ReleasedARN", "ADD", "ApeGan", "HGD")  # for digits


def flops(module, shape):
    """10⁹ FLOPs of an image, forward; nothing is computed."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval().to("meta")(torch.zeros(1, *shape, device="meta"))
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("name", [name for name in cost.NETWORKS if name != "DIRPretraining"])
def test_the_table_of_flops_is_within_30_percent_of_the_networks(name):
    shape = (1, 28, 28) if name in SMALL else (3, 32, 32)
    if name in ("DIR", "JATP", "NRP"):  # DIR draws masks
        with torch.device("cpu"), FlopCounterMode(display=False) as counter, torch.no_grad():
            CLASSES[name]().eval()(torch.zeros(1, *shape))
        counted = counter.get_total_flops() / 1e9
    elif name in networks.NETWORKS:
        counted = flops(networks.build(name, in_channels=shape[0]), shape)
    else:
        counted = flops(CLASSES[name](), shape)
    assert cost.NETWORKS[name].gflops == pytest.approx(counted, rel=0.3)


@pytest.mark.parametrize(
    "method, settings",
    [
        ("JATP", {"width": 0.125, "blocks": 1}),
        ("NRP", {"width": 0.25, "blocks": 2}),
        ("DIR", {"width": 0.25, "patch": 4, "encoder": 1, "decoder": 1}),
        ("DIR", {"width": 0.5, "encoder": 4, "decoder": 1}),
    ],
)
def test_a_denoiser_of_fewer_blocks_and_larger_patches_is_counted_as_such(method, settings):
    module = CLASSES[method](**settings)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, 3, 32, 32))
    name = f"{method.lower()}.{method}"
    net = cost._own({"method": name, "settings": source.defaults(source.method(name)) | settings})
    assert net.gflops == pytest.approx(counter.get_total_flops() / 1e9, rel=0.3)


@pytest.mark.parametrize("name", [name for name in cost.NETWORKS if name != "DIRPretraining"])
def test_the_table_of_memory_is_within_20_percent_of_what_autograd_keeps(name):
    shape = (1, 28, 28) if name in SMALL else (3, 32, 32)
    if name in networks.NETWORKS:
        network = networks.build(name, in_channels=shape[0])
    else:
        network = CLASSES[name]().defended(None).denoiser
    measured = make.kept(network.eval().requires_grad_(False), torch.rand(1, *shape)) / 1e6
    assert cost.NETWORKS[name].kept == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    "name, images", [("lenet5", 500), ("ARN", 10), ("resnet18", 4), ("JATP", 1), ("DIR", 1)]
)
def test_the_speed_of_a_core_is_within_a_factor_of_four_of_the_time_a_pass_takes(name, images):
    """In seconds of the processor, so whatever else runs does not count."""
    shape = (images, 1, 28, 28) if name in SMALL else (images, 3, 32, 32)
    known = name in networks.NETWORKS
    network = networks.build(name, in_channels=shape[1]) if known else CLASSES[name]().defended(None).denoiser
    network.eval().requires_grad_(False)
    x = torch.rand(shape, requires_grad=True)

    def passed():
        start = time.process_time()
        network(x).sum().backward()
        return time.process_time() - start

    taken = min(passed() for _ in range(3))
    net = cost.NETWORKS[name]
    estimate = images * cost.BOTH * net.gflops / net.core
    assert estimate / 4 < taken < 4 * estimate


def test_there_is_a_row_for_every_network_method_and_data_set():
    methods = {
        spec.method.rpartition(".")[2]: "network" in source.defaults(source.method(spec.method))
        for paper in profiles.papers()
        for dataset in profiles.load(paper, "paper").values()
        for spec in dataset.methods.values()
    }
    assert {name for name, classifier in methods.items() if not classifier} <= set(cost.NETWORKS)
    assert set(networks.NETWORKS) <= set(cost.NETWORKS)
    for name, facts in cost.DATASETS.items():
        channels, height, width = DATASETS[name].shape
        assert facts[:3] == (height, channels * height * width, len(DATASETS[name].classes))
    assert set(cost.DATASETS) == set(DATASETS)


def test_every_attack_with_settings_beyond_steps_has_its_own_count():
    """Searches, queries, rounds and samples multiply the work: an attack that has them must say how."""
    plain = {"steps", "restarts", "samples"}
    counts = plain | {"search_steps", "queries", "rounds", "candidates", "gamma"}
    for name, definition in source.attacks().items():
        if definition.module.elsewhere or name == "ddn":  # its gamma is no share of pixels
            continue
        beyond = (set(source.signature(definition)) & counts) - plain
        assert not beyond or name in cost.ATTACKS, (name, beyond)


class Counted(torch.nn.Module):
    """A classifier that counts its passes, and of these the ones that keep a graph."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
        self.forward_only = self.both = 0

    def forward(self, x):
        if torch.is_grad_enabled() and x.requires_grad:
            self.both += 1
        else:
            self.forward_only += 1
        return self.net(x)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("pgd", {"eps": 0.01, "steps": 7}),
        ("mi_fgsm", {"eps": 0.01, "steps": 7}),
        ("vni_fgsm", {"eps": 0.01, "steps": 3}),
        ("sta_own", {"steps": 9}),
        ("cw", {"steps": 5, "search_steps": 2}),
        ("ddn", {"steps": 12}),
        ("apgd_ce", {"eps": 0.01, "steps": 10}),
        ("square", {"eps": 0.001, "queries": 40}),
        ("roa", {"search": "exhaustive", "steps": 5, "stride": 6}),
    ],
)
def test_an_attack_passes_as_often_as_is_counted(name, settings):
    from helpers.attacks import ATTACKS

    torch.manual_seed(0)
    model = Counted()
    x = torch.rand(4, 1, 28, 28)
    y = model(x).argmax(1)
    model.forward_only = model.both = 0
    model.requires_grad_(False).eval()
    ATTACKS[name](model, x, y, targeted=False, **settings)
    facts = dict(zip(cost.FACTS, cost.DATASETS["mnist"], strict=True))
    complete = source.defaults(source.attack(name)) | settings | facts
    passed = model.forward_only + cost.BOTH * model.both
    assert cost.passes(name, complete) == pytest.approx(passed, rel=0.4, abs=4)


def test_more_epochs_images_and_steps_take_longer_and_small_networks_wait_for_their_kernels():
    recipes = Recipes("arn", "cifar10", "standard", 0)
    short, long = (cost.seconds(recipes.defense("resnet110", epochs=epochs)) for epochs in (1, 10))
    assert long - cost.ARTIFACT == pytest.approx(10 * (short - cost.ARTIFACT))
    mnist = Recipes("arn", "mnist", "standard", 0)
    few, many = (cost.seconds(mnist.attack("pgd", mnist.target(), n=n)) for n in (500, 5000))
    assert many - cost.ARTIFACT == pytest.approx(10 * (few - cost.ARTIFACT))
    waiting = 40 * cost.BOTH * (cost.PASS + 4 * cost.LAYER)
    products = 40 * cost.BOTH * 500 * 0.009e9 / (cost.BF16 * cost.EFFICIENCY)
    assert few - cost.ARTIFACT == pytest.approx(waiting) and waiting > products


def test_what_everybody_knows_of_the_time_of_pgd_training():
    """PGD-10 training of ResNet-18: an epoch in 15 to 30 s on an H100."""
    recipes = Recipes("jatp", "cifar10", "standard", 0)
    assert 15 < cost.seconds(recipes.defense("standard", epochs=1)) < 30


@pytest.fixture(scope="module")
def standard():
    return plan.pieces("standard", plan.runs("standard"))


def test_standard_is_cut_into_pieces_of_ten_minutes(standard):
    assert len(standard) > 100
    assert {asked: took for asked, took in standard.values() if took > plan.LONG} == {}


def test_every_method_of_standard_is_trained_in_ten_minutes():
    """Whoever asks for it: with each of the sets of seen attacks."""
    for paper in profiles.papers():
        for dataset, spec in profiles.load(paper, "standard").items():
            recipes = Recipes(paper, dataset, "standard", 0)
            for name in spec.methods:
                for seen in ("", *spec.seen):
                    took = cost.seconds(recipes.defense(name, seen=seen or ()))
                    assert took <= plan.LONG, (paper, dataset, name, seen, took)


def test_what_was_asked_for_gives_its_recipe_and_all_that_it_is_made_from():
    recipes = Recipes("arn", "mnist", "standard", 1)
    method = recipes.defense("arn", seen="pp", without=["att"])
    whole = method.part("denoiser").then(recipes.target()).under("eot", samples=5)
    attack = recipes.attack("pgd", whole, eps=0.2)
    for recipe in (method, whole, attack):
        assert again(json.loads(json.dumps(recipe.asked)), "standard") == recipe
    seen = [one.key for one in method.parts["seen"]]
    assert set(artifacts([attack.asked], "standard")) == {attack.key, method.key, *seen}
    assert artifacts([attack.asked | {"attack": "no such attack"}], "standard") == {}


def test_a_longer_grid_adds_its_rows_attacks_and_numbers():
    """ARN's Table 1: quick's last row and last attack stand for those that only the larger scale has."""
    place = {"paper": "arn", "dataset": "mnist", "seed": 0}
    recipes = Recipes(**{"paper": "arn", "dataset": "mnist"}, profile="standard", seed=0)
    quick, large = (profiles.load("arn", name)["mnist"].grids["table 1"] for name in ("quick", "standard"))
    row = next(one for one in reversed(quick) if one in large)
    ((method, seen),) = row.items()
    trained = recipes.defense(method, seen=seen)
    need = recipes.attack("pgd", trained.part("denoiser").then(recipes.target())).asked
    found = grids.grown([need], 'lab.defenses("table 1")', place, "mnist", "standard")
    attacked = [one for one in found if "attack" in one]
    assert len(attacked) == 1 + sum(one not in quick for one in large)
    assert grids.grown([need], 'lab.defenses("another")', place, "mnist", "standard") == [need]


def test_a_longer_grid_adds_the_parts_that_are_left_out():
    """JATP's Fig. 4(b): quick leaves out one term of the loss, larger scales each."""
    place = {"paper": "jatp", "dataset": "cifar10", "seed": 0}
    recipes = Recipes("jatp", "cifar10", "cpu", 0)
    quick = profiles.load("jatp", "quick")["cifar10"].grids["figure 4b"]
    need = recipes.defense("jatp", without=quick[-1:]).asked
    found = grids.grown([need], 'lab.grid("figure 4b")', place, "cifar10", "cpu")
    left_out = {part for one in found for part in one["changes"]["without"]}
    assert len(found) == len(left_out) == len(recipes.spec.grids["figure 4b"]) > len(quick)
