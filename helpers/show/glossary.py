"""The glossary of notebook 01: what an attack or a defense is, and what the papers and the code call it."""

import re
from collections import defaultdict
from html import escape

import yaml
from IPython.display import HTML

from helpers import ledger
from helpers.lab import profiles
from helpers.measure.labels import label

ENTRIES = yaml.safe_load((ledger.FOLDER / "glossary.yaml").read_text(encoding="utf-8"))


def attacks() -> HTML:
    """All attacks as a table; in the code: the function, then the names of tables that stand for it."""
    return _table("attacks", _names())


def defenses() -> HTML:
    """All defenses as a table, those with a published number only included."""
    return _table("defenses", _names())


def marks() -> HTML:
    """What the ends of names mean."""
    rows = [
        f"<tr><td><code>{mark}</code></td><td>{meaning}</td></tr>"
        for mark, meaning in ENTRIES["marks"].items()
    ]
    return HTML(f"<table>{''.join(rows)}</table>")


def entry(name: str) -> str | None:
    """Where a defense of a profile or of the ledger stands in the glossary: doa of doa_7x7; None: nowhere."""
    known = ENTRIES["defenses"]
    return next((key for key in sorted(known, key=len, reverse=True) if _stands_for(key, name)), None)


def _stands_for(key: str, name: str) -> bool:
    return name == key or name.startswith(f"{key}_") or name in ENTRIES["defenses"][key].get("also", [])


def _names() -> dict[str, list[str]]:
    """{key of an entry: names that the papers' tables have for it in the code}."""
    found = defaultdict(list)
    for paper in profiles.papers():
        for spec in profiles.load(paper, profiles.TRUTH).values():
            for name, attack in spec.attacks.items():
                found[attack.attack].append(name)
            for name in spec.methods:
                found[entry(name)].append(name)
    return found


def _table(kind: str, names: dict[str, list[str]]) -> HTML:
    head = "".join(f"<th>{title}</th>" for title in ("label", "what it is", "in the papers", "in the code"))
    rows = []
    for key, what in ENTRIES[kind].items():
        lines = [f"<b>{escape(what['name'][:1].upper() + what['name'][1:])}.</b> {escape(what['idea'])}"]
        lines += [f"<i>{_raised(what['formula'])}</i>"] if "formula" in what else []
        lines += [f"<small>{escape(what['source'])}</small>"]
        papers = [f"{paper.upper()}: {_raised(name)}" for paper, name in what.get("papers", {}).items()]
        keys = [f"<code>{name}</code>" for name in dict.fromkeys([key, *names[key]])]
        cells = [escape(str(label(key))), "<br>".join(lines), "<br>".join(papers), " ".join(keys)]
        rows.append("".join(f'<td style="text-align: left">{cell}</td>' for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _raised(text: str) -> str:
    """`text` as HTML: z_y and PGD_N with an index, m^k with an exponent."""
    text = re.sub(r"_(\(\d\)|[\w\u0303≠×]+)", r"<sub>\1</sub>", escape(text))
    return re.sub(r"\^(\w+)", r"<sup>\1</sup>", text)
