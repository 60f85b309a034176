"""Each published number beside ours: the table that closes a notebook, and its JSON file."""

import difflib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from torch import Tensor

from helpers import ROOT, ledger, write_atomically
from helpers.lab import Experiment, artifacts, deviations, profiles
from helpers.measure import verdicts
from helpers.measure.rates import Rate, Score, complement, gain, rate_of, survivors

Number = Rate | Score
PRIVATE = "reports/private"


class Comparison:
    """Published numbers beside ours: filled row by row in a notebook, shown and saved at its end.

    All numbers of a row are of the same images, and the adaptive one is the worst of *all* attackers of the
    row, image by image: it is never better for the defense than ours.

    notebook: its name without suffix, also that of the JSON file.
    lab: the Experiment, whose paper's numbers are meant.
    """

    def __init__(self, notebook: str, lab: Experiment) -> None:
        self.notebook, self.lab = notebook, lab
        self.facts = ledger.load(lab.paper).set_index("id")
        self.rows: list[dict] = []

    def add(
        self,
        ledger_id: str,
        ours: Tensor | Number | None,
        aware: Mapping[str, Tensor] | None = None,
        bare: Mapping[str, Tensor] | None = None,
        natural: tuple[Tensor, Tensor] | None = None,
        reason: str = "",
        like: pd.Series | None = None,
    ) -> None:
        """Set ours beside the published number `ledger_id`.

        ours: answers (N,) under the paper's protocol, as in `helpers.measure.rates`, of which the number in
            the paper's metric is made; a finished Rate or Score in that metric, which has no `aware`; or None
            for a number that is only shown ("published only").
        aware: {attacker: answers} of attackers who know the defense, with the budget of the row.
        bare: {attacker: answers} of the bare target, to the like of `aware` and to the row's own attack.
        natural: answers to natural images, the pipeline's and the bare target's.
        reason: why the numbers may differ, in a few words; what the profile changes comes first.
        like: for a number that the paper does not have, the ledger's row of one like it.
        LookupError for an id not in the ledger of the lab's paper; ValueError for a number that is no rate,
            and for an `aware` without what it is judged by.
        """
        published = ledger_id in self.facts.index
        if like is None and not published:
            closest = difflib.get_close_matches(ledger_id, self.facts.index, n=3, cutoff=0)
            raise LookupError(
                f"no number {ledger_id!r} of the paper {self.lab.paper!r}; closest: {', '.join(closest)}"
            )
        fact = self.facts.loc[ledger_id] if published else like
        if fact.metric not in ledger.RATES:
            raise ValueError(f"{ledger_id} ({fact.metric}) is no rate: show it with helpers.ledger.published")
        *_, defense, attack = ledger_id.split("/")
        stated = fact.threat != "unstated"
        adaptive = gained = None
        if aware:
            _check(ledger_id, ours, bare, natural)
            n = min(map(len, (ours, *aware.values(), *(bare or {}).values())))
            ours = ours[:n]
            worst = survivors({**aware, "the row's own": ours})
            adaptive = _in(fact.metric, worst)
            gained = None if defense == "none" else gain(worst, survivors(bare)[:n])
        number = _in(fact.metric, ours) if isinstance(ours, Tensor) else ours
        changed = [self.lab.deviation]
        if self.lab.comparable:
            changed = deviations.of_row(self.lab.recipes, defense, attack)
        reasons = [*changed, reason, "" if stated or not published else "threat model not stated"]
        self.rows.append(
            {
                "id": ledger_id,
                "dataset": fact.dataset,
                "target": fact.target,
                "defense": defense,
                "attack": attack,
                "metric": fact.metric,
                "n": None if number is None else number.n,
                "paper": float(fact.value) if published else None,
                "ours": number,
                "adaptive": adaptive,
                "gain": gained,
                "verdict": verdicts.verdict(
                    defense,
                    attack,
                    number,
                    kept=verdicts.kept(*natural) if natural else None,
                    gained=gained,
                    promised=self._promised(ledger_id),
                    metric=fact.metric,
                    paper=float(fact.value) if published and stated and self.lab.comparable else None,
                ),
                "deviation": reason if number is None else "; ".join(filter(None, reasons)),
            }
        )

    def add_table(
        self,
        table: str,
        ours: Mapping[tuple[str, str], Tensor | Number | None],
        aware: Mapping[tuple[str, str], Mapping[str, Tensor]] | None = None,
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        """Add the rows of a whole table, those that the paper does not have included.

        table: what its ledger ids begin with, such as "arn/t1/lenet"; LookupError if none does.
        ours, aware: {(defense, attack): as in `add`}, by the ledger's names.  A cell of `aware` is judged by
            the bare target's, ("none", attack) in both, and by "natural" in `ours` for both.
        reasons: {defense or attack: why the numbers may differ}.
        """
        alike = self.facts[self.facts.index.str.startswith(f"{table}/")]
        if alike.empty:
            raise LookupError(f"no number of the paper {self.lab.paper} has an id that begins with {table}/")
        aware, reasons = aware or {}, reasons or {}
        for (defense, attack), one in ours.items():
            bare, natural = None, (ours.get((defense, "natural")), ours.get(("none", "natural")))
            if ("none", attack) in aware and isinstance(ours.get(("none", attack)), Tensor):
                bare = {**aware["none", attack], "the row's own": ours["none", attack]}
            if not all(isinstance(answers, Tensor) for answers in natural):
                natural = None
            reason = "; ".join(reasons[name] for name in (defense, attack) if reasons.get(name))
            # Its metric is that of its like: ADD calls that of targeted attacks by another name.
            targeted = alike.attack.str.endswith("_targeted") == attack.endswith("_targeted")
            like = (alike[targeted] if targeted.any() else alike).iloc[0]
            known = aware.get((defense, attack))
            self.add(f"{table}/{defense}/{attack}", one, known, bare, natural, reason, like)

    def _promised(self, ledger_id: str) -> float:
        """The gain over the bare target that the paper prints, in points, whatever its sign.

        A text that repeats a number of a table does not repeat the bare target's: that is then the one of the
        same attack elsewhere.
        """
        if ledger_id not in self.facts.index:
            return verdicts.CLAIM
        *table, _, attack = ledger_id.split("/")
        fact, beside = self.facts.loc[ledger_id], "/".join([*table, "none", attack])
        same = ["dataset", "target", "attack", "threat", "eps"]
        alike = (self.facts[same] == fact[same]).all(axis="columns") & (self.facts["defense"] == "none")
        bare = self.facts.value[[beside] if beside in self.facts.index else alike]
        return abs(fact.value - bare.iloc[0]) or verdicts.CLAIM if len(bare) else verdicts.CLAIM

    def frame(self) -> pd.DataFrame:
        """One row a number: n | paper | ours (95 % interval) | adaptive | gain | verdict | deviation.

        In percent and in the paper's own metric, the gain in points of right answers; a column of `dataset`,
        `target`, `metric` or `gain` only where it tells something.
        Names are those of the ledger; `helpers.show.tables.closing` writes their labels.
        """
        shown = [
            row
            | {name: cell(row[name], 0 if name == "gain" else 1) for name in ("ours", "adaptive", "gain")}
            | {"paper": "–" if row["paper"] is None else f"{row['paper']:.1f}", "n": row["n"] or "–"}
            for row in self.rows
        ]
        frame = pd.DataFrame(shown)
        same = [column for column in ("dataset", "target", "metric") if frame[column].nunique() == 1]
        return frame.drop(columns=["id", *same, *(["gain"] if set(frame["gain"]) == {"–"} else [])])

    def larger(self) -> pd.DataFrame:
        """Of a comparison in quick: what larger profiles have found for its rows; empty if nothing is kept.

        One row a number: scale | defense | attack | n | paper | ours | adaptive | verdict.
        """
        mine, found = {row["id"] for row in self.rows}, []
        others = [name for name in profiles.profiles() if self.lab.profile == "quick" != name]
        for name in others:
            file = ROOT / "results" / name / f"{self.notebook}.json"
            rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
            for row in (row for row in rows if row["id"] in mine and row["ours"]):
                shown = {key: row[key] for key in ("defense", "attack", "n", "paper")}
                shown |= {key: row[key] and f"{row[key]['value']:.1f}" for key in ("ours", "adaptive")}
                found.append({"scale": name, **shown, "verdict": row["verdict"]})
        return pd.DataFrame(found).fillna("–")

    def save(self) -> Path:
        """Write <profile>/<notebook>.json (and `.seed<k>` for seeds above 0); -> its path.

        The collection's own runs (`make reproduce`) write it into `results/`.  All else is private, in
        JupyterLab or with other parameters: it goes to `reports/private/`, which git ignores, and says so.
        """
        suffix = f".seed{self.lab.seed}" if self.lab.seed else ""
        folder = os.environ.get("RESULTS_DIR")  # which `helpers.run` sets
        file = Path(folder or ROOT / PRIVATE, self.lab.profile, f"{self.notebook}{suffix}.json")
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
                row | {name: _numbers(row[name]) for name in ("ours", "adaptive", "gain")}
                for row in self.rows
            ],
        }
        write_atomically(file, lambda f: f.write_text(json.dumps(content, indent=1, ensure_ascii=False)))
        file = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        if not folder:
            print(f"A run of your own: its numbers are kept in {file}, not in the collection's results/.")
        return file


def cell(number: Number | None, digits: int = 1) -> str:
    """A number as a cell of a table, with its 95 % interval: "12.4 (10–16)"; "–" for None."""
    return "–" if number is None else number.cell(digits)


def _check(ledger_id, ours, bare, natural):
    """ValueError for a row with attackers who know the defense, but without what they are judged by."""
    if not isinstance(ours, Tensor):
        raise ValueError(
            f"{ledger_id}: `aware` is compared image by image, and ours is {ours!r}: give its answers"
            " (helpers.measure.rates.right, shares)"
        )
    if ledger_id.split("/")[-2] != "none" and not (bare and natural):
        lacks = "under the same attackers (`bare`)" if natural else "to natural images (`natural`)"
        raise ValueError(
            f"{ledger_id}: nothing can be said of a gain without the bare target's answers {lacks};"
            " in a table, the cells of 'none' and of 'natural'"
        )


def _in(metric: str, answers: Tensor) -> Number:
    """The number in the paper's metric; ADD's Acc_t is of all images: the lab aims at wrong labels only."""
    return complement(rate_of(answers)) if metric in verdicts.ERRORS else rate_of(answers)


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
