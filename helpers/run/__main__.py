"""Execute a notebook: `python -m helpers.run notebooks/23_x.ipynb out.ipynb -p profile cpu -p seed 1`.

Papermill does the work.  Unlike its own command this one refuses a parameter that the notebook does not have
and a value of another type (papermill would run with the default, or until the value is used), and it runs in
the notebook's folder, as JupyterLab and nbval do.  The output appears when the run is complete; if a cell
fails, it ends with the traceback, its name ends in `.failed.ipynb`, and the exit status is 1.  Without an
output the notebook itself is brought up to date, ready to be committed.

The numbers of a run with an output of its own are private: they go to `reports/private/`, which git ignores.
`results/` holds those of the collection's own runs: of `make reproduce`, which says `--collection`.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from helpers import ROOT, write_atomically
from helpers.run import explorers
from helpers.run import notebook as file
from helpers.run.options import Parser

RESULTS_DIR = "RESULTS_DIR"  # tells `Comparison.save` where to keep a run's numbers
PRIVATE = ROOT / "reports" / "private"


def execute(notebook: Path, output: Path, values: dict) -> str | None:
    """Run `notebook` with the parameters `values` into `output`; -> the failure in words, if any."""
    made_from = file.fingerprint(notebook, values)
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from tqdm.auto import tqdm  # noqa: F401  (before its bars are switched off: papermill's own stays)

    os.environ["TQDM_DISABLE"] = "1"  # for the kernel, whose bars would end up in the outputs
    bar = {"desc": notebook.stem, "leave": False, "disable": None}  # None: on terminals only
    failed, failure = output.with_suffix(".failed.ipynb"), None
    part = output.with_name(f".{output.stem}.{os.getpid()}.part.ipynb")
    try:
        try:
            papermill.execute_notebook(
                str(notebook),
                str(part),
                values,
                kernel_name="python3",
                cwd=notebook.parent,
                progress_bar=bar,
                extra_arguments=["--log-level=50"],  # ipykernel warns that it listens on the loopback
            )
        except PapermillExecutionError as error:
            failure = f"{error.ename}: {error.evalue}"
        except DeadKernelError as error:
            failure = str(error)
        executed = nbformat.read(part, as_version=4)
        executed.metadata[file.MADE_FROM] = made_from
        nbformat.write(executed, part)
        os.replace(part, failed if failure else output)
    finally:
        part.unlink(missing_ok=True)
    if not failure:
        failed.unlink(missing_ok=True)
    return failure


def keep(executed: Path, notebook: Path) -> None:
    """Replace `notebook` by its executed copy, cleaned, and the pages of its explorers."""
    import nbformat

    content = file.clean(nbformat.read(executed, as_version=4))
    write_atomically(notebook, lambda temporary: nbformat.write(content, temporary))
    explorers.keep(executed, notebook)


def main() -> None:
    parser = Parser(prog="python -m helpers.run", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", nargs="?", type=Path)
    parser.add_argument("--collection", action="store_true", help="keep its numbers in results/")
    parser.add_argument("-p", nargs=2, action="append", default=[], dest="values", metavar=("NAME", "VALUE"))
    args = parser.parse_args()
    try:
        output, values = _output(args), _values(args)
    except ValueError as error:
        parser.error(str(error))
    own = not (args.collection or args.output is None)
    os.environ[RESULTS_DIR] = str(PRIVATE if own else ROOT / "results")
    if args.output is None:
        shutil.rmtree(explorers.left_by(output), ignore_errors=True)
        os.environ[explorers.VARIABLE] = str(explorers.left_by(output))
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    started = time.time()
    try:
        failure = execute(args.notebook, output, values)
    except KeyboardInterrupt:
        print(f"{args.notebook} interrupted; the same call goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    if failure:
        traceback = output.with_suffix(".failed.ipynb")
        sys.exit(f"{args.notebook} failed: {failure}\nwith its traceback: {traceback}")
    for numbers in sorted(PRIVATE.rglob(f"{args.notebook.stem}*.json")) if own else ():
        if numbers.stat().st_mtime >= started:
            print(f"A run of your own: its numbers are in {numbers.relative_to(ROOT)}, not in results/.")
    if args.output is None:
        keep(output, args.notebook)


def _output(args: argparse.Namespace) -> Path:
    """Where the executed notebook goes; ValueError where it cannot."""
    notebook, output = args.notebook, args.output
    if not notebook.is_file():
        raise ValueError(f"there is no notebook {notebook}")
    if output is None:
        if args.values:
            raise ValueError(f"-p without an output would change {notebook} itself: name an output")
        output = ROOT / "reports" / "in_place" / notebook.name
        output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix != ".ipynb" or output.is_dir():
        raise ValueError(f"{output}: the name of an executed notebook ends in .ipynb")
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise ValueError(f"nothing can be written into the folder {output.parent}")
    if output.resolve() == notebook.resolve():
        raise ValueError(f"{output} is the notebook itself: leave the output out to bring it up to date")
    return output


def _values(args: argparse.Namespace) -> dict:
    """The values of parameters; ValueError for a bad one."""
    known = file.parameters(args.notebook)
    for name, _ in args.values:
        if name not in known:
            raise ValueError(
                f"{args.notebook} has no parameter {name!r}; it has {', '.join(known) or 'none'}"
            )
    return {name: file.value(text, known[name], name) for name, text in args.values}


def _stop(number, frame):
    """Stop once: a second signal must not disturb the end of the kernel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
