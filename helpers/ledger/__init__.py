"""The ledger: every number the papers print, one row per number, one CSV file per paper.

    id         unique, starts with the paper: arn/t1/lenet/arn_pp/pgd
    paper      name of the CSV file without its ending: arn
    place      where the number is printed: table 1, section 4.2
    dataset, target, defense, seen, attack, threat, metric
               names from VOCABULARY; an empty name means "does not apply" or, for `seen`, "not stated"
    eps        l-infinity budget as printed, pixels in [0, 1]: 0.3, 8/255; empty for any other attack
    value      the number as printed, in percent; an l1_distance in whatever unit the paper means,
               epoch_seconds in seconds, a time_ratio as a factor
    pm         the printed plus-minus, in percent; empty where the paper prints none
    note       doubts about the reading and settings without a column: substitute=hgd; iterations=40

Numbers that are no RATES have no verdict: helpers.measure.rates.Comparison does not take them.
"""
import csv
import difflib
import math
from fractions import Fraction
from pathlib import Path

FOLDER = Path(__file__).parent

COLUMNS = ["id", "paper", "place", "dataset", "target", "defense", "seen", "attack", "threat",
           "eps", "metric", "value", "pm", "note"]

# These lie between 0 and 100.  A reduction, which compares two rates, a distance and a time may be any number.
RATES = {"error_rate", "success_rate", "fooling_rate", "accuracy", "targeted_accuracy",
         "roc_auc", "precision", "recall"}

# One name for one attack, whatever its paper calls it.  _targeted: towards a given class, the others are untargeted;
# _big: with the raised budget; ap1 to ap4: RP2's patches.
VOCABULARY = {
    "dataset": {"mnist", "fashion_mnist", "cifar10", "svhn", "lisa"},
    "target": {"lenet5", "fashion_cnn", "resnet110", "wrn28_20", "vgg19", "svhn_cnn", "lisa_cnn", "unstated",
               "standard", "trades", "mma", "mart", "natural_target"},  # JATP's and DIR's ResNet-18, by its training
    "defense": {"none", "at_pgd", "doa_7x7", "doa_9x5", "ape_gan", "hgd", "arn", "add", "add_s",
                "crown", "ibp", "fast", "unlabeled", "hydra",  # these five: other papers' networks
                "nrp", "jatp", "jatp_prime", "unstated",  # jatp_prime: its target was trained along with it
                "dir", "me_net", "me_net_a", "ebm"},  # me_net_a: the adversarially trained one
    "seen": {"pp", "dp", "ps", "ap",  # PGD untargeted with PGD targeted, DDN, ST untargeted; ap1 with ap2
             "dd", "cc", "sp",  # DDN and CW, each untargeted with targeted; ST untargeted with PGD targeted
             "pgd", "ssp", "feature", ""},  # in JATP: PGD; NRP's self-supervised perturbation; Eq. 5
    "attack": {"natural", "pgd", "pgd_targeted", "pgd_big", "aa", "aa_big", "cw", "cw_targeted", "ddn", "ddn_targeted",
               "jsma_targeted", "sta", "sta_targeted", "fwa", "fwa_big", "ap1", "ap2", "ap3", "ap4", "ba", "lsa",
               "dlr", "ti_bim", "mi", "vni", "mask_adaptive", "restored",  # the last two: DIR's Eq. 8 and 9
               "unstated", ""},  # empty: a time
    # ADD does not say what its attacks hit: "oblivious" follows from Appendix A, "knowledge of the target model".
    "threat": {"oblivious", "gray_box", "white_box", "bpda", "bpda_eot", "unstated", ""},  # empty: natural examples
    "metric": RATES | {"reduction", "l1_distance", "epoch_seconds", "time_ratio"},
}


def load(paper=None):
    """The rows of one paper ("arn"), or of all, as a pandas.DataFrame with COLUMNS; value and pm are floats."""
    import pandas as pd

    papers = sorted(path.stem for path in FOLDER.glob("*.csv"))
    if paper not in [None, *papers]:
        raise ValueError(f"no ledger for paper {paper!r}: choose from {', '.join(papers)}")
    chosen = [paper] if paper else papers
    return pd.DataFrame([row for name in chosen for row in read(FOLDER / f"{name}.csv")], columns=COLUMNS)


def published(id):
    """The number that the paper prints in the row `id`: in percent, but for a distance or a time."""
    values = {row["id"]: row["value"] for path in FOLDER.glob("*.csv") for row in read(path)}
    if id not in values:
        closest = difflib.get_close_matches(id, values, n=3, cutoff=0)
        raise LookupError(f"no ledger row {id!r}; closest: {', '.join(closest)}")
    return values[id]


def read(path):
    """The rows of one CSV file (a pathlib.Path) as dicts with COLUMNS; the first broken rule is a ValueError."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if lines[:1] != [COLUMNS]:
        raise ValueError(f"{path}: the first line is {lines[:1]}; make it {','.join(COLUMNS)}")
    rows, ids = [], set()
    for cells in lines[1:]:
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{path}, row {cells[:1]}: {len(cells)} cells, not {len(COLUMNS)}; quote commas")
        row = dict(zip(COLUMNS, cells))
        _check(row, ids, path)
        ids.add(row["id"])
        rows.append(row | {"value": _number(row["value"]), "pm": _number(row["pm"])})
    return rows


def _check(row, earlier_ids, path):
    """Raise a ValueError that names file, row, column, value and remedy if `row` breaks a rule."""
    def need(holds, column, remedy):
        if not holds:
            raise ValueError(f"{path}, row {row['id']!r}, column {column}: {row[column]!r} is not valid; {remedy}")

    need(row["paper"] == path.stem, "paper", f"write the file's name, {path.stem}")
    need(row["id"].startswith(f"{path.stem}/"), "id", f"start it with {path.stem}/")
    need(row["id"] not in earlier_ids, "id", "an earlier row has it: add a suffix")
    for column, names in VOCABULARY.items():
        need(row[column] in names, column, f"use one of {sorted(names)} or add the name to helpers.ledger.VOCABULARY")
    need(row["eps"] == "" or _number(row["eps"]) > 0, "eps", "write a positive number or fraction, or leave it empty")
    need(row["pm"] == "" or _number(row["pm"]) >= 0, "pm", "write a number of at least 0, or leave it empty")
    value = _number(row["value"])
    need(not math.isnan(value), "value", "write a number")
    need(row["metric"] not in RATES or 0 <= value <= 100, "value", "write a number from 0 to 100, in percent")


def _number(text):
    """`text` ("0.3", "8/255") as a float; nan, which fails every comparison, if it is empty or not a number."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return math.nan
