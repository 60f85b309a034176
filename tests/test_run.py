"""Running notebooks: one, and those of a profile; what is refused, what survives a failure and a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from filelock import FileLock
from nbformat import v4

from helpers import ROOT
from helpers.lab import profiles
from helpers.run import __main__ as run
from helpers.run import notebook as file
from helpers.run import options, plan, pool, reproduce

PARAMETERS = """\
profile: str = "quick"  # quick | paper
seed: int = 0
dataset: str = "mnist"  # mnist (LeNet) | cifar10
eps: float = 8 / 255  # budget
more: list = []
extra_attacks: list = []"""


def write(place, *cells, parameters=PARAMETERS):
    """A notebook with a parameters cell and code cells."""
    cells = [v4.new_code_cell(source) for source in (parameters, *cells)]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    place.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), place)
    return place


@pytest.fixture
def notebook(tmp_path):
    """A notebook that prints its parameters, and fails for the seed 7."""
    return write(
        tmp_path / "book" / "01_small.ipynb", "import os", "print(profile, 1 / (seed - 7), os.getcwd())"
    )


# --- one notebook ---


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["run", *map(str, arguments)])
    monkeypatch.setenv("TQDM_DISABLE", "1")  # which run sets; undone afterwards
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["-p", "sed", "1"],
            "has no parameter 'sed'; it has profile, seed, dataset, eps, more, extra_attacks",
        ),
        (["-p", "seed", "one"], "seed=one: a value of type int, such as 0"),
        (["-p", "seed", "1.5"], "seed=1.5: a value of type int, such as 0"),
        (["-p", "eps", "big"], "eps=big: a value of type float, such as '8 / 255'"),
        (["-p", "more", "pgd"], "more=pgd: a value of type list, such as []"),
        (["-p", "profile", "papr"], "profile=papr: 'papr' is not known; choose one of quick, "),
        (["-p", "seed", "-1"], "seed=-1: a whole number from 0 to 999999999"),
        (
            ["-p", "dataset", "imagenet"],
            "dataset=imagenet: 'imagenet' is not known; choose one of mnist, cifar10",
        ),
        (["-p", "extra_attacks", "['pgd', 'nix']"], "'nix' is not known; choose one of cw, ddn, "),
        (["-p", "seed"], "argument -p: expected 2 arguments"),
    ],
)
def test_a_bad_parameter_is_one_line_before_anything_starts(
    notebook, tmp_path, monkeypatch, capsys, arguments, words
):
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, notebook, tmp_path / "out.ipynb", *arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "out.ipynb").exists()


def test_what_is_known_without_loading_torch_is_all_there_is():
    from helpers import data
    from helpers.attacks import ATTACKS

    assert sorted(options.attacks()) == sorted(ATTACKS) and options.datasets() == list(data.DATASETS)


def test_a_command_that_cannot_run_answers_in_one_line(notebook, tmp_path):
    """In a process of its own: nothing is loaded first that prints."""
    (tmp_path / "text.ipynb").write_text("no notebook")
    write(tmp_path / "bad.ipynb", parameters="seed: int = (")
    for arguments, words in (
        (["no.ipynb", "out.ipynb"], "there is no notebook no.ipynb"),
        ([notebook, "no/out.ipynb"], "there is no folder no"),
        ([notebook, "out.html"], "out.html: the name of an executed notebook ends in .ipynb"),
        ([notebook, notebook], "is the notebook itself: leave the output out"),
        ([notebook, "-p", "seed", "1"], "name an output"),
        (["text.ipynb", "out.ipynb"], "text.ipynb is not a notebook"),
        (["bad.ipynb", "out.ipynb"], "bad.ipynb: its parameters, line 1: "),
        ([], "notebook"),
    ):
        command = [sys.executable, "-m", "helpers.run", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    for asked, words in (
        ('{"paper": "nix"}', "choose one of add, arn"),
        ('{"paper": "arn"}', "one of mnist"),
        ("x", "x"),
    ):
        command = [sys.executable, "-m", "helpers.lab", asked]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    for module in ("report", "needed", "plan", "reproduce"):
        command = [sys.executable, "-m", f"helpers.run.{module}", "--profile", "papr"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "choose one of quick" in done.stderr and done.stderr.count("\n") == 1


def test_a_missing_notebook_and_a_missing_folder_are_refused(notebook, tmp_path, monkeypatch, capsys):
    for arguments in (
        [tmp_path / "no.ipynb", tmp_path / "out.ipynb"],
        [notebook, tmp_path / "no" / "out.ipynb"],
    ):
        with pytest.raises(SystemExit) as end:
            call(monkeypatch, *arguments)
        assert end.value.code == 2 and f"{tmp_path / 'no'}" in capsys.readouterr().err


def test_parameters_reach_the_notebook_which_runs_in_its_folder(notebook, tmp_path, monkeypatch):
    call(monkeypatch, notebook, tmp_path / "out.ipynb", "-p", "profile", "paper", "-p", "seed", "8")
    executed = nbformat.read(tmp_path / "out.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == f"paper 1.0 {notebook.parent}\n"
    assert file.made_from(tmp_path / "out.ipynb") == file.fingerprint(
        notebook, {"profile": "paper", "seed": 8}
    )


def test_a_failure_leaves_the_traceback_and_tells_where(notebook, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="ZeroDivisionError: division by zero\n.*out.failed.ipynb"):
        call(monkeypatch, notebook, tmp_path / "out.ipynb", "-p", "seed", "7")
    assert "ZeroDivisionError" in str(nbformat.read(tmp_path / "out.failed.ipynb", 4).cells[-1].outputs)
    assert sorted(f.name for f in tmp_path.glob("*.ipynb")) == ["out.failed.ipynb"]


def test_a_notebook_run_in_place_keeps_no_trace_of_the_machine(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    write(notebook, "print(1 / (seed - 7))")
    call(monkeypatch, notebook)
    text = notebook.read_text()
    assert "-0.14" in text
    assert not any(
        word in text for word in ("papermill", "iopub", "start_time", "made_from", str(notebook.parent))
    )


@pytest.mark.parametrize(
    "text, kind, meaning",
    [
        ("3", "int", 3),
        ("3", "float", 3.0),
        ("1e-3", "float", 0.001),
        ("8/255", "float", 8 / 255),
        ("true", "bool", True),
        ("False", "bool", False),
        ("[1, 2]", "list", [1, 2]),
        ("['pgd']", "list[str]", ["pgd"]),
        ("3", "str", "3"),
        ("None", "int | None", None),
        ("pgd", "str | None", "pgd"),
    ],
)
def test_values_of_parameters_are_read_as_their_type_says(text, kind, meaning):
    read = file.value(text, file.Parameter(kind, None, ""), "name")
    assert read == meaning and type(read) is type(meaning)


# --- what a notebook is, as a file ---


def test_parameters_are_read_with_type_default_and_comment(notebook):
    assert file.parameters(notebook) == {
        "profile": ("str", "quick", "quick | paper"),
        "seed": ("int", 0, ""),
        "dataset": ("str", "mnist", "mnist (LeNet) | cifar10"),
        "eps": ("float", "8 / 255", "budget"),
        "more": ("list", [], ""),
        "extra_attacks": ("list", [], ""),
    }


def test_outputs_do_not_change_the_fingerprint_but_cells_and_parameters_do(notebook):
    before = file.fingerprint(notebook, {})
    content = nbformat.read(notebook, 4)
    content.cells[1].outputs = [v4.new_output("stream", text="seen")]
    content.cells[1].execution_count = 7
    content.metadata["language_info"] = {"name": "python", "version": "3.99"}
    nbformat.write(content, notebook)
    assert file.fingerprint(notebook, {}) == before
    assert file.fingerprint(notebook, {"seed": 1}) != before
    content.cells[1].source += "  # changed"
    nbformat.write(content, notebook)
    assert file.fingerprint(notebook, {}) != before


def test_a_change_of_the_helpers_changes_the_fingerprint_and_a_comment_does_not(
    notebook, tmp_path, monkeypatch
):
    helpers = tmp_path / "helpers"
    (helpers / "run").mkdir(parents=True)
    monkeypatch.setattr(file, "ROOT", tmp_path)

    def fingerprint(name, text):
        (helpers / name).write_text(text)
        file._helpers.cache_clear()
        return file.fingerprint(notebook, {})

    try:
        first = fingerprint("attack.py", "STEPS = 40\n")
        assert fingerprint("attack.py", "# how many\nSTEPS = 40  # of them\n") == first
        assert fingerprint("run/plan.py", "ORDER = 1\n") == first
        assert fingerprint("attack.py", "STEPS = 41\n") != first
        assert fingerprint("numbers.csv", "1") != fingerprint("numbers.csv", "2")
    finally:
        file._helpers.cache_clear()


def test_of_a_widget_its_picture_stays_and_of_a_bar_nothing():
    view = {file.WIDGET: {"model_id": "1"}, "text/plain": "VBox()"}
    pictures = [view, view | {"image/png": "a picture"}, {}, {"text/plain": "5"}]
    outputs = [v4.new_output("display_data", data) for data in pictures]
    cells = [v4.new_code_cell("x", outputs=outputs), v4.new_markdown_cell("# Text")]
    cleaned = file.without_widgets(v4.new_notebook(cells=cells))
    assert [output.data for output in cleaned.cells[0].outputs] == [
        {"text/plain": "(interactive: run this cell to use it)"},
        {"text/plain": "VBox()", "image/png": "a picture"},
        {"text/plain": "5"},
    ]


# --- what a profile runs ---


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two notebooks, one of them for two data sets, times and needs."""
    write(
        tmp_path / "notebooks" / "22_a.ipynb",
        "print(seed)",
        parameters='profile: str = "quick"\nseed: int = 0',
    )
    write(tmp_path / "notebooks" / "23_b.ipynb", "print(seed)")
    write(tmp_path / "notebooks" / "draft.ipynb")
    target = {"paper": "arn", "dataset": "mnist", "target": "lenet5_clean"}
    need = {"paper": "arn", "dataset": "mnist", "attack": "pgd", "split": "test", "n": 60, "victim": target}
    (tmp_path / "times.json").write_text(json.dumps({"quick": {"22_a": 30, "23_b": 90}}))
    (tmp_path / "needs.json").write_text(json.dumps({"23_b": [need]}))
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(plan, "TIMES", tmp_path / "times.json")
    monkeypatch.setattr(plan, "NEEDS", tmp_path / "needs.json")
    return tmp_path


def test_quick_runs_each_notebook_once_with_its_defaults(project):
    runs = plan.runs("quick")
    assert [(r.name, r.values, r.seconds) for r in runs] == [("22_a", {}, 30), ("23_b", {}, 90)]
    assert runs[0].output == project / "reports" / "quick" / "22_a.ipynb"


def test_larger_profiles_run_the_other_data_sets_and_every_seed(project):
    runs = {run.name: run for run in plan.runs("paper", [0, 2])}
    assert list(runs) == ["22_a", "22_a.seed2", "23_b", "23_b.seed2", "23_b.cifar10", "23_b.cifar10.seed2"]
    assert runs["22_a"].values == {"profile": "paper"} and runs["22_a"].seconds is None
    assert runs["23_b.cifar10.seed2"].values == {"profile": "paper", "seed": 2, "dataset": "cifar10"}
    assert runs["23_b.cifar10"].command("python")[3:] == [
        "--collection",
        str(project / "notebooks" / "23_b.ipynb"),
        str(project / "reports" / "paper" / "23_b.cifar10.ipynb"),
        *("-p", "profile", "paper", "-p", "dataset", "cifar10"),
    ]


def test_needs_move_to_another_data_set_seed_and_profile(project):
    """And quick's numbers of images and slim targets do not come along."""
    runs = {run.name: run for run in plan.runs("paper", [0, 2])}
    (plain,), (moved,) = (map(json.loads, runs[name].needs) for name in ("23_b", "23_b.cifar10.seed2"))
    assert plain["dataset"] == plain["victim"]["dataset"] == "mnist" and "seed" not in plain
    for one in (moved, moved["victim"]):
        assert (one["dataset"], one["seed"]) == ("cifar10", 2)
    assert moved["victim"]["target"] == "target" and "n" not in moved
    (quick,) = (json.loads(need) for run in plan.runs("quick") for need in run.needs)
    assert (quick["victim"]["target"], quick["n"]) == ("lenet5_clean", 60)


def test_a_number_that_a_notebook_names_itself_is_the_profiles_of_the_same_meaning():
    """Of the bare target: as many as attacks on pipelines get, a size of the profile, or a few to look at."""
    quick, cpu = (profiles.load("arn", name)["mnist"] for name in ("quick", "cpu"))
    add, larger = (profiles.load("add", name)["mnist"].sizes for name in ("quick", "cpu"))

    def asked(n, paper="arn"):
        target = {"paper": paper, "dataset": "mnist", "target": "lenet5_clean"}
        need = {
            "paper": paper,
            "dataset": "mnist",
            "attack": "pgd",
            "split": "test",
            "n": n,
            "victim": target,
        }
        return plan._moved(need, {}, 0, "cpu").get("n")

    assert asked(quick.test) is None  # as many as the profile says
    assert asked(quick.adaptive_test) == cpu.adaptive_test and asked(8) == 8
    assert asked(add["curve"], "add") == larger["curve"] != add["curve"]


def test_autoattack_is_planned_for_the_pipelines_of_its_grid_only():
    assert profiles.load("jatp", "cpu")["cifar10"].grids["autoattack"] == ["none"]
    planned = plan.runs("cpu", only=["33"])
    found = [json.loads(asked) for asked, _ in plan.pieces("cpu", planned).values()]
    victims = [one["victim"] for one in found if one.get("attack") == "aa"]
    assert victims and not any("then" in victim for victim in victims)


def test_a_bare_target_in_the_place_of_a_pipeline_gets_as_many_images():
    planned = plan.runs("cpu", only=["23"])
    found = [json.loads(asked) for asked, _ in plan.pieces("cpu", planned).values()]
    doa = [one["n"] for one in found if one.get("attack") == "ddn" and "doa" in json.dumps(one["victim"])]
    assert doa == [profiles.load("arn", "cpu")["mnist"].adaptive_test]


@pytest.mark.parametrize(
    "comment, offered",
    [
        ("mnist | cifar10, as in the paper", ["mnist", "cifar10"]),
        ("mnist (LeNet rows) | cifar10 (ResNet rows) | lisa", ["mnist", "cifar10", "lisa"]),
        ("test images: mnist | cifar10", ["mnist"]),  # whatever the reader likes
        ("", ["mnist"]),
    ],
)
def test_other_data_sets_are_those_that_the_comment_begins_with(comment, offered):
    assert plan.datasets({"dataset": file.Parameter("str", "mnist", comment)}) == offered


def test_the_plan_names_times_and_the_total(project, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plan"])
    plan.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [["22_a", "30", "s"], ["23_b", "90", "s"]]
    assert lines[2].startswith("2 notebooks, 2 min of one core")


def test_what_is_not_recorded_is_estimated_from_flops_beyond_quick(project):
    for profile in ("cpu", "paper"):
        assert all(run.estimated for run in plan.runs(profile))
        assert next(run for run in plan.runs(profile) if run.name == "23_b").seconds > plan.START
    assert [run.seconds for run in plan.runs("quick")] == [30, 90]
    assert not any(run.estimated for run in plan.runs("quick"))


def test_on_a_gpu_what_two_runs_share_counts_for_the_first_and_recorded_times_win(
    project, monkeypatch, capsys
):
    needs = json.loads(plan.NEEDS.read_text())
    plan.NEEDS.write_text(json.dumps(needs | {"22_a": needs["23_b"]}))
    plan.TIMES.write_text(json.dumps({"standard": {"23_b.cifar10": 77}}))
    first, second, third = plan.runs("standard")
    assert first.seconds > second.seconds == plan.START and third.seconds == 77 and not third.estimated
    monkeypatch.setattr(sys, "argv", ["plan", "--profile", "standard"])
    monkeypatch.setattr(plan, "LONG", 0)
    plan.main()
    out = capsys.readouterr().out
    assert "of one H100." in out and "more than 0 s:" in out
    assert out.splitlines()[-1].startswith("Estimated from FLOPs") and "2 of these times" in out


def test_the_profile_for_two_cores_is_a_nights_work():
    """By the estimate they are seven hours on each core at most, and no piece takes half an hour."""
    planned = plan.runs("cpu")
    assert sum(run.seconds for run in planned) <= 14 * 3600
    assert max(took for _, took in plan.pieces("cpu", planned).values()) < 1800


def test_the_profiles_that_are_checked_before_there_is_an_environment_are_all_there_are():
    assert list(profiles.profiles()) == options.PROFILES


# --- several at a time ---


def jobs(*specs):
    return [pool.Job(name, ["true"], seconds, frozenset(needs)) for name, seconds, needs in specs]


def test_the_longest_job_is_next_but_not_one_that_waits_for_what_another_is_making():
    long, short, other = waiting = jobs(("long", 90, "ab"), ("short", 30, "c"), ("other", 60, "a"))
    (running,) = jobs(("running", 80, "ad"))
    assert pool._next(waiting, [], set()) is long
    assert pool._next(waiting, [running], set()) is short
    assert pool._next(waiting, [running], {"a"}) is long
    assert pool._next([long, other], [running], set()) is long  # both wait: the longer one


def test_a_job_of_unknown_time_is_among_the_first():
    known, unknown = waiting = jobs(("known", 30, ""), ("unknown", None, ""))
    assert pool._next(waiting, [], set()) in (known, unknown)
    assert (
        pool._next(jobs(("short", 10, ""), ("unknown", None, ""), ("long", 20, "")), [], set()).name
        == "unknown"
    )


def shell(name, script, seconds=1.0):
    return pool.Job(name, ["sh", "-c", script], seconds)


def test_others_go_on_after_a_failure_which_is_told_with_its_words(capsys):
    ended = []
    work = [shell("good", "echo hidden"), shell("bad", "echo the reason; exit 3"), shell("last", "true")]
    failed = pool.work(work, 1, lambda job, seconds, output: ended.append((job.name, output)))
    assert [job.name for job in failed] == ["bad"]
    assert sorted(ended) == [("bad", "the reason"), ("good", None), ("last", None)]
    out, err = capsys.readouterr()
    assert "bad: FAILED" in out and "the reason" in err and "hidden" not in out + err and "\r" not in out


def test_as_many_run_at_a_time_as_there_are_cores_with_one_thread_each(tmp_path):
    mine = f"{tmp_path}/$$"
    script = (
        f"test $OMP_NUM_THREADS = 1 && touch {mine} && sleep 0.6; ls {tmp_path} | wc -l; rm {mine}; exit 1"
    )
    seen = []
    pool.work(
        [shell(f"{i}", script) for i in range(4)], 2, lambda job, seconds, output: seen.append(int(output))
    )
    assert len(seen) == 4 and max(seen) == 2


def test_what_is_left_is_told_at_the_pace_that_was_seen():
    work = jobs(("a", 10, ""), ("b", 30, ""), ("c", 50, ""))
    display = pool._Display(work, 2)
    assert display._left(work, {}) == "about 50 s left"  # the longest alone takes that
    display.finished(work[0], 20, None)
    assert display._left(work[1:], {}) == "about 2 min left"
    assert display._left(jobs(("d", None, "")), {}) == "time left unknown"


# --- until a deadline ---


class Clock:
    """Stands for the module `time`: sleeping takes no time."""

    now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Pretended:
    """A process that takes as long as its job says, on the clock."""

    returncode = 0

    def __init__(self, job):
        self.job, self.started = job, pool.time.monotonic()
        self.log.append(("begins", job.name, round(self.started - 1000)))

    @property
    def seconds(self):
        return pool.time.monotonic() - self.started

    def poll(self):
        return 0 if self.seconds >= self.job.seconds else None

    def terminate(self):
        self.log.append(("is stopped", self.job.name, round(pool.time.monotonic() - 1000)))

    def end(self):
        pass


def box(monkeypatch, specs, minutes, cores=1):
    """What happens to jobs (name, seconds) when there are so many minutes."""
    monkeypatch.setattr(pool, "time", Clock())
    monkeypatch.setattr(Pretended, "log", [], raising=False)
    monkeypatch.setattr(pool, "_Process", Pretended)
    work = [pool.Job(name, [], seconds) for name, seconds in specs]
    ended = []
    pool.work(work, cores, lambda job, seconds, output: ended.append(job.name), 1000 + 60 * minutes)
    return Pretended.log, ended


def test_before_a_deadline_jobs_begin_in_their_order_and_none_late(monkeypatch):
    log, ended = box(monkeypatch, [("short", 100), ("long", 480), ("another", 10)], minutes=12)
    assert log == [("begins", "short", 0), ("begins", "long", 100)]  # at 580 s a third would be too late
    assert ended == ["short", "long"]


def test_what_runs_when_the_time_is_over_is_stopped_before_it(monkeypatch):
    log, ended = box(monkeypatch, [("endless", 10_000), ("other", 300), ("third", 10_000)], 12, cores=2)
    assert ended == ["other"]
    assert [entry[:2] for entry in log[:3]] == [("begins", name) for name in ("endless", "other", "third")]
    assert {entry[1] for entry in log[3:]} == {"endless", "third"}
    assert all(650 < when < 720 for what, _, when in log if what == "is stopped")


def test_the_most_valuable_runs_are_those_that_the_profile_names(project, monkeypatch):
    named = profiles.profile("standard").model_copy(update={"first": ("23_b.cifar10", "23_b")})
    monkeypatch.setattr(profiles, "profile", lambda name: named)
    runs = plan.by_value("standard", plan.runs("standard"))
    assert [run.name for run in runs] == ["23_b.cifar10", "23_b", "22_a"]


@pytest.mark.slow
def test_a_run_stops_in_time_and_the_next_goes_on(copy):
    pool_py = copy / "helpers" / "run" / "pool.py"
    text = pool_py.read_text()
    assert "STARTING, ENDING = 150, 20" in text
    pool_py.write_text(text.replace("STARTING, ENDING = 150, 20", "STARTING, ENDING = 160, 140"))
    write(copy / "notebooks" / "23_bad.ipynb", HELD)
    begun = time.monotonic()
    code, out, err = finish(start(copy, "--minutes", "3"))
    assert code == 0 and not err and time.monotonic() - begun < 100
    assert "1 of 2 notebooks are done. The next call begins with 23_bad.\n" in out
    assert processes_of(copy) == []
    write(copy / "notebooks" / "23_bad.ipynb", "print('through')")
    code, out, err = finish(start(copy, "--minutes", "5"))
    assert code == 0 and "1 of 2 notebooks are done already" in out and "Done." in out


# --- a whole profile, in a copy of the project ---

HELD = "import time, pathlib\npathlib.Path('../started').touch()\ntime.sleep(60)"


@pytest.fixture
def copy(tmp_path):
    """A copy of the helpers with two small notebooks, one of which fails."""
    ignored = shutil.ignore_patterns("__pycache__", "times.json", "needs.json")
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=ignored)
    note = "import os\nopen(os.environ['NEEDS_FILE'], 'a').write('{\"attack\": \"pgd\"}\\n')"
    write(tmp_path / "notebooks" / "22_good.ipynb", note, "print(seed)")
    write(tmp_path / "notebooks" / "23_bad.ipynb", "1 / 0")
    return tmp_path


# A group of its own, which heeds Ctrl-C even where these tests run in the background of a shell.
AT_A_TERMINAL = {
    "start_new_session": True,
    "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
}


def start(copy, *arguments):
    environment = os.environ | {"PYTHONPATH": str(copy), "ARTIFACT_DIR": str(copy / "artifacts")}
    command = [sys.executable, "-m", "helpers.run.reproduce", "--cores", "2", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=copy, env=environment, **streams, **AT_A_TERMINAL)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.slow
def test_a_profile_is_run_and_its_failure_named_and_what_is_done_is_not_done_again(copy):
    code, out, err = finish(start(copy, "--keep"))
    assert code == 1 and "22_good: done" in out and "23_bad: FAILED" in out and "ZeroDivisionError" in err
    reports = copy / "reports" / "quick"
    assert "ZeroDivisionError" in (reports / "23_bad.failed.ipynb").read_text()
    page = (reports / "index.html").read_text()
    assert "1 of 2 notebooks have run" in page and "It failed: ZeroDivisionError: division by zero." in page
    kept = nbformat.read(copy / "notebooks" / "22_good.ipynb", 4)
    assert kept.cells[2].outputs[0].text == "0\n" and "made_from" not in kept.metadata
    assert json.loads((copy / "helpers/run/needs.json").read_text()) == {"22_good": [{"attack": "pgd"}]}
    assert json.loads((copy / "helpers/run/times.json").read_text())["quick"].keys() == {"22_good"}
    write(copy / "notebooks" / "23_bad.ipynb", "1 / 1")
    code, out, err = finish(start(copy))
    assert code == 0 and "1 of 2 notebooks are done already" in out and "22_good" not in out and not err
    assert (
        not (reports / "23_bad.failed.ipynb").exists()
        and ">failed<" not in (reports / "index.html").read_text()
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_in_one_line_with_its_children_and_goes_on(copy, number):
    write(copy / "notebooks" / "23_bad.ipynb", HELD)
    process = start(copy, "--only", "23")
    wait_for(copy / "started")
    os.kill(process.pid, number)
    code, out, err = finish(process)
    assert code == 130 and err.startswith(
        "Stopped: 0 of 1 notebooks are done. The next `make reproduce` goes"
    )
    assert err.count("\n") == 1 and processes_of(copy) == []
    assert "2 have not run" in (copy / "reports" / "quick" / "index.html").read_text()
    write(copy / "notebooks" / "23_bad.ipynb", "print('through')")
    assert finish(start(copy))[0] == 0


@pytest.mark.slow
def test_a_run_whose_process_dies_is_shown_as_failed_with_what_it_said(copy):
    write(
        copy / "notebooks" / "23_bad.ipynb",
        "import os\nos.kill(os.getppid(), 9)",
        "import time; time.sleep(60)",
    )
    earlier = copy / "reports" / "quick" / "23_bad.failed.ipynb"
    write(earlier, "raise ValueError('of an earlier run')")
    code, out, _ = finish(start(copy))
    assert code == 1 and "22_good: done" in out and "23_bad: FAILED" in out
    page = (copy / "reports" / "quick" / "index.html").read_text()
    assert "It failed: The run ended: it ended without a word." in page
    assert 'id="traceback"' in (copy / "reports" / "quick" / "23_bad.html").read_text()


@pytest.mark.slow
def test_only_the_collections_runs_keep_numbers_in_results(copy):
    """The cell does what `Comparison.save` does."""
    place = "from pathlib import Path\nplace = Path(os.environ['RESULTS_DIR'])\nplace.mkdir(parents=True)"
    save = "(place / f'23_bad.{seed}.json').touch()"
    write(copy / "notebooks" / "23_bad.ipynb", f"import os\n{place}\n{save}")
    assert finish(start(copy, "--only", "23"))[0] == 0
    command = [sys.executable, "-m", "helpers.run", "notebooks/23_bad.ipynb", "mine.ipynb", "-p", "seed", "3"]
    environment = os.environ | {"PYTHONPATH": str(copy), "RESULTS_DIR": "elsewhere"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    where = "reports/private/23_bad.3.json"
    assert done.stdout == f"A run of your own: its numbers are in {where}, not in results/.\n"
    kept = sorted(str(file.relative_to(copy)) for file in copy.rglob("23_bad.*.json"))
    assert kept == [where, "results/23_bad.0.json"]


@pytest.mark.slow
def test_after_a_kill_the_next_run_goes_on(copy):
    write(copy / "notebooks" / "23_bad.ipynb", HELD)
    process = start(copy)
    wait_for(copy / "started")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    write(copy / "notebooks" / "23_bad.ipynb", "print('through')")
    assert finish(start(copy))[0] == 0
    assert list((copy / "reports" / "quick").glob(".*.part.ipynb")) == []


def wait_for(place):
    until = time.monotonic() + 60
    while not place.exists():
        assert time.monotonic() < until, "the notebook did not start"
        time.sleep(0.1)


def processes_of(copy):
    """Command lines of processes that work in the copy, or a folder of it."""
    found = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True).stdout.splitlines()
    return [line for line in found if str(copy) in line]


def test_a_second_run_of_the_same_profile_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(pool, "interruptible", lambda: None)
    monkeypatch.setattr(sys, "argv", ["reproduce", "--profile", "paper"])
    (tmp_path / "reports" / "paper").mkdir(parents=True)
    refused = pytest.raises(SystemExit, match="with profile paper is running here")
    with FileLock(tmp_path / "reports" / "paper" / ".lock"), refused:
        reproduce.main()


def test_only_a_longer_time_replaces_one_unless_all_began_from_nothing(project, monkeypatch):
    monkeypatch.setattr(reproduce, "ROOT", project)
    (one, _) = plan.runs("quick")

    def recorded(seconds, from_nothing):
        reproduce.record("quick", one, seconds, from_nothing)
        return plan.read(plan.TIMES)["quick"]["22_a"]

    assert [recorded(20.0, False), recorded(41.2, False), recorded(20.0, True)] == [30, 41, 20]


# --- steps for a cluster ---


def test_artifacts_are_steps_once_each_after_what_they_are_made_from():
    defense = {"paper": "arn", "dataset": "mnist", "defense": "arn"}
    attack = {
        "paper": "arn",
        "dataset": "mnist",
        "attack": "pgd",
        "victim": {"threat": "white_box", "of": defense},
    }
    needs = [frozenset(json.dumps(one) for one in some) for some in ([defense], [defense, attack])]
    runs = [plan.Run(f"{i}", None, None, {}, None, some) for i, some in enumerate(needs)]
    first, second = sorted(plan.steps(runs), key=lambda step: len(step.after))
    assert json.loads(first.asked) == defense and first.wanted_by == {"0", "1"} and first.after == ()
    assert json.loads(second.asked) == attack and second.wanted_by == {"1"} and second.after == (first.name,)
