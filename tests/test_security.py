"""Data run no code: not as weights, checkpoints, artifacts, archives or settings.  And who may reach a lab.

A defense that is brought *is* code, and runs with the rights of whoever brings it; see README.md.
"""

import ast
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import psutil
import pytest
import torch
import yaml
from torch import nn

from helpers import ROOT, data
from helpers.data import DataError
from helpers.lab import Experiment, artifacts, bring, profiles
from helpers.training import fit

CODE = [file for wing in ("helpers", "benchmarks", "tests") for file in sorted((ROOT / wing).rglob("*.py"))]
CODE += [*sorted((ROOT / "course").glob("*.py")), *sorted((ROOT / "pages").glob("*.py"))]

# Modules whose reading of a file can run what the file says.
UNPICKLERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
SAFE_YAML = {"SafeLoader", "CSafeLoader", "_Loader"}  # the last: `profiles._Loader`, see below


# --- the code ---


def unsafe(source: str) -> list[str]:
    """What in a module reads files in a way that can run code, "line: what"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node, name.name) for name in node.names if name.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            harmless = {name.name for name in node.names} <= {"UnpicklingError", "dumps"}
            found += [] if harmless else [(node, node.module)]
        elif isinstance(node, ast.Call) and (what := _unsafe_call(node)):
            found.append((node, what))
    return [f"{node.lineno}: {what}" for node, what in found]


def _unsafe_call(node):
    name = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if name == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        return "allow_pickle"
    if name.endswith(("read_pickle", "unpack_archive", "extract_archive")):
        return name
    if name.endswith((".extractall", ".extract")) and given.get("filter") != "'data'":
        return f"{name} without filter='data'"
    if name in ("yaml.load", "yaml.load_all"):
        loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        return None if loader.removeprefix("yaml.") in SAFE_YAML else f"{name} with {loader or 'no loader'}"
    return name if name in ("yaml.unsafe_load", "yaml.full_load") else None


@pytest.mark.parametrize("file", CODE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_reads_a_file_in_a_way_that_can_run_code(file):
    if file != Path(__file__).resolve():  # here is the poison, and the proof that it works
        assert unsafe(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda file: file.stem)
def test_nor_does_a_notebook(file):
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert unsafe("".join(cell["source"])) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import dill as d",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "pd.read_pickle(file)",
        "tar.extractall(folder)",
        "shutil.unpack_archive(file)",
        "yaml.load(text)",
        "yaml.load(text, yaml.UnsafeLoader)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
    ],
)
def test_the_search_finds_what_it_is_for(line):
    assert len(unsafe(line)) == 1


# --- poison ---


class Poison:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def ran(tmp_path):
    """The folder that is there if the poison has worked."""
    return tmp_path / "ran"


@pytest.fixture(params=["zip", "legacy"])
def poisoned(request, tmp_path, ran):
    """A file of weights, in either of torch's formats, with poison beside them."""
    file = tmp_path / "weights.pt"
    state = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1), "more": Poison(ran)}
    torch.save(state, file, _use_new_zipfile_serialization=request.param == "zip")
    return file


def test_the_poison_works(poisoned, ran):
    torch.load(poisoned, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_poisoned_weights_of_a_brought_network_are_refused(poisoned, ran, tmp_path, name):
    file = poisoned.rename(tmp_path / name)
    (tmp_path / "mine.py").write_text("from torch import nn\n\ndef factory():\n    return nn.Linear(1, 1)\n")
    with pytest.raises(ValueError, match="do not fit Linear"):
        bring.from_path(f"{tmp_path}/mine.py:factory", str(file))
    assert not ran.exists()


class Method(nn.Module):
    """Something to train."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def optimizers(self):
        return {"all": torch.optim.SGD(self.parameters(), 0.1)}


def test_a_poisoned_checkpoint_of_a_training_is_refused(poisoned, ran):
    with pytest.raises(UnpicklingError):
        fit(Method(), {"x": torch.zeros(4, 1)}, epochs=1, batch_size=2, seed=0, checkpoint=poisoned)
    assert not ran.exists()


def test_a_poisoned_checkpoint_of_an_adversarial_set_is_refused(poisoned, ran):
    lab = Experiment("arn", "mnist", "quick")
    recipe = lab.recipes.attack("pgd", lab.target().recipe, split="test", n=5)
    checkpoint = artifacts.path("mnist-pgd-test", recipe).with_suffix(".checkpoint")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    poisoned.rename(checkpoint)
    with pytest.raises(UnpicklingError):
        lab.attack("pgd", lab.target(), n=5)
    assert not ran.exists()


def test_a_poisoned_artifact_is_refused(poisoned, ran, tmp_path):
    file = poisoned.rename(tmp_path / "toy-0123456789ab.safetensors")
    with pytest.raises(artifacts.ArtifactError, match=f"delete {file}"):
        artifacts.load(file)
    assert not ran.exists()


def test_poisoned_images_are_refused(ran, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    images = np.array([Poison(ran)], dtype=object)
    np.savez(tmp_path / "mnist_test.npz", images=images, labels=np.zeros(1, int))
    with pytest.raises(DataError, match="allow_pickle=False"):
        data.load("mnist", "test", source="full")
    assert not ran.exists()


def test_poisoned_settings_are_refused(ran):
    with pytest.raises(yaml.constructor.ConstructorError):
        yaml.load(f"settings: !!python/object/apply:os.mkdir ['{ran}']", profiles._Loader)
    assert not ran.exists()


# --- archives that climb ---


def test_an_npz_that_climbs_writes_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("DATA_DIR", str(folder))
    with zipfile.ZipFile(folder / "mnist_test.npz", "w") as archive:
        archive.writestr("../climbed.npy", b"anything")
    with pytest.raises(DataError, match="must hold images and labels"):
        data.load("mnist", "test", source="full")
    assert [file.name for file in tmp_path.rglob("*")] == ["data", "mnist_test.npz"]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE])
def test_a_tar_that_climbs_writes_nothing_outside_and_is_refused(tmp_path, monkeypatch, kind):
    """What a user puts there as CIFAR-10's archive: one file climbs, or all go through a link."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("DATA_DIR", str(folder))
    (archive,) = data._archives("cifar10")
    with tarfile.open(archive.path, "w:gz") as tar:
        if kind == tarfile.SYMTYPE:
            link = tarfile.TarInfo("cifar-10-batches-py")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            tar.addfile(link)
        for name in ("../climbed", *(str(file.relative_to(folder)) for file in archive.files)):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(DataError, match="MD5"):
        data.load("cifar10", "test", source="full")
    assert {file.name for file in tmp_path.iterdir()} == {"data"}
    assert not any(file.is_symlink() for file in folder.rglob("*"))


# --- who may reach a lab ---


@pytest.mark.slow
def test_a_lab_listens_on_this_machine_only_and_wants_its_token(tmp_path):
    """Even where the user's own configuration opens all labs to the network."""
    (tmp_path / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": {"ip": "0.0.0.0"}}))
    config = ROOT / "helpers" / "run" / "lab" / "jupyter_server_config.py"
    command = [sys.executable, "-m", "jupyterlab", f"--config={config}", "--no-browser", "--port=0"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    environment = {name: value for name, value in os.environ.items() if name != "JUPYTER_TOKEN"}
    environment |= {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        found = None
        for line in server.stderr:
            if found := re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/\S*\?token=(\w+)", line):
                break
        assert found, "JupyterLab did not start, or has no token"
        port, token = found.groups()
        assert len(token) >= 32
        for query, expected in ((f"?token={token}", 200), ("", 403), ("?token=guessed", 403)):
            assert status(f"http://127.0.0.1:{port}/api/contents{query}") == expected
        places = psutil.Process(server.pid).net_connections(kind="inet")
        listening = {place.laddr.ip for place in places if place.status == psutil.CONN_LISTEN}
        assert listening and listening <= {"127.0.0.1", "::1"}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def status(address):
    """Of the answer, in numbers; the server may not be there for a moment yet."""
    for _ in range(100):
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except urllib.error.URLError:
            time.sleep(0.2)
    pytest.fail(f"{address} does not answer")
