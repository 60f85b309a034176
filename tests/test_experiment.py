"""The lab: miniature experiments from end to end, and keys that tell one thing from another."""

import copy
import json

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from helpers import data, device, seeded, source
from helpers.attacks import ATTACKS, attack, stickers
from helpers.defenses.arn import ARN
from helpers.defenses.robust_training import Classifier
from helpers.lab import Experiment, artifacts, make, profiles
from helpers.lab.experiment import again
from helpers.networks.zoo import load_target
from helpers.threats import Defended, bpda, eot, fixed_mask, gray_box, oblivious, white_box
from helpers.training import fit

WORDS = """
paper: {notice: For the tests., deviation: tiny, comparable: false, source: sample, precision: fp32}
quick: {notice: For the tests., deviation: tiny, comparable: false, source: sample, precision: fp32}
"""

PAPERS = {
    "arn": """
mnist:
  train: 20
  test: 30
  adaptive_test: 10
  target: lenet5_clean
  targets: {at_pgd: lenet5_adv}
  seen: {pp: [pgd, pgd_targeted], dp: [ddn, pgd], ps: [pgd, sta]}
  grids: {table 1: [none, at_pgd, at_own, {hgd: pp}, {row: variant, defense: hgd, seen: dp, epochs: 1}]}
  attacks:
    pgd: {attack: pgd, settings: {eps: 0.3, steps: 3}}
    pgd_targeted: {attack: pgd, targeted: true, settings: {eps: 0.3, steps: 3}}
    ddn: {attack: ddn, settings: {steps: 3}}
    sta: {attack: sta, settings: {steps: 3}, test: 5}
    adaptive: {attack: pgd, settings: {eps: 0.3, steps: 3}}
  methods:
    arn: {method: arn.ARN, epochs: 2, batch_size: 10, settings: {width: 0.03}}
    arn_released: {method: arn.ReleasedARN, epochs: 1, batch_size: 10, settings: {width: 0.03}}
    ape_gan: {method: ape_gan.ApeGan, epochs: 1, batch_size: 10, settings: {width: 0.05}}
    hgd: {method: hgd.HGD, epochs: 1, batch_size: 10, settings: {width: 0.05}}
    at_own:
      method: robust_training.AdversarialTraining
      epochs: 1
      batch_size: 10
      settings: {width: 0.2, attack_settings: {eps: 0.3, steps: 2}}
""",
    "add": """
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
    own: &own {method: robust_training.Classifier, epochs: 2, batch_size: 10, settings: {width: 0.2}}
    retrained: {<<: *own, epochs: 1}
    further: {<<: *own, modules: {start: target}, settings: {width: 0.2, learning_rate: 1.0e-9}}
    add: {method: add.ADD, epochs: 1, batch_size: 10, settings: {width: 0.03}}
""",
    "jatp": """
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
    mart:
      method: robust_training.Mart
      epochs: 1
      batch_size: 10
      settings: {width: 0.2, attack_settings: {eps: 0.3, steps: 1}}
    trades_own:
      method: robust_training.Trades
      epochs: 1
      batch_size: 10
      settings: {width: 0.2, attack_settings: {eps: 0.3, steps: 1}}
    mma:
      method: robust_training.Mma
      epochs: 1
      batch_size: 10
      settings: {width: 0.2, steps: 1, search_steps: 1}
    hgd: &hgd {method: hgd.HGD, epochs: 1, batch_size: 10, settings: {width: 0.05}}
    hgd_full: {<<: *hgd, settings: {width: 0.05, full: {eps: 0.3, steps: 2}}}
    jatp: &jatp
      method: jatp.JATP
      epochs: 1
      batch_size: 10
      settings: &small {width: 0.05, blocks: 1, steps: 1, in_channels: 1, layer: conv2}
    jatp_prime: {<<: *jatp, settings: {<<: *small, joint: true}}
""",
    "dir": """
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
    dir_pretraining:
      method: dir.DIRPretraining
      epochs: 1
      batch_size: 10
      settings: &vit {width: 0.04, patch: 7, encoder: 1, decoder: 1, in_channels: 1, image_size: 28}
    dir: &dir
      method: dir.DIR
      modules: {pretrained: {defense: dir_pretraining, seen: p}}
      epochs: 1
      batch_size: 10
      settings: {<<: *vit, steps: 1, learning_rate: 1.0e-9}
    dir_joint: {<<: *dir, settings: {<<: *vit, steps: 1, joint: true}}
    me_net:
      method: stochastic.MeNet
      modules: {start: natural}
      epochs: 1
      batch_size: 10
      settings: {learning_rate: 1.0e-9}
    smoothed: {method: stochastic.Smoothed, epochs: 1, batch_size: 10, settings: {width: 0.2, samples: 3}}
""",
}


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """A function that writes a miniature paper, changed or not, and opens it."""
    folder = tmp_path / "lab" / "papers"
    folder.mkdir(parents=True)
    monkeypatch.setattr(profiles, "FOLDER", folder)

    def forget():
        for cached in (profiles.profiles, profiles.papers, profiles.load, make._natural):
            cached.cache_clear()
        make._networks.clear()

    def opened(paper="arn", change=lambda spec: None, seed=0, **words):
        content = {name: known | words for name, known in yaml.safe_load(WORDS).items()}
        (folder.parent / "profiles.yaml").write_text(yaml.safe_dump(content))
        spec = yaml.safe_load(PAPERS[paper])
        change(spec["mnist"])
        (folder / f"{paper}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        forget()
        return Experiment(paper, "mnist", "paper", seed)

    yield opened
    forget()


def written(tmp_path):
    """Artifacts on disk with their times: what a load leaves as it is."""
    return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "artifacts").glob("*.safetensors")}


# --- from end to end ---


def test_target_adversarial_set_defense_and_white_box_set(mini, tmp_path):
    lab = mini()
    x, y = lab.images()
    assert x.shape == (30, 1, 28, 28) and torch.equal(x.cpu(), data.load("mnist", "test", n=30)[0])

    arn = lab.defense("arn", seen="pp")
    x_adv = lab.attack("pgd", oblivious(arn))
    assert x_adv.shape == x.shape and (x_adv - x).abs().max() <= 0.3 + 1e-6
    assert torch.equal(arn(x_adv), lab.target()(arn.denoiser(x_adv)))
    for network in (lab.target(), arn):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert [set(epoch) for epoch in arn.history] == [{"mse", "att", "nor", "adv", "d_attack", "d_image"}] * 2
    assert arn.settings["width"] == 0.03 and arn.settings["lambda1"] == 0.1
    white = lab.attack("pgd", white_box(arn))
    assert white.shape == (10, 1, 28, 28) and not torch.equal(white, x_adv[:10])

    made = written(tmp_path)
    assert len(made) == 5  # two sets to train on, the method, the oblivious set, the white-box set
    second = mini()
    loaded = second.defense("arn", seen=("pgd", "pgd_targeted"))
    assert loaded.denoiser is not arn.denoiser
    assert torch.equal(second.attack("pgd", second.target()), x_adv)
    assert torch.equal(loaded(x_adv), arn(x_adv))
    assert torch.equal(second.attack("pgd", white_box(loaded)), white)
    assert loaded.history == arn.history
    assert written(tmp_path) == made  # loaded, not made again


def test_the_lab_does_what_its_parts_do_without_it(mini):
    lab = mini()
    target = load_target("lenet5_clean")
    x, y = (t.to(device()) for t in data.load("mnist", "train", n=20))
    settings = {"eps": 0.3, "steps": 3, "seed": 0}
    pgd = ATTACKS["pgd"](target, x, y, **settings)
    pgd_targeted = ATTACKS["pgd"](target, x, lab.targets("train"), targeted=True, **settings)
    assert torch.equal(lab.attack("pgd", lab.target(), split="train"), pgd)
    assert torch.equal(lab.attack("pgd_targeted", lab.target(), split="train"), pgd_targeted)

    with seeded(0):
        method = ARN(width=0.03, seen=2)
    pairs = {"natural": x, "adversarial": torch.stack([pgd, pgd_targeted], 1)}
    history = fit(method, pairs, epochs=2, batch_size=10, seed=0)
    arn = lab.defense("arn", seen="pp")
    torch.testing.assert_close(arn.denoiser(x), method(x))
    for got, expected in zip(arn.history, history, strict=True):
        assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    "name, seen", [("arn", "dp"), ("arn", "ps"), ("arn_released", "pp"), ("ape_gan", "pp"), ("hgd", "dp")]
)
def test_every_denoiser_of_the_profile_stands_before_the_target(mini, name, seen):
    lab = mini()
    x = lab.images(n=3)[0]
    defense = lab.defense(name, seen=seen)
    assert defense.target is lab.target() and defense.denoiser(x).shape == x.shape
    assert not torch.equal(defense(x), lab.target()(x))


def test_other_targets_are_defenses_without_a_denoiser(mini):
    lab = mini()
    x = lab.images(n=3)[0]
    for name, target in (("none", lab.target()), ("at_pgd", lab.target("at_pgd")), ("at_own", None)):
        defense = lab.defense(name)
        assert isinstance(defense.denoiser, nn.Identity)
        assert torch.equal(defense(x), (target or lab.target("at_own"))(x))
    assert lab.defense("none").history == [] and lab.defense("none").settings == {}
    assert len(lab.defense("at_own").history) == 1


def test_a_grid_gives_the_rows_of_a_table(mini):
    lab = mini()
    rows = lab.defenses("table 1")
    assert list(rows) == ["none", "at_pgd", "at_own", "hgd_pp", "variant"]
    assert rows["hgd_pp"].recipe.key == lab.defense("hgd", seen="pp").recipe.key
    assert rows["variant"].recipe.key == lab.defense("hgd", seen="dp", epochs=1).recipe.key
    with pytest.raises(ValueError, match="unknown grid of .*'table 2'; choose one of table 1"):
        lab.grid("table 2")


def test_an_attack_runs_on_the_number_of_images_the_profile_gives_it(mini):
    lab = mini()
    robust = Defended(lab.target("at_pgd"), lab.defense("hgd", seen="pp").denoiser)
    assert len(lab.attack("pgd", lab.target())) == len(lab.attack("pgd", lab.target("at_pgd"))) == 30
    assert len(lab.attack("sta", lab.target())) == len(lab.attack("sta", robust)) == 5
    assert len(lab.attack("ddn", lab.target(), split="train")) == 20
    assert len(lab.attack("ddn", robust)) == 10
    assert len(lab.attack("ddn", nn.Sequential(robust))) == 10
    assert len(lab.attack("ddn", robust, n=4)) == 4


def test_a_white_box_attack_meets_the_defense_and_an_oblivious_one_the_bare_target(mini):
    lab = mini()
    hgd = lab.defense("hgd", seen="pp")
    for model, victim, n in ((white_box(hgd), hgd, 10), (oblivious(hgd), load_target("lenet5_clean"), 30)):
        expected = ATTACKS["pgd"](victim, *lab.images(n=n), eps=0.3, steps=3, seed=0)
        assert torch.equal(lab.attack("pgd", model), expected)


def test_an_attack_that_is_stopped_goes_on_with_the_images_it_has_not_finished(mini, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "CHUNK", dict.fromkeys(make.CHUNK, 10))
    monkeypatch.setattr(make, "PATIENCE", 0)
    lab, real, calls = mini(), ATTACKS["pgd"], []
    whole = lab.attack("pgd", lab.target())
    assert len(whole) == 30

    def stopped(model, x, y, **settings):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(model, x, y, **settings)

    monkeypatch.setitem(ATTACKS, "pgd", stopped)
    monkeypatch.setenv("ARTIFACT_DIR", str(tmp_path / "others"))
    with pytest.raises(KeyboardInterrupt):
        lab.attack("pgd", lab.target())
    (kept,) = (tmp_path / "others").glob("*.checkpoint")
    assert len(torch.load(kept, weights_only=True)) == 20
    assert torch.equal(lab.attack("pgd", lab.target()), whole) and calls == [10, 10, 10, 10]
    assert not kept.exists()


@pytest.mark.parametrize("precision, same", [("fp32", True), ("bf16", False)])
def test_training_sets_of_a_fixed_budget_are_made_in_the_profiles_precision(mini, precision, same):
    """The test sets, and attacks that look for the smallest change, stay in full precision."""
    lab, full = mini(precision=precision), mini()
    target = lab.target()
    for name, split, equal in [("pgd", "train", same), ("pgd", "test", True), ("ddn", "train", True)]:
        one, other = (each.attack(name, target, split=split) for each in (lab, full))
        assert torch.equal(one, other) == equal, (name, split)
        (one, other) = (each.recipes.attack(name, target.recipe, split=split).key for each in (lab, full))
        assert (one == other) == equal


@pytest.mark.parametrize("split", ["train", "test"])
def test_targets_never_equal_the_labels(mini, split):
    lab = mini(seed=3)
    targets, labels = lab.targets(split), lab.images(split)[1]
    assert targets.shape == labels.shape and (targets != labels).all()
    assert torch.equal(targets, lab.targets(split))
    assert not torch.equal(targets, mini(seed=4).targets(split))


def test_a_targeted_set_comes_closer_to_its_targets(mini):
    def towards(x):
        with torch.no_grad():
            return lab.target()(x).log_softmax(1).gather(1, lab.targets()[:, None]).mean()

    lab = mini()
    assert towards(lab.attack("pgd_targeted", lab.target())) > towards(lab.images()[0]) + 1


def test_the_first_images_of_a_full_set_are_a_fixed_random_draw(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mnist_test.npz", images=images, labels=np.arange(60) // 6)  # sorted by class

    def full(test):
        return mini(change=lambda spec: spec.update(test=test), source="full").images()

    (x, y), (first_x, first_y) = full(None), full(20)
    assert torch.equal(first_x, x[:20]) and torch.equal(first_y, y[:20])
    assert len(first_y.unique()) > 4  # in file order the first 20 images are of four classes
    drawn = (255 * x).round().byte().flatten(1).cpu().numpy()
    labels = np.arange(60) // 6
    rows = {row.tobytes(): label for row, label in zip(images.reshape(60, -1), labels, strict=True)}
    assert [rows.pop(row.tobytes()) for row in drawn] == y.tolist() and not rows  # each once, with its label


def test_a_sticker_covers_its_mask_and_nothing_else(mini):
    lab = mini("add")
    x, mask = lab.images()[0], stickers.mask("mask1", size=28).to(device()).bool()
    changed = (lab.attack("sticker", lab.target()) != x).any(0, keepdim=True)
    assert changed.any() and not changed[~mask].any()


# --- networks that are made with others ---


def test_a_target_can_be_a_trained_one(mini):
    lab = mini("add")
    assert not torch.equal(lab.target()(lab.images()[0]), load_target("lenet5_clean")(lab.images()[0]))
    assert lab.target() is lab.target("own") is lab.defense("own").target
    expected = ATTACKS["pgd"](lab.target(), *lab.images(), eps=0.3, steps=3, seed=0)
    assert torch.equal(lab.attack("pgd", lab.target()), expected)


def test_a_retrained_target_has_seen_restored_images_and_stands_behind_the_same_denoiser(mini):
    lab = mini("add")
    add = lab.defense("add", seen="pp")
    retrained = lab.defense("retrained", behind=add.denoiser)
    assert retrained.denoiser is add.denoiser
    x, y = lab.images("train")
    with seeded(0):
        method = Classifier(width=0.2)
    fit(method, {"natural": add.denoiser(x), "label": y}, epochs=1, batch_size=10, seed=0)
    torch.testing.assert_close(retrained.target(x), method(x))

    white = lab.attack("pgd", white_box(retrained))
    assert torch.equal(white, ATTACKS["pgd"](retrained, *lab.images(n=10), eps=0.3, steps=3, seed=0))
    other = lab.defense("retrained", behind=lab.defense("add", seen="pp", base=2.0).denoiser)
    assert len({lab.defense("retrained").recipe.key, retrained.recipe.key, other.recipe.key}) == 3


def test_training_can_start_from_the_target(mini):
    lab = mini("add")
    x = lab.images()[0]
    torch.testing.assert_close(lab.defense("further")(x), lab.target()(x))  # its learning rate is tiny
    assert not torch.allclose(lab.defense("further", start=None)(x), lab.target()(x))


def test_a_denoiser_can_be_made_to_want_other_images(mini):
    lab = mini("add")
    x = lab.images()[0]
    one, other = lab.defense("add", seen="pp"), lab.defense("add", seen="pp", wanted="pgd")
    assert not torch.equal(one.denoiser(x), other.denoiser(x))


def test_a_denoiser_is_put_before_another_target(mini):
    lab = mini("jatp")
    x, _ = lab.images(n=5)
    jatp = lab.defense("jatp")
    assert torch.equal(jatp.target(x), load_target("lenet5_adv")(x))
    moved = Defended(lab.target("mart"), jatp.denoiser)
    assert torch.equal(moved(x), lab.target("mart")(jatp.denoiser(x)))
    assert moved.recipe.key != jatp.recipe.key
    assert torch.equal(lab.defense("none", target="mart")(x), lab.target("mart")(x))
    white = lab.attack("pgd", moved)
    assert torch.equal(white, ATTACKS["pgd"](moved, *lab.images(n=10), eps=0.3, steps=3, seed=0))


def test_a_denoiser_may_be_trained_with_another_target_than_the_others(mini):
    lab = mini("dir")
    other = lab.defense("dir", target="natural")
    assert other.target is lab.target("natural") and lab.defense("dir").target is lab.target()
    pretraining = other.method.made["pretrained"]
    assert pretraining["seen"][0]["victim"]["ready_made"] == "lenet5_clean"
    assert lab.defense("dir", target="lenet5_adv").recipe.key == lab.defense("dir").recipe.key


def test_the_target_that_was_trained_along_is_the_one_that_is_deployed(mini):
    for paper, name in (("jatp", "jatp_prime"), ("dir", "dir_joint")):
        lab = mini(paper)
        x, y = lab.images(n=10)
        defense = lab.defense(name)
        assert not torch.equal(defense.target(x), lab.target()(x))
        assert torch.equal(lab.target(name)(x), defense.target(x))
        assert len(lab.attack("pgd", oblivious(defense))) == 30  # a bare target
        settings = lab.attack_settings("pgd")
        expected = ATTACKS["pgd"](defense.target, *lab.images(), seed=0, **settings)
        assert torch.equal(lab.attack("pgd", oblivious(defense)), expected)


def test_a_method_that_trains_a_denoiser_is_no_target(mini):
    lab = mini("jatp")
    with pytest.raises(ValueError, match="'jatp' trains no target of its own"):
        lab.target("jatp")


def test_full_and_oblivious_training_are_told_apart(mini):
    lab = mini("jatp")
    x, _ = lab.images(n=5)
    oblivious_one, full = lab.defense("hgd", seen="p"), lab.defense("hgd_full")
    assert not torch.equal(oblivious_one.denoiser(x), full.denoiser(x))
    assert list(full.history[0]) == ["guided"]


@pytest.mark.parametrize("name", ["mart", "mma", "trades_own"])
def test_trained_targets_have_the_layers_of_ready_made_ones(mini, name):
    lab = mini("jatp")
    x, _ = lab.images(n=5)
    assert lab.target(name)(x).shape == (5, 10)
    assert dict(lab.target(name).named_modules()).keys() == dict(lab.target().named_modules()).keys()


def test_a_denoiser_is_guided_by_a_layer_of_a_trained_target(mini):
    lab = mini("jatp")
    assert lab.defense("jatp", target="mart").target is lab.target("mart")


def test_a_denoiser_begins_with_its_pre_trained_weights(mini):
    lab = mini("dir")  # at a learning rate of next to nothing
    before = lab.defense("dir_pretraining", seen="p").denoiser.denoiser.state_dict()
    after = lab.defense("dir").denoiser.denoiser.state_dict()
    assert all(torch.allclose(value, after[name], atol=1e-5) for name, value in before.items())


def test_what_is_changed_in_a_denoiser_is_changed_in_its_pre_training_and_what_is_not_is_not(mini):
    lab = mini("dir")

    def pretraining(**changes):
        return json.dumps(lab.recipes.defense("dir", **changes).made["pretrained"], sort_keys=True)

    assert pretraining() == pretraining(alpha=0.0) == pretraining(mse=1.0) == pretraining(epochs=3)
    assert pretraining() != pretraining(hidden=0.25)
    changed = lab.defense("dir", hidden=0.25)
    assert changed.denoiser.masks(torch.rand(1, 1, 28, 28)).shape == (2, 1, 12)


def test_a_classifier_stands_behind_its_own_denoiser(mini):
    lab = mini("dir")
    me_net, x = lab.defense("me_net"), lab.images(n=5)[0]
    assert not torch.equal(me_net.denoiser(x), x)
    # where it started
    torch.testing.assert_close(me_net.target(x), lab.target("natural")(x), atol=0.05, rtol=0.05)


# --- threats ---

THREATS = {
    "white_box": white_box,
    "bpda": bpda,
    "eot": lambda defense: eot(defense, 2),
    "bpda over eot": lambda defense: eot(bpda(defense), 2),
    "fixed_mask": lambda defense: fixed_mask(defense, 1),
}


def test_every_threat_is_attacked_and_known_by_what_it_is(mini, tmp_path):
    lab = mini("dir")
    x = lab.images(n=10)[0]
    dir_ = lab.defense("dir")
    before = len(written(tmp_path))
    for threat in THREATS.values():
        x_adv = lab.attack("pgd", threat(dir_))
        assert (x_adv - x).abs().max() <= 0.3 + 1e-6 and not torch.equal(x_adv, x)
    models = [threat(dir_) for threat in THREATS.values()]
    models += [eot(dir_, 3), fixed_mask(dir_, 2), bpda(dir_, lab.defense("dir", hidden=0.25).denoiser)]
    models += [gray_box(lab.defense("dir", hidden=0.25).denoiser, lab.target()), oblivious(dir_)]
    assert len({lab.recipes.attack("pgd", model.recipe).key for model in models}) == len(models)
    assert len([name for name in written(tmp_path) if "pgd-test" in name]) == len(THREATS)
    assert before < len(written(tmp_path))


def test_a_smoothed_classifier_is_attacked_alike_with_and_without_its_handle(mini, monkeypatch):
    lab = mini("dir")
    five = 5 * make.kept(lab.target("smoothed"), lab.images(n=1)[0])
    monkeypatch.setattr(make, "MEMORY", dict.fromkeys(make.MEMORY, five))
    first = lab.attack("pgd", lab.target("smoothed"))
    artifacts.path("mnist-pgd-test", lab.recipes.attack("pgd", lab.target("smoothed").recipe)).unlink()
    assert torch.equal(first, lab.attack("pgd", lab.defense("smoothed")))


def test_the_mask_adaptive_attack_finds_the_masks(mini):
    lab = mini("dir")
    assert lab.attack("mask_adaptive", white_box(lab.defense("dir"))).shape == (10, 1, 28, 28)


def test_a_stochastic_pipeline_is_attacked_repeatably(mini):
    lab = mini("dir")
    dir_ = lab.defense("dir")
    first = lab.attack("pgd", white_box(dir_))
    artifacts.path("mnist-pgd-test", lab.recipes.attack("pgd", dir_.recipe)).unlink()
    assert torch.equal(first, lab.attack("pgd", white_box(dir_)))


# --- the model is the argument ---


def test_an_attack_meets_the_method_as_it_was_changed(mini):
    lab = mini("jatp")
    changed, plain = lab.defense("jatp", without=["pix"]), lab.defense("jatp")
    expected = ATTACKS["pgd"](changed, *lab.images(n=10), eps=0.3, steps=3, seed=0)
    assert torch.equal(lab.attack("pgd", white_box(changed)), expected)
    assert not torch.equal(lab.attack("pgd", white_box(plain)), expected)


def test_two_names_for_one_thing_share_one_artifact(mini, tmp_path):
    lab = mini()
    hgd = lab.defense("hgd", seen="pp")
    lab.attack("pgd", oblivious(hgd))
    made = written(tmp_path)
    lab.attack("pgd", lab.target("lenet5_clean"), n=30)
    lab.attack("adaptive", lab.defense("none"))  # in this profile PGD under another name
    lab.attack("pgd", lab.target(), eps=0.3, random_start=True)
    lab.defense("hgd", seen=("pgd", "pgd_targeted"), target="lenet5_clean", width=0.05)
    assert written(tmp_path) == made


def test_a_model_of_ones_own_is_attacked_and_kept_under_a_name_only(mini, tmp_path):
    lab = mini()
    x, y = lab.images(n=10)
    own = nn.Sequential(nn.AvgPool2d(3, 1, 1), lab.target())
    expected = ATTACKS["pgd"](own, x, y, eps=0.3, steps=3, seed=0)
    assert torch.equal(lab.attack("pgd", own), expected)
    assert (
        torch.equal(lab.attack("pgd", bpda(Defended(lab.target(), own[0]))), lab.attack("pgd", own)) is False
    )
    assert written(tmp_path) == {}

    assert torch.equal(lab.attack("pgd", own, keep="blur"), expected)
    kept = written(tmp_path)
    assert len(kept) == 1
    assert torch.equal(lab.attack("pgd", own, keep="blur"), expected)
    assert written(tmp_path) == kept
    lab.attack("pgd", nn.Sequential(nn.AvgPool2d(3, 1, 1), lab.target("at_pgd")), keep="blur")
    assert len(written(tmp_path)) == 2  # other weights under the same name
    with pytest.raises(ValueError, match="keep='mine': the model is the lab's"):
        lab.attack("pgd", lab.target(), keep="mine")


def test_a_copy_of_the_labs_network_is_not_taken_for_it(mini):
    lab = mini()
    changed = copy.deepcopy(lab.target())
    with torch.no_grad():
        changed.conv1.weight.zero_()
    for model in (changed, Defended(changed, lab.defense("hgd", seen="pp").denoiser)):
        with pytest.raises(ValueError, match="LeNet5 is a copy of a network of the lab.*del copy.recipe"):
            lab.attack("pgd", model)
    del changed.recipe
    expected = ATTACKS["pgd"](changed, *lab.images(n=10), eps=0.3, steps=3, seed=0)
    assert torch.equal(lab.attack("pgd", changed), expected)


def test_a_pipeline_that_computes_something_else_has_no_recipe(mini):
    class Twice(Defended):
        def forward(self, x):
            return self.target(self.denoiser(self.denoiser(x)))

    hgd = mini().defense("hgd", seen="pp")
    assert Twice(hgd.target, hgd.denoiser).recipe is None
    assert Defended(hgd.target, hgd.denoiser).recipe.key == hgd.recipe.key


@pytest.fixture
def own_attack():
    """An attack that is registered here, and in no file of the package."""
    yield attack(revision=1)(black)
    del ATTACKS["black"], source.ELSEWHERE["black"]


def black(model, x, y, *, targeted, eps, steps=1):
    return (x - steps * eps).clamp(0, 1)


def test_a_registered_attack_needs_no_line_in_the_profile(mini, own_attack, tmp_path):
    lab = mini()
    x, _ = lab.images(n=5)
    assert torch.equal(lab.attack("black", lab.target(), n=5, eps=0.1), (x - 0.1).clamp(0, 1))
    assert any(name.startswith("mnist-black-test") for name in written(tmp_path))
    assert lab.attack("fgsm", lab.target(), n=5, eps=0.1).shape == x.shape
    # without a default its ε is PGD's, so that it can be appended to a table
    eps = lab.attack_settings("pgd")["eps"]
    assert torch.equal(lab.attack("black", lab.target(), n=5), (x - eps).clamp(0, 1))


# --- asked for again ---


def test_whatever_was_asked_for_can_be_asked_for_again(mini, tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    monkeypatch.setenv("NEEDS_FILE", str(notes))
    lab = mini("dir")
    dir_, changed = lab.defense("dir", epochs=2), lab.defense("dir", target="natural", hidden=0.25)
    lab.defense("me_net", start=lab.target())
    models = [threat(dir_) for threat in THREATS.values()]
    models += [changed, bpda(dir_, changed.denoiser), Defended(lab.target("natural"), dir_.denoiser)]
    models += [lab.target(), bpda(lab.defense("none")), lab.target("smoothed")]
    for model in models:
        lab.attack("pgd", model, n=3, steps=1)
    for model in (dir_, lab.defense("none")):  # a layer has its name in the pipeline, also where that is bare
        lab.attack("feature_pgd", model, n=3, layer="target.conv2", eps=0.1, steps=1)
    made = written(tmp_path)

    mini("dir")  # nothing in memory
    asked = [json.loads(line) for line in notes.read_text().splitlines()]
    monkeypatch.delenv("NEEDS_FILE")
    assert len(asked) > len(models)
    for request in asked:
        again(request, "paper")
    assert written(tmp_path) == made


# --- the code that made it ---


def test_code_that_has_changed_is_told_once_loaded_and_unchanged_code_is_not(mini, monkeypatch, recwarn):
    lab = mini()
    lab.defense("hgd", seen="pp")
    mini().defense("hgd", seen="pp")
    assert not [warning for warning in recwarn if "was made before" in str(warning.message)]

    file = artifacts.path("mnist-hgd", lab.recipes.defense("hgd", seen="pp")).with_suffix(".json")
    info = json.loads(file.read_text())
    code = {"helpers.defenses.hgd.DenoisingUNet", *(name for name in info["code"] if ".pgd." in name)}
    # What only shows how far things are is no reason for other results.
    info["code"] |= dict.fromkeys({*code, "helpers.progress.Bar"}, "something else")
    file.write_text(json.dumps(info))
    with pytest.warns(UserWarning) as told:
        mini().defense("hgd", seen="pp")
    (message,) = {str(one.message) for one in told}
    pgd = f"helpers.attacks.pgd ({len(code) - 1} definitions)"
    assert f"made before {pgd}, helpers.defenses.hgd.DenoisingUNet changed" in message and "\n" not in message
    assert "raise the `revision`" in message and f"delete {file.with_suffix('.safetensors')}" in message


def test_an_attack_remembers_the_code_of_what_it_attacked(mini):
    lab = mini()
    lab.attack("pgd", lab.defense("hgd", seen="pp"))
    recipe = lab.recipes.attack("pgd", lab.defense("hgd", seen="pp").recipe)
    code = artifacts.load(artifacts.path("mnist-pgd-test", recipe)).info["code"]
    expected = ("attacks.pgd.pgd", "defenses.hgd.DenoisingUNet", "networks.lenet.LeNet5", "training.fit")
    assert {f"helpers.{name}" for name in expected} <= set(code)


# --- keys ---


def change(place, value):
    """Sets the entry of the data set at `place`, as in attacks.pgd.settings.eps."""

    def changed(spec):
        *path, last = place.split(".")
        for name in path:
            spec = spec[name]
        spec[last] = value

    return changed


def keys(lab):
    recipes = lab.recipes
    target, arn = recipes.target(), recipes.defense("arn", seen="pp")
    return {
        "set": recipes.attack("pgd", target).key,
        "train": recipes.attack("pgd", target, split="train").key,
        "denoiser": arn.key,
        "white_box": recipes.attack("pgd", arn.part("denoiser").then(target)).key,
        "other": recipes.defense("at_own").key,
    }


ALL = {"set", "train", "denoiser", "white_box", "other"}


@pytest.mark.parametrize(
    "place, value, moved",
    [
        ("attacks.pgd.settings.eps", 0.2, ALL - {"other"}),
        ("attacks.pgd_targeted.settings.steps", 4, {"denoiser", "white_box"}),
        ("attacks.sta.settings.steps", 4, set()),
        ("methods.arn.epochs", 3, {"denoiser", "white_box"}),
        ("methods.arn.batch_size", 5, {"denoiser", "white_box"}),
        ("methods.arn.settings.width", 0.04, {"denoiser", "white_box"}),
        ("methods.arn.settings.theta", 0.1, set()),  # the default
        ("methods.at_own.settings.attack_settings.steps", 3, {"other"}),
        ("methods.hgd.epochs", 3, set()),
        ("target", "lenet5_adv", ALL - {"other"}),
        ("train", 10, ALL - {"set"}),
        ("test", 20, {"set", "white_box"}),
        ("adaptive_test", 20, {"white_box"}),
    ],
)
def test_a_changed_setting_moves_what_it_determines_and_nothing_else(mini, place, value, moved):
    before, after = keys(mini()), keys(mini(change=change(place, value)))
    assert {name for name in before if before[name] != after[name]} == moved


def test_seed_and_precision_move_everything_they_determine(mini):
    before = keys(mini())
    assert not set(keys(mini(seed=1)).values()) & set(before.values())
    after = keys(mini(precision="bf16"))  # of trainings, and of the attacks that they learn from
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"train", "denoiser", "white_box", "other"}


def test_a_trained_target_moves_all_that_was_made_with_it(mini):
    def those(lab):
        recipes = lab.recipes
        add = recipes.defense("add", seen="pp")
        retrained = recipes.defense("retrained", behind=add.part("denoiser"))
        return {recipes.target().key, recipes.attack("pgd", recipes.target()).key, add.key, retrained.key}

    assert not those(mini("add")) & those(mini("add", change("methods.own.epochs", 3)))


def test_words_that_compute_nothing_move_nothing(mini):
    assert keys(mini(notice="Other words.", deviation="none")) == keys(mini())


def test_other_weights_and_other_samples_move_what_was_made_of_them(mini, monkeypatch):
    from helpers.lab import recipes

    before = keys(mini())
    monkeypatch.setattr(recipes, "_content", lambda file: "another file")
    assert not set(keys(mini()).values()) & set(before.values())


# --- errors ---


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"profile": "nope"}, "unknown profile: 'nope'; choose one of .*quick"),
        ({"dataset": "imagenet"}, "unknown data set of paper arn in profile quick: 'imagenet'; .*mnist"),
        ({"paper": "dada"}, "unknown paper: 'dada'; choose one of add, arn"),
    ],
)
def test_an_unknown_experiment_is_an_error_with_the_choices(settings, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**settings)


@pytest.mark.parametrize(
    "ask, message",
    [
        (
            lambda lab: lab.attack("pdg", lab.target()),
            "unknown attack.*'pdg'; choose one of pgd, pgd_targeted",
        ),
        (lambda lab: lab.attack("pgd", lab.target(), eps=-1), "eps must be positive"),
        (
            lambda lab: lab.attack("pgd", lab.target(), epsilon=1),
            "attack pgd has no setting 'epsilon'; it has",
        ),
        (lambda lab: lab.attack("pgd", lab.target(), seed=1), "attack pgd has no setting 'seed'"),
        (lambda lab: lab.attack("pgd", lab.target(), targeted=True), "attack pgd has no setting 'targeted'"),
        (lambda lab: lab.defense("anr", seen="pp"), "unknown target or method: 'anr'; choose one of arn"),
        (lambda lab: lab.defense("arn_pp"), "unknown target or method: 'arn_pp'; choose one of arn"),
        (lambda lab: lab.target("wrn"), "unknown target or method: 'wrn'; .*at_pgd.*lenet5_clean"),
        (
            lambda lab: lab.defense("arn", seen="xx"),
            "unknown set of seen attacks: 'xx'; choose one of pp, dp",
        ),
        (lambda lab: lab.defense("arn", seen=("pgdd",)), "unknown attack.*'pgdd'"),
        (
            lambda lab: lab.defense("arn"),
            "arn learns from adversarial examples: say which attacks it has `seen`",
        ),
        (lambda lab: lab.defense("arn", seen="pp", without=["mse"]), "unknown loss terms"),
        (lambda lab: lab.defense("arn", seen="pp", images=3), "method arn has no setting 'images'"),
        (lambda lab: lab.defense("at_pgd", seen="pp"), "'at_pgd' is a ready-made target"),
        (lambda lab: lab.defense("at_own", target="at_pgd"), "at_own is trained with no target"),
        (lambda lab: lab.defense("at_own", behind=nn.Identity()), "behind: only networks of the lab"),
        (
            lambda lab: lab.defense("arn", seen="pp", behind=lab.target()),
            "method arn has no setting 'behind'",
        ),
        (
            lambda lab: lab.defense("at_own", attack_settings={"epsilon": 1}),
            r"attack_settings \(pgd\) has no setting 'epsilon'",
        ),
        (
            lambda lab: lab.defense("at_own", attack_settings={"steps": 1}),
            r"attack_settings \(pgd\) has no default for eps",
        ),
        (lambda lab: load_target("lenet"), "unknown target: 'lenet'; choose one of lenet5_clean, lenet5_adv"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_choices_and_leaves_nothing(mini, tmp_path, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(mini())
    assert not any("arn" in name for name in written(tmp_path))


def test_an_attack_that_is_never_imported_is_told_so(mini, monkeypatch):
    monkeypatch.delitem(ATTACKS, "fgsm")
    lab = mini()
    with pytest.raises(
        ValueError, match="attack 'fgsm' is never imported: add it to helpers/attacks/__init__"
    ):
        lab.attack("fgsm", lab.target(), eps=0.1)
