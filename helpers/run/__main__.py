"""Execute a notebook: `python -m helpers.run notebooks/23_x.ipynb out.ipynb -p profile cpu -p seed 1`.

Papermill does the work.  Unlike its own command this one refuses a parameter that the notebook does not have
and a value of another type (papermill would run with the default, or until the value is used), and it runs in
the notebook's folder, as JupyterLab and nbval do.  The output appears when the run is complete; if a cell
fails, it ends with the traceback, its name ends in `.failed.ipynb`, and the exit status is 1.  Without an
output the notebook itself is brought up to date, ready to be committed.
"""

import os
import signal
import sys
from pathlib import Path

from helpers import ROOT, write_atomically
from helpers.run import notebook as file
from helpers.run.options import Parser


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
    """Replace `notebook` by its executed copy, cleaned."""
    import nbformat

    content = file.clean(nbformat.read(executed, as_version=4))
    write_atomically(notebook, lambda temporary: nbformat.write(content, temporary))


def main() -> None:
    parser = Parser(prog="python -m helpers.run", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", nargs="?", type=Path)
    parser.add_argument("-p", nargs=2, action="append", default=[], dest="values", metavar=("NAME", "VALUE"))
    args = parser.parse_args()
    if not args.notebook.is_file():
        parser.error(f"there is no notebook {args.notebook}")
    output = args.output or ROOT / "reports" / "in_place" / args.notebook.name
    if args.output is None:
        output.parent.mkdir(parents=True, exist_ok=True)
    elif not output.parent.is_dir():
        parser.error(f"there is no folder {output.parent}")
    known, values = file.parameters(args.notebook), {}
    for name, text in args.values:
        if name not in known:
            parser.error(f"{args.notebook} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
        try:
            values[name] = file.value(text, known[name], name)
        except ValueError as error:
            parser.error(str(error))
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        failure = execute(args.notebook, output, values)
    except KeyboardInterrupt:
        print(f"{args.notebook} interrupted", file=sys.stderr)
        sys.exit(130)
    if failure:
        traceback = output.with_suffix(".failed.ipynb")
        sys.exit(f"{args.notebook} failed: {failure}\nwith its traceback: {traceback}")
    if args.output is None:
        keep(output, args.notebook)


def _stop(number, frame):
    """Stop once: a second signal must not disturb the end of the kernel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
