"""What has been run at which scale, from `results/`: a section of the README and of the report.

`python -m helpers.run.scales` writes it there.
"""

import json
from pathlib import Path

from helpers import ROOT, write_atomically
from helpers.measure import scoreboard
from helpers.run import options

README = ROOT / "README.md"
BEGIN, END = (
    "<!-- from results/, by python -m helpers.run.scales -->",
    "<!-- end of what is from results/ -->",
)
NOTHING = "No comparison beyond the `quick` profile has been kept in `results/` yet."
HEAD = [
    "| paper | scale | notebook | published numbers | for example | metric | ours | paper | adaptive |",
    "|---|---|---|---|---|---|---|---|---|",
]


def section(results: Path = ROOT / "results", to_results: str = "results") -> str:
    """In markdown: what has become of the papers' numbers, then a line for each comparison kept there.

    Those of quick are not told: nothing in them is held against a paper.
    to_results: how links get there from where the section stands.
    """
    counts = scoreboard.markdown(scoreboard.board(results))
    files = [file for profile in options.PROFILES[1:] for file in sorted((results / profile).glob("*.json"))]
    lines = [line for _, line in sorted(_line(file, to_results) for file in files)]
    texts = [file for profile in options.PROFILES[1:] for file in sorted((results / profile).glob("*.md"))]
    alone = [_linked(file, to_results) for file in texts if not file.with_suffix(".json").exists()]
    others = ["", f"Run without a published number to stand beside: {', '.join(alone)}."] if alone else []
    return "\n".join([counts, "", *HEAD, *lines, *others]) if lines else NOTHING


def _linked(text, to_results):
    """The name of a run, linked to what it printed."""
    return f"[`{text.stem}`]({to_results}/{text.parent.name}/{text.name})"


def _line(file, to_results):
    """Where a comparison stands among the others, and its line."""
    result = json.loads(file.read_text(encoding="utf-8"))
    both = [row for row in result["rows"] if row["paper"] is not None and row["ours"] is not None]
    # The paper's own defense, under an attack whose budget others have, too: those have an adaptive number.
    own = [row for row in both if scoreboard.is_own(result["paper"], row["defense"])]
    own = [row for row in own if row["attack"] != "natural"]
    example = next((row for row in own if row["adaptive"]), own[0] if own else None)
    scale = result["profile"] if result["comparable"] else f"{result['profile']}, not comparable"
    text = file.with_suffix(".md")
    name = _linked(text, to_results) if text.exists() else f"`{result['notebook']}`"
    cells = [result["paper"].upper(), scale, f"{name}, seed {result['seed']}", len(both)]
    if example is None:
        cells += ["–"] * 5
    else:
        adaptive = f"{example['adaptive']['value']:.1f}" if example["adaptive"] else "–"
        ours = f"{example['ours']['value']:.1f} (n = {example['ours']['n']})"
        paper = f"{example['paper']:.1f}" if result["comparable"] else "–"
        metric = example["metric"].replace("_", " ")
        cells += [f"`{example['id']}`", metric, ours, paper, adaptive]
    return (cells[0], file.parent.name, file.stem), f"| {' | '.join(map(str, cells))} |"


def written(text: str, content: str, first: str = BEGIN, last: str = END) -> str:
    """`text` with `content` between the two marks; ValueError without them."""
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"the marks {first!r} and {last!r} are missing")
    return f"{before}{first}\n{content}\n{last}{after}"


if __name__ == "__main__":
    text = written(README.read_text(encoding="utf-8"), section())
    write_atomically(README, lambda file: file.write_text(text, encoding="utf-8"))
