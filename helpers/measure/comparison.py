"""Each published number beside ours: the table that closes a notebook, and its JSON file."""

import difflib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from helpers import ROOT, ledger, write_atomically
from helpers.lab import Experiment, artifacts
from helpers.measure.rates import Rate, Score
from helpers.measure.verdicts import DETECTION, words

Number = Rate | Score


class Comparison:
    """Published numbers beside ours: filled row by row in a notebook, shown and saved at its end.

    notebook: its name without suffix, also that of the JSON file.
    lab: the Experiment, whose paper's numbers are meant.
    """

    def __init__(self, notebook: str, lab: Experiment):
        self.notebook, self.lab = notebook, lab
        self.facts = ledger.load(lab.paper).set_index("id")
        self.rows: list[dict] = []

    def add(
        self, ledger_id: str, ours: Number | None, adaptive: Number | None = None, reason: str = ""
    ) -> None:
        """Set `ours` (and `adaptive`), in the paper's metric, beside the published number `ledger_id`.

        ours: None for a number that is only shown, such as other people's ("published only").  Neither that
            nor a detector's metric (DETECTION) goes with an adaptive number: ValueError.
        reason: why the numbers may differ, in a few words; the profile's own come first.
        LookupError for an id not in the ledger of the lab's paper; ValueError for a number that is no rate.
        """
        if ledger_id not in self.facts.index:
            closest = difflib.get_close_matches(ledger_id, self.facts.index, n=3, cutoff=0)
            raise LookupError(
                f"no number {ledger_id!r} of the paper {self.lab.paper!r}; closest: {', '.join(closest)}"
            )
        fact = self.facts.loc[ledger_id]
        if fact.metric not in ledger.RATES:
            raise ValueError(f"{ledger_id} ({fact.metric}) is no rate: show it with helpers.ledger.published")
        if adaptive is not None and (ours is None or fact.metric in DETECTION):
            what = "a number that is only shown" if ours is None else "a detector's number"
            raise ValueError(f"{ledger_id}: {what} ({fact.metric}) has no adaptive number; leave it out")
        self._add(ledger_id, fact, float(fact.value), ours, adaptive, reason)

    def add_table(
        self,
        table: str,
        ours: Mapping[tuple[str, str], Number | None],
        adaptive: Mapping[tuple[str, str], Number] | None = None,
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        """Add the rows of a whole table, those that the paper does not have included.

        table: what its ledger ids begin with, such as "arn/t1/lenet"; LookupError if none does.
        ours, adaptive: {(defense, attack): number}, by the ledger's names.  A cell without a published
            number, as of an attack of the reader's own, is a row all the same: its adaptive number is judged.
        reasons: {defense or attack: why the numbers may differ}.
        """
        alike = self.facts[self.facts.index.str.startswith(f"{table}/")]
        if alike.empty:
            raise LookupError(f"no number of the paper {self.lab.paper} has an id that begins with {table}/")
        adaptive, reasons = adaptive or {}, reasons or {}
        for (defense, attack), number in ours.items():
            ledger_id = f"{table}/{defense}/{attack}"
            reason = "; ".join(reasons[name] for name in (defense, attack) if reasons.get(name))
            if ledger_id in self.facts.index:
                self.add(ledger_id, number, adaptive.get((defense, attack)), reason)
            else:
                # In the metric of its like: ADD counts targeted attacks in another way.
                like = alike[alike.attack.str.endswith("_targeted") == attack.endswith("_targeted")]
                fact = (alike if like.empty else like).iloc[0]
                self._add(ledger_id, fact, None, number, adaptive.get((defense, attack)), reason)

    def _add(
        self,
        ledger_id: str,
        fact: pd.Series,
        paper: float | None,
        ours: Number | None,
        adaptive: Number | None,
        reason: str,
    ) -> None:
        """fact: the row of the ledger; of a number without one, any of its table."""
        stated = paper is None or fact.threat != "unstated"
        reasons = [self.lab.deviation, reason, "" if stated else "threat model not stated"]
        *_, defense, attack = ledger_id.split("/")
        self.rows.append(
            {
                "id": ledger_id,
                "dataset": fact.dataset,
                "target": fact.target,
                "defense": defense,
                "attack": attack,
                "metric": fact.metric,
                "paper": paper,
                "ours": ours,
                "adaptive": adaptive,
                "verdict": words(fact.metric, paper, ours, adaptive, self.lab.comparable and stated),
                "deviation": reason if ours is None else "; ".join(filter(None, reasons)),
            }
        )

    def frame(self) -> pd.DataFrame:
        """One row a number: paper | ours (95 % interval) | adaptive | verdict | deviation; in percent.

        In the paper's own metric, with a column `dataset`, `target` or `metric` if there is more than one.
        Names are those of the ledger; `helpers.show.tables.closing` writes their labels.
        """
        shown = [
            row
            | {
                "paper": "–" if row["paper"] is None else f"{row['paper']:.1f}",
                "ours": with_interval(row["ours"]),
                "adaptive": with_interval(row["adaptive"]),
            }
            for row in self.rows
        ]
        frame = pd.DataFrame(shown)
        constant = [column for column in ("dataset", "target", "metric") if frame[column].nunique() == 1]
        return frame.drop(columns=["id", *constant])

    def save(self) -> Path:
        """Write results/<profile>/<notebook>.json (and `.seed<k>` for seeds above 0); -> its path."""
        suffix = f".seed{self.lab.seed}" if self.lab.seed else ""
        file = ROOT / "results" / self.lab.profile / f"{self.notebook}{suffix}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "notebook": self.notebook,
            "paper": self.lab.paper,
            "profile": self.lab.profile,
            "comparable": self.lab.comparable,
            "dataset": self.lab.dataset,
            "seed": self.lab.seed,
            "commit": _commit(),
            **artifacts.provenance(),
            "rows": [
                row | {"ours": _numbers(row["ours"]), "adaptive": _numbers(row["adaptive"])}
                for row in self.rows
            ],
        }
        write_atomically(file, lambda f: f.write_text(json.dumps(content, indent=1, ensure_ascii=False)))
        return file.relative_to(ROOT)


def with_interval(rate: Number | None, digits: int = 1) -> str:
    """A rate as a cell of a table, "12.4 (10–16)": value with its 95 % interval, in percent; "–" for None."""
    if rate is None:
        return "–"
    low, high = rate.interval
    return f"{rate.value:.{digits}f} ({low:.0f}–{high:.0f})"


def _numbers(rate: Number | None) -> dict | None:
    if rate is None:
        return None
    low, high = rate.interval
    return {"value": round(rate.value, 3), "n": rate.n, "low": round(low, 3), "high": round(high, 3)}


def _commit() -> str | None:
    """The commit of the working tree, with a + if files differ from it; None outside git."""
    try:
        git = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
