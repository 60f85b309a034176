"""`make` as a person types it: what it leaves behind when it is stopped, what it needs, and `make env`.

What it refuses stands in `test_project.py`.  The tree has a folder in place of the environment, with this
Python in it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_run import AT_A_TERMINAL, HELD, processes_of, wait_for, write

from helpers import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def tree(tmp_path):
    """A project of two notebooks with the real helpers, whose environment is there."""
    ignored = shutil.ignore_patterns("__pycache__", "times.json", "needs.json")
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=ignored)
    for name in ("Makefile", "Snakefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    write(tmp_path / "notebooks" / "22_good.ipynb", "print(seed)")
    write(tmp_path / "notebooks" / "23_other.ipynb", HELD)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / "installed").touch()
    return tmp_path


def start(tree, *arguments, **variables):
    """`make` in the tree, in a process group of its own, as a terminal would start it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment |= {"PYTHONPATH": str(tree), "ARTIFACT_DIR": str(tree / "artifacts")} | variables
    pipe = subprocess.PIPE
    command = ["make", *arguments]
    streams = {"stdout": pipe, "stderr": pipe, "text": True}
    return subprocess.Popen(command, cwd=tree, env=environment, **streams, **AT_A_TERMINAL)


def make(tree, *arguments, **variables):
    """-> exit status, what it printed, what it complained of, without make's own last word."""
    process = start(tree, *arguments, **variables)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, re.sub(r"^make: \*\*\* \[.*\n", "", err, flags=re.MULTILINE)


def test_a_misspelt_variable_is_refused(tree):
    code, out, err = make(tree, "plan", "SEED=1")
    assert code == 2 and not out and err.count("\n") == 1
    assert "SEED: there is no such variable; there are PYTHON PROFILE SEEDS" in err


@pytest.mark.slow
def test_several_seeds_may_be_separated_by_spaces(tree):
    code, out, err = make(tree, "plan", "SEEDS=0 1")
    assert code == 0 and "22_good.seed1" in out and not err


@pytest.mark.slow
@pytest.mark.parametrize("after", [5, None])
def test_ctrl_c_is_one_line_and_leaves_no_process_but_a_report(tree, after):
    """After so many seconds, or (None) when a notebook runs; the signal reaches all, as in a terminal."""
    process = start(tree, "reproduce", "CORES=2")
    if after is None:
        wait_for(tree / "started")
        wait_for(tree / "reports" / "quick" / "22_good.html")
    else:
        time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (2, 130, -signal.SIGINT)  # make's own: it may die of the signal itself
    assert "Traceback" not in err and processes_of(tree) == []
    if after is None:
        (line,) = [line for line in err.splitlines() if not line.startswith("make: ")]
        assert line.startswith("Stopped: 1 of 2 notebooks are done. The next `make reproduce` goes on")
        page = (tree / "reports" / "quick" / "index.html").read_text()
        assert "1 of 2 notebooks have run" in page and "1 have not run" in page


@pytest.mark.slow
def test_what_a_profile_lacks_is_said_once_and_nothing_is_started(tree):
    """There is no GPU in this tree, and its notebooks need no data."""
    code, out, err = make(tree, "reproduce", "PROFILE=standard", CUDA_VISIBLE_DEVICES="")
    assert code == 2 and not out and err.count("no\n  - CUDA GPU") == 1
    assert "What runs here:\n  - `make reproduce` (quick" in err and "To go on" in err
    assert "helpers.run notebooks/22_good.ipynb out.ipynb -p profile standard" in err
    assert not (tree / "started").exists() and processes_of(tree) == []


@pytest.mark.slow
def test_what_a_profile_lacks_is_said_once_on_a_cluster_too(tree):
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "profile=standard"]
    environment = os.environ | {"PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(snakemake, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode and (done.stdout + done.stderr).count("no\n  - CUDA GPU") == 1
    assert "Traceback" not in done.stderr and not list((tree / "reports").rglob("*.ipynb"))


@pytest.mark.slow
def test_a_failure_on_a_cluster_takes_no_other_notebook_down_and_is_in_the_report(tree):
    write(tree / "notebooks" / "23_other.ipynb", "1 / 0")
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(snakemake, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    reports = tree / "reports" / "quick"
    assert done.returncode == 1 and (reports / "22_good.ipynb").exists()
    assert "ZeroDivisionError" in (reports / "23_other.failed.ipynb").read_text()
    page = (reports / "index.html").read_text()
    assert "1 of 2 notebooks have run" in page and 'href="23_other.html#traceback"' in page


# --- make env ---

BACKEND = '''"""Builds the project without the help of any other package."""
import zipfile

def build_editable(folder, settings=None, metadata=None):
    with zipfile.ZipFile(f"{folder}/project-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("project.pth", "")
        about = "Metadata-Version: 2.1\\nName: project\\nVersion: 1\\n"
        wheel.writestr("project-1.dist-info/METADATA", about)
        wheel.writestr("project-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("project-1.dist-info/RECORD", "")
    return "project-1-py3-none-any.whl"
'''
PROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "project"
version = "1"
"""


def wheel(folder, name, version):
    """A package with one module, on a page as package indexes have them."""
    file = folder / name / f"{name}-{version}-py3-none-any.whl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version}" + version * "\n")  # of another length
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    links = "".join(f'<a href="{one.name}">{one.name}</a>' for one in sorted(file.parent.glob("*.whl")))
    (file.parent / "index.html").write_text(links)


class Index(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def network(tmp_path):
    """A small package index of our own, on the loopback; -> its port, and how to switch it off."""
    handler = partial(Index, directory=tmp_path / "index")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def off():
        server.shutdown()
        server.server_close()

    yield server.server_address[1], off
    off()


@pytest.mark.slow
def test_the_environment_is_made_and_changed_from_an_old_cache_without_a_network(tmp_path, network):
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed beside this Python")
    port, off = network
    for version in (1, 2):
        wheel(tmp_path / "index", "thing", version)
    tree, tools = tmp_path / "tree", tmp_path / "tools"
    (tree / "helpers" / "run").mkdir(parents=True)
    for name in ("Makefile", "helpers/__init__.py", "helpers/run/environment.py"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "backend.py").write_text(BACKEND)
    (tree / "pyproject.toml").write_text(PROJECT)
    tools.mkdir()
    (tools / "uv").symlink_to(uv)
    index = f"http://127.0.0.1:{port}"
    variables = {"UV_DEFAULT_INDEX": index, "PIP_INDEX_URL": index, "UV_CACHE_DIR": str(tmp_path / "cache")}
    variables |= {"UV_LINK_MODE": "copy", "PATH": f"{tools}:{os.environ['PATH']}", "UV_HTTP_RETRIES": "0"}

    def env(text, **others):
        (tree / "requirements.lock").write_text(text)
        if (tree / ".venv" / "installed").exists():
            os.utime(tree / ".venv" / "installed", (0, 0))  # older than the lock
        code, out, err = make(tree, "env", f"PYTHON={sys.executable}", **(variables | others))
        ask = "import thing; print(thing.version)"
        python = tree / ".venv" / "bin" / "python"
        has = subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout.strip()
        return code, err, has

    assert env("thing==1\n") == (0, "", "1")
    assert env("thing==2\n") == (0, "", "2")
    off()
    (tools / "uv").unlink()  # there is a copy in the environment
    assert env("thing==1\n") == (0, "", "1")
    code, err, has = env("thing==3\n")
    assert code == 2 and err.startswith("No network") and err.count("\n") == 1 and has == "1"
    code, err, has = env("thing==2\n", UV_CACHE_DIR=str(tmp_path / "empty"))
    assert code == 2 and err.startswith("No network") and has == "1"
