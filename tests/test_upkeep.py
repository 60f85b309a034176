"""The scripts behind `make audit` and `make fresh`, and the one that counts faults."""

import subprocess
import sys

import audit
import chaos
import fresh
import pytest
import torch

from helpers.lab import artifacts
from helpers.run import scales

# --- audit ---

FOUND = "Found 2 known vulnerabilities in 1 package\n"
UNREACHABLE = "requests.exceptions.ConnectionError: Failed to resolve: Name or service not known"


@pytest.mark.parametrize(
    "code, out, err, status, words",
    [
        (0, "", "No known vulnerabilities found\n", 0, "No known vulnerability in requirements.lock"),
        (1, "jinja2 2.4.1 PYSEC-2014-8\n", FOUND, 1, "PYSEC-2014-8"),
        (1, "", UNREACHABLE, 2, "cannot be reached"),
        (2, "", "× No solution found: dns error", 2, "cannot be reached"),
        (1, "", "invalid requirement", 2, "pip-audit failed:\ninvalid requirement"),
    ],
)
def test_an_audit_that_could_not_be_made_does_not_look_like_a_clean_one(code, out, err, status, words):
    told = audit.told(code, out, err)
    assert told[0] == status and words in told[1]


# --- fresh ---


def test_only_pins_of_this_machine_count_and_only_differences_are_listed():
    locked = fresh.versions("a==1\nB_b==2 ; python_version >= '3'\nb-b==9 ; python_version < '3'\nc==1\n")
    assert locked == {"a": "1", "b-b": "2", "c": "1"}
    newest = {"a": "1", "b-b": "3", "d": "1"}
    assert fresh.upgrades(newest, locked) == {"b-b": ("2", "3"), "c": ("1", "–"), "d": ("–", "1")}


def test_the_upgrade_is_named_without_which_a_test_passes_again(monkeypatch):
    installed = {"a": "2", "b": "2", "c": "2"}

    def uv(*arguments):
        name, _, version = arguments[-1].partition("==")
        installed[name] = version

    def failing(python, tests):
        broken = {"test_b": installed["b"] == "2", "test_always": True}
        return {test for test in tests if broken[test]}

    monkeypatch.setattr(fresh, "uv", uv)
    monkeypatch.setattr(fresh, "failing", failing)
    changed = {"a": ("1", "2"), "b": ("1", "2"), "c": ("–", "2")}
    assert fresh.blame("python", {"test_b", "test_always"}, changed) == {"b": {"test_b"}}
    assert installed == {"a": "2", "b": "2", "c": "2"}


# --- chaos ---


def damaged(file):
    file.write_bytes(file.read_bytes()[:-1])


def missing(file):
    file.unlink()


def another(file):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(3)}, file, metadata={"key": "0123456789ab"})


@pytest.mark.parametrize(
    "spoil, counts", [(None, (0, 0, 0)), (damaged, (1, 0, 0)), (missing, (0, 1, 0)), (another, (0, 0, 1))]
)
def test_every_kind_of_loss_is_counted(tmp_path, spoil, counts):
    from safetensors.torch import save_file

    file = tmp_path / "toy-0123456789ab.safetensors"
    save_file({"x": torch.zeros(3)}, file, metadata={"key": "0123456789ab"})
    file.with_suffix(".json").write_text("{}")
    reference = chaos.Reference(tensors={file.name: artifacts.load(file).tensors})
    if spoil:
        spoil(file)
    tally = chaos.Tally()
    tally.check(tmp_path, {file.name}, reference)
    assert (tally.corrupt, tally.lost, tally.unequal) == counts
    assert tally.ok == (counts == (0, 0, 0))


@pytest.mark.slow
def test_a_few_faults_lose_nothing():
    """In a process of its own: one in which a gradient was taken cannot be forked."""
    command = [sys.executable, chaos.__file__, "--kills", "3", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "3 kill −9" in done.stdout, done.stdout + done.stderr


def test_the_readme_has_a_place_for_the_count():
    text = scales.README.read_text(encoding="utf-8")
    assert "kill −9" in text.partition(chaos.BEGIN)[2].partition(chaos.END)[0]
