"""Submitted defenses get the mark that they deserve, and bad ones a message; none gets out of its folder."""

import subprocess
import sys

import pytest
from safetensors.torch import save_file

from helpers import ROOT
from helpers.lab import Experiment

sys.path.insert(0, str(ROOT))

from course import grade

SHORT = {"images": 10, "steps": 5, "queries": 10}
MODULE = """
import torch

class Module(torch.nn.Module):
    def forward(self, x):
        {forward}

def denoiser():
    return Module()
"""


def submission(folder, source, forward="return x"):
    (folder / grade.DEFENSE).write_text(source + MODULE.format(forward=forward))
    return folder


# --- points ---


def facts(**changed):
    fair = {
        "kept": 100.0,
        "works": True,
        "oblivious": [80.0, "gains"],
        "gained": [50.0, "gains"],
        "alarms": [],
        "rows": [{"attacker": "none", "attack": "natural"}],
    }
    return fair | changed


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({}, [5, 5, 12, 15, 10]),
        ({"gained": [0.0, "no difference seen"]}, [5, 5, 12, 15, 0]),
        ({"alarms": ["the gradient is exactly zero"]}, [5, 5, 12, 0, 0]),
        ({"works": False, "kept": 30.0}, [5, 0, 0, 0, 0]),
        # doing nothing is no defense, though no alarm rings
        ({"oblivious": [0.0, "no difference seen"], "gained": [0.0, "undecided"]}, [5, 5, 0, 0, 0]),
        ({"oblivious": [-9.0, "loses"], "gained": [-9.0, "loses"]}, [5, 5, 0, 0, 0]),
    ],
)
def test_points_follow_the_rubric(changed, expected):
    given = grade.points(facts(**changed))
    assert [point.points for point in given] == expected
    assert [point.most for point in given] == [5, 5, 15, 15, 20]
    assert all(point.why for point in given)


def test_the_page_says_what_was_given_and_whether_the_kernel_held():
    given = grade.points(facts(alarms=["a | b"]))
    text = grade.page("me", given, facts(), kernel=True)
    assert text.startswith("# me: 22 of 60 points") and r"a \| b" in text and "Landlock" not in text
    assert "no Landlock" in grade.page("me", given, facts(), kernel=False)


def test_the_rubric_tells_the_points_that_the_script_gives():
    text = (ROOT / "course" / "project.md").read_text(encoding="utf-8")
    for point in grade.points(facts()):
        assert f"| {point.what} | {point.most} |" in text


# --- what is no submission ---


def test_a_folder_that_is_no_submission_is_told_before_anything_runs(tmp_path):
    with pytest.raises(grade.Refused, match="no folder"):
        grade.grade(tmp_path / "gone")
    with pytest.raises(grade.Refused, match="no defense.py"):
        grade.grade(tmp_path)
    submission(tmp_path, "")
    (tmp_path / "elsewhere").symlink_to("/etc")
    with pytest.raises(grade.Refused, match="links, which may lead outside: elsewhere"):
        grade.grade(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, forward, limits, told",
    [
        (
            "import nothing_of_this_name",
            "return x",
            {},
            "line 1: ModuleNotFoundError: .*nothing_of_this_name",
        ),
        ("def broken(:", "return x", {}, "SyntaxError"),
        ("raise SystemExit(3)", "return x", {}, "SystemExit: 3"),
        ("import os; os._exit(3)", "return x", {}, "ended the process itself .status 3"),
        ("", "return x[:, :, ::2]", {}, "must keep the shape"),
        ("", "return 255 * x", {}, r"images in \[0,1\]"),
        ("", "while True: pass", {"seconds": 5}, "longer than 5 seconds"),
        ("import time", "time.sleep(60)", {"seconds": 5}, "longer than 5 seconds"),
        ("x = bytearray(8 * 2**30)", "return x", {}, "MemoryError"),
        ("open('/etc/passwd')", "return x", {}, "tried to read /etc/passwd, which is outside"),
        ("open('../../solution.md', 'w')", "return x", {}, "tried to write to .*outside"),
        ("import os; os.listdir('/')", "return x", {}, "tried to read /, which is outside"),
        ("import subprocess; subprocess.run(['ls'])", "return x", {}, "called subprocess.Popen"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "return x", {}, "called socket"),
        # it answers in the grader's place
        (
            "import os\nfor n in range(3, 20):\n    try:\n        os.write(n, b'{\"facts\": 1}\\n')\n"
            "    except OSError:\n        pass",
            "return x",
            {},
            "the grader's own channel",
        ),
        # it hides the error, and hands in a denoiser all the same
        ("try:\n    open('/etc/passwd')\nexcept OSError:\n    pass", "return x", {}, "read /etc/passwd"),
    ],
)
def test_a_bad_submission_gets_a_message(tmp_path, source, forward, limits, told):
    with pytest.raises(grade.Refused, match=told):
        grade.grade(submission(tmp_path, source, forward), **SHORT, **limits)


@pytest.mark.slow
def test_the_kernel_holds_what_python_does_not_see(tmp_path):
    # torch opens files in C++, of which the audit hook learns nothing
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4))
    folder = tmp_path / "mine"
    folder.mkdir()
    source = f"import torch\ntorch.from_file({str(secret)!r}, size=1, dtype=torch.int32)\n"
    try:
        _, _, kernel = grade.grade(submission(folder, source), **SHORT)
    except grade.Refused as refused:
        assert "Permission denied" in str(refused)
    else:
        assert not kernel


@pytest.mark.slow
def test_the_command_goes_on_after_a_bad_submission(tmp_path):
    command = [sys.executable, "-m", "course.grade", str(tmp_path), "course/example"]
    command += ["--images", "10", "--steps", "3", "--queries", "5"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1, answer.stderr
    assert "Not graded: there is no defense.py" in answer.stdout
    assert "# example: 10 of 60 points" in answer.stdout  # rounding alone restores nothing


# --- the planted weak defense ---

HGD = """
from helpers.defenses.hgd import DenoisingUNet

class Rounded(DenoisingUNet):
    def forward(self, x):
        return super().forward({pixels})

def denoiser():
    return Rounded(width={width})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "pixels, honest", [("(3 * x).round() / 3", False), ("x", True)], ids=["rounded", "as it is"]
)
def test_the_planted_weak_defense_of_notebook_02_gets_no_point_for_robustness(tmp_path, pixels, honest):
    lab = Experiment(paper="arn", dataset="mnist", profile="quick")
    width = lab.recipes.defense("hgd").made["settings"]["width"]
    (tmp_path / grade.DEFENSE).write_text(HGD.format(pixels=pixels, width=width))
    weights = lab.defense("hgd", seen="pp").denoiser.unet.state_dict()
    save_file({name: one.contiguous() for name, one in weights.items()}, tmp_path / grade.WEIGHTS)
    given, facts, _ = grade.grade(tmp_path, images=30, steps=20, queries=100)
    points = {one.what: one.points for one in given}
    # The same network: both restore what an attacker makes who does not know it ...
    assert points["natural images"] == 5 and points["an attacker who does not know it"] > 7
    # ... and only one hides its gradient.  Neither holds; if white boxes were believed, that one would.
    assert points["an evaluation without alarms"] == 15 * honest and points["the strongest attacker"] < 4
    white = [row for row in facts["rows"] if (row["attacker"], row["attack"]) == ("white box", "pgd")]
    assert (float(white[0]["error"]) < 30) != honest
