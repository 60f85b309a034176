"""The files around the code agree with each other, and the code keeps its order and its size."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers import ROOT
from helpers.run import notebook as file
from helpers.run import plan

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCK = (ROOT / "requirements.lock").read_text()
NOTEBOOKS = sorted(file.stem for file in (ROOT / "notebooks").glob("[0-9]*.ipynb"))

# The flow: each wing imports only from those before it.
WINGS = [
    "data",
    "losses",
    "ledger",
    "source",
    "progress",
    "networks",
    "threats",
    "training",
    "attacks",
    "defenses",
    "lab",
]
WINGS += ["measure", "run", "show"]
MEGABYTE = 1_000_000


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


def make(*arguments, cwd=ROOT):
    """Run make as from a shell: what an outer `make test` hands down would change its messages."""
    handed_down = {"MAKELEVEL", "MAKEFLAGS", "MFLAGS", "PROFILE", "SEEDS", "CORES", "ONLY", "MINUTES"}
    env = {name: value for name, value in os.environ.items() if name not in handed_down}
    return subprocess.run(["make", *arguments], cwd=cwd, env=env, capture_output=True, text=True)


def test_every_target_is_in_the_help():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split()
    assert set(targets) == set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    shown = make("help").stdout
    assert all(re.search(rf"^  {target} +\w", shown, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize(
    "variable, choices",
    [
        ("PROFILE=papr", "choose one of quick, "),
        ("PROFILE=", "choose one of quick, "),
        ("SEEDS=x", "such as 0 or 0,1,2"),
        ("SEEDS=-1", "such as 0 or 0,1,2"),
        ("SEEDS=", "such as 0 or 0,1,2"),
        ("CORES=0", "from 1 to 9999; this machine has "),
        ("CORES=-1", "from 1 to 9999; this machine has "),
        ("CORES=abc", "from 1 to 9999; this machine has "),
        ("ONLY=99", "there are 00, 01, "),
        ("ONLY=22 x\"'", "there are 00, 01, "),
        ("MINUTES=2", "from 3 to 99999, such as 12"),
        ("MINUTES=1.5", "from 3 to 99999, such as 12"),
    ],
)
@pytest.mark.parametrize("target", ["reproduce", "plan", "test", "notebooks"])
def test_a_bad_variable_is_refused_in_one_line_before_anything_starts(target, variable, choices):
    answer = make("--no-print-directory", target, variable)
    first, *others = answer.stderr.splitlines()
    assert answer.returncode == 2 and not answer.stdout
    assert first.startswith(f"{variable}: ") and choices in first
    assert all(line.startswith("make: ***") for line in others)


def test_good_variables_pass():
    assert (
        make("check", "PROFILE=paper", "SEEDS=0 1,2", "CORES=3", "ONLY=22, 23_arn", "MINUTES=12").returncode
        == 0
    )


def test_an_old_python_is_refused_with_the_remedy(tmp_path):
    old = tmp_path / "python-of-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    answer = make("--always-make", "env", f"PYTHON={old}")
    assert answer.returncode != 0
    assert "Python 3.11 or newer is needed" in answer.stderr and "make PYTHON=python3.12 env" in answer.stderr


def test_an_environment_that_is_a_link_is_not_cleared(tmp_path):
    precious = tmp_path / "elsewhere" / "precious"
    precious.parent.mkdir()
    precious.touch()
    project = tmp_path / "project"
    project.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, project)
    (project / ".venv").symlink_to(precious.parent)
    answer = make("env", f"PYTHON={sys.executable}", cwd=project)
    assert answer.returncode != 0 and "is a link" in answer.stderr and precious.exists()


def test_continuous_integration_calls_make_test():
    script = (ROOT / ".ci" / "run").read_text()
    assert "\nset -euo pipefail\n" in script and "\nmake test\n" in script


# --- the graph for a cluster ---


@pytest.mark.slow
@pytest.mark.parametrize("artifacts", ["false", "true"])
def test_the_graph_for_a_cluster_holds_every_run_and_on_demand_what_they_share(artifacts):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--cores", "1", "--nolock"]
    command += ["--config", "profile=paper", "seeds=[0,2]", f"artifacts={artifacts}"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    counted = re.findall(r"^(\w\S+) +1$", answer.stdout + answer.stderr, flags=re.MULTILINE)
    runs = plan.runs("paper", [0, 2])
    assert {f"notebook_{run.name}" for run in runs} | {"report"} <= set(counted)
    steps = {name for name in counted if name.startswith("artifact_")}  # Snakemake tells its jobs twice
    needs = {need for run in runs for need in run.needs}
    assert len(steps) == (len(needs) if artifacts == "true" else 0)


# --- the order of the code ---


def imports(source):
    """Modules of `helpers` that a source file imports, wherever in it, each with its line."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            if name.split(".")[0] == "helpers":
                yield module(name), node.lineno


def module(name):
    """The longest part of a dotted name that is a module."""
    while (
        not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()
        and not (ROOT / name.replace(".", "/") / "__init__.py").exists()
    ):
        name = name.rpartition(".")[0]
        if name.count(".") == 0:
            return name
    return name


def sources():
    """{module: its file} of the helpers."""
    found = {}
    for source in sorted((ROOT / "helpers").rglob("*.py")):
        name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = source
    return found


def wing(name):
    """The place in WINGS of a dotted name; -1 for the package itself."""
    return WINGS.index(name.split(".")[1]) if "." in name else -1


def test_every_module_belongs_to_a_wing():
    assert {name.split(".")[1] for name in sources() if "." in name} == set(WINGS)


def test_no_wing_imports_from_one_above_it():
    upward = [
        f"{source.relative_to(ROOT)}:{line} imports {imported}"
        for name, source in sources().items()
        for imported, line in imports(source)
        if wing(imported) > wing(name)
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        name: {imported for imported, _ in imports(source)} - {name} for name, source in sources().items()
    }
    while graph:  # take away what imports nothing that is left
        free = [name for name, imported in graph.items() if not imported & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: imported for name, imported in graph.items() if name not in free}


def test_nothing_in_the_helpers_imports_relatively():
    for source in sources().values():
        nodes = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), source


def test_lines_of_the_helpers_are_short_enough():
    limit = PYPROJECT["tool"]["ruff"]["line-length"]
    files = [file for kind in ("py", "yaml") for file in (ROOT / "helpers").rglob(f"*.{kind}")]
    lines = [
        (file, number, line) for file in files for number, line in enumerate(file.open(encoding="utf-8"), 1)
    ]
    too_long = [f"{file.relative_to(ROOT)}:{n}" for file, n, line in lines if len(line.rstrip("\n")) > limit]
    assert limit == 110 and too_long == []


# --- the committed files ---


def tracked(folder):
    """{path: bytes} of the files that git has in `folder`; a skip outside of a clone."""
    command = ["git", "ls-files", "-z", folder]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip("not a clone: " + answer.stderr.strip())
    names = [name for name in answer.stdout.split("\0") if name and (ROOT / name).exists()]
    return {name: os.path.getsize(ROOT / name) for name in names}


@pytest.mark.parametrize("folder, megabytes", [("data", 24), ("data/zoo", 5), ("notebooks", 8)])
def test_folders_stay_small(folder, megabytes):
    files = tracked(folder)
    assert files and sum(files.values()) <= megabytes * MEGABYTE


def test_no_artifacts_ship_but_targets():
    assert not (ROOT / "data" / "zoo" / "quick").exists()
    assert [name for name in tracked("data") if "quick" in name or "/artifacts/" in name] == []


def test_the_readme_mentions_every_notebook():
    readme = (ROOT / "README.md").read_text()
    assert [name for name in NOTEBOOKS if name not in readme] == []


def test_the_readme_marks_the_notebooks_that_larger_profiles_run_on_other_data_sets_too():
    marked = re.findall(r"`(\w+)`\]\([^)]*\)°", (ROOT / "README.md").read_text())
    assert marked == list(dict.fromkeys(run.notebook.stem for run in plan.runs("paper") if "." in run.name))


PAGES = ["README.md", *(f"docs/{paper}.md" for paper in ("add", "arn", "jatp", "dir"))]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_links_what_is_there_and_no_point_of_it_is_long(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    files = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in files if not ((ROOT / page).parent / link).exists()] == []
    points = re.findall(r"^\* .*(?:\n(?!\*|\n).*)*", text, flags=re.MULTILINE)
    assert [point for point in points if len(re.sub(r"\([^)]*\)", "", point).split()) > 60] == []


@pytest.mark.parametrize("page", PAGES[1:])
def test_the_numbers_of_a_point_stand_in_the_texts_that_it_leads_to(page):
    """Rounded as the point has them, whole ones as errors or as what these leave.

    So a result that was made anew asks for a new point; a single slip may go unseen.
    """
    number = r"(?<![\w.])\d+(?:\.\d+)?"
    for point in re.findall(r"^\* .*", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE):
        texts = [ROOT / text for text in re.findall(r"\(\.\./(results/\w+/\w+\.md)\)", point)]
        printed = " ".join(text.read_text(encoding="utf-8") for text in texts)
        known = [float(n) for n in re.findall(number, printed)]
        prose = re.sub(r"\[[^]]*\]\([^)]*\)|(?:Section|Table|Fig\.|Eq\.) [\d.]+", "", point)
        for n in re.findall(number, prose) if texts else []:
            digits = len(n.partition(".")[2])
            rest = [] if digits else [round(100 - k) for k in known]
            assert float(n) in [*rest, *(round(k, digits) for k in known)], (n, point)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_quick_by_default(name):
    parameters = file.parameters(ROOT / "notebooks" / f"{name}.ipynb")
    assert parameters["profile"].default == "quick" and parameters["seed"].default == 0


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_as_it_was_run_and_without_paths_of_a_machine(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for output in (output for cell in cells for output in cell.outputs):
        output.get("data", {}).pop("image/png", None)
    assert not re.search(r"/(home|root|Users|tmp|work|opt|usr)/|'papermill'", str(notebook))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"


def test_needs_and_times_are_those_of_the_notebooks():
    assert sorted(plan.read(plan.NEEDS)) == NOTEBOOKS, "run `make notebooks`"
    assert sorted(plan.read(plan.TIMES)["quick"]) == NOTEBOOKS, "run `make notebooks`"


def test_the_citation_names_the_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert len(citation["references"]) == 4
