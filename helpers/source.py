"""What the source code says, read without running it: defaults, revisions and fingerprints.

A key of an artifact holds *complete* settings, so it needs the defaults of a method or an attack; and what
was made by other code than today's should say so.  Both are read from the syntax tree, which takes no torch.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from helpers import ROOT

# In the place of a default where there is none.
REQUIRED = object()
MAKING_NOTHING = (__name__, "helpers.progress")  # modules on which no result depends


class Definition(NamedTuple):
    """A class, a function or a constant at the top level of a module."""

    module: "Module"
    name: str
    node: ast.stmt

    def __str__(self) -> str:
        return f"{self.module.name}.{self.name}"


class Module:
    """One source file: its definitions, and what it imports from `helpers`, by name.

    name: as in an import.
    text: its source.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.nodes: dict[str, ast.stmt] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        tree = ast.parse(text)
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.nodes[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                self.nodes |= _assigned(node)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = (node.module, alias.name)

    @property
    def elsewhere(self) -> bool:
        """Whether it is no part of `helpers`, but the reader's own."""
        return self.name.partition(".")[0] != "helpers"

    def find(self, name: str) -> Definition | None:
        """The definition that `name` stands for here, followed through imports; None for a foreign one."""
        if name in self.nodes:
            return Definition(self, name, self.nodes[name])
        if name in self.imported:
            return find(*self.imported[name])
        return None


# Attacks that are registered outside of `helpers.attacks`, in a notebook or a test: name -> definition.
ELSEWHERE: dict[str, Definition] = {}


def register(function: Callable) -> None:
    """Let `attack` find a function that is defined outside of `helpers.attacks`.

    Its whole file is read; of one in a notebook, which has no file, its own source alone.
    """
    name, place = function.__name__, function.__module__
    if place.startswith("helpers.attacks."):
        return
    file = Path(inspect.getfile(function))
    module = Module(place, file.read_text(encoding="utf-8")) if file.exists() else None
    if module is None or name not in module.nodes:
        module = Module(place, textwrap.dedent(inspect.getsource(function)))
    ELSEWHERE[name] = module.find(name)


def find(module: str, name: str) -> Definition | None:
    """What `from module import name` gives, if it is defined in `helpers`; else None."""
    file = _file_of(module)
    return _module(module, file).find(name) if file else None


def method(path: str) -> Definition:
    """The class of a method, such as "arn.ARN" in `helpers.defenses`; ValueError if there is none."""
    module, _, name = path.rpartition(".")
    found = find(f"helpers.defenses.{module}", name) if module else None
    if found is None:
        raise ValueError(
            f"there is no method {path!r} in helpers/defenses: write file.Class, such as arn.ARN"
        )
    return found


def attacks() -> dict[str, Definition]:
    """The functions of all attacks by name, those registered elsewhere included."""
    return _attacks() | ELSEWHERE


def attack(name: str) -> Definition:
    """The function of an attack, such as "pgd"; ValueError if there is none, with the choices."""
    if name not in attacks():
        raise ValueError(f"unknown attack: {name!r}; choose one of {', '.join(attacks())}")
    return attacks()[name]


def network(name: str) -> Definition:
    """The classifier that `helpers.networks.build` knows as `name`; ValueError if there is none."""
    table = find("helpers.networks", "NETWORKS")
    items = zip(table.node.value.keys, table.node.value.values, strict=True)
    names = {key.value: value.id for key, value in items}
    if name not in names:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(names)}")
    return table.module.find(names[name])


def ready_made() -> dict[str, tuple[str | None, Definition]]:
    """Classifiers that `helpers.networks.zoo` loads: {name: (its file in data/zoo, its network)}.

    The file is None for those that come with the advertorch package.
    """
    zoo = "helpers.networks.zoo"
    shipped = ast.literal_eval(find(zoo, "ZOO").node.value)
    with_advertorch = ast.literal_eval(find(zoo, "ADVERTORCH_WEIGHTS").node.value)
    found = {name: (None, network("lenet5")) for name in with_advertorch}
    return found | {name: (file, network(kind)) for name, (file, kind, *_) in shipped.items()}


def signature(definition: Definition) -> dict[str, Any]:
    """Names that a class or a function takes with their defaults, REQUIRED where there is none.

    Of a class those of `__init__`; those that it hands on to others (`**settings`) included.
    """
    return dict(_signature(definition))


@cache
def _signature(definition):
    owner, function = _function_of(definition)
    if function is None:
        return {}
    given = function.args
    without = [None] * (len(given.posonlyargs) + len(given.args) - len(given.defaults))
    nodes = without + given.defaults + given.kw_defaults
    taken = {
        name: REQUIRED if node is None else _value(node, owner.module)
        for name, node in zip(_names(function), nodes, strict=True)
        if name != "self"
    }
    return _handed_on(function, owner) | taken


def defaults(definition: Definition) -> dict[str, Any]:
    """The part of the `signature` that has a default."""
    return {name: value for name, value in signature(definition).items() if value is not REQUIRED}


def parameters(definition: Definition) -> set[str]:
    """Names that the class or function itself takes, without those that it only hands on."""
    _, function = _function_of(definition)
    return set(_names(function)) - {"self"} if function else set()


def fingerprint(*definitions: Definition) -> dict[str, str]:
    """{qualified name: hash} of the definitions and of all of `helpers` that they use.

    Comments and docstrings do not count.  Networks and attacks that are built by name count where the
    settings name them: give their definitions, too.
    """
    return {str(one): _hash(one) for one in _closure(definitions)}


def revisions(*definitions: Definition) -> dict[str, int | str]:
    """{qualified name: revision} of all that has one among the definitions and what they use.

    That is `revision` in a method's class, and in an attack's `@attack(revision=…)`.  What is defined
    outside of `helpers` is being tried out: a hash of its code stands for its revision.
    """
    found = {str(one): _revision(one) for one in _closure(definitions)}
    return {name: value for name, value in found.items() if value is not None}


def digest(text: str) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def _attacks():
    found = {}
    for file in sorted((ROOT / "helpers" / "attacks").glob("*.py")):
        module = _module(f"helpers.attacks.{file.stem}", file)
        for name, node in module.nodes.items():
            if isinstance(node, ast.FunctionDef) and _decorator(node) is not None:
                found[name] = Definition(module, name, node)
    return found


@cache
def _closure(definitions):
    """The definitions and all of `helpers` that they use, by name."""
    found, open_ends = {}, list(definitions)
    while open_ends:
        one = open_ends.pop()
        # The table of all networks would make each depend on every other.
        followed = one.name != "NETWORKS" and one.module.name not in MAKING_NOTHING
        if followed and str(one) not in found:
            found[str(one)] = one
            open_ends += _used_by(one)
    return [found[name] for name in sorted(found)]


@cache
def _used_by(definition):
    """Definitions in `helpers` whose names occur in the source of `definition`."""
    used = [_named(node, definition.module) for node in ast.walk(definition.node)]
    return [one for one in used if one is not None]


def _named(node, module):
    """The definition in `helpers` that an expression in `module` names, `name` or `file.name`; else None."""
    if isinstance(node, ast.Name):
        return module.find(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        package, file = module.imported.get(node.value.id, (None, None))
        return find(f"{package}.{file}", node.attr) if package else None
    return None


@cache
def _hash(definition):
    tree = ast.parse(ast.unparse(definition.node))
    for part in ast.walk(tree):
        if isinstance(part, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part) is not None:
            part.body = part.body[1:] or [ast.Pass()]
    return digest(ast.dump(tree))


def _revision(definition):
    """The revision that a definition itself states; None if it states none."""
    if definition.module.elsewhere:
        return _hash(definition)
    node = definition.node
    if isinstance(node, ast.FunctionDef) and (call := _decorator(node)) is not None:
        given = [k.value for k in call.keywords if k.arg == "revision"] + call.args
        return ast.literal_eval(given[0]) if given else 1
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and "revision" in _assigned(statement):
                return ast.literal_eval(statement.value)
    return None


def _decorator(node):
    """The call `@attack(...)` of a function, None without."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).split(".")[-1] == "attack":
            return decorator
    return None


def _assigned(node):
    """{name: the assignment that gives it its value}; `A, B = 1, 2` counts as two assignments."""
    found = {}
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Name):
            found[target.id] = node
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for name, value in zip(target.elts, node.value.elts, strict=True):
                if isinstance(name, ast.Name):
                    found[name.id] = ast.copy_location(ast.Assign([name], value), node)
    return found


def _function_of(definition):
    """The function itself, or the `__init__` of a class, and its owner, which may be a base class."""
    node = definition.node
    if isinstance(node, ast.FunctionDef):
        return definition, node
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return definition, statement
    bases = _bases(definition)
    return _function_of(bases[0]) if bases else (definition, None)


def _names(function):
    given = function.args
    return [argument.arg for argument in given.posonlyargs + given.args + given.kwonlyargs]


def _bases(definition):
    found = [_named(base, definition.module) for base in definition.node.bases]
    return [base for base in found if base is not None]


def _handed_on(function, owner):
    """What a function takes as `**keywords` for those that it calls with them."""
    taken = {}
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        stars = [k.value.id for k in call.keywords if k.arg is None and isinstance(k.value, ast.Name)]
        if function.args.kwarg is None or function.args.kwarg.arg not in stars:
            continue
        of_base = ast.unparse(call.func) == "super().__init__"
        callees = _bases(owner)[:1] if of_base else [_named(call.func, owner.module)]
        given = {k.arg for k in call.keywords}
        for callee in filter(None, callees):
            taken |= {name: value for name, value in signature(callee).items() if name not in given}
    return taken


def _value(node, module):
    """The value of a default: literals, arithmetic on them, and constants of the module."""
    constants = {}
    for name in (part.id for part in ast.walk(node) if isinstance(part, ast.Name)):
        constant = module.find(name)
        if constant is not None and isinstance(constant.node, ast.Assign | ast.AnnAssign):
            constants[name] = _value(constant.node.value, constant.module)
    try:
        return eval(ast.unparse(node), {"__builtins__": {}}, constants)
    except Exception as error:
        raise ValueError(
            f"{module.name}, line {node.lineno}: the default {ast.unparse(node)!r} is neither a literal nor a"
            " constant of its module: write it so, since keys of artifacts are computed from it"
        ) from error


@cache
def _module(name, file):
    return Module(name, file.read_text(encoding="utf-8"))


def _file_of(module):
    place = ROOT.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.exists()), None)
