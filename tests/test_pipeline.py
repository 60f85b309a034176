"""The pipeline: a whole miniature experiment, and keys that tell one setting from another."""

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from helpers import data, defenses, device
from helpers.attacks import stickers
from helpers.lab import profiles
from helpers.attacks import ATTACKS
from helpers.lab.experiment import Experiment
from helpers.networks.zoo import load_target
from helpers.training import fit

MINI = """
name: mini
notice: For the tests.
deviation: tiny
comparable: false
source: sample
precision: fp32
papers:
  arn:
    mnist:
      train: 20
      test: 30
      adaptive_test: 10
      target: lenet5_clean
      robust_targets: {at_pgd: lenet5_adv}
      seen: {pp: [pgd, pgd_targeted], dp: [ddn, pgd], ps: [pgd, sta]}
      attacks:
        pgd: {attack: pgd, settings: {eps: 0.3, steps: 3}}
        pgd_targeted: {attack: pgd, targeted: true, settings: {eps: 0.3, steps: 3}}
        ddn: {attack: ddn, settings: {steps: 3}}
        sta: {attack: sta, settings: {steps: 3}, test: 5}
      methods:
        arn: {method: arn, epochs: 2, batch_size: 10, settings: {width: 0.03}}
        arn_released: {method: arn_released, epochs: 1, batch_size: 10, settings: {width: 0.03}}
        ape_gan: {method: ape_gan, epochs: 1, batch_size: 10, settings: {width: 0.05}}
        hgd: {method: hgd, epochs: 1, batch_size: 10, settings: {width: 0.05}}
        at_own: {method: adversarial_training, data: labels, epochs: 1, batch_size: 10, settings: {width: 0.2, attack_settings: {eps: 0.3, steps: 2}}}
  add:
    mnist:
      train: 20
      test: 30
      adaptive_test: 10
      target: own
      seen: {pp: [pgd, pgd_targeted], ap: [sticker]}
      attacks:
        pgd: {attack: pgd, settings: {eps: 0.3, steps: 3}}
        pgd_targeted: {attack: pgd, targeted: true, settings: {eps: 0.3, steps: 3}}
        sticker: {attack: rp2, settings: {mask: mask1, steps: 2}}
      methods:
        own: {method: classifier, data: labels, epochs: 2, batch_size: 10, settings: {network: lenet5, width: 0.2}}
        retrained: {method: classifier, data: labels, epochs: 1, batch_size: 10, settings: {network: lenet5, width: 0.2}}
        further: {method: classifier, data: labels, start: target, epochs: 1, batch_size: 10, settings: {network: lenet5, width: 0.2, learning_rate: 1.0e-9}}
        add: {method: add, epochs: 1, batch_size: 10, settings: {width: 0.03}}
        add_other: {method: add, epochs: 1, batch_size: 10, wanted: pgd, settings: {width: 0.03}}
  jatp:
    mnist:
      train: 20
      test: 30
      adaptive_test: 10
      target: trades
      targets: {trades: lenet5_adv}
      seen: {p: [pgd]}
      attacks:
        pgd: {attack: pgd, settings: {eps: 0.3, steps: 3}}
      methods:
        mart: {method: mart, data: labels, epochs: 1, batch_size: 10, settings: {width: 0.2, attack_settings: {eps: 0.3, steps: 1}}}
        mma: {method: mma, data: labels, epochs: 1, batch_size: 10, settings: {width: 0.2, images: 20, steps: 1, search_steps: 1}}
        hgd: {method: hgd, epochs: 1, batch_size: 10, settings: {width: 0.05}}
        hgd_full: {method: hgd, data: natural, full: {eps: 0.3, steps: 2}, epochs: 1, batch_size: 10, settings: {width: 0.05}}
        jatp: &jatp {method: jatp, data: natural, epochs: 1, batch_size: 10, settings: &small {width: 0.05, blocks: 1, steps: 1, in_channels: 1, layer: conv2}}
        jatp_prime: {<<: *jatp, settings: {<<: *small, joint: true}}
  dir:
    mnist:
      train: 20
      test: 30
      adaptive_test: 10
      target: lenet5_adv
      targets: {natural: lenet5_clean}
      seen: {p: [pgd]}
      attacks:
        pgd: {attack: pgd, settings: {eps: 0.3, steps: 2}}
        mask_adaptive: {attack: mask_adaptive, settings: {eps: 0.3, steps: 2}}
      methods:
        dir_pretraining: &pre {method: dir_pretraining, epochs: 1, batch_size: 10, settings: &vit {width: 0.04, patch: 7, encoder: 1, decoder: 1, in_channels: 1, image_size: 28}}
        dir: &dir {method: dir, data: natural, pretrained: dir_pretraining_p, epochs: 1, batch_size: 10, settings: {<<: *vit, steps: 1, learning_rate: 1.0e-9}}
        dir_joint: {<<: *dir, settings: {<<: *vit, steps: 1, joint: true}}
        dir_pretraining_natural: {<<: *pre, target: natural}
        dir_natural: {<<: *dir, target: natural, pretrained: dir_pretraining_natural_p}
        me_net: {method: me_net, data: labels, start: natural, epochs: 1, batch_size: 10, settings: {network: lenet5, learning_rate: 1.0e-9}}
"""


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """A function that writes the profile `mini`, changed or not, and opens it."""
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    monkeypatch.setattr(profiles, "NAMES", ["mini"])

    def opened(change=lambda content: None, seed=0, paper="arn"):
        content = yaml.safe_load(MINI)
        change(content)
        (tmp_path / "mini.yaml").write_text(yaml.safe_dump(content))
        return Experiment("mini", "mnist", seed, paper)

    return opened


def written(tmp_path):
    """Artifacts on disk with their times: what a load leaves as it is."""
    return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "artifacts").glob("*.safetensors")}


# --- from end to end -------------------------------------------------------------------------------


def test_target_adversarial_set_denoiser_defended_and_white_box_set(mini, tmp_path):
    lab = mini()
    x, y = lab.images()
    assert x.shape == (30, 1, 28, 28) and torch.equal(x.cpu(), data.load("mnist", "test", n=30)[0])

    x_adv = lab.adversarial("pgd")
    assert x_adv.shape == x.shape and (x_adv - x).abs().max() <= 0.3 + 1e-6
    denoiser, defended = lab.denoiser("arn_pp"), lab.defended("arn_pp")
    assert torch.equal(defended(x_adv), lab.target()(denoiser(x_adv)))
    for network in (lab.target(), denoiser, defended):
        assert not any(m.training for m in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
    assert [set(epoch) for epoch in lab.history("arn_pp")] == [{"mse", "att", "nor", "adv", "d_attack", "d_image"}] * 2
    white_box = lab.adversarial("pgd", threat="white_box", defense="arn_pp")
    assert white_box.shape == (10, 1, 28, 28) and not torch.equal(white_box, x_adv[:10])

    made = written(tmp_path)
    assert len(made) == 5  # two sets to train on, the denoiser, the test set, the white-box set
    again = mini()
    assert torch.equal(again.adversarial("pgd"), x_adv)
    assert torch.equal(again.defended("arn_pp")(x_adv), defended(x_adv))
    assert torch.equal(again.adversarial("pgd", threat="white_box", defense="arn_pp"), white_box)
    assert written(tmp_path) == made  # loaded, not made again


def test_the_pipeline_does_what_its_parts_do_by_hand(mini):
    lab = mini()
    target = load_target("lenet5_clean")
    x, y = (t.to(device()) for t in data.load("mnist", "train", n=20))
    settings = {"eps": 0.3, "steps": 3, "seed": 0}
    pgd = ATTACKS["pgd"](target, x, y, **settings)
    pgd_targeted = ATTACKS["pgd"](target, x, lab.targets("train"), targeted=True, **settings)
    assert torch.equal(lab.adversarial("pgd", "train"), pgd)
    assert torch.equal(lab.adversarial("pgd_targeted", "train"), pgd_targeted)

    torch.manual_seed(0)
    method = defenses.build("arn", width=0.03, seen=2)
    pairs = {"natural": x, "label": y, "adversarial": torch.stack([pgd, pgd_targeted], 1)}
    history = fit(method, pairs, epochs=2, batch_size=10, seed=0)
    torch.testing.assert_close(lab.denoiser("arn_pp")(x), method(x))
    for got, expected in zip(lab.history("arn_pp"), history, strict=True):
        assert got == pytest.approx(expected)


@pytest.mark.parametrize("defense", ["arn_dp", "arn_ps", "arn_released_pp", "ape_gan_pp", "hgd_dp", "at_own", "at_pgd", "none"])
def test_every_defense_of_the_profile_can_be_had(mini, defense):
    lab = mini()
    x = lab.images()[0][:3]
    assert lab.defended(defense)(x).shape == (3, 10)
    assert lab.denoiser(defense)(x).shape == x.shape
    if defense in ("none", "at_own", "at_pgd"):
        assert isinstance(lab.denoiser(defense), nn.Identity)
    bare = torch.equal(lab.defended(defense)(x), lab.target()(x))
    assert bare == (defense == "none")


def test_an_attack_runs_on_the_number_of_images_the_profile_gives_it(mini):
    lab = mini()
    assert len(lab.adversarial("pgd")) == 30 and len(lab.adversarial("sta")) == 5
    assert len(lab.adversarial("ddn", "train")) == 20
    assert len(lab.adversarial("ddn", threat="white_box", defense="at_pgd")) == 10


def test_a_white_box_attack_meets_the_defense_and_an_oblivious_one_the_bare_target(mini):
    lab = mini()
    for threat, defense, n, victim in [
        ("oblivious", "none", 30, lab.target()), ("white_box", "at_pgd", 10, load_target("lenet5_adv")),
    ]:
        expected = ATTACKS["pgd"](victim, *lab.images("test", n), eps=0.3, steps=3, seed=0)
        assert torch.equal(lab.adversarial("pgd", threat=threat, defense=defense), expected)
    with pytest.raises(ValueError, match="unknown threat model: 'grey_box'; choose one of oblivious, white_box, bpda"):
        lab.adversarial("pgd", threat="grey_box", defense="at_pgd")


@pytest.mark.parametrize("split", ["train", "test"])
def test_targets_never_equal_the_labels(mini, split):
    lab = mini(seed=3)
    targets, labels = lab.targets(split), lab.images(split)[1]
    assert targets.shape == labels.shape and (targets != labels).all()
    assert torch.equal(targets, lab.targets(split)) and not torch.equal(targets, mini(seed=4).targets(split))


def test_a_targeted_set_comes_closer_to_its_targets(mini):
    def towards(x, targets):
        with torch.no_grad():
            return lab.target()(x).log_softmax(1).gather(1, targets[:, None]).mean()

    lab = mini()
    targets = lab.targets()
    assert towards(lab.adversarial("pgd_targeted"), targets) > towards(lab.images()[0], targets) + 1


def test_the_first_images_of_a_full_set_are_a_fixed_random_draw(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mnist_test.npz", images=images, labels=np.arange(60) // 6)  # sorted by class

    def full(test):
        def changed(content):
            content["source"] = "full"
            content["papers"]["arn"]["mnist"]["test"] = test

        return mini(changed).images()

    (x, y), (first_x, first_y) = full(None), full(20)
    assert torch.equal(first_x, x[:20]) and torch.equal(first_y, y[:20])
    assert len(first_y.unique()) > 4  # in file order the first 20 images are of four classes
    file_order = (255 * x).round().byte().flatten(1).cpu().numpy()
    rows = {row.tobytes(): label for row, label in zip(images.reshape(60, -1), np.arange(60) // 6, strict=True)}
    assert [rows.pop(row.tobytes()) for row in file_order] == y.tolist() and not rows  # each once, with its label


def test_a_target_can_be_a_trained_one(mini):
    lab = mini(paper="add")
    x = lab.images()[0]
    assert not torch.equal(lab.target()(x), load_target("lenet5_clean")(x))
    expected = ATTACKS["pgd"](lab.target(), *lab.images(), eps=0.3, steps=3, seed=0)
    assert torch.equal(lab.adversarial("pgd"), expected)


def test_a_retrained_target_stands_behind_the_same_denoiser(mini):
    lab = mini(paper="add")
    x = lab.images()[0]
    again, first = lab.defended("add_pp_re"), lab.defended("add_pp")
    assert torch.equal(again.denoiser(x), first.denoiser(x))
    assert not torch.equal(again(x), first(x))
    white_box = lab.adversarial("pgd", threat="white_box", defense="add_pp_re")
    assert torch.equal(white_box, ATTACKS["pgd"](again, *lab.images("test", 10), eps=0.3, steps=3, seed=0))


def test_a_retrained_target_has_seen_restored_images(mini):
    lab = mini(paper="add")
    x, y = lab.images("train")
    torch.manual_seed(0)
    method = defenses.build("classifier", network="lenet5", width=0.2)
    fit(method, {"natural": lab.denoiser("add_pp")(x), "label": y}, epochs=1, batch_size=10, seed=0)
    torch.testing.assert_close(lab.defended("add_pp_re").target(x), method(x))


def test_training_can_start_from_the_target(mini):
    lab = mini(paper="add")
    x = lab.images()[0]
    torch.testing.assert_close(lab.defended("further")(x), lab.target()(x))  # its learning rate is tiny


def test_a_denoiser_can_be_made_to_want_other_images(mini):
    lab = mini(paper="add")
    x = lab.images()[0]
    assert not torch.equal(lab.denoiser("add_pp")(x), lab.denoiser("add_other_pp")(x))
    assert lab.seen("add_other_pp") == ["pgd", "pgd_targeted"]


def test_a_sticker_covers_its_mask_and_nothing_else(mini):
    lab = mini(paper="add")
    x, mask = lab.images()[0], stickers.mask("mask1", size=28).to(device()).bool()
    changed = (lab.adversarial("sticker") != x).any(0, keepdim=True)
    assert changed.any() and not changed[~mask].any()


@pytest.mark.parametrize("name", ["resnet18_quarter_nat", "wrn28_1_nat", "vgg19_eighth_nat"])
def test_the_zoos_targets_know_cifar10(name):
    x, y = data.load("cifar10", "test", n=100)
    target = load_target(name)
    assert (target(x.to(device())).argmax(1).cpu() == y).float().mean() > 0.7


# --- keys ------------------------------------------------------------------------------------------


def change(place, value):
    """Sets content["papers"]["arn"]["mnist"][...place] of the profile."""

    def changed(content):
        *path, last = ["papers", "arn", "mnist", *place.split(".")]
        for name in path:
            content = content[name]
        content[last] = value

    return changed


def paths(lab):
    return {
        "set": lab.adversarial_path("pgd"),
        "train": lab.adversarial_path("pgd", "train"),
        "denoiser": lab.defense_path("arn_pp"),
        "white_box": lab.adversarial_path("pgd", threat="white_box", defense="arn_pp"),
        "other": lab.defense_path("at_own"),
    }


ALL = {"set", "train", "denoiser", "white_box", "other"}


@pytest.mark.parametrize("place, value, moved", [
    ("attacks.pgd.settings.eps", 0.2, ALL - {"other"}),
    ("attacks.pgd_targeted.settings.steps", 4, {"denoiser", "white_box"}),
    ("attacks.sta.settings.steps", 4, set()),
    ("methods.arn.epochs", 3, {"denoiser", "white_box"}),
    ("methods.arn.batch_size", 5, {"denoiser", "white_box"}),
    ("methods.arn.settings.width", 0.04, {"denoiser", "white_box"}),
    ("methods.hgd.epochs", 3, set()),
    ("target", "lenet5_adv", ALL - {"other"}),
    ("train", 10, ALL - {"set"}),
    ("test", 20, {"set", "white_box"}),
    ("adaptive_test", 20, {"white_box"}),
])
def test_a_changed_setting_moves_what_it_determines_and_nothing_else(mini, place, value, moved):
    before, after = paths(mini()), paths(mini(change(place, value)))
    assert {name for name in before if before[name] != after[name]} == moved


def test_seed_and_precision_move_everything_they_determine(mini):
    before = paths(mini())
    assert not set(paths(mini(seed=1)).values()) & set(before.values())
    after = paths(mini(lambda content: content.update(precision="bf16")))
    assert {name for name in before if before[name] != after[name]} == {"denoiser", "white_box", "other"}


def test_a_trained_target_moves_all_that_was_made_with_it(mini):
    def epochs(content):
        content["papers"]["add"]["mnist"]["methods"]["own"]["epochs"] = 3

    def those(lab):
        return {lab.adversarial_path("pgd"), lab.defense_path("add_pp"), lab.defense_path("add_pp_re"), lab.defense_path("none")}

    assert not those(mini(paper="add")) & those(mini(epochs, paper="add"))


def test_words_that_compute_nothing_move_nothing(mini):
    assert paths(mini(lambda content: content.update(notice="Other words.", deviation="none"))) == paths(mini())


def test_changes_in_the_call_move_their_artifact(mini):
    lab = mini()
    sets = [lab.adversarial_path("pgd", **more) for more in (
        {}, {"eps": 0.2}, {"steps": 4}, {"split": "train"}, {"threat": "white_box", "defense": "arn_pp"},
        {"threat": "bpda", "defense": "arn_pp"}, {"threat": "white_box", "defense": "arn_dp"})]
    denoisers = [lab.defense_path("arn_pp", **more) for more in (
        {}, {"without": ["nor"]}, {"without": ["att"]}, {"theta": 0.2})]
    assert len(set(sets)) == len(sets) and len(set(denoisers)) == len(denoisers)


def test_paths_are_where_the_artifacts_lie(mini, tmp_path):
    lab = mini()
    lab.adversarial("pgd")
    lab.defended("at_own")
    assert lab.adversarial_path("pgd").exists() and lab.defense_path("at_own").exists()


def test_an_ablation_is_another_denoiser(mini):
    lab = mini()
    x = lab.images()[0][:3]
    assert not torch.equal(lab.denoiser("arn_pp")(x), lab.denoiser("arn_pp", without=["nor"])(x))


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings, message", [
    ({"profile": "nope"}, "unknown profile 'nope'; choose one of .*quick"),
    ({"dataset": "imagenet"}, "unknown data set of profile quick for paper arn: 'imagenet'; choose one of .*mnist"),
    ({"paper": "dada"}, "unknown paper of profile quick: 'dada'; choose one of arn, add"),
])
def test_an_unknown_experiment_is_an_error_with_the_choices(settings, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**settings)


@pytest.mark.parametrize("ask, message", [
    (lambda lab: lab.adversarial("pgd"), "unknown attack.*'pgd'.*pgd, pgd_targeted"),
    (lambda lab: lab.adversarial("pgd", eps=-1), "eps must be positive"),
    (lambda lab: lab.defended("anr_pp"), "unknown method.*'anr'.*arn, arn_released"),
    (lambda lab: lab.defended("arn_xx"), "unknown set of seen attacks.*'xx'.*dp, pp, ps"),
    (lambda lab: lab.defended("arn"), "unknown.*arn"),
    (lambda lab: lab.denoiser("arn_pp", without=["mse"]), "unknown loss terms"),
    (lambda lab: load_target("lenet"), "unknown target: 'lenet'; choose one of lenet5_clean, lenet5_adv"),
])
def test_an_unknown_name_is_an_error_with_the_choices_and_leaves_nothing(mini, tmp_path, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(mini())
    assert not any("arn" in name for name in written(tmp_path))


# Several targets, and denoisers that make their own adversarial examples (JATP) --------------------------


def test_a_denoiser_is_put_before_another_target(mini):
    lab = mini(paper="jatp")
    x, _ = lab.images("test", 5)
    ready, trained = lab.defended("jatp"), lab.defended("jatp", target="mart")
    assert torch.equal(ready.target(x), load_target("lenet5_adv")(x))
    assert not torch.equal(ready.target(x), trained.target(x))
    assert torch.equal(ready.denoiser(x), trained.denoiser(x))
    assert torch.equal(lab.defended("none", target="mart")(x), trained.target(x))


def test_attacks_on_different_targets_are_different_artifacts(mini):
    lab = mini(paper="jatp")
    for settings in ({}, {"threat": "white_box", "defense": "jatp"}):
        one, other = (lab.adversarial("pgd", target=target, **settings) for target in (None, "mart"))
        assert torch.equal(one, lab.adversarial("pgd", target="trades", **settings))  # by its name
        assert not torch.equal(one, other)


def test_an_attack_on_a_changed_method_meets_that_method(mini):
    lab = mini(paper="jatp")
    x, y = lab.images("test", 10)
    changed = lab.adversarial("pgd", threat="white_box", defense="jatp", method={"without": ["pix"]})
    wanted = ATTACKS["pgd"](lab.defended("jatp", without=["pix"]), x, y, eps=0.3, steps=3, seed=0)
    assert torch.equal(changed, wanted)
    assert not torch.equal(changed, lab.adversarial("pgd", threat="white_box", defense="jatp"))


def test_the_target_that_was_trained_along_is_to_be_had(mini):
    lab = mini(paper="jatp")
    x, _ = lab.images("test", 5)
    own = lab.defended("jatp_prime", target="jatp_prime")
    assert not torch.equal(own.target(x), lab.target()(x))
    assert torch.equal(own.denoiser(x), lab.denoiser("jatp_prime")(x))
    with pytest.raises(ValueError, match="'jatp' trains no target, only a denoiser"):
        lab.target("jatp")


def test_full_and_oblivious_training_are_told_apart(mini):
    lab = mini(paper="jatp")
    x, _ = lab.images("test", 5)
    assert lab.seen("hgd_p") == ["pgd"] and lab.seen("hgd_full") == ()
    assert not torch.equal(lab.denoiser("hgd_p")(x), lab.denoiser("hgd_full")(x))
    history = lab.history("hgd_full")
    assert list(history[0]) == ["guided"]


@pytest.mark.parametrize("name", ["mart", "mma"])
def test_trained_targets_have_the_layers_of_ready_made_ones(mini, name):
    lab = mini(paper="jatp")
    x, _ = lab.images("test", 5)
    assert lab.target(name)(x).shape == (5, 10)
    assert dict(lab.target(name).named_modules()).keys() == dict(lab.target().named_modules()).keys()


def test_a_denoiser_is_guided_by_a_layer_of_a_trained_target(mini):
    lab = mini(lambda content: content["papers"]["jatp"]["mnist"].update(target="mart"), paper="jatp")
    x, _ = lab.images("test", 5)
    assert lab.defended("jatp")(x).shape == (5, 10)


def test_what_guides_a_denoiser_is_part_of_its_key(mini):
    def other(content):
        content["papers"]["jatp"]["mnist"]["targets"]["trades"] = "lenet5_clean"

    paths = [mini(change, paper="jatp").defense_path("jatp") for change in (lambda content: None, other)]
    assert paths[0] != paths[1]


def test_a_defense_that_is_a_target_itself_is_put_before_no_other(mini):
    with pytest.raises(ValueError, match="'mart' is a target of its own and cannot be put before 'trades'"):
        mini(paper="jatp").defended("mart", target="trades")


# DIR ------------------------------------------------------------------------------------------


def test_a_denoiser_begins_with_its_pre_trained_weights(mini):
    lab = mini(paper="dir")  # at a learning rate of next to nothing
    before, after = lab.denoiser("dir_pretraining_p").denoiser.state_dict(), lab.denoiser("dir").denoiser.state_dict()
    assert all(torch.allclose(value, after[name], atol=1e-5) for name, value in before.items())


def test_what_is_changed_in_a_denoiser_is_changed_in_its_pre_training_and_what_is_not_is_not(mini):
    lab = mini(paper="dir")
    pretrained = {str(lab.defense_settings("dir", **changes)["pretrained"]) for changes in ({}, {"alpha": 0.0}, {"mse": 1.0})}
    assert len(pretrained) == 1
    assert str(lab.defense_settings("dir", hidden=0.25)["pretrained"]) not in pretrained
    assert lab.denoiser("dir", hidden=0.25).masks(torch.rand(1, 1, 28, 28)).shape == (2, 1, 12)


def test_a_denoiser_may_be_trained_with_another_target_than_the_others(mini):
    lab = mini(paper="dir")
    x = lab.images()[0][:5]
    assert torch.equal(lab.defended("dir_natural").target(x), lab.target("natural")(x))
    assert torch.equal(lab.defended("dir").target(x), lab.target()(x))
    settings = lab.defense_settings("dir_natural")
    assert settings["target"] == settings["pretrained"]["target"] == "lenet5_clean"
    assert settings["pretrained"]["seen"][0]["victim"]["target"] == "lenet5_clean"


def test_an_attack_on_a_pipeline_is_the_same_artifact_whether_its_own_target_is_named_or_not(mini):
    lab = mini(paper="dir")
    paths = {lab.adversarial_path("pgd", threat="white_box", defense="dir_natural", target=t) for t in (None, "natural")}
    assert len(paths) == 1


def test_a_classifier_stands_behind_its_own_denoiser(mini):
    lab = mini(paper="dir")
    defended, x = lab.defended("me_net"), lab.images()[0][:5]
    assert not torch.equal(defended.denoiser(x), x)
    torch.testing.assert_close(defended.target(x), lab.target("natural")(x), atol=0.05, rtol=0.05)  # where it started


@pytest.mark.parametrize("threat", ["eot_2", "bpda", "bpda_eot_2", "fixed_mask_1"])
def test_every_threat_can_be_named(mini, threat):
    lab = mini(paper="dir")
    x = lab.images(n=10)[0]
    x_adv = lab.adversarial("pgd", threat=threat, defense="dir")
    assert (x_adv - x).abs().max() <= 0.3 + 1e-6 and not torch.equal(x_adv, x)
    assert lab.adversarial_path("pgd", threat=threat, defense="dir") != lab.adversarial_path("pgd", threat="white_box", defense="dir")


def test_the_mask_adaptive_attack_finds_the_masks(mini):
    lab = mini(paper="dir")
    assert lab.adversarial("mask_adaptive", threat="white_box", defense="dir").shape == (10, 1, 28, 28)


def test_a_stochastic_pipeline_is_attacked_repeatably(mini, tmp_path):
    lab = mini(paper="dir")
    first = lab.adversarial("pgd", threat="white_box", defense="dir")
    lab.adversarial_path("pgd", threat="white_box", defense="dir").unlink()
    assert torch.equal(first, lab.adversarial("pgd", threat="white_box", defense="dir"))


def test_a_target_trained_along_with_dir_is_to_be_had(mini):
    lab = mini(paper="dir")
    x = lab.images()[0][:5]
    assert not torch.equal(lab.defended("dir_joint", target="dir_joint").target(x), lab.target()(x))
