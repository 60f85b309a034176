"""Training of classifiers: plain, adversarial with any attack, TRADES, MART, MMA; what SGD training needs."""

import copy
import math

import pytest
import torch
from conftest import Linear, error
from steps import assert_gradient
from steps import step as plain_step
from torch import nn
from torch.nn import functional as F

from helpers import data, device
from helpers.attacks import ATTACKS
from helpers.defenses.robust_training import BEYOND, INNER, AdversarialTraining, Classifier, Mart, Mma, Trades
from helpers.training import crop_and_flip, fit

EPS = 8 / 255
INNER_2 = {"attack_settings": {"eps": EPS, "steps": 2, "step_size": 5 / 255}}
METHODS = {
    "at": (AdversarialTraining, INNER_2),
    "trades": (Trades, INNER_2),
    "mart": (Mart, INNER_2),
    "mma": (Mma, {"images": 8, "d_max": EPS, "steps": 2, "search_steps": 2}),
}
SMALL = {"network": "resnet18", "width": 0.05, "in_channels": 3, "num_classes": 4}
SGD = {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 5e-4}


def images(n=8):
    generator = torch.Generator().manual_seed(3)
    natural = torch.rand(n, 3, 16, 16, generator=generator)
    return {"natural": natural, "label": torch.arange(n) % 4, "index": torch.arange(n)}


def step(method, batch):
    """One training step: the losses it reports, and all that its network saw."""
    seen = []
    hook = method.network.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    reported = method.training_step(batch, method.optimizers())
    hook.remove()
    return {name: value.item() for name, value in reported.items()}, seen


def two_classes(method, **settings):
    """`method` around a linear model of two classes; its difference of logits is w·x + b."""
    method = method(num_classes=2, **settings)
    method.network = Linear(2, (1, 4, 4))
    weight, bias = method.network.layer.weight.detach(), method.network.layer.bias.detach()
    return method, weight[1] - weight[0], bias[1] - bias[0]


# --- plain training ---


def test_a_classifier_learns_from_images_and_labels_alone():
    batch, (x, y) = mnist()
    torch.manual_seed(0)
    method = Classifier(width=0.25, learning_rate=5e-3)
    history = fit(method, batch, epochs=8, batch_size=50, seed=0)
    assert history[-1]["risk"] < history[0]["risk"] / 2
    assert error(method, x, y) < 0.3  # guessing errs in nine of ten


# --- the inner attacks ---


@pytest.mark.parametrize("name", METHODS)
def test_attacked_images_stay_in_the_ball_and_the_attack_leaves_no_trace_in_the_network(name):
    make, settings = METHODS[name]
    method, batch = make(**SMALL, **settings).train(), images()
    reference = copy.deepcopy(method.network)
    _, seen = step(method, batch)

    radius = BEYOND * EPS if name == "mma" else EPS
    for x in seen:
        assert (x - batch["natural"]).abs().max() <= radius + 1e-6 and x.min() >= 0 and x.max() <= 1
    assert (seen[-1] - batch["natural"]).abs().max() > 0.9 * EPS or name == "mma"
    assert all(module.training for module in method.modules())
    assert all(p.requires_grad and p.grad is not None for p in method.parameters())
    # BatchNorm has seen the natural images, where the loss reads them, and the attacked ones: no other pass.
    for x in ([] if name == "at" else [batch["natural"]]) + [seen[-1]]:
        reference.train()(x)
    for mine, expected in zip(method.network.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_trades_ascends_to_the_corner_of_the_ball_where_the_divergence_is_largest():
    """Of a linear model's two predictions the divergence grows with |w·(x̃ − x)|: x̃ = x ± ε sign(w)."""
    method, w, _ = two_classes(Trades, attack_settings=INNER)
    x = 0.3 + 0.4 * torch.rand(10, 1, 4, 4)
    moved = (method.attacked(x) - x).flatten(1)
    assert (moved[:, :1] * w[:1]).sign().unique().numel() == 2  # both corners are reached
    corner = moved * (moved[:, :1] * w[:1]).sign()
    torch.testing.assert_close(corner, (EPS * w.sign()).expand(10, -1), atol=1e-6, rtol=0)


def test_mart_learns_from_pgd_examples_from_a_fresh_random_start():
    method, batch = Mart(**SMALL, **INNER_2).train(), images()
    reference = copy.deepcopy(method.network)
    torch.manual_seed(5)
    _, seen = step(method, batch)
    torch.manual_seed(5)
    seed = int(torch.randint(2**31, ()))
    expected = ATTACKS["pgd"](
        reference, batch["natural"], batch["label"], seed=seed, **INNER_2["attack_settings"]
    )
    torch.testing.assert_close(seen[-1], expected)


# --- the losses ---


def assert_steps_down(method, loss, reference):
    """The gradient that `method` has used is that of `loss`, computed on its copy `reference`."""
    loss.backward()
    for mine, expected in zip(method.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


def test_trades_steps_down_its_loss():
    method, batch = Trades(**SMALL, **INNER_2).train(), images()
    reference = copy.deepcopy(method.network)
    reported, (*_, x, x_adv) = step(method, batch)
    p, q = reference(x).softmax(1), reference(x_adv).softmax(1)
    risk = -p[torch.arange(8), batch["label"]].log().sum() / 8
    divergence = (p * (p / q).log()).sum() / 8
    assert reported == pytest.approx({"natural_risk": risk.item(), "divergence": divergence.item()}, rel=1e-3)
    assert_steps_down(method, risk + 6 * divergence, reference)


def test_trades_without_its_weight_is_plain_training():
    torch.manual_seed(0)
    method = Trades(weight=0.0, width=0.2)
    plain = Classifier(width=0.2)
    plain.load_state_dict(method.state_dict())
    batch = {"natural": torch.rand(4, 1, 28, 28), "label": torch.arange(4)}
    for one in (method, plain):
        one.training_step(batch, one.optimizers())
    for mine, expected in zip(method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_mart_steps_down_its_loss():
    method, batch = Mart(**SMALL, **INNER_2).train(), images()
    reference = copy.deepcopy(method.network)
    reported, (*_, x, x_adv) = step(method, batch)
    p, q = reference(x).softmax(1), reference(x_adv).softmax(1)
    boosted, divergence = 0, 0
    for i, y in enumerate(batch["label"].tolist()):
        others = [k for k in range(4) if k != y]
        boosted = boosted - (q[i, y].log() + (1 - q[i, others].max()).log()) / 8
        divergence = divergence + (p[i] * (p[i] / q[i]).log()).sum() * (1 - p[i, y]) / 8
    assert reported == pytest.approx(
        {"boosted_risk": boosted.item(), "divergence": divergence.item()}, rel=1e-3
    )
    assert_steps_down(method, boosted + 6 * divergence, reference)


# --- MMA ---


def margins_of(x, y, w, b):
    """Distance to a linear model's boundary in ℓ∞, |w·x + b| / ‖w‖₁, negative for the misclassified."""
    return (x.flatten(1) @ w + b) * (2 * y - 1) / w.abs().sum()


@pytest.mark.parametrize("first", [0.002, 0.05, 0.1])
def test_mma_finds_the_margin_of_a_linear_model_from_any_first_guess(first):
    method, w, b = two_classes(Mma, images=40, d_max=0.1)
    x = 0.3 + 0.4 * torch.rand(40, 1, 4, 4)
    y = method(x).argmax(1)
    margins = margins_of(x, y, w, b)
    x_margin, found = method.at_margin(x, y, torch.full((40,), first))
    assert 0 < (margins < 0.1).sum() < 40  # some lie beyond d_max
    torch.testing.assert_close(found, margins.clamp(max=BEYOND * 0.1), atol=0.1 * BEYOND / 2**9, rtol=0)
    torch.testing.assert_close((x_margin - x).abs().flatten(1).amax(1), found)


def test_each_image_is_attacked_in_a_ball_of_its_own():
    method, _, _ = two_classes(Mma, images=3, search_steps=0)
    x, eps = torch.full((3, 1, 4, 4), 0.5), torch.tensor([0.01, 0.02, 0.04])
    attacked, radii = method.at_margin(x, torch.tensor([0, 1, 0]), eps)
    torch.testing.assert_close((attacked - x).abs().flatten(1).amin(1), eps)  # every pixel: a corner
    torch.testing.assert_close(radii, eps)


def test_mma_learns_on_the_boundary_from_the_misclassified_and_not_beyond_d_max():
    method, w, b = two_classes(Mma, images=100, d_max=0.05)
    x, y, index = 0.3 + 0.4 * torch.rand(60, 1, 4, 4), torch.arange(60) % 2, torch.arange(100).flip(0)[:60]
    margins = margins_of(x, y, w, b)
    wrong, near = margins <= 0, (margins > 0) & (margins < 0.05)
    assert min(wrong.sum(), near.sum(), (~wrong & ~near).sum()) > 0
    natural = F.cross_entropy(method(x), y, reduction="none").detach()
    reference = copy.deepcopy(method.network)
    reported, (first, *_, x_margin) = step(method, {"natural": x, "label": y, "index": index})

    # At the boundary both classes are equally likely.
    margin_risk = (natural[wrong].sum().item() + near.sum().item() * math.log(2)) / 60
    assert reported["natural_risk"] == pytest.approx(natural.mean().item(), rel=1e-4)
    assert reported["margin_risk"] == pytest.approx(margin_risk, rel=1e-3)
    assert torch.equal(first, x) and torch.equal(x_margin[wrong], x[wrong])
    counted = (wrong | near).float()
    loss = F.cross_entropy(reference(x), y) / 3
    loss = loss + 2 / 3 * (F.cross_entropy(reference(x_margin), y, reduction="none") * counted).mean()
    assert_steps_down(method, loss, reference)

    # The margins are kept by the images' places in the training set, for the next epoch.
    kept = torch.zeros(100).index_put((index,), margins.clamp(0, BEYOND * 0.05))
    torch.testing.assert_close(method.margins, kept, atol=1e-4, rtol=0)


def test_mma_searches_on_from_the_margin_it_found_before(monkeypatch):
    method, _, _ = two_classes(Mma, images=4, first_eps=0.005)
    method.margins.copy_(torch.tensor([0.0, 0.01, 0.02, 0.03]))
    starts, search = [], method.at_margin
    monkeypatch.setattr(method, "at_margin", lambda x, y, eps: starts.append(eps) or search(x, y, eps))
    step(
        method,
        {"natural": torch.rand(2, 1, 4, 4), "label": torch.tensor([0, 1]), "index": torch.tensor([2, 0])},
    )
    torch.testing.assert_close(starts[0], torch.tensor([0.02, 0.005]))


# --- adversarial training ---


def mnist(n_train=600, n_test=100):
    x, y = data.load("mnist", "train", n=n_train)
    return {"natural": x, "label": y}, [t.to(device()) for t in data.load("mnist", "test", n=n_test)]


def trained(method, batch, epochs, **settings):
    torch.manual_seed(0)
    method = method(width=0.25, learning_rate=5e-3, **settings)
    fit(method, batch, epochs=epochs, batch_size=50, seed=0)
    return method


def test_adversarial_training_makes_pgd_err_less_than_plain_training():
    batch, (x_test, y_test) = mnist()
    inner = {"eps": 0.1, "steps": 3, "step_size": 0.06}
    methods = {
        "plain": trained(Classifier, batch, epochs=10),
        "adversarial": trained(AdversarialTraining, batch, epochs=10, attack_settings=inner),
    }
    errors = {}
    for name, method in methods.items():
        x_adv = ATTACKS["pgd"](method, x_test, y_test, eps=0.1, steps=10)
        errors[name] = error(method, x_test, y_test), error(method, x_adv, y_test)
    # Seen on one CPU: plain 13 % and 57 % errors, adversarial 17 % and 33 %; the band leaves room for others.
    assert errors["plain"][0] < 0.25 and errors["adversarial"][0] < 0.3
    assert errors["adversarial"][1] < errors["plain"][1] - 0.1


@pytest.mark.slow
def test_training_on_occlusions_makes_roa_err_less_than_plain_training():
    batch, (x_test, y_test) = mnist(n_test=200)
    where = {"height": 7, "width": 7, "stride": 4, "search": "gradient", "candidates": 3}
    methods = {
        "plain": trained(Classifier, batch, epochs=8),
        "occlusion": trained(
            AdversarialTraining, batch, epochs=8, attack="roa", attack_settings=where | {"steps": 4}
        ),
    }
    errors = {
        name: error(method, ATTACKS["roa"](method, x_test, y_test, steps=10, **where), y_test)
        for name, method in methods.items()
    }
    # Seen on one CPU: 89 % and 57 % errors.
    assert errors["occlusion"] < errors["plain"] - 0.1


@pytest.mark.parametrize(
    "attack, attack_settings",
    [
        ("pgd", {"eps": 0.1, "steps": 2, "step_size": 0.1}),
        ("fgsm", {"eps": 0.1}),
        ("roa", {"height": 5, "width": 3, "search": "gradient", "steps": 2}),
    ],
)
@pytest.mark.parametrize("with_natural", [False, True])
def test_adversarial_training_learns_from_the_attacked_images_in_train_mode(
    attack, attack_settings, with_natural
):
    method = AdversarialTraining(
        network="resnet18",
        width=0.05,
        attack=attack,
        attack_settings=attack_settings,
        with_natural=with_natural,
        num_classes=4,
    ).double()
    x, y = torch.rand(4, 1, 16, 16).double(), torch.tensor([0, 1, 2, 3])
    reference = copy.deepcopy(method)
    torch.manual_seed(5)
    got, reported = plain_step(method.train(), {"natural": x, "label": y})

    torch.manual_seed(5)
    start = {"seed": int(torch.randint(2**31, ()))} if attack == "pgd" else {}
    x_adv = ATTACKS[attack](reference, x, y, **attack_settings, **start)
    logits = reference.train()(torch.cat([x_adv, x]) if with_natural else x_adv)
    risk = F.cross_entropy(logits[:4], y)
    natural_risk = F.cross_entropy(logits[4:], y) if with_natural else None
    assert reported["adversarial_risk"].item() == pytest.approx(risk.item())
    assert ("natural_risk" in reported) == with_natural
    if with_natural:
        assert reported["natural_risk"].item() == pytest.approx(natural_risk.item())
    assert_gradient(got, (risk + natural_risk) / 2 if with_natural else risk, reference, "network")
    for a, b in zip(method.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(a, b)  # BatchNorm saw the batch once, and the attack's passes never


def passes(**settings):
    """Batches that the network sees in one training step on two images of 32x32."""
    method, seen = AdversarialTraining(network="lisa_cnn", width=0.05, num_classes=3, **settings), []
    method.network.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    plain_step(method.train(), {"natural": torch.full((2, 1, 32, 32), 0.5), "label": torch.tensor([0, 1])})
    return seen


def test_the_default_is_madrys_attack_on_mnist():
    """40 steps of 0.01 from a random start that fills a ball of 0.3 around the (here gray) image."""
    first, second, *others = passes()
    assert len(others) == 41 - 2
    assert (
        0.29 < (first - 0.5).abs().max() <= 0.3 + 1e-6 and 0.29 < (others[-1] - 0.5).abs().max() <= 0.3 + 1e-6
    )
    assert 0 < (second - first).abs().max() < 0.01 + 1e-6


@pytest.mark.parametrize(
    "settings, count",
    [
        ({"height": 7, "width": 7}, 14 * 14 + 30 + 1),
        ({"height": 10, "width": 5}, 12 * 15 + 30 + 1),
        ({"search": "gradient"}, 1 + 5 + 30 + 1),
    ],
)
def test_occlusion_training_costs_as_many_passes_as_documented(settings, count):
    assert len(passes(attack="roa", attack_settings=settings)) == count


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"attack": "doa"}, "unknown attack 'doa'.*pgd.*roa"),
        ({"attack": "fgsm", "attack_settings": {}}, "attack settings of fgsm: missing.*'eps'"),
        ({"attack": "roa", "attack_settings": {"eps": 0.1}}, "attack settings of roa:.*unexpected.*'eps'"),
    ],
)
def test_an_attack_that_could_not_run_is_refused_before_training(settings, message):
    with pytest.raises(ValueError, match=message):
        AdversarialTraining(**settings)


# --- what all of them share ---


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("augment", [False, True])
def test_augmented_images_are_attacked_in_place_of_the_natural_ones(name, augment):
    make, settings = METHODS[name]
    method, batch = make(**SMALL, **settings, augment=augment).train(), images()
    torch.manual_seed(5)
    expected = crop_and_flip(batch["natural"]) if augment else batch["natural"]
    torch.manual_seed(5)
    _, seen = step(method, batch)
    assert augment == (not torch.equal(expected, batch["natural"]))
    assert all((x - expected).abs().max() <= BEYOND * EPS + 1e-6 for x in seen)


@pytest.mark.parametrize(
    "schedule, factors",
    [
        (None, [1, 1, 1, 1, 1, 1, 1, 1]),
        ([0.5, 0.75], [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        # eight epochs' middles at 1/16, 3/16, ...: a straight line up to 0.4 and another down to 1
        ("cyclic", [5 / 32, 15 / 32, 25 / 32, 15 / 16, 35 / 48, 25 / 48, 5 / 16, 5 / 48]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, factors):
    rates = []

    class Watched(Classifier):
        def training_step(self, batch, optimizers):
            rates.append(optimizers["network"].param_groups[0]["lr"])
            return super().training_step(batch, optimizers)

    fit(Watched(**SMALL, **SGD, schedule=schedule), images(), epochs=8, batch_size=8, seed=0)
    assert rates == pytest.approx([0.05 * factor for factor in factors])


def test_sgd_has_momentum_and_decays_the_weights():
    method = Classifier(optimizer="sgd", learning_rate=0.5, weight_decay=0.1)
    method.network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(method.network.weight, 1.0)
    optimizer = method.optimizers()["network"]
    weights = []
    for gradient in (1.0, 0.0):
        method.network.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        weights.append(method.network.weight.item())
    first = 1 - 0.5 * (1 + 0.1)
    assert weights == pytest.approx([first, first - 0.5 * (0.9 * (1 + 0.1) + 0.1 * first)])


@pytest.mark.parametrize("name", METHODS)
def test_a_training_cut_off_in_mid_epoch_resumes_to_the_very_same_end(name, tmp_path):
    make, settings = METHODS[name]

    def train(checkpoint=None, init=0, steps=None):
        torch.manual_seed(init)
        method, taken = make(**SMALL, **SGD, **settings, schedule="cyclic", augment=True), []
        whole = method.training_step

        def training_step(*args):
            taken.append(None)
            if len(taken) == steps:
                raise KeyboardInterrupt
            return whole(*args)

        method.training_step = training_step
        fit(method, images(), epochs=3, batch_size=4, seed=7, checkpoint=checkpoint)
        return method.state_dict()

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "checkpoint", steps=4)
    resumed, uninterrupted = train(tmp_path / "checkpoint", init=1), train()
    assert all(torch.equal(resumed[key], uninterrupted[key]) for key in uninterrupted)


@pytest.mark.parametrize(
    "make, settings, message",
    [
        (Classifier, {"optimizer": "lbfgs"}, "unknown optimizer 'lbfgs'.*adam, sgd"),
        (Classifier, {"schedule": "cosine"}, "schedule is None, 'cyclic' or fractions.*'cosine'"),
        (Classifier, {"schedule": [30, 60]}, r"fractions between 0 and 1, got \[30, 60\]"),
        (Trades, {"attack_settings": {"epsilon": 0.1}}, "attack settings of pgd:.*'eps'"),
        (Mart, {"attack_settings": {"eps": 0.1, "step": 0.1}}, "attack settings of pgd:.*'step'"),
        (Mma, {"first_eps": 0.1, "d_max": 0.05}, "first_eps is above 0 and at most d_max=0.05, got 0.1"),
    ],
)
def test_settings_that_could_not_train_are_refused_before_training(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


# --- where it begins, and what stands before it ---


class Half(nn.Module):
    """A denoiser that is fit for nothing but to be recognised; what it is shown is counted."""

    def __init__(self):
        super().__init__()
        self.dropout, self.seen = nn.Dropout(0.5), []

    def forward(self, x):
        self.seen.append(x)
        return self.dropout(x) / 2


def test_a_classifier_can_begin_with_the_weights_of_another():
    first = Classifier(width=0.2)
    second = AdversarialTraining(width=0.2, start=first.network)
    for mine, theirs in zip(second.network.parameters(), first.network.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine is not theirs
    with pytest.raises(RuntimeError, match="size mismatch"):
        Classifier(width=0.1, start=first.network)


def test_a_classifier_learns_behind_a_frozen_denoiser_and_is_deployed_behind_it():
    denoiser, seen = Half(), []
    method = Classifier(width=0.2, behind=denoiser).train()
    method.network.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    x, y = torch.rand(4, 1, 28, 28), torch.arange(4)
    method.training_step({"natural": x, "label": y}, method.optimizers())
    torch.testing.assert_close(seen[0], x / 2)  # no dropout: in eval mode
    assert denoiser.training and not any(
        "behind" in name or "dropout" in name for name in method.state_dict()
    )
    deployed = method.eval().defended()
    assert deployed.denoiser is denoiser and deployed.target is method.network


def test_without_a_denoiser_the_network_is_deployed_alone():
    method = Trades(width=0.2)
    assert type(method.defended().denoiser) is nn.Identity and method.defended().target is method.network
