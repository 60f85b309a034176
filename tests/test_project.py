"""The files around the code agree with each other: requirements, lock, conda, Makefile, Snakefile, README."""

import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml
from filelock import FileLock
from nbformat import v4
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers import ROOT
from helpers.run import __main__ as run, reproduce

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCK = (ROOT / "requirements.lock").read_text()
NOTEBOOKS = sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))


def direct_requirements():
    return [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def locked():
    """{package: versions}; a package has several where they depend on the Python version."""
    versions = {}
    for line in LOCK.splitlines():
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        versions.setdefault(canonicalize_name(requirement.name), []).append(Version(pin.version))
    return versions


# --- the environment ---


@pytest.mark.parametrize("requirement", direct_requirements(), ids=str)
def test_the_lock_has_a_version_within_every_range(requirement):
    versions = locked()[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version) for version in versions)


def test_the_lock_names_no_host_and_no_file():
    assert not re.search(r"://|@|^-|^\s*#|/", LOCK, flags=re.MULTILINE)


def test_torch_and_torchvision_are_a_pair():
    (torch,), (torchvision,) = locked()["torch"], locked()["torchvision"]
    assert (torch.major, torchvision.major, torchvision.minor) == (2, 0, torch.minor + 15 - 1)


def test_conda_installs_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = conda["dependencies"]
    assert conda["name"] == PROJECT["name"]
    assert python == "python" + PROJECT["requires-python"] and pip == "pip"
    # the very lock that the Makefile installs, and this project with the extra that the lock holds
    assert by_pip == {"pip": ["-r requirements.lock", "-e .[test]"]}


# --- make ---


def make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_every_target_is_in_the_help():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split()
    assert set(targets) == set(re.findall(r"^([a-z]+):", text, flags=re.MULTILINE))
    shown = make("help").stdout
    assert all(re.search(rf"^  {target} +\w", shown, flags=re.MULTILINE) for target in targets)


def test_an_old_python_is_refused_with_the_remedy(tmp_path):
    old = tmp_path / "python-of-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    answer = make("--always-make", "env", f"PYTHON={old}")
    assert answer.returncode != 0
    assert "Python 3.11 or newer is needed" in answer.stderr and "make PYTHON=python3.12 env" in answer.stderr


def test_continuous_integration_calls_make_test():
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


# --- the graph ---


def snakemake(*options):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--cores", "1", "--nolock", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_graph_holds_every_notebook_and_what_it_needs():
    plan = snakemake("--config", "profile=quick")
    assert plan.returncode == 0, plan.stderr
    text = plan.stdout + plan.stderr
    steps = [f"notebook_{name}" for name in NOTEBOOKS]
    steps += ["adversarial_arn_mnist_pgd_n_train", "adversarial_arn_mnist_aa_n_big_test", "defense_arn_mnist_arn_pp", "report"]
    for step in steps:
        assert re.search(rf"^{step} +1$", text, flags=re.MULTILINE), step
    assert all(f"reports/quick/{name}.ipynb" in text for name in NOTEBOOKS)


def test_the_graph_runs_arns_pages_for_its_second_data_set_too():
    plan = snakemake("--config", "profile=quick", "--printshellcmds")
    command = next(line for line in plan.stdout.splitlines() if "helpers.run" in line and "23_arn_pixel_attacks.cifar10" in line)
    assert "notebooks/23_arn_pixel_attacks.ipynb" in command and "-p dataset cifar10" in command


def test_the_readme_marks_the_notebooks_that_the_graph_runs_on_cifar10_too():
    def parameters(name):
        return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells[1].source

    graph = re.findall(r'"(\w+)\.cifar10":', (ROOT / "Snakefile").read_text())
    marked = re.findall(r"`(\w+)`°", (ROOT / "README.md").read_text())
    able = [name for name in NOTEBOOKS if re.search(r'dataset: str = "mnist"  # mnist.*cifar10', parameters(name))]
    assert graph == marked == able


def test_the_graph_takes_several_seeds():
    plan = snakemake("--config", "profile=paper", "seeds=[0,2]")
    assert plan.returncode == 0, plan.stderr
    text = plan.stdout + plan.stderr
    assert f"reports/paper/{NOTEBOOKS[0]}.seed2.ipynb" in text and ".seed0" not in text


def test_a_second_run_of_the_same_profile_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce", "--profile", "paper"])
    (tmp_path / "reports" / "paper").mkdir(parents=True)
    with FileLock(tmp_path / "reports" / "paper" / ".lock"):
        with pytest.raises(SystemExit, match="with profile paper is running here"):
            reproduce.main()


def test_a_failure_of_the_graph_is_a_failure_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    (tmp_path / "Snakefile").write_text("rule all:\n    input: 'nowhere.ipynb'\n")
    with pytest.raises(SystemExit, match="Not finished"):
        reproduce.main()
    assert "nowhere.ipynb" in capsys.readouterr().err


# --- running one notebook ---


@pytest.fixture
def notebook(tmp_path):
    """A notebook with two parameters, an output, and cells that can be made to fail."""
    cells = [v4.new_code_cell('profile: str = "quick"\nseed: int = 0'), v4.new_code_cell("import os")]
    cells += [v4.new_code_cell("print(profile, 1 / (seed - 7), os.path.basename(os.getcwd()))")]
    cells[0].metadata.tags = ["parameters"]
    file = tmp_path / "book" / "01_small.ipynb"
    file.parent.mkdir()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), file)
    return file


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["run", *map(str, arguments)])
    monkeypatch.setenv("TQDM_DISABLE", "1")  # which run sets; undone afterwards
    run.main()


def test_an_unknown_parameter_is_refused_and_the_known_ones_are_named(notebook, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, notebook, tmp_path / "out.ipynb", "-p", "sed", "1")
    assert end.value.code == 2
    assert "has no parameter 'sed'; it has profile, seed" in capsys.readouterr().err
    assert not (tmp_path / "out.ipynb").exists()


def test_parameters_reach_the_notebook_which_runs_in_its_folder(notebook, tmp_path, monkeypatch):
    out = tmp_path / "new" / "out.ipynb"
    call(monkeypatch, notebook, out, "-p", "profile", "paper", "-p", "seed", "8")
    assert nbformat.read(out, 4).cells[-1].outputs[0].text == "paper 1.0 book\n"


def test_a_failure_leaves_the_traceback_and_tells_where(notebook, tmp_path, monkeypatch):
    out = tmp_path / "out.ipynb"
    with pytest.raises(SystemExit, match="ZeroDivisionError: division by zero\n.*out.ipynb"):
        call(monkeypatch, notebook, out, "-p", "seed", "7")
    assert "ZeroDivisionError" in str(nbformat.read(out, 4).cells[-1].outputs)


def test_a_notebook_run_in_place_keeps_no_trace_of_the_machine(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    call(monkeypatch, notebook)
    text = notebook.read_text()
    assert "-0.14" in text
    assert not re.search(r"papermill|iopub|start_time|" + re.escape(str(notebook.parent)), text)


@pytest.mark.parametrize(
    "text, meaning", [("3", 3), ("1e-3", 0.001), ("true", True), ("[1, 2]", [1, 2]), ("pgd", "pgd"), ("8/255", "8/255")]
)
def test_values_of_parameters_are_read_as_meant(text, meaning):
    assert run.value(text) == meaning


# --- the committed files ---


def test_the_readme_mentions_every_notebook():
    readme = (ROOT / "README.md").read_text()
    assert [name for name in NOTEBOOKS if name not in readme] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_as_it_was_run_and_without_paths_of_a_machine(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for output in (output for cell in cells for output in cell.outputs):
        output.get("data", {}).pop("image/png", None)
    assert not re.search(r"/(home|root|Users|tmp|work|opt|usr)/|'papermill'", str(notebook))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"


def test_the_citation_names_the_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert len(citation["references"]) == 4
