"""Build the course from the executed notebooks: `python -m course.build [--cores 2] [--only "22 23"]`.

`course/student` has the notebooks without outputs, `course/instructor` with executed solutions,
`course/slides` a deck for each, `course/index.html` the syllabus.  Outputs are those that git keeps.  Only a
notebook whose code or solutions have changed since is run, for the outputs of its solutions.
"""

import shutil
import sys
from pathlib import Path

import nbformat
from jinja2 import Environment, FileSystemLoader
from nbconvert.filters import markdown2html

from course import copies, slides, syllabus
from helpers import ROOT
from helpers.run import exercises, options, plan, pool

HERE = ROOT / "course"


def main() -> None:
    pool.interruptible()
    args = options.parser("Build the course from the executed notebooks.").parse_args()
    runs = plan.runs("quick", only=args.only)
    problems = [problem for run in plan.runs("quick") for problem in misshapen(run.notebook)]
    if problems:
        sys.exit("\n".join(problems))
    try:
        problems += run_solutions(runs, args.cores)
    except KeyboardInterrupt:
        sys.exit(130)
    copy([run.notebook for run in runs], HERE)
    problems += show([run.notebook for run in runs], HERE)
    print("\n".join([*problems, f"The course: {HERE / 'index.html'}"]))
    sys.exit(bool(problems))


def misshapen(file: Path) -> list[str]:
    """Why a notebook can be no part of the course; empty if it can."""
    try:
        notebook, solutions = read(file)
        exercises.woven(notebook, solutions)
        syllabus.lesson(file.stem, notebook)
    except ValueError as error:
        return [f"{file.stem}: {error}"]
    return []


def run_solutions(runs: list[plan.Run], cores: int) -> list[str]:
    """Run the notebooks whose solutions have no outputs that fit, and keep these; -> what went wrong."""
    folder = ROOT / "reports" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    jobs, keys = [], {}
    for run in runs:
        key = copies.key(*read(run.notebook))
        if copies.kept(run.name, key) is None:
            keys[run.name] = key
            command = [sys.executable, "-m", "helpers.run.exercises", str(run.notebook)]
            command += [str(folder / run.notebook.name)]
            jobs.append(pool.Job(run.name, command, run.seconds, run.needs))

    def ended(job, seconds, output):
        if output is None:  # it has not failed
            copies.keep(job.name, keys[job.name], folder / f"{job.name}.ipynb")

    failed = pool.work(jobs, cores, ended)
    return [f"{job.name}: its exercises fail, and its solutions stay without outputs" for job in failed]


def copy(notebooks: list[Path], folder: Path) -> None:
    """Write the students' and the instructor's notebooks."""
    for name in ("student", "instructor"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    for file in notebooks:
        notebook, solutions = read(file)
        outputs = copies.kept(file.stem, copies.key(notebook, solutions)) or []
        nbformat.write(copies.student(notebook), folder / "student" / file.name)
        nbformat.write(copies.instructor(notebook, solutions, outputs), folder / "instructor" / file.name)


def show(notebooks: list[Path], folder: Path) -> list[str]:
    """Write the slides and the syllabus; -> what went wrong."""
    shutil.rmtree(folder / "slides", ignore_errors=True)
    (folder / "slides").mkdir(parents=True)
    problem = slides.packages(folder / "slides")
    lessons = syllabus.lessons()
    if problem is None:
        for file in notebooks:
            text = slides.deck(read(file)[0], lessons[file.stem[:2]].learn)
            (folder / "slides" / f"{file.stem}.html").write_text(text, encoding="utf-8")
    text = syllabus.syllabus(lessons, "student", "" if problem else "slides")
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True)
    page = environment.get_template("page.html.j2").render(body=markdown2html(text), maths=problem is None)
    (folder / "index.html").write_text(page, encoding="utf-8")
    return [f"No slides: {problem}"] if problem else []


def read(file: Path) -> tuple[nbformat.NotebookNode, str]:
    """A notebook, and the text of its solutions."""
    solutions = exercises.solution_of(file)
    text = solutions.read_text(encoding="utf-8") if solutions.exists() else ""
    return nbformat.read(file, as_version=4), text


if __name__ == "__main__":
    main()
