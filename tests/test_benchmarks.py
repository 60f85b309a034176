"""The training steps beside the floor of benchmarks/training.py: what is counted, not timed."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import training

from helpers import networks
from helpers.defenses.jatp import JATP
from helpers.networks.features import features_at

VIT = {"width": 0.06, "patch": 4, "encoder": 1, "decoder": 1, "image_size": 16}
SIZES = ({"width": 0.05}, {"width": 0.06, "blocks": 1}, VIT, 4)


class Counter(TorchDispatchMode):
    """Counts the operations of convolutions and products, and how often a value has to reach the host."""

    def __init__(self):
        super().__init__()
        self.flops = self.host_reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if formula := flop_registry.get(function._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        # Indexing has the tag for the sake of boolean masks; with places the result's shape is known.
        places = function is torch.ops.aten.index.Tensor and not any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        self.host_reads += bool(waits & set(function.tags)) and not places
        return result


def counted(run):
    with Counter() as counter:
        run()
    return counter


def case(name, where="cpu"):
    """A method's training step on four small images, and its floors."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(4, 3, 16, 16, generator=generator).to(where), torch.arange(4, device=where)
    method, floors = training.METHODS[name](SIZES, x, y)
    return method, partial(method.training_step, {"natural": x, "label": y}, method.optimizers()), floors


@pytest.mark.parametrize("name", ["trades", "mart", "at"])
def test_a_training_step_computes_what_its_floor_does_and_nothing_else(name):
    _, step, floors = case(name)
    assert counted(step).flops == counted(floors["network"]).flops


def test_a_dir_step_takes_both_masks_in_one_pass_and_no_pass_too_many():
    method, step, floors = case("dir")
    batches = []
    method.denoiser.vit.register_forward_hook(lambda vit, given, out: batches.append(len(out)))
    assert counted(step).flops == counted(floors["bare passes"]).flops
    # Two masks of four images, in the attack's steps and in the update.
    assert batches == [8] * (training.DIR_STEPS + 1)


def test_the_attack_of_a_jatp_step_ends_at_its_layer():
    _, step, floors = case("jatp")
    assert counted(step).flops == pytest.approx(counted(floors["to JATP's layer"]).flops, rel=0.01)


def test_the_floor_of_jatp_ends_at_the_layer_that_jatp_attacks():
    target, x = networks.build("resnet18", width=0.05).eval(), torch.rand(2, 3, 16, 16)
    with torch.no_grad(), features_at(target, JATP().layer) as see:
        torch.testing.assert_close(training.up_to_layer(target, x), see(x)[1].mean((2, 3)))


@pytest.mark.parametrize("name", training.METHODS)
def test_no_step_of_the_training_attack_waits_for_a_value_on_the_host(name):
    reads = []
    for steps in (1, 4):
        method, step, _ = case(name)
        settings = {"jatp": "attack", "dir": "attack", "trades": "ascent"}.get(name, "attack_settings")
        setattr(method, settings, getattr(method, settings) | {"steps": steps})
        reads.append(counted(step).host_reads)
    assert reads[0] == reads[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", training.METHODS)
def test_a_training_step_never_waits_for_the_gpu(name):
    _, step, _ = case(name, "cuda")
    step()  # the first one loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
