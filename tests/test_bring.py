"""Bring your own: modules from outside the package, and what a wrong one is told."""

import textwrap

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers import device
from helpers.lab import Experiment, bring

SOURCE = """
import torch
from torch import nn

class Blur(nn.Module):
    stochastic = False
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 3, padding=1)
    def forward(self, x):
        return self.mix(x).sigmoid()

class Noise(nn.Module):
    stochastic = False
    def forward(self, x):
        return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)

class Calm(nn.Module):
    stochastic = True
    def forward(self, x):
        return x

def blur(): return Blur()
def noise(): return Noise()
def calm(): return Calm()
def needs(width): return Blur()
def text(): return "a denoiser"
def bigger(): return nn.Upsample(scale_factor=2)
def signed(): return nn.Sequential(nn.Conv2d(1, 1, 1), nn.Tanh(), nn.Hardtanh(-1, -0.6))
def labels(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
def crash(): return nn.Linear(3, 3)
number = 7
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module outside the package, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    return name


def images():
    return torch.rand(3, 1, 28, 28, device=device())


@pytest.mark.parametrize("path", ["{}:blur", "{}.py:blur"])
def test_a_factory_is_found_by_module_and_by_file(mine, path):
    network = bring.from_path(path.format(mine))
    assert type(network).__name__ == "Blur"
    assert not network.training and not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_loaded(mine, tmp_path, suffix):
    weights = {"mix.weight": torch.full((1, 1, 3, 3), 0.25), "mix.bias": torch.full((1,), -1.0)}
    file = tmp_path / f"weights{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    state = bring.from_path(f"{mine}:blur", str(file)).state_dict()
    assert all(torch.equal(state[name].cpu(), weights[name]) for name in weights)


@pytest.mark.parametrize(
    "factory, message",
    [
        ("blur", "write package.module:factory"),
        ("nowhere.at_all:blur", "cannot import nowhere.at_all"),
        ("nowhere.py:blur", "no file nowhere.py"),
        ("{}:absent", "no function 'absent'"),
        ("{}:number", "no function 'number'"),
        ("{}:needs", "without arguments.*width"),
        ("{}:text", "torch.nn.Module, it returned str"),
    ],
)
def test_a_wrong_factory_is_told_so(mine, factory, message):
    with pytest.raises(ValueError, match=message):
        bring.from_path(factory.format(mine))


def test_wrong_weights_are_told_so(mine, tmp_path):
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    for file, message in (
        ("other", "do not fit Blur"),
        ("broken", "broken.safetensors"),
        ("absent", "no file absent"),
    ):
        with pytest.raises(ValueError, match=message):
            bring.from_path(f"{mine}:blur", f"{file}.safetensors")


def test_weights_cannot_run_code(mine, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"mix.weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="do not fit"):
        bring.from_path(f"{mine}:blur", "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "factory, message",
    [
        ("bigger", r"keep the shape \(3, 1, 28, 28\), it gave \(3, 1, 56, 56\)"),
        ("signed", r"images in \[0,1\], it gave \[-"),
        ("labels", r"keep the shape"),
        ("crash", "fails on images"),
        ("noise", "says stochastic=False, but two passes over the same images differ"),
        ("calm", "says stochastic=True, but two passes over the same images agree"),
    ],
)
def test_an_unsuitable_denoiser_is_told_so(mine, factory, message):
    with pytest.raises(ValueError, match=message):
        bring.check_denoiser(bring.from_path(f"{mine}:{factory}"), images())


def test_a_suitable_denoiser_passes(mine):
    bring.check_denoiser(bring.from_path(f"{mine}:blur"), images())
    bring.check_denoiser(nn.Identity(), images())
    bring.check_denoiser(nn.Hardtanh(-0.4, 1.4), images())  # HGD overshoots, too


@pytest.mark.parametrize(
    "target, message",
    [
        (nn.Identity(), r"logits \(3, classes\), it gave \(3, 1, 28, 28\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 1)), r"\(3, 1\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), "fails on images"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1)), "probabilities"),
    ],
)
def test_an_unsuitable_target_is_told_so(target, message):
    with pytest.raises(ValueError, match=message):
        bring.check_target(target.to(device()), images())


def test_a_suitable_target_passes(lenet, digits):
    bring.check_target(lenet, digits[0][:2])


@pytest.mark.slow
def test_the_notebook_takes_a_defense_from_outside_the_package(mine, tmp_path, monkeypatch):
    """The command of its first cell, on a file that only the user has."""
    import nbformat

    from helpers import ROOT
    from helpers.run.__main__ import execute

    monkeypatch.delenv("ARTIFACT_DIR", raising=False)  # what its lessons need is expensive, and shared
    weights = {"mix.weight": torch.ones(1, 1, 3, 3) / 9, "mix.bias": torch.full((1,), -1.0)}
    save_file(weights, tmp_path / "w.safetensors")
    parameters = {
        "denoiser": f"{tmp_path / mine}.py:blur",
        "denoiser_weights": str(tmp_path / "w.safetensors"),
        "images": 8,
        "steps": 2,
        "queries": 2,
        "report": str(tmp_path / "page.html"),
    }
    out = tmp_path / "out.ipynb"
    assert execute(ROOT / "notebooks" / "02_evaluating_a_defense.ipynb", out, parameters) is None
    printed = [o.text for cell in nbformat.read(out, 4).cells for o in cell.get("outputs", []) if "text" in o]
    assert f"{mine}.py:blur" in printed[0]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Robust error" in page and f"{mine}.py:blur" in page and "w.safetensors" in page


def test_a_defense_of_the_experiment_is_known_by_name():
    lab = Experiment("arn", "mnist")
    assert isinstance(bring.denoiser("at_pgd", "", images(), lab), nn.Identity)
    with pytest.raises(ValueError, match="unknown"):
        bring.denoiser("nothing_such", "", images(), lab)


def test_a_name_has_weights_of_its_own():
    with pytest.raises(ValueError, match="is a name.*give an import path"):
        bring.target("lenet5_clean", "w.pt", images())
    with pytest.raises(ValueError, match="is a name.*give an import path"):
        bring.denoiser("hgd", "w.pt", images(), None)


def test_a_file_may_import_its_neighbour(mine, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "neighbour_of_mine.py").write_text("import torch\nLAYER = torch.nn.Identity()\n")
    (tmp_path / "sub" / "front_of_mine.py").write_text(
        "import neighbour_of_mine as n\n\n\ndef make():\n    return n.LAYER\n"
    )
    assert isinstance(bring.from_path("sub/front_of_mine.py:make"), nn.Identity)
