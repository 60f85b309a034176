"""What the source code says, read without running it: defaults, revisions and fingerprints.

A key of an artifact holds *complete* settings, so it needs the defaults of a method or an attack; and what was
made by other code than today's should say so.  Both are read from the syntax tree, which takes no torch.
"""

import ast
import hashlib
import operator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}

# In the place of a default where there is none.
REQUIRED = object()

# Attacks that were registered outside of `helpers.attacks`: name -> file.
ELSEWHERE: dict[str, Path] = {}


class Definition(NamedTuple):
    """A class, a function or a constant at the top level of a module."""

    module: "Module"
    name: str
    node: ast.stmt

    def __str__(self):
        return f"{self.module.name}.{self.name}"


class Module:
    """One source file: its definitions and what it imports from `helpers`, by name."""

    def __init__(self, file: Path):
        self.file = file
        inside = file.is_relative_to(ROOT)
        parts = file.relative_to(ROOT).with_suffix("").parts if inside else (file.stem,)
        self.name = ".".join(parts).removesuffix(".__init__")
        self.nodes: dict[str, ast.stmt] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.nodes[node.name] = node
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.nodes[target.id] = node
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = (node.module, alias.name)

    def find(self, name: str) -> Definition | None:
        """The definition that `name` stands for in this module, followed through imports; None for a foreign one."""
        if name in self.nodes:
            return Definition(self, name, self.nodes[name])
        if name in self.imported:
            module, original = self.imported[name]
            file = _file_of(module)
            return _module(file).find(original) if file else None
        return None


def method(path: str) -> Definition:
    """The class of a method, such as "arn.ARN" in `helpers.defenses`; ValueError if there is none."""
    module, _, name = path.rpartition(".")
    file = _file_of(f"helpers.defenses.{module}")
    found = _module(file).find(name) if file else None
    if found is None:
        raise ValueError(
            f"there is no method {path!r} in helpers/defenses: write file.Class, such as arn.ARN"
        )
    return found


def attack(name: str) -> Definition:
    """The function of an attack, such as "pgd"; ValueError if there is none, with the choices."""
    known = _attacks() | {other: _module(file).find(other) for other, file in ELSEWHERE.items()}
    if name not in known:
        raise ValueError(f"unknown attack: {name!r}; choose one of {', '.join(known)}")
    return known[name]


def network(name: str) -> Definition:
    """The classifier that `helpers.networks.build` knows as `name`; ValueError if there is none."""
    module = _module(_file_of("helpers.networks"))
    table = module.nodes["NETWORKS"].value
    names = {key.value: value.id for key, value in zip(table.keys, table.values, strict=True)}
    if name not in names:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(names)}")
    return module.find(names[name])


@cache
def _attacks():
    found = {}
    for file in sorted((ROOT / "helpers" / "attacks").glob("*.py")):
        module = _module(file)
        for name, node in module.nodes.items():
            if isinstance(node, ast.FunctionDef) and _decorator(node) is not None:
                found[name] = Definition(module, name, node)
    return found


def revision(definition: Definition) -> int:
    """`revision` of a method's class (inherited ones too), or of an attack's decorator `@attack(revision=…)`."""
    node = definition.node
    if isinstance(node, ast.FunctionDef):
        keywords = {k.arg: k.value for k in _decorator(node).keywords}
        return ast.literal_eval(keywords["revision"]) if "revision" in keywords else 1
    for statement in node.body:
        name = (
            statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        )
        if isinstance(name, ast.Name) and name.id == "revision":
            return ast.literal_eval(statement.value)
    bases = [base for base in _bases(definition) if isinstance(base.node, ast.ClassDef)]
    return revision(bases[0]) if bases else 1


def signature(definition: Definition) -> dict:
    """Names that a class or a function takes with their defaults, REQUIRED where there is none.

    Of a class those of `__init__`; those that it hands on to others (`**settings`) included.
    """
    owner, function = _function_of(definition)
    if function is None:
        return {}
    arguments = function.args
    positional = arguments.posonlyargs + arguments.args
    names = [a.arg for a in positional + arguments.kwonlyargs]
    values = (
        [REQUIRED] * (len(positional) - len(arguments.defaults)) + arguments.defaults + arguments.kw_defaults
    )
    taken = {}
    for name, value in zip(names, values, strict=True):
        taken[name] = _value(value, owner.module) if isinstance(value, ast.expr) else REQUIRED
    taken.pop("self", None)
    if arguments.kwarg:
        for callee in _handed_to(function, arguments.kwarg.arg, owner):
            taken = signature(callee) | taken
    return taken


def defaults(definition: Definition) -> dict:
    """The part of the `signature` that has a default."""
    return {name: value for name, value in signature(definition).items() if value is not REQUIRED}


def parameters(definition: Definition) -> set[str]:
    """Names that the class or function itself takes, without those that it only hands on."""
    arguments = _function_of(definition)[1].args
    return {a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs} - {"self"}


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


def fingerprint(*definitions: Definition) -> dict[str, str]:
    """{qualified name: hash} of the definitions and of all of `helpers` that they use, comments and docstrings apart.

    Networks that are built by name count where the settings name them: give their definitions, too.
    """
    found, open_ends = {}, list(definitions)
    while open_ends:
        one = open_ends.pop()
        if str(one) in found or one.name == "NETWORKS":
            continue
        found[str(one)] = _hash(one.node)
        open_ends += _used_by(one)
    return dict(sorted(found.items()))


def _used_by(definition):
    """Definitions in `helpers` whose names occur in the source of `definition`."""
    module, used = definition.module, []
    for node in ast.walk(definition.node):
        if isinstance(node, ast.Name):
            used.append(module.find(node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            package, name = module.imported.get(node.value.id, (None, None))
            file = _file_of(f"{package}.{name}") if package else None
            used.append(_module(file).find(node.attr) if file else None)
    return [one for one in used if one is not None]


def _hash(node):
    tree = ast.parse(ast.unparse(node))
    for part in ast.walk(tree):
        body = getattr(part, "body", None)
        if isinstance(part, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part) is not None:
            part.body = body[1:] or [ast.Pass()]
    return digest(ast.dump(tree))


def digest(text: str) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def _module(file):
    return Module(file)


def _file_of(module):
    place = ROOT.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.exists()), None)


def _decorator(node):
    """The call `@attack(...)` of a function, None without."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "attack":
            return decorator
    return None


def _bases(definition):
    names = [base.id for base in definition.node.bases if isinstance(base, ast.Name)]
    return [found for found in map(definition.module.find, names) if found is not None]


def _handed_to(function, keywords, definition):
    """The definitions that a function calls with its own `**keywords`."""
    found = []
    for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
        if not any(k.arg is None and getattr(k.value, "id", None) == keywords for k in call.keywords):
            continue
        callee = call.func
        if isinstance(callee, ast.Attribute) and ast.unparse(callee) == "super().__init__":
            found += _bases(definition)[:1]
        elif isinstance(callee, ast.Name):
            target = definition.module.find(callee.id)
            found += [target] if target is not None else []
    return found


def _value(node, module):
    """The value of a default: literals, arithmetic on them, and constants of the module."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        found = module.find(node.id)
        if found is not None and isinstance(found.node, ast.Assign):
            return _value(found.node.value, found.module)
    if isinstance(node, ast.Tuple | ast.List):
        return [_value(one, module) for one in node.elts]
    if isinstance(node, ast.Dict):
        return {_value(k, module): _value(v, module) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, module)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left, module), _value(node.right, module))
    raise ValueError(
        f"{module.file}, line {node.lineno}: the default {ast.unparse(node)!r} is neither a literal nor a constant"
        " of its module: write it so, since keys of artifacts are computed from it"
    )
