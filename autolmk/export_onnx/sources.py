"""One Python file out of autolmk's own sources: what a function needs of them, definition by definition.

The runner beside an exported model must compute what `Predictor` computes, without torch and without autolmk. So it is
no second implementation: it is made of the functions that `Predictor` itself calls, found by following names from the
runner's entry point, each module's part under its own name. Only what needs torch is replaced, see `REPLACED`.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
INSIDE = "run_onnx"  # name of the package within the file, so that an installed autolmk is never meant
TORCH_FREE = "autolmk.export_onnx.torch_free"

Name = tuple[str, str]  # module, name of a definition in it


@dataclass
class _Module:
    """A module's definitions by name, and what its imported names are: another module's name, or that module."""

    lines: list[str]
    docstring: str
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Name] = field(default_factory=dict)  # name "" for a module itself
    foreign: dict[str, str] = field(default_factory=dict)  # name -> its import statement


def path_of(module: str) -> Path:
    """The file of a module of autolmk; planners and trainers take no part."""
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


class RunnerSources:
    """Collects definitions from roots; `text` is the file that they make.

    replaced: of a definition, or of `Class.method`, the name that stands in for it. dropped: methods that are left out.
    Raises ValueError where a name cannot be followed.
    """

    def __init__(self, replaced: Mapping[Name, Name], dropped: frozenset[Name]) -> None:
        self.replaced, self.dropped = dict(replaced), dropped
        self._modules: dict[str, _Module] = {}
        self.used: dict[str, set[str]] = {}  # module -> definitions
        self.bound: dict[str, dict[str, str]] = {}  # module -> imported name -> statement
        self._needs: dict[str, set[str]] = {}  # module -> modules that it imports

    def add(self, module: str, name: str) -> Name:
        """Take a definition and all that it refers to; where it really stands."""
        module, name = self._resolve(module, name)
        used = self.used.setdefault(module, set())
        self._needs.setdefault(module, set())
        if name not in used:
            used.add(name)
            statement = self._module(module).definitions[name]
            used.update(_targets(statement))
            self._follow(module, statement)
        return module, name

    def ordered(self) -> list[str]:
        """Modules, each after those that it imports."""
        order: list[str] = []

        def visit(module: str) -> None:
            if module not in order:
                for other in sorted(self._needs[module] - {module}):
                    visit(other)
                order.append(module)

        for module in sorted(self.used):
            visit(module)
        return order

    def text(self, module: str) -> str:
        """A module's part: its docstring, imports and definitions, in order."""
        found, used = self._module(module), self.used[module]
        imports = sorted(set(self.bound.get(module, {}).values()))
        parts = [f'"""{found.docstring}"""', "from __future__ import annotations", "\n".join(imports)]
        done: set[int] = set()
        for name, statement in found.definitions.items():
            if name in used and id(statement) not in done:
                done.add(id(statement))
                parts.append(self._segment(module, statement))
        return "\n\n".join(part for part in parts if part)

    def _resolve(self, module: str, name: str) -> Name:
        """Past replacements and names that a package only hands on."""
        for _ in range(10):
            module, name = self.replaced.get((module, name), (module, name))
            here = self._module(module)
            if name in here.definitions or name not in here.imports:
                break
            module, name = here.imports[name]
        if name not in self._module(module).definitions:
            raise ValueError(f"{module} defines no {name}")
        return module, name

    def _follow(self, module: str, statement: ast.stmt) -> None:
        """Take what a definition refers to."""
        here = self._module(module)
        for name, attribute in self._references(module, statement):
            if name in here.definitions:
                at, own = self._resolve(module, name)
                self.add(at, own)
                if at != module:
                    self._bind(module, name, at, own)
            elif name in here.imports:
                at, own = here.imports[name]
                if own:
                    self._bind(module, name, *self.add(at, own))
                elif attribute:
                    self.add(at, attribute)
                    self._bind_module(module, name, at)
            elif name in here.foreign:
                self.bound.setdefault(module, {})[name] = here.foreign[name]

    def _bind(self, module: str, name: str, at: str, own: str) -> None:
        alias = "" if own == name else f" as {name}"
        statement = f"from {inside(at)} import {own}{alias}"
        self.bound.setdefault(module, {})[name] = statement
        self._needs[module].add(at)

    def _bind_module(self, module: str, name: str, at: str) -> None:
        package, _, last = inside(at).rpartition(".")
        alias = "" if last == name else f" as {name}"
        self.bound.setdefault(module, {})[name] = f"from {package} import {last}{alias}"
        self._needs[module].add(at)

    def _references(self, module: str, statement: ast.stmt) -> Iterator[tuple[str, str]]:
        """(name, attribute asked of it) of all names that a definition loads, annotations of functions left out."""
        left: list[ast.AST] = [statement]
        while left:
            node = left.pop()
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                yield node.value.id, node.attr
            if isinstance(node, ast.Name):
                yield node.id, ""
            if isinstance(node, ast.ClassDef):
                node = self._kept(module, node)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autolmk"):
                raise ValueError(f"{module}: an import inside a function cannot be followed")
            for name, value in ast.iter_fields(node):
                if name in ("annotation", "returns") and not isinstance(node, ast.AnnAssign):
                    continue
                if name == "annotation" and isinstance(statement, ast.FunctionDef):
                    continue
                left += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST)]

    def _kept(self, module: str, node: ast.ClassDef) -> ast.ClassDef:
        """A class without the methods that are dropped or replaced; a replacement is taken here."""
        body = []
        for part in node.body:
            key = (module, f"{node.name}.{getattr(part, 'name', '')}")
            if key in self.replaced:
                self._bind(module, self.replaced[key][1], *self.add(*self.replaced[key]))
            elif key not in self.dropped:
                body.append(part)
        kept = copy.copy(node)
        kept.body = body
        return kept

    def _segment(self, module: str, statement: ast.stmt) -> str:
        """The text of a definition, replaced methods given by name."""
        lines = self._module(module).lines
        first, last = _span(statement)
        text = lines[first:last]
        if not isinstance(statement, ast.ClassDef):
            return "\n".join(text)
        for part in reversed(statement.body):
            key = (module, f"{statement.name}.{getattr(part, 'name', '')}")
            if key in self.replaced or key in self.dropped:
                begin, end = _span(part)
                given = [f"    {getattr(part, 'name', '')} = {self.replaced[key][1]}"] if key in self.replaced else []
                text[begin - first : end - first] = given
        return "\n".join(text)

    def _module(self, module: str) -> _Module:
        if module not in self._modules:
            self._modules[module] = _read(module)
        return self._modules[module]


def _read(module: str) -> _Module:
    """The parsed source of a module."""
    source = path_of(module).read_text()
    tree = ast.parse(source)
    result = _Module(source.splitlines(), ast.get_docstring(tree, clean=False) or "")
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            _note_import(result, statement)
        elif isinstance(statement, ast.If):  # of types alone
            continue
        else:
            for name in _targets(statement):
                result.definitions[name] = statement
    return result


def _note_import(result: _Module, statement: ast.Import | ast.ImportFrom) -> None:
    for alias in statement.names:
        name = alias.asname or alias.name
        if isinstance(statement, ast.Import):
            result.foreign[name] = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
            if alias.name == "torch":
                result.imports["torch"] = (TORCH_FREE, "")
        elif statement.module == "torch":
            result.imports[name] = (TORCH_FREE, alias.name)
        elif (statement.module or "").split(".")[0] == "autolmk":
            inner = f"{statement.module}.{alias.name}"
            result.imports[name] = (inner, "") if path_of(inner).is_file() else (str(statement.module), alias.name)
        elif statement.module != "__future__":
            alias_text = f" as {alias.asname}" if alias.asname else ""
            result.foreign[name] = f"from {statement.module} import {alias.name}{alias_text}"


def _targets(statement: ast.stmt) -> list[str]:
    """Names that a statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    if isinstance(statement, ast.Assign):
        return [n.id for target in statement.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return []


def _span(statement: ast.stmt) -> tuple[int, int]:
    """First line (of its decorators) and end, counted from 0."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(d.lineno for d in decorators)])
    return first - 1, statement.end_lineno or statement.lineno


def inside(module: str) -> str:
    """The name of a module within the file."""
    return INSIDE + module.removeprefix("autolmk")
