"""Three ways into the collection: another value, another attack, another paper (CONTRIBUTING.md)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from helpers import ROOT, source
from helpers.attacks import ATTACKS, attack
from helpers.defenses import arn
from helpers.lab import Experiment, make
from helpers.measure.comparison import Comparison
from helpers.measure.rates import error_rate


@pytest.fixture
def tree(tmp_path):
    """A copy of the project, to be edited; its images and targets are the original's."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "helpers", copy / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "data").symlink_to(ROOT / "data")
    (copy / "notebooks").mkdir()
    return copy


def python(tree, *arguments):
    """Run Python in the copy; -> what it prints."""
    environment = os.environ | {"PYTHONPATH": str(tree), "TQDM_DISABLE": "1"}
    answer = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file.name}"
    file.write_text(text.replace(old, new))


def outputs(notebook):
    """All that a notebook printed and showed, as one text."""
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(str(output) for cell in cells for output in cell.get("outputs", []))


# --- "I change λ₁ and look at 22" ---

ARN = """
from helpers.lab import Experiment
lab = Experiment(paper="arn", dataset="mnist", profile="quick")
arn = lab.defense("arn", seen="pp", width=0.03, epochs=1)
print(arn.settings["lambda1"], arn.history[-1]["mse"])
"""


@pytest.mark.slow
def test_an_edit_of_a_default_trains_anew(tree):
    before = python(tree, "-c", ARN)
    edit(tree / "helpers" / "defenses" / "arn.py", "lambda1: float = 0.1", "lambda1: float = 7.0")
    after = python(tree, "-c", ARN)
    assert before.split()[0] == "0.1" and after.split()[0] == "7.0"
    assert before.split()[1] != after.split()[1]
    edit(tree / "helpers" / "defenses" / "arn.py", "lambda1: float = 7.0", "lambda1: float = 0.1")
    assert python(tree, "-c", ARN) == before  # loaded


def test_to_follow_a_call_a_reader_opens_six_files(monkeypatch):
    """Five on the way from the call to λ₁ in the loss, and the recipe that keys it (CONTRIBUTING.md)."""

    class Arrived(Exception):
        pass

    def training_step(method, batch, optimizers):
        assert method.lambda1 == 7.0
        raise Arrived

    monkeypatch.setattr(arn.ARN, "training_step", training_step)
    monkeypatch.setattr(make, "adversarial", lambda recipe: make.natural(recipe.made["images"])[0])
    lab = Experiment(paper="arn", dataset="mnist", profile="quick")
    with pytest.raises(Arrived) as caught:
        lab.defense("arn", seen="pp", lambda1=7.0)
    files = [Path(entry.path) for entry in caught.traceback]
    passed = {file.name for file in files if ROOT / "helpers" in file.parents}
    assert passed == {
        "experiment.py",
        "make.py",
        "artifacts.py",
        "training.py",
    }  # then arn.py; and recipes.py


# --- "A new attack, in all tables" ---


def darker(model, x, y, *, targeted, eps=0.3):
    """Takes light away: the simplest attack that there is."""
    return (x - eps).clamp(0, 1)


@pytest.fixture
def registered():
    yield attack(revision=1)(darker)
    del ATTACKS["darker"], source.ELSEWHERE["darker"]


def test_an_attack_registered_here_is_a_column_of_the_table(registered):
    lab = Experiment(paper="arn", dataset="mnist", profile="quick")
    x, y = lab.images(n=50)
    ours = {}
    for name in ["pgd", "darker"]:
        x_adv = lab.attack(name, lab.target(), n=50)
        ours["none", name] = error_rate(lab.target(), x_adv, y)
    assert torch.equal(x_adv, (x - 0.3).clamp(0, 1))
    comparison = Comparison("23_arn_pixel_attacks", lab)
    comparison.add_table("arn/t1/lenet", ours)
    rows = comparison.frame().set_index("attack")
    assert rows.loc["pgd", "paper"] == "100.0" and rows.loc["darker", "paper"] == "–"


ATTACK = '''"""The simplest attack that there is."""

from helpers.attacks.contract import attack


@attack(revision=1)
def darker(model, x, y, *, targeted, eps=0.3):
    """Takes light away."""
    return (x - eps).clamp(0, 1)
'''


@pytest.mark.slow
def test_one_file_and_one_line_make_an_attack_a_column_of_a_notebooks_table(tree):
    (tree / "helpers" / "attacks" / "darker.py").write_text(ATTACK)
    init = tree / "helpers" / "attacks" / "__init__.py"
    init.write_text(init.read_text() + "from helpers.attacks.darker import darker\n")
    notebook = ROOT / "notebooks" / "23_arn_pixel_attacks.ipynb"
    shutil.copy(notebook, tree / "notebooks")
    place = tree / "notebooks" / notebook.name
    python(tree, "-m", "helpers.run", str(place), "out.ipynb", "-p", "extra_attacks", '["darker"]')
    assert "darker" in outputs(tree / "out.ipynb") and "darker" not in outputs(notebook)


# --- "A fifth paper" ---

DEFENSE = '''"""Toy: one convolution."""

from torch import nn
from torch.nn import functional as F

from helpers.defenses.base import Denoiser, adam, descend, detached, stacked


class Toy(Denoiser):
    """(N,1,S,S) in [0,1] -> the same, restored; size: of the kernel."""

    def __init__(self, size: int = 3):
        super().__init__()
        self.mix = nn.Conv2d(1, 1, size, padding=size // 2)

    def forward(self, x):
        return self.mix(x).sigmoid()

    def optimizers(self):
        return {"mix": adam([self.mix], 0.01)}

    def training_step(self, batch, optimizers):
        x = stacked(batch["adversarial"])
        mse = F.mse_loss(self(x), batch["natural"].repeat(len(x) // len(batch["natural"]), 1, 1, 1))
        descend(mse, optimizers["mix"])
        return detached({"mse": mse})
'''

TRUTH = """
mnist:
  train: null
  test: null
  adaptive_test: null
  target: lenet5_clean
  seen: {p: [pgd]}
  grids: {table 1: [none, {toy: p}]}
  attacks: {pgd: {attack: pgd, settings: {eps: 0.3}}}
  methods: {toy: {method: toy.Toy, epochs: 10, batch_size: 100}}
"""

QUICK = """
mnist:
  train: 40
  test: 30
  adaptive_test: 20
  attacks: {pgd: {settings: {steps: 3}}}
  methods: {toy: {epochs: 1, batch_size: 20}}
"""

LEDGER = """id,paper,place,dataset,target,defense,seen,attack,threat,eps,metric,value,pm,note
toy/t1/lenet/none/pgd,toy,table 1,mnist,lenet5,none,,pgd,oblivious,0.3,error_rate,100,,
toy/t1/lenet/toy_p/pgd,toy,table 1,mnist,lenet5,toy,pgd,pgd,oblivious,0.3,error_rate,1.5,,
"""

CELLS = [
    'profile: str = "quick"\nseed: int = 0',
    """
from helpers.lab import Experiment
from helpers.measure.comparison import Comparison
from helpers.measure.rates import right
from helpers.show import tables
from helpers.threats import oblivious, white_box
lab = Experiment(paper="toy", dataset="mnist", profile=profile, seed=seed)
x, y = lab.images()
""",
    """
ours, aware = {}, {}
for row, defense in lab.defenses("table 1").items():
    ours[row, "natural"] = right(defense, x, y)
    ours[row, "pgd"] = right(defense, lab.attack("pgd", oblivious(defense)), y)
    aware[row, "pgd"] = {"PGD": right(defense, lab.attack("pgd", white_box(defense), n=20), y)}
comparison = Comparison("61_toy", lab)
comparison.add_table("toy/t1/lenet", ours, aware)
comparison.save()
tables.closing(comparison)
""",
    "print(comparison.frame().to_string())",
]


@pytest.mark.slow
def test_a_fifth_paper_needs_no_change_of_what_is_there(tree):
    wings = tree / "helpers"
    before = {file: file.read_bytes() for file in wings.rglob("*") if file.is_file()}
    (wings / "defenses" / "toy.py").write_text(DEFENSE)
    (wings / "lab" / "papers" / "toy.yaml").write_text(TRUTH)
    (wings / "lab" / "papers" / "toy.quick.yaml").write_text(QUICK)
    (wings / "ledger" / "toy.csv").write_text(LEDGER)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.cells[0].metadata.tags = ["parameters"]
    place = tree / "notebooks" / "61_toy.ipynb"
    nbformat.write(notebook, place)

    said = python(tree, "-m", "helpers.run", str(place), "out.ipynb")
    shown = outputs(tree / "out.ipynb")
    assert "toy_p" in shown and "100.0" in shown and "1.5" in shown and "the yardstick" in shown
    assert (tree / "reports" / "private" / "quick" / "61_toy.json").exists()
    assert "reports/private/quick/61_toy.json, not in results/" in said and not (tree / "results").exists()
    assert all(file.read_bytes() == content for file, content in before.items())
