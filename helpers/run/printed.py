"""What a run beyond quick printed, for readers who cannot make it: `results/<profile>/<run>.md`.

Headings, tables and lines as they are in the executed notebook; a figure is there by its description, which
has its numbers.  `python -m helpers.run.printed` writes those of the runs in `reports/` (seed 0).
"""

import re
from typing import TYPE_CHECKING

from helpers import ROOT, write_atomically
from helpers.lab import profiles
from helpers.run import explorers, options, plan

if TYPE_CHECKING:  # nbformat takes half a second
    from nbformat import NotebookNode

RESULTS = ROOT / "results"
ABOUT = """Here are headings, tables and lines, and figures by their description.  What they mean
is said in the notebook, whose own outputs are those of quick."""
GUESS = ("**What do you expect?**", "You expected:")  # of `exercises.Guess`: nobody has made one
WHOLE = re.compile(r"<table.*?</table>(?:\s*<p>.*?</p>)*", re.DOTALL)
LOOKS = re.compile(r"<style.*?</style>|</?div[^>]*>|<caption>\s*</caption>|<br><small></small>", re.DOTALL)
ATTRIBUTES = re.compile(r" (?:id|class|style|border)=\"[^\"]*\"")


def keep(run: plan.Run, profile: str) -> None:
    """Write what the executed notebook of `run` printed into its file in `results/`.

    profile: under which it ran.  FileNotFoundError if it has not run.
    """
    import nbformat

    notebook = nbformat.read(run.output, as_version=4)
    title = notebook.cells[0].source.splitlines()[0]
    values = ", ".join(f"{name} {value}" for name, value in run.values.items())
    printer = f"[`{run.notebook.stem}`](../../notebooks/{run.notebook.name})"
    scale = profiles.profile(profile).notice.partition(" The text beside outputs")[0]
    text = f"{title}\n\nWhat {printer} printed with {values}. {scale} {ABOUT}\n\n"
    text += printed(notebook)
    file = RESULTS / profile / f"{run.name}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def printed(notebook: "NotebookNode") -> str:
    """In markdown: the headings of an executed notebook that have outputs below them, and these outputs."""
    parts, heading = [], None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = [line for line in cell.source.splitlines() if re.match("##+ ", line)]
            heading = titles[-1] if titles else heading
        if heading and re.match("##+ Exercise", heading):  # they are done by hand, and come last
            break
        found = [text for output in cell.get("outputs", []) if (text := _text(output))]
        if not (found and heading):
            continue
        if heading not in parts:
            parts.append(heading)
        parts += found
    return "\n\n".join(parts) + "\n"


def _text(output):
    """An output in markdown; None for a widget, and for warnings, which name folders of a machine."""
    if output.output_type == "stream":
        return None if output.name == "stderr" else f"```text\n{output.text.rstrip()}\n```"
    data = output.get("data", {})
    if "image/png" in data:
        told = output.metadata.get("image/png", {}).get("alt", "without a description")
        return f"*Figure.* {told.removeprefix(explorers.FIRST).strip()}"
    if "text/html" in data:
        tables = WHOLE.findall(ATTRIBUTES.sub("", LOOKS.sub("", data["text/html"])))
        return "\n\n".join(map(_in_lines, tables)) or None
    if "text/markdown" in data:
        return None if data["text/markdown"].startswith(GUESS) else data["text/markdown"]
    plain = data.get("text/plain", "")
    return f"```text\n{plain}\n```" if plain and not any("widget" in kind for kind in data) else None


def _in_lines(table):
    """A table in HTML with a line for each of its rows, what explains it below."""
    text = re.sub(r"(?<=>) (?=<)", "", re.sub(r"\s*\n\s*", " ", table))
    return re.sub("(?=<(?:tr|/table)>)|(?<=</table>)", "\n", text).strip()


def main() -> None:
    for profile in options.PROFILES[1:]:
        for run in plan.runs(profile):
            if run.output.exists():
                keep(run, profile)


if __name__ == "__main__":
    main()
