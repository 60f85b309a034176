"""Run each notebook once, quick and from nothing, and compare its marked cells: the end of `make test`.

    python tests/notebooks.py [--cores 2] [--only "22 23"] [--all]

All start from an empty folder of artifacts, which they share.  What they ask for is compared with
`helpers/run/needs.json`.  With `--all` each exercise is done, too: its check must refuse the stub and accept
the solution; and some notebooks run on a second data set, where there are no outputs to compare with.
Then all but NOT_ON_A_GPU run once more, with what is kept, as if there were a GPU (`tests/virtual.py`).
"""

import copy
import shutil
import sys
from pathlib import Path

import nbformat

from helpers import ROOT
from helpers.run import exercises, options, plan, pool, reproduce

NOTEBOOKS = ROOT / "notebooks"
COMPARED = "nbval-check-output"
# Of the notebooks with this parameter those that are quick.
ON_CIFAR10 = ["21_arn_motivation", "23_arn_pixel_attacks"]

NOT_ON_A_GPU = ["53_speed"]  # an exercise needs autocast, which the virtual GPU has not


def main():
    pool.interruptible()
    parser = options.parser("Run each notebook from nothing and compare its marked cells.")
    parser.add_argument("--all", action="store_true", help="exercises and second data sets, too")
    args = parser.parse_args()
    folder = ROOT / "reports" / "tested"
    files = write(folder, args.only, args.all)
    runs = {run.name: run for run in plan.runs("quick", only=args.only)}
    jobs = [job(file, folder / "artifacts", runs.get(file.stem)) for file in files]
    again = [job(file, folder / "artifacts") for file in sorted(folder.glob("on_a_gpu/*.ipynb"))]
    try:
        failed = pool.work(jobs, args.cores, lambda job, seconds, output: None)
        failed += pool.work(again, args.cores, lambda job, seconds, output: None)
    except KeyboardInterrupt:
        print("Stopped.")
        sys.exit(130)
    problems = [f"{job.name} failed" for job in failed]
    if not args.all:
        problems += stale(folder, runs.keys() - {job.name for job in failed})
    print("\n".join(problems) or "All notebooks passed.")
    sys.exit(bool(problems))


def write(folder: Path, only: list[str] = (), everything: bool = False) -> list[Path]:
    """Fill `folder` with the notebooks to run; -> them.

    everything: with their exercises done, some a second time for another data set, and, in the folder
        `on_a_gpu`, all but NOT_ON_A_GPU once more.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "on_a_gpu").mkdir(parents=True)
    for run in plan.runs("quick", only=only):
        notebook = nbformat.read(run.notebook, as_version=4)
        if everything and run.name in ON_CIFAR10:
            nbformat.write(on(notebook, "cifar10"), folder / f"{run.name}.cifar10.ipynb")
        if everything:
            notebook = with_solutions(
                notebook, exercises.solution_of(run.notebook).read_text(encoding="utf-8")
            )
            if run.name not in NOT_ON_A_GPU:
                nbformat.write(on_a_gpu(notebook), folder / "on_a_gpu" / f"{run.name}.on_a_gpu.ipynb")
        nbformat.write(notebook, folder / run.notebook.name)
    return sorted(folder.glob("*.ipynb"))


def job(file: Path, artifacts: Path, run: plan.Run | None = None) -> pool.Job:
    """The test of one notebook; artifacts: their folder; run: what is known of it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    environment = {
        "ARTIFACT_DIR": str(artifacts),
        "NEEDS_FILE": str(file.with_suffix(".needs.jsonl")),
        "RESULTS_DIR": str(file.parent / "results"),
        "TQDM_DISABLE": "1",
    }
    known = (run.seconds, run.needs) if run else (None, frozenset())
    return pool.Job(file.stem, [*command, "--nbval-cell-timeout=1800", str(file)], *known, environment)


def stale(folder: Path, names) -> list[str]:
    """What is to be said about notebooks that ask for other things than `needs.json` says."""
    committed = plan.read(plan.NEEDS)
    fresh = {name: reproduce.asked(folder / f"{name}.needs.jsonl") for name in sorted(names)}
    differ = [name for name, needs in fresh.items() if needs != committed.get(name)]
    word = "asks for other artifacts than helpers/run/needs.json says: run `make notebooks`"
    return [f"{name} {word}" for name in differ]


def with_solutions(notebook, text: str):
    """The notebook with its exercises done; where they have no cells, with the solutions at its end."""
    if exercises.exercises(notebook):
        return exercises.woven(notebook, text)
    notebook = copy.deepcopy(notebook)
    for parts in exercises.solutions(text).values():
        notebook.cells += [nbformat.v4.new_code_cell(block) for block in exercises.blocks(parts)]
    return notebook


def on(notebook, dataset: str):
    """The notebook with `dataset` set behind its parameters, as by papermill, and nothing to compare."""
    notebook = copy.deepcopy(notebook)
    (place,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(f"dataset = {dataset!r}"))
    return uncompared(notebook)


def on_a_gpu(notebook):
    """The notebook on a virtual GPU, from its first cell on, and nothing to compare."""
    notebook = copy.deepcopy(notebook)
    here = f"import sys\n\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nimport virtual\n\nvirtual.enter()"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(here))
    return uncompared(notebook)


def uncompared(notebook):
    """The notebook without the marks of cells that are compared."""
    for cell in notebook.cells:
        if COMPARED in cell.metadata.get("tags", []):
            cell.metadata.tags.remove(COMPARED)
    return notebook


if __name__ == "__main__":
    main()
