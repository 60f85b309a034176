"""The course: no solution for students, all for instructors, slides that fit, a syllabus that adds up."""

import json
import re
import shutil
import sys

import nbformat
import pytest

from helpers import ROOT
from helpers.run import exercises

sys.path.insert(0, str(ROOT))

from course import build, copies, slides, syllabus

FILES = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
EACH = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def outputs(file):
    """The kept outputs of its solutions, cell by cell."""
    found = copies.kept(file.stem, copies.key(*build.read(file)))
    assert found is not None, f"{file.stem} or its solutions have changed: run `make course`"
    return found


# --- copies ---


@EACH
def test_a_student_gets_every_exercise_and_nothing_of_a_solution(file):
    notebook, solutions = build.read(file)
    made = copies.student(notebook)
    text = re.sub("\n+", "\n", "\n".join(cell.source for cell in made.cells))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in made.cells)
    assert "solutions/" not in text
    for part in (part for parts in exercises.solutions(solutions).values() for part in parts):
        # a task or a check may name a single line, such as the call to use
        lines = [line for line in part.source.splitlines() if line]
        runs = ["\n".join(lines[i : i + 3]) for i in range(max(1, len(lines) - 2))]
        assert not any(run in text for run in runs if len(run) > 60)
    for tag in (exercises.TEXT, exercises.STUB, exercises.CHECK):
        given = [cell.source for cell in notebook.cells if tag in exercises.tags(cell)]
        assert [cell.source for cell in made.cells if tag in exercises.tags(cell)] == given


@EACH
def test_an_instructor_gets_every_solution_with_its_outputs_and_a_check_that_says_right(file):
    notebook, solutions = build.read(file)
    made = copies.instructor(notebook, solutions, outputs(file))
    nbformat.validate(made)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    ours = [cell for cell in made.cells if exercises.SOLUTION in exercises.tags(cell)]
    checks = [cell for cell in ours if "exercises.check(" in cell.source]
    given = exercises.solutions(solutions)
    assert len(checks) == len(given)
    for number, cell in enumerate(checks, 1):
        assert cell.outputs[-1]["data"]["text/plain"] == f"✓ Exercise {number}"
    blocks = [block for parts in given.values() for block in exercises.blocks(parts)]
    assert [cell.source for cell in ours if cell.cell_type == "code" and cell not in checks] == blocks
    # without these it is the notebook itself, outputs included
    rest = [cell for cell in made.cells if cell not in ours]
    own = [cell for cell in notebook.cells if not copies.LINK.search(cell.source) or cell.cell_type == "code"]
    kept = [cell for cell in rest if cell.cell_type == "code"]
    assert [cell.source for cell in kept] == [cell.source for cell in own if cell.cell_type == "code"]
    assert [len(cell.outputs) for cell in kept] == [len(c.outputs) for c in own if c.cell_type == "code"]


@EACH
def test_kept_outputs_hold_no_error_and_no_path_of_a_machine(file):
    for output in (output for cell in outputs(file) for output in cell):
        assert output["output_type"] != "error"
        text = json.dumps({k: v for k, v in output.get("data", output).items() if k != "image/png"})
        assert not re.search(r"/(home|root|Users|tmp|work|opt)/", text)


def test_outputs_are_kept_for_the_code_that_made_them(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "OUTPUTS", tmp_path / "outputs")
    executed = nbformat.v4.new_notebook()
    shown = nbformat.v4.new_output("stream", text="0.5\n")
    warning = nbformat.v4.new_output("stream", name="stderr", text="/here/artifacts: UserWarning")
    for tags in ([], [exercises.SOLUTION], [exercises.SOLUTION]):
        cell = nbformat.v4.new_code_cell(
            "x", metadata={"tags": tags}, outputs=[shown, warning] if tags else []
        )
        executed.cells.append(cell)
    nbformat.write(executed, tmp_path / "executed.ipynb")
    copies.keep("22_x", "a key", tmp_path / "executed.ipynb")
    assert copies.kept("22_x", "a key") == [[shown], [shown]]
    assert copies.kept("22_x", "another") is None and copies.kept("23_y", "a key") is None


def test_the_key_follows_the_code_and_not_the_prose():
    file = FILES[0]
    notebook, solutions = build.read(file)
    key = copies.key(notebook, solutions)
    assert copies.key(notebook, solutions.replace("Expected:", "Expected, all in all:")) == key
    assert copies.key(notebook, solutions.replace("```python\n", "```python\n1 + 1\n", 1)) != key
    next(cell for cell in notebook.cells if cell.cell_type == "code").source += "\n1 + 1"
    assert copies.key(notebook, solutions) != key


# --- slides ---


@EACH
def test_a_deck_shows_what_is_tagged_and_fetches_nothing_from_afar(file):
    notebook, _ = build.read(file)
    shown = slides.slides(notebook)
    tagged = [cell for cell in notebook.cells if slides.TAG in exercises.tags(cell)]
    assert 3 <= len(tagged) <= 9 and sum(bool(slide.shown) for slide in shown) == len(tagged)
    assert all(slide.title for slide in shown)
    page = slides.deck(notebook, "it")
    assert not re.search(r"(src|href)=[\"'](https?:)?//", re.sub(r"<a [^>]*>", "", page))
    assert page.count("<section>") == len(shown) + 3  # title, exercises, last word
    assert not re.search(r'<img alt=""', page)


def test_key_sentences_are_bold_and_say_something():
    assert slides.key_sentences("**Reading.** A **BPDA** attack. **An alarm is not yet a number.**") == [
        "An alarm is not yet a number."
    ]


def test_a_sentence_behind_a_figure_stands_below_it_and_a_heading_begins_anew():
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    png = nbformat.v4.new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": "a"}})
    made = nbformat.v4.new_notebook(
        cells=[
            text("# Title"),
            text("## 1. One\n\n**This is what it comes to.**"),
            code("x", metadata={"tags": ["slide"]}, outputs=[png]),
            text("**That is what one sees.**\n\n## 2. Two\n\nNothing in bold."),
            text("### Exercise 1 · **A task that is no slide**", metadata={"tags": ["exercise"]}),
        ]
    )
    first, second = slides.slides(made)
    assert (first.title, first.shown, first.keys) == ("1. One", [], ["This is what it comes to."])
    assert second.title == "1. One" and second.keys == ["That is what one sees."]
    assert 'alt="a"' in second.shown[0]


def test_without_npm_the_rest_is_built_and_the_message_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "_version", lambda package: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    build.copy(FILES[:1], tmp_path)
    (problem,) = build.show(FILES[:1], tmp_path)
    assert "npm is missing" in problem and "apt install npm" in problem
    assert {path.name for path in tmp_path.iterdir()} == {"student", "instructor", "slides", "index.html"}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "mathjax" not in page.lower() and 'href="slides' not in page


# --- the syllabus ---

PLAN = syllabus.plan()
SESSIONS = [(form["title"], session) for form in PLAN["formats"] for session in form["sessions"]]


@pytest.fixture(scope="module")
def lessons():
    return syllabus.lessons()


def test_there_are_a_lecture_a_week_and_a_semester_and_each_has_its_time():
    lecture, week, semester = (form["sessions"] for form in PLAN["formats"])
    assert sum(session["minutes"] for session in lecture) == 90
    assert len(week) == 5 and len(semester) == 8


def test_the_semester_reads_every_notebook_once(lessons):
    read = [number for session in PLAN["formats"][-1]["sessions"] for number in session["notebooks"]]
    assert sorted(read) == sorted(lessons)


@pytest.mark.parametrize(
    "title, session", SESSIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_session_has_goals_and_an_exercise_that_measures_each(title, session, lessons):
    assert session["goals"]
    for goal in session["goals"]:
        for measure in goal["measured"]:
            number, _, exercise = measure.partition(".")
            assert number in session["notebooks"] and 1 <= int(exercise) <= len(lessons[number].exercises)
        assert goal["measured"]


def test_minutes_are_those_of_the_notebooks(lessons):
    text = syllabus.syllabus(lessons, "student", "slides")
    lesson = lessons["00"]
    assert lesson.practice == sum(each.minutes for each in lesson.exercises) > 0
    assert f"| {lesson.reading} | {lesson.practice} |" in text
    for _, session in SESSIONS:
        reading = sum(lessons[number].reading for number in session["notebooks"])
        practice = sum(lessons[number].practice for number in session["notebooks"])
        assert f"| **together** | | **{reading}** | **{practice}** |" in text


def test_the_ideas_come_in_order_and_are_met_in_notebooks(lessons):
    text = syllabus.syllabus(lessons)
    places = [text.index(f"**{idea}") for idea in ("KL", "GAN", "MMD", "LID")]
    assert places == sorted(places)
    for idea in PLAN["ideas"]:
        assert any(re.search(idea["words"], lesson.prose) for lesson in lessons.values())


def test_a_notebook_without_its_bullets_is_told():
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title\n\n- **You learn** it.")])
    with pytest.raises(ValueError, match=r"no bullet `- \*\*Paper\*\*"):
        syllabus.lesson("x", made)


# --- in a browser ---


@pytest.mark.slow
def test_every_slide_fits_its_screen_without_an_error_and_without_a_network(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    playwright = pytest.importorskip("playwright.sync_api")
    if browser is None:
        pytest.skip("chromium is missing")
    if problem := slides.packages(tmp_path / "slides"):
        pytest.skip(problem)
    build.copy([], tmp_path)
    build.show(FILES, tmp_path)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    faults = []
    with playwright.sync_playwright() as p:
        page = p.chromium.launch(executable_path=browser, args=flags).new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if request.url[:4] == "http" else None)
        for file in FILES:
            page.goto((tmp_path / "slides" / f"{file.stem}.html").as_uri())
            page.wait_for_function("Reveal.isReady() && MathJax.startup")
            page.evaluate("MathJax.startup.promise")
            for number in range(page.evaluate("Reveal.getTotalSlides()")):
                page.evaluate(f"Reveal.slide({number})")
                height = page.evaluate("Reveal.getCurrentSlide().scrollHeight")
                faults += [f"{file.stem}, slide {number}: {height} of 720"] if height > 720 else []
            wrong = page.evaluate("document.querySelectorAll('mjx-merror').length")
            faults += [f"{file.stem}: {wrong} formulas"] if wrong else []
    assert faults == []
