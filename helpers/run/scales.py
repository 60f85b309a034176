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
    "| paper | scale | notebook | rows with a published number | for example | ours | paper | adaptive |",
    "|---|---|---|---|---|---|---|---|",
]


def section(results: Path = ROOT / "results") -> str:
    """In markdown: what has become of the papers' numbers, then a line for each comparison kept there.

    Those of quick are not told: nothing in them is held against a paper.
    """
    counts = scoreboard.markdown(scoreboard.board(results))
    files = [file for profile in options.PROFILES[1:] for file in sorted((results / profile).glob("*.json"))]
    lines = sorted(_line(json.loads(file.read_text(encoding="utf-8"))) for file in files)
    texts = [file for profile in options.PROFILES[1:] for file in sorted((results / profile).glob("*.md"))]
    links = [f"[`{file.parent.name}/{file.stem}`](results/{file.parent.name}/{file.name})" for file in texts]
    printed = ["", f"What these and other notebooks printed, tables and lines: {', '.join(links)}."]
    return "\n".join([counts, "", *HEAD, *lines, *(printed if links else [])]) if lines else NOTHING


def _line(result):
    both = [row for row in result["rows"] if row["paper"] is not None and row["ours"] is not None]
    # The paper's own defense, under an attack whose budget others have, too: those have an adaptive number.
    names = (result["paper"], "ours")
    own = [row for row in both if row["defense"].startswith(names) and row["attack"] != "natural"]
    example = next((row for row in own if row["adaptive"]), own[0] if own else None)
    scale = result["profile"] if result["comparable"] else f"{result['profile']}, not comparable"
    cells = [result["paper"].upper(), scale, f"`{result['notebook']}`, seed {result['seed']}", len(both)]
    if example is None:
        cells += ["–"] * 4
    else:
        adaptive = f"{example['adaptive']['value']:.1f}" if example["adaptive"] else "–"
        ours = f"{example['ours']['value']:.1f} (n = {example['ours']['n']})"
        cells += [f"`{example['id']}`", ours, f"{example['paper']:.1f}", adaptive]
    return f"| {' | '.join(map(str, cells))} |"


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
