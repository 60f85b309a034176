"""The training loop: what it promises about data, history, precision, and being killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import ROOT, device, training
from helpers.defenses.arn import ReleasedARN
from helpers.training import crop_and_flip, fit


class Regression(nn.Module):
    """A toy method: learn to double, from noisy images; remembers its batches and their precision."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.seen, self.dtypes = [], set()

    def optimizers(self):
        return {"layer": torch.optim.Adam(self.layer.parameters(), 0.05)}

    def training_step(self, batch, optimizers):
        self.seen.append(batch["index"].tolist())
        output = self.layer(batch["x"])
        self.dtypes.add(output.dtype)
        loss = F.mse_loss(output.float(), 2 * batch["x"])
        self.zero_grad()
        loss.backward()
        optimizers["layer"].step()
        return {"mse": loss.detach(), "one": torch.ones(())}


def toy(n=20):
    return {"x": torch.rand(n, 4), "index": torch.arange(n)}


def test_the_loss_falls_and_the_history_holds_the_reported_losses_by_epoch():
    history = fit(Regression(), toy(), epochs=60, batch_size=5, seed=0)
    assert len(history) == 60
    assert all(set(epoch) == {"mse", "one"} and epoch["one"] == 1 for epoch in history)
    assert history[-1]["mse"] < 0.05 * history[0]["mse"]


def test_a_method_learns_wherever_it_is_asked_for():
    """A notebook asks for a network in the midst of an evaluation, and it may have to be trained first."""
    with torch.no_grad():
        history = fit(Regression(), toy(), epochs=3, batch_size=5, seed=0)
    assert history[-1]["mse"] < history[0]["mse"]


def test_the_history_is_the_mean_over_an_epochs_batches():
    class Counting(Regression):
        def training_step(self, batch, optimizers):
            self.seen.append(batch["index"])
            return {"sum": batch["index"].float().sum()}

    history = fit(Counting(), toy(20), epochs=2, batch_size=5, seed=0)
    assert history == [{"sum": 190 / 4}] * 2


def test_an_epochs_reports_keep_nothing_but_their_numbers(monkeypatch):
    """`F.mse_loss` of an image leaves its mean in memory as large as the image."""
    kept = []
    monkeypatch.setattr(
        training._State,
        "save_now_and_then",
        lambda state: kept.extend(loss.untyped_storage().nbytes() for loss in state.reports[-1].values()),
    )
    fit(Regression(), toy(), epochs=1, batch_size=5, seed=0)
    assert kept and set(kept) == {4}  # bytes


def test_the_mean_of_losses_in_bf16_is_not_rounded():
    class Coarse(Regression):
        def training_step(self, batch, optimizers):
            self.seen.append(batch["index"])
            return {"third": torch.tensor(float(len(self.seen) == 1), dtype=torch.bfloat16)}

    (epoch,) = fit(Coarse(), toy(15), epochs=1, batch_size=5, seed=0)
    assert epoch["third"] == pytest.approx(1 / 3, abs=1e-6)


def test_each_epoch_takes_every_image_once_in_a_new_order():
    method = Regression()
    fit(method, toy(20), epochs=2, batch_size=5, seed=0)
    first, second = sum(method.seen[:4], []), sum(method.seen[4:], [])
    assert sorted(first) == sorted(second) == list(range(20)) and first != second


def test_only_whole_batches_are_used_and_rows_stay_together():
    class Checking(Regression):
        def training_step(self, batch, optimizers):
            assert len(batch["x"]) == 6
            assert torch.equal(batch["x"][:, 0], batch["index"].float())
            return super().training_step(batch, optimizers)

    data = {"x": torch.arange(20.0)[:, None].repeat(1, 4), "index": torch.arange(20)}
    method = Checking()
    fit(method, data, epochs=1, batch_size=6, seed=0)
    assert len(method.seen) == 3


def test_the_seed_alone_decides_and_the_callers_generator_is_left_alone():
    def train(seed, caller):
        torch.manual_seed(0)
        method, data = Regression(), toy()
        torch.manual_seed(caller)
        state = torch.get_rng_state()
        history = fit(method, data, epochs=3, batch_size=5, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return history

    assert train(1, caller=5) == train(1, caller=6) != train(2, caller=5)


def test_the_method_ends_in_eval_mode_on_the_device():
    method = Regression()
    fit(method, toy(), epochs=1, batch_size=5, seed=0)
    assert not method.training and method.layer.weight.device.type == device().type


def test_schedulers_step_once_an_epoch():
    class Scheduled(Regression):
        rates = []

        def schedulers(self, optimizers, epochs):
            assert epochs == 4
            return [torch.optim.lr_scheduler.MultiStepLR(o, [2], 0.1) for o in optimizers.values()]

        def training_step(self, batch, optimizers):
            self.rates.append(optimizers["layer"].param_groups[0]["lr"])
            return super().training_step(batch, optimizers)

    method = Scheduled()
    fit(method, toy(), epochs=4, batch_size=10, seed=0)
    assert method.rates == pytest.approx([0.05] * 4 + [0.005] * 4)


def test_bf16_computes_in_bfloat16_and_updates_in_float32():
    method = Regression()
    history = fit(method, toy(), epochs=60, batch_size=5, seed=0, precision="bf16")
    assert method.dtypes == {torch.bfloat16} and method.layer.weight.dtype == torch.float32
    assert history[-1]["mse"] < 0.05 * history[0]["mse"]
    plain = Regression()
    fit(plain, toy(), epochs=1, batch_size=5, seed=0)
    assert plain.dtypes == {torch.float32}


@pytest.mark.parametrize(
    "data, settings, message",
    [
        ({"a": torch.rand(6), "b": torch.rand(5)}, {}, "same length.*'a': 6, 'b': 5"),
        ({"a": torch.rand(3)}, {}, "at least batch_size=4.*3"),
        ({"a": torch.rand(8)}, {"precision": "fp16"}, "fp32 or bf16, got 'fp16'"),
    ],
)
def test_bad_data_or_settings_are_refused(data, settings, message):
    with pytest.raises(ValueError, match=message):
        fit(Regression(), data, epochs=1, batch_size=4, seed=0, **settings)


# --- killed and resumed ----------------------------------------------------------------------------


def pairs():
    generator = torch.Generator().manual_seed(3)
    natural = torch.rand(10, 1, 28, 28, generator=generator)
    return {"natural": natural, "adversarial": torch.rand(10, 2, 1, 28, 28, generator=generator)}


def train(checkpoint=None, init=0, step=None):
    """Five epochs of the method with the most state: four Adams, schedules, BatchNorm, noise."""
    torch.manual_seed(init)
    method = ReleasedARN(width=0.03, learning_rate=1e-3)
    if step:
        method.training_step = step(method.training_step)
    history = fit(method, pairs(), epochs=5, batch_size=5, seed=7, checkpoint=checkpoint)
    return method.state_dict(), history


def die_in_step(number):
    """Replaces a training step by one that kills its own process, without warning, the `number`-th time."""

    def wrap(step):
        calls = []

        def counting(*args):
            calls.append(None)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args)

        return counting

    return wrap


@pytest.mark.slow
@pytest.mark.parametrize(
    "patience, step, epochs_kept, steps_kept", [(60, 4, 1, 0), (60, 2, 0, 0), (0, 4, 1, 1), (0, 2, 0, 1)]
)
def test_a_training_killed_in_mid_epoch_resumes_to_the_very_same_end(
    tmp_path, patience, step, epochs_kept, steps_kept
):
    """patience: seconds between checkpoints inside an epoch, which has two steps."""
    checkpoint = tmp_path / "training.checkpoint"
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
import conftest, test_training as t
from helpers import training
from pathlib import Path
training.PATIENCE = {patience}
t.train(Path({str(checkpoint)!r}), step=t.die_in_step({step}))
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = bool(epochs_kept + steps_kept)
    assert checkpoint.exists() == kept
    if kept:
        state = torch.load(checkpoint, weights_only=True)
        assert (len(state["history"]), len(state["reports"])) == (epochs_kept, steps_kept)

    # Other initial weights: what is kept must come from the checkpoint.
    resumed, history = train(checkpoint, init=1 if kept else 0)
    uninterrupted, expected = train()
    assert history == expected and len(history) == 5
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


def test_a_finished_checkpoint_is_not_trained_further(tmp_path):
    checkpoint = tmp_path / "training.checkpoint"
    first, history = train(checkpoint)
    again, history_again = train(checkpoint, init=1, step=die_in_step(1))
    assert history_again == history
    assert all(torch.equal(first[name], again[name]) for name in first)


# --- augmentation ---


def test_a_crop_is_a_window_of_the_padded_image_mirrored_or_not():
    x = torch.rand(20, 3, 32, 32)
    mirrored = set()
    for image, crop in zip(x, crop_and_flip(x), strict=True):
        windows = (
            F.pad(image, (4, 4, 4, 4)).unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        )
        found = [
            flip
            for flip, one in ((False, crop), (True, crop.flip(2)))
            if (windows == one).flatten(1).all(1).any()
        ]
        assert len(found) == 1
        mirrored |= set(found)
    assert mirrored == {False, True}
