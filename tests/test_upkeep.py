"""The scripts behind `make audit` and `make fresh`, and the one that counts faults."""

import json
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import audit
import chaos
import fresh
import pytest
import torch

from helpers import ROOT
from helpers.lab import artifacts
from helpers.run import scales
from helpers.run.environment import LOCK

# --- audit ---

UNREACHABLE = "requests.exceptions.ConnectionError: Failed to resolve: Name or service not known"
# As pip-audit answers if it is asked for a package that its source does not know, with exit status 0.
SKIPPED = '{"dependencies": [{"name": "idna", "skip_reason": "Dependency not found on PyPI"}], "fixes": []}'


@pytest.mark.parametrize(
    "out, err, words",
    [
        ("", UNREACHABLE, "cannot be reached"),
        ("", "× No solution found: dns error", "cannot be reached"),
        ("", "invalid requirement", "pip-audit failed:\ninvalid requirement"),
        (SKIPPED, "No known vulnerabilities found", "Not found out for 1 of 1 packages:\nDependency not"),
    ],
)
def test_an_audit_that_could_not_be_made_does_not_look_like_a_clean_one(out, err, words):
    code, told = audit.told(out, err)
    assert code == 2 and words in told


ADVISORY = {
    "id": "PYSEC-0000-1",
    "aliases": ["CVE-0000-1"],
    "summary": "It is only a test.",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999.1"}]}],
        }
    ],
}


@pytest.fixture
def osv(monkeypatch):
    """A service on this machine that speaks as api.osv.dev does: `answers` by package, else that all is well.

    `asked` are the versions of the packages that it was asked for; `status` is that of all answers.
    """

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = query["package"]["name"]
            self.server.asked[name] = query["version"]
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(json.dumps(self.server.answers.get(name, {})).encode())

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.asked, server.answers, server.status = {}, {}, 200
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    "answers, status, code, words",
    [
        ({"jinja2": {"vulns": [ADVISORY]}}, 200, 1, "PYSEC-0000-1, CVE-0000-1; mended in 999.1"),
        ({}, 200, 0, "No known vulnerability"),
        ({}, 503, 2, "pip-audit failed"),
    ],
)
def test_an_audit_asks_for_each_package_of_the_lock_and_lists_what_is_vulnerable(
    osv, answers, status, code, words
):
    osv.answers, osv.status = answers, status
    address = f"http://127.0.0.1:{osv.server_port}/v1/query"
    command = [sys.executable, audit.__file__, "--osv-url", address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not osv.asked and "cannot be reached" in done.stderr:
        pytest.skip("pip-audit is neither here nor to be had: no package index can be reached")
    assert done.returncode == code and words in done.stdout + done.stderr, done.stdout + done.stderr
    locked = fresh.versions((ROOT / LOCK).read_text())
    if status == 200:
        assert osv.asked == locked
    found = [line for line in done.stderr.splitlines() if "mended" in line]
    assert [line.partition(":")[0] for line in found] == [f"{name} {locked[name]}" for name in answers]


# --- fresh ---


def test_only_pins_of_this_machine_count_and_only_differences_are_listed():
    locked = fresh.versions("a==1\nB_b==2 ; python_version >= '3'\nb-b==9 ; python_version < '3'\nc==1\n")
    assert locked == {"a": "1", "b-b": "2", "c": "1"}
    newest = {"a": "1", "b-b": "3", "d": "1"}
    assert fresh.upgrades(newest, locked) == {"b-b": ("2", "3"), "c": ("1", "–"), "d": ("–", "1")}


# {(package, version): (its code, what it requires)}: `partner` goes with its own `planted` only.
PACKAGES = {
    ("innocent", "1.0"): ("", ""),
    ("innocent", "2.0"): ("", ""),
    ("partner", "1.0"): ("word = 'yes'\n", "planted==1.0"),
    ("partner", "2.0"): ("word = 'no'\n", "planted==2.0"),
    ("planted", "1.0"): ("def answer():\n    return 42\n", ""),
    ("planted", "2.0"): ("def reply():\n    return 42\n", ""),
}
TESTS = {
    "test_import.py": "from planted import answer\n\ndef test_it():\n    assert answer() == 42\n",
    "test_names.py": """
import pytest, partner, innocent

@pytest.mark.parametrize("one", ["a - b", "c"])
def test_a_word(one):
    assert partner.word == "yes" or one == "c"

def test_that_always_fails():
    assert False
""",
}


def wheel(folder, name, number, code, requires):
    """A package of one module, as pip and uv install it."""
    meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
    meta += f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": code,
        f"{name}-{number}.dist-info/METADATA": meta,
        f"{name}-{number}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-{number}.dist-info/RECORD"
    files[record] = "".join(f"{file},,\n" for file in [*files, record])
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


@pytest.mark.slow
def test_the_upgrade_is_named_that_breaks_a_test(tmp_path, monkeypatch, capfd):
    """A project of its own, with packages of its own: uv and pytest are real."""
    ours = sorted({name for name, _ in PACKAGES})
    for (name, number), (code, requires) in PACKAGES.items():
        wheel(tmp_path, name, number, code, requires)
    for file, text in TESTS.items():
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / file).write_text(text)
    # pytest as it is here, so that uv has it in its cache.
    tools = (
        "pytest",
        "pytest-xdist",
        "pytest-timeout",
        "execnet",
        "iniconfig",
        "packaging",
        "pluggy",
        "pygments",
    )
    pins = [f"{name}=={version(name)}" for name in tools]
    (tmp_path / "pyproject.toml").write_text(
        f"[project]\nname = 'toy'\nversion = '1'\ndependencies = {ours + pins}\n"
        "[project.optional-dependencies]\ntest = []\n"
    )
    (tmp_path / LOCK).write_text("\n".join(pins + [f"{name}==1.0" for name in ours]))
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["fresh"])
    try:
        fresh.uv("venv", "--quiet", "--python", sys.executable, str(tmp_path / "locked"))
        locked = str(tmp_path / "locked" / "bin" / "python")
        fresh.uv("pip", "sync", "--quiet", "--python", locked, str(tmp_path / LOCK))
    except SystemExit:
        pytest.skip(f"the tools are neither in uv's cache nor to be had: {capfd.readouterr().err}")
    monkeypatch.setattr(sys, "executable", locked)
    with pytest.raises(SystemExit) as end:
        fresh.main()
    out, err = capfd.readouterr()
    assert end.value.code == 1 and not err
    assert "  innocent 1.0 → 2.0\n  partner 1.0 → 2.0\n  planted 1.0 → 2.0\n" in out
    assert out.endswith(
        "partner 1.0 → 2.0, with it planted 1.0 → 2.0 breaks:\n"
        "  tests/test_import.py\n  tests/test_names.py::test_a_word[a - b]\n"
    )


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
