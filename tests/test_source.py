"""What is read from the source: definitions through imports, defaults, revisions, fingerprints."""

import pytest

from helpers import source
from helpers.attacks import ATTACKS, attack
from helpers.source import REQUIRED, Definition, Module

TEXT = '''
"""A module."""
from helpers.losses import moment_kl
from helpers import losses
from math import pi

FIRST, SECOND = 1, 2
RADIUS: float = 8 / 255
SETTINGS = {"eps": RADIUS, "steps": [1, -2]}


class Base:
    """Of another."""

    revision: int = 3

    def __init__(self, width=1.0, *, depth: int = SECOND, start=None):
        pass


class Method(Base):
    def __init__(self, needed, attack_settings=SETTINGS, depth=5, **more):
        super().__init__(start=needed, **more)
        self.loss = losses.kl


class Heir(Method):
    pass


@attack(revision=4)
def first(model, x, *, eps, steps=FIRST + 1):
    """Words."""
    return moment_kl(x)  # more words


@attack(5)
def second(model, eps=pi):
    return helper()


@attack()
def third(model):
    return model


def helper():
    return SECOND
'''


@pytest.fixture
def module():
    return Module("mine", TEXT)


# --- signatures ---


def test_defaults_are_followed_to_constants_and_to_those_that_they_are_handed_on_to(module):
    assert source.signature(module.find("Method")) == {
        "width": 1.0,
        "depth": 5,
        "needed": REQUIRED,
        "attack_settings": {"eps": 8 / 255, "steps": [1, -2]},
    }
    assert source.signature(module.find("Heir")) == source.signature(module.find("Method"))
    assert "needed" not in source.defaults(module.find("Heir"))
    assert source.parameters(module.find("Heir")) == {"needed", "attack_settings", "depth"}
    assert source.signature(module.find("first")) == {
        "model": REQUIRED,
        "x": REQUIRED,
        "eps": REQUIRED,
        "steps": 2,
    }


def test_a_default_that_cannot_be_read_is_an_error_that_names_it(module):
    with pytest.raises(
        ValueError, match="mine, line [0-9]+: the default 'pi' is neither a literal nor a constant"
    ):
        source.signature(module.find("second"))


def test_what_python_says_of_the_defaults_is_what_the_source_says():
    import inspect

    for name, function in ATTACKS.items():
        taken = inspect.signature(function.function).parameters
        expected = {key: value.default for key, value in taken.items() if value.default is not inspect._empty}
        assert source.defaults(source.attack(name)) == expected, name


# --- what there is ---


def test_names_are_found_through_imports(module):
    assert str(module.find("moment_kl")) == "helpers.losses.moment_kl"
    assert module.find("pi") is None
    assert str(source.find("helpers.attacks", "pgd")) == "helpers.attacks.pgd.pgd"
    assert source.find("helpers.attacks", "absent") is None and source.find("helpers.absent", "pgd") is None


@pytest.mark.parametrize(
    "find, name, message",
    [
        (
            source.method,
            "arn.ARM",
            "no method 'arn.ARM' in helpers/defenses: write file.Class, such as arn.ARN",
        ),
        (source.method, "ARN", "no method 'ARN'"),
        (source.attack, "pdg", "unknown attack: 'pdg'; choose one of .*pgd"),
        (source.network, "lenet", "unknown network 'lenet'; choose one of lenet5"),
    ],
)
def test_unknown_names_are_refused(find, name, message):
    with pytest.raises(ValueError, match=message):
        find(name)


def test_the_registered_attacks_are_those_in_the_source():
    assert set(source.attacks()) == set(ATTACKS)
    for name, function in ATTACKS.items():
        assert source.revisions(source.attack(name))[str(source.attack(name))] == function.revision


def test_the_zoo_is_that_of_the_loader():
    from helpers.networks.zoo import ADVERTORCH_WEIGHTS, ZOO

    known = source.ready_made()
    assert set(known) == {*ADVERTORCH_WEIGHTS, *ZOO}
    assert known["lenet5_clean"][0] is None and str(known["lenet5_clean"][1]).endswith("LeNet5")
    assert all(known[name][0] == file for name, (file, *_) in ZOO.items())


# --- revisions and fingerprints ---


def test_revisions_are_those_of_all_that_is_used(module):
    module.name = "helpers.mine"
    assert source.revisions(module.find("Method")) == {"helpers.mine.Base": 3}
    assert source.revisions(module.find("first")) == {"helpers.mine.first": 4}
    assert source.revisions(module.find("second")) == {"helpers.mine.second": 5}
    assert source.revisions(module.find("third")) == {"helpers.mine.third": 1}


def hashes(text):
    return source.fingerprint(
        Module("helpers.mine", text).find("second"), Module("helpers.mine", text).find("first")
    )


def test_a_fingerprint_holds_all_that_is_used_and_no_words():
    before = hashes(TEXT)
    used = {"second", "helper", "first", "SECOND", "FIRST"}
    assert {f"helpers.mine.{name}" for name in used} | {"helpers.losses.moment_kl"} <= set(before)
    assert "helpers.mine.Method" not in before
    words = TEXT.replace('"""Words."""', '"""Other words."""').replace("# more words", "# none")
    assert hashes(words) == before


@pytest.mark.parametrize(
    "old, new, changed",
    [
        ("FIRST, SECOND = 1, 2", "FIRST, SECOND = 1, 3", {"SECOND"}),
        ("FIRST, SECOND = 1, 2", "FIRST, SECOND = 0, 2", {"FIRST"}),
        ("return helper()", "return helper() + 1", {"second"}),
        ("return SECOND", "return -SECOND", {"helper"}),
        ("self.loss = losses.kl", "self.loss = None", set()),
    ],
)
def test_a_change_is_seen_where_it_is_and_nowhere_else(old, new, changed):
    before, after = hashes(TEXT), hashes(TEXT.replace(old, new))
    found = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert found == {f"helpers.mine.{name}" for name in changed}


# --- attacks from elsewhere ---


def nothing(model, x, y, *, targeted, steps=2):
    return x


def test_an_attack_from_elsewhere_is_read_from_its_file_and_keyed_by_its_code():
    attack(revision=1)(nothing)
    try:
        found = source.attack("nothing")
        assert isinstance(found, Definition) and found.module.elsewhere
        assert source.defaults(found) == {"steps": 2}
        before = source.revisions(found)
        edited = Module(__name__, "def nothing(model, x, y, *, targeted, steps=2):\n    return 1 - x")
        assert source.revisions(edited.find("nothing")).keys() == before.keys()
        assert source.revisions(edited.find("nothing")) != before
    finally:
        del ATTACKS["nothing"], source.ELSEWHERE["nothing"]


def test_an_attack_without_a_file_is_read_by_itself():
    import linecache

    text = "@attack(revision=1)\ndef typed(model, x, y, *, targeted, eps=0.5):\n    return x\n"
    linecache.cache["<cell 1>"] = (len(text), None, text.splitlines(True), "<cell 1>")  # as in a notebook
    try:
        exec(compile(text, "<cell 1>", "exec"), {"attack": attack, "__name__": "__main__"})
        assert source.defaults(source.attack("typed")) == {"eps": 0.5}
    finally:
        del linecache.cache["<cell 1>"], ATTACKS["typed"], source.ELSEWHERE["typed"]
