"""Execute a notebook: `python -m helpers.run notebooks/23_x.ipynb out.ipynb -p profile quick -p seed 1`.

Papermill does the work.  Unlike its own command this one refuses a parameter the notebook does
not have (papermill would run with the default), and it runs in the notebook's folder, as
JupyterLab and nbval do.  If a cell fails, the output ends with its traceback and the exit
status is 1.  Without an output the notebook itself is brought up to date, ready to be committed.
"""

import argparse
import ast
import os
import sys
from pathlib import Path

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm  # noqa: F401  (see execute)

from helpers import ROOT

# ipykernel warns, for every kernel, that it listens on the loopback interface.
KERNEL_ARGUMENTS = ["--log-level=50"]

WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(notebook, output, parameters):
    """Run `notebook` with `parameters` into `output`; both are paths, as strings."""
    # For the kernel: its progress bars would end up in the outputs.  tqdm is already imported here,
    # so papermill's bar stays; `disable=None` shows it on terminals only.
    os.environ["TQDM_DISABLE"] = "1"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        notebook, output, parameters, kernel_name="python3", cwd=Path(notebook).parent,
        progress_bar={"desc": Path(notebook).stem, "leave": False, "disable": None}, extra_arguments=KERNEL_ARGUMENTS,
    )  # fmt: skip


def clean(notebook):
    """Remove what differs from run to run and from machine to machine, so that diffs stay small."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):  # its state is in the kernel only
                output.data = {"text/plain": "(interactive: run this cell to use it)"}
    return notebook


def value(text):
    """What `-p name text` means: a number, a list, true or false, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return yaml.safe_load(text)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m helpers.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook")
    parser.add_argument("output", nargs="?")
    parser.add_argument("-p", nargs=2, action="append", default=[], dest="parameters", metavar=("NAME", "VALUE"))
    args = parser.parse_args()
    output = args.output or str(ROOT / "reports" / "in_place" / Path(args.notebook).name)
    parameters = {name: value(text) for name, text in args.parameters}
    known = papermill.inspect_notebook(args.notebook)
    for name in set(parameters) - set(known):
        parser.error(f"{args.notebook} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
    try:
        execute(args.notebook, output, parameters)
    except KeyboardInterrupt:
        sys.exit(f"{args.notebook} interrupted")
    except (PapermillExecutionError, DeadKernelError) as error:
        reason = f"{error.ename}: {error.evalue}" if isinstance(error, PapermillExecutionError) else error
        sys.exit(f"{args.notebook} failed: {reason}\nThe notebook with its traceback: {output}")
    if not args.output:
        finished = clean(nbformat.read(output, as_version=4))
        temporary = Path(args.notebook).with_suffix(".tmp")
        nbformat.write(finished, temporary)
        os.replace(temporary, args.notebook)


if __name__ == "__main__":
    main()
