"""Artifacts: made once, complete or absent, and never silently the wrong one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import ROOT, write_atomically
from helpers.lab import artifacts, recipes
from helpers.lab.artifacts import ArtifactError
from helpers.lab.recipes import Recipe

MADE = {"attack": "pgd", "settings": {"eps": 0.3, "steps": 40}, "seed": 0, "without": ["nor"]}


def toy(**change):
    """The recipe of an artifact, changed or not."""
    return Recipe(MADE | change, {})


def build(checkpoint):
    return {"images": torch.arange(100.0).view(4, 25)}, {"history": [{"loss": 1.5}]}


def forbidden(checkpoint):
    raise AssertionError("made again")


def python(code, **more):
    """A process that runs `code`, which finds `artifacts` and the same recipe as here, `toy`."""
    start = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from helpers.lab import artifacts
from helpers.lab.recipes import Recipe
toy = Recipe({MADE!r}, {{}})
"""
    return subprocess.Popen([sys.executable, "-c", start + code], stderr=subprocess.PIPE, text=True, **more)


# --- the key ---


def test_the_key_does_not_depend_on_how_the_settings_are_written():
    turned = {name: MADE[name] for name in reversed(MADE)} | {"settings": {"steps": 40.0, "eps": 0.3}}
    assert list(turned) != list(MADE)
    assert Recipe(turned | {"without": ("nor",)}, {"by": "another name"}).key == toy().key


@pytest.mark.parametrize(
    "change",
    [
        {"attack": "cw"},
        {"seed": 1},
        {"without": []},
        {"without": ["nor", "att"]},
        {"new": None},
        {"settings": {"eps": 0.30001, "steps": 40}},
        {"settings": {"eps": 0.3, "steps": 41}},
        {"settings": {"eps": 0.3}},
    ],
)
def test_the_key_depends_on_every_setting(change):
    assert toy(**change).key != toy().key


def test_the_key_depends_on_the_format(monkeypatch):
    before = toy().key
    monkeypatch.setattr(recipes, "FORMAT", recipes.FORMAT + 1)
    assert toy().key != before


def test_the_folder_is_the_environments_or_the_projects(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACT_DIR", str(tmp_path / "elsewhere"))
    made = artifacts.make("toy", toy(), build)
    assert made.path.parent == tmp_path / "elsewhere" and made.path == artifacts.path("toy", toy())
    for unset in (lambda: monkeypatch.delenv("ARTIFACT_DIR"), lambda: monkeypatch.setenv("ARTIFACT_DIR", "")):
        unset()
        assert artifacts.folder() == ROOT / "data" / "artifacts"


# --- making and loading ---


def test_an_artifact_is_made_once_and_loaded_with_its_facts():
    made = artifacts.make("toy", toy(), build)
    loaded = artifacts.make("toy", toy(), forbidden)
    assert torch.equal(loaded.tensors["images"], build(None)[0]["images"])
    assert loaded.info == made.info == json.loads(made.path.with_suffix(".json").read_text())
    assert loaded.info["recipe"] == MADE and loaded.info["history"] == [{"loss": 1.5}]
    assert loaded.info["seconds"] >= 0 and loaded.info["versions"]["torch"] == torch.__version__.split("+")[0]


def test_tensors_of_any_layout_come_back_as_they_were():
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tensors = {"image": image, "part": image[:, 1], "count": torch.tensor(7), "same": image}
    loaded = artifacts.make("toy", toy(), lambda checkpoint: (tensors, {})).tensors
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_build_that_fails_leaves_nothing_and_its_checkpoint_is_there_for_the_next():
    def fails(checkpoint):
        checkpoint.write_text("half")
        raise RuntimeError("out of memory")

    def resumes(checkpoint):
        assert checkpoint.read_text() == "half"
        return build(checkpoint)

    with pytest.raises(RuntimeError, match="out of memory"):
        artifacts.make("toy", toy(), fails)
    assert not artifacts.path("toy", toy()).exists()
    made = artifacts.make("toy", toy(), resumes)
    assert not made.path.with_suffix(".checkpoint").exists()


# --- killed ---

KILLS = {
    "in the build": "build = lambda checkpoint: kill()",
    # the first rename is the sidecar's, the second the artifact's: before and between them
    "before the sidecar": "os.replace = lambda a, b: kill()",
    "amid the artifact": """
from pathlib import Path
import safetensors.torch
safetensors.torch.save_file = lambda tensors, file, metadata: (Path(file).write_bytes(b"half"), kill())""",
    "before the artifact": """
rename, calls = os.replace, []
os.replace = lambda a, b: kill() if calls else (calls.append(a), rename(a, b))""",
}


@pytest.mark.parametrize("where", KILLS)
def test_a_kill_leaves_nothing_that_looks_complete_and_nothing_in_the_way(where):
    code = f"""
import os, signal, torch
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
build = lambda checkpoint: ({{"images": torch.zeros(5)}}, {{}})
{KILLS[where]}
artifacts.make("toy", toy, build)
"""
    process = python(code)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    assert not artifacts.path("toy", toy()).exists()
    made = artifacts.make("toy", toy(), build)
    assert len(made.tensors["images"]) == 4  # the lock is free, ours is made
    left = {file.name for file in made.path.parent.glob(f"*{made.path.stem}*")}
    assert left == {made.path.name, made.path.with_suffix(".json").name}


def test_two_processes_make_one_artifact_once(tmp_path):
    log = tmp_path / "builds"
    code = f"""
import os, time, torch
from pathlib import Path
Path({str(tmp_path)!r}, f"ready-{{os.getpid()}}").touch()
while len(list(Path({str(tmp_path)!r}).glob("ready-*"))) < 2:  # start at the same time
    time.sleep(0.01)
def build(checkpoint):
    with open({str(log)!r}, "a") as file:
        file.write("built\\n")
    time.sleep(1)
    return {{"images": torch.ones(5)}}, {{}}
print(artifacts.make("toy", toy, build).tensors["images"].sum().item())
"""
    processes = [python(code, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and out == "5.0\n", errors
    assert log.read_text() == "built\n"


# --- files that are not what they seem ---


def truncate(file):
    file.write_bytes(file.read_bytes()[:-50])


def web_page(file):
    file.write_text("<!DOCTYPE html><title>Please log in</title>")


def empty(file):
    file.write_bytes(b"")


def other_artifact(file):
    other = artifacts.make("toy", toy(seed=1), build)
    other.path.replace(file)


def other_program(file):
    from safetensors.torch import save_file

    save_file({"images": torch.zeros(3)}, file)


def pickled(file):
    torch.save({"images": torch.zeros(3)}, file)


@pytest.mark.parametrize("spoil", [truncate, web_page, empty, other_artifact, other_program, pickled])
def test_a_spoilt_file_is_an_error_naming_it_and_the_remedy(spoil):
    file = artifacts.make("toy", toy(), build).path
    spoil(file)
    for read in (lambda: artifacts.load(file), lambda: artifacts.make("toy", toy(), forbidden)):
        with pytest.raises(ArtifactError) as error:
            read()
        assert str(file) in str(error.value) and f"delete {file} and run again" in str(error.value)
    file.unlink()
    assert len(artifacts.make("toy", toy(), build).tensors["images"]) == 4  # the remedy is one


def test_an_absent_file_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ArtifactError, match="nothing-000.safetensors does not exist"):
        artifacts.load(tmp_path / "nothing-000.safetensors")


@pytest.mark.parametrize("spoil", [Path.unlink, web_page, truncate])
def test_a_spoilt_sidecar_is_an_error_naming_it_and_the_remedy(spoil):
    file = artifacts.make("toy", toy(), build).path
    spoil(file.with_suffix(".json"))
    with pytest.raises(ArtifactError) as error:
        artifacts.load(file)
    assert str(file.with_suffix(".json")) in str(error.value) and f"delete {file} and run again" in str(
        error.value
    )


def test_write_atomically_keeps_the_old_file_when_writing_fails(tmp_path):
    file = tmp_path / "kept.txt"
    file.write_text("old")

    def fails(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, fails)
    assert file.read_text() == "old" and list(tmp_path.glob("*kept*")) + list(tmp_path.glob(".kept*")) == [
        file
    ]
