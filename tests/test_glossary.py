"""The glossary has everything that a table can name."""

import pytest

from helpers import ledger
from helpers.attacks import ATTACKS
from helpers.lab import profiles
from helpers.measure.labels import label
from helpers.show import glossary


def test_every_attack_is_explained_and_nothing_else():
    ours = {name for name, attack in ATTACKS.items() if attack.__module__.startswith("helpers.")}
    assert ours == glossary.ENTRIES["attacks"].keys()


def test_every_defense_of_the_profiles_is_explained():
    classifier = "robust_training.Classifier"  # targets, not defenses
    specs = [spec for paper in profiles.papers() for spec in profiles.load(paper, "paper").values()]
    methods = {name for spec in specs for name, m in spec.methods.items() if m.method != classifier}
    assert {name for name in methods if glossary.entry(name) is None} == set()


def test_every_defense_of_the_ledger_is_explained():
    names = ledger.VOCABULARY["defense"] - {"none", "unstated"}
    assert {name for name in names if glossary.entry(name) is None} == set()


def test_an_entry_is_known_by_its_beginning():
    names = ["doa_7x7", "jatp", "jatp_prime", "me_net_a", "standard", "arn_released", "cnn"]
    found = [glossary.entry(name) for name in names]
    assert found == ["doa", "jatp", "jatp_prime", "me_net", "at", "arn", None]


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_every_entry_has_a_label_a_name_an_idea_and_a_source(kind):
    for key, what in glossary.ENTRIES[kind].items():
        assert "_" not in str(label(key)), key
        assert what.keys() <= {"name", "idea", "formula", "source", "papers", "also"}, key
        assert what["name"] and what["idea"].endswith(".") and what["source"], key
        assert what.get("papers", {}).keys() <= set(profiles.papers()), key


def test_a_row_says_what_the_papers_and_the_code_call_it():
    table = glossary.attacks().data
    row = table[table.index("Faster Wasserstein attack") :].split("</tr>")[0]
    for part in ("SFW<sub>u</sub>", "FWA<sub>N</sub>", "<code>fwa</code>", "<code>fwa_big</code>", "2020"):
        assert part in row
    assert "<code>doa_7x7</code>" in glossary.defenses().data and "_targeted" in glossary.marks().data
    assert "max<sub>i≠y</sub> z<sub>i</sub>) / (z<sub>(1)</sub>" in glossary.attacks().data
    assert "m<sup>k</sup>" in glossary.defenses().data
