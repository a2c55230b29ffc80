"""A user's own .py files that belong together: which they are, and how they are imported.

A file that is named by its path is imported with the files beside it and with its package, under names of their own
that begin with `PLUGIN`: its folder is not put on sys.path, nobody else's `import` finds its neighbours, and files of
one name in two folders do not mix. Installed packages come before files of the same name; those in development
(`pip install -e`) count as the user's own.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType

PLUGIN = "autolmk_plugin_"  # begins the names of modules that are loaded from files
PACKAGE = "__init__.py"
MOST_ABOVE = 4  # folders above a file by whose names it may import its own
SITE = {"site-packages", "dist-packages"}  # folders of installed packages
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tree:
    """Modules that find each other below a folder.

    root: the folder. entry: dotted name, below root, of the module that was named; file: its file. allowed: the files
    that may be imported; None: all below root.
    """

    root: Path
    entry: str
    file: Path
    allowed: frozenset[Path] | None = None

    @classmethod
    def of_file(cls, file: Path) -> Tree:
        """The tree of a .py file: its folder; or the one that holds its package, where it imports from that."""
        dots, names = _asked_for(file)
        inside = list(_packages(file))
        depth = min(max(dots - 1, 0), len(file.parents) - 1)
        if inside and (dots or file.name == PACKAGE):
            depth = max(depth, len(inside))
        for above, folder in enumerate(file.parents[:MOST_ABOVE], start=1):  # such as src of `from src.losses import x`
            own = [name for name in names if name.partition(".")[0] == folder.name]
            if own and not installed(folder.name) and cls(folder, "", file).find(folder.name) is None:
                found = [cls(folder.parent, "", file).find(name) for name in own]
                depth = max(depth, above) if any(f is not None and f.is_file() for f in found) else depth
        return cls(file.parents[depth], dotted_name(file.relative_to(file.parents[depth])), file)

    @classmethod
    def of_module(cls, name: str, file: Path) -> Tree:
        """The tree of a module that Python itself finds."""
        depth = name.count(".") + (file.name == PACKAGE)
        return cls(file.parents[min(depth, len(file.parents) - 1)], name, file)

    @property
    def package(self) -> str | None:
        """Name of the package that the entry lies in, or is; None where it is a file by itself."""
        first, dot, _ = self.entry.partition(".")
        return first if dot or self.file.name == PACKAGE else None

    def find(self, dotted: str) -> Path | None:
        """The file of a module; the folder of a package without a file, where it holds code: a logger's `wandb/` is
        none; None where there is neither."""
        if dotted == self.entry:
            return self.file
        place = self.root.joinpath(*dotted.split("."))
        for file in (place / PACKAGE, place.with_name(f"{place.name}.py")):
            if file.is_file() and (self.allowed is None or file in self.allowed):
                return file
        if self.allowed is not None:
            return place if any(place in file.parents for file in self.allowed) else None
        return place if place.is_dir() and (any(place.glob("*.py")) or any(place.glob("*/*.py"))) else None

    def meant(self, name: str, package: str) -> str | None:
        """The dotted name, below root, of what a module of `package` imports as `name`; None where that is not of this
        tree. It is looked for in root, then in the package's own folder."""
        top = name.partition(".")[0]
        for dotted in dict.fromkeys((top, f"{package}.{top}" if package else top)):
            file = self.find(dotted)
            if file is None:
                continue
            if self.allowed is not None or dotted == self.package or not installed(top, beside=file):
                return dotted + name.removeprefix(top)
            if file.is_file():
                _say_installed(file, top)
        return None

    def digest(self) -> str:
        """The digest of names and contents of the entry and all that it imports: an edited file makes other modules."""
        found = hashlib.sha256(f"{self.root}\n{self.entry}\n{self.allowed is None}".encode())
        for dotted, file in sorted(imported(self).items()):
            found.update(f"\n{dotted}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
        return found.hexdigest()[:16]


def dotted_name(relative: Path) -> str:
    """The module's name of a .py file, below the folder that the path is relative to."""
    parts = relative.parent.parts if relative.name == PACKAGE else (*relative.parent.parts, relative.stem)
    return ".".join(part.replace(".", "_") for part in parts)


def _packages(file: Path) -> Iterator[Path]:
    """The folders above a file that make it part of a package, the innermost first."""
    for folder in file.parents:
        if not (folder / PACKAGE).is_file() or "." in folder.name or not folder.name:
            return
        yield folder


def _asked_for(file: Path) -> tuple[int, set[str]]:
    """(most leading dots of a relative import, the modules of absolute ones) in a file."""
    found = _imports(file.read_bytes())
    return max((dots for dots, _, _ in found), default=0), {module for dots, module, _ in found if dots == 0}


@functools.lru_cache(maxsize=4096)
def _imports(code: bytes) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """(leading dots, module, names) of each import in a file, wherever it stands; names of `from` alone. Empty where
    the file is no Python: importing it will say so."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):
        return ()
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return tuple(found)


# -- which files ------------------------------------------------------------------------------------------------------


def imported(tree: Tree) -> dict[str, Path]:
    """Dotted name -> file of the entry and of all user's files that it imports, through others too and wherever in the
    code the `import` stands; neither of installed packages nor of Python's own."""
    found: dict[str, Path] = {}
    queue = [(tree.entry, tree)]
    while queue:
        dotted, place = queue.pop()
        file = place.find(dotted)
        if dotted in found or file is None:
            continue
        package, _, _ = dotted.rpartition(".")
        if file.is_file():
            found[dotted] = file
            package = dotted if file.name == PACKAGE else package
            queue += [(name, where) for one in _names(file, package) for name, where in _places(one, package, place)]
        queue += [(dotted.rpartition(".")[0], place)] if "." in dotted else []
    return found


def _names(file: Path, package: str) -> Iterator[tuple[str, bool]]:
    """(name, whether it is below the tree's root already) of what a file imports: modules, and what may be one."""
    above = package.split(".") if package else []
    for dots, said, names in _imports(file.read_bytes()):
        base = above[: max(len(above) - dots + 1, 0)] if dots else []
        module = ".".join([*base, *([said] if said else [])])
        yield from ((name, dots > 0) for name in (module, *(f"{module}.{name}" for name in names)))


def _places(name: tuple[str, bool], package: str, tree: Tree) -> Iterator[tuple[str, Tree]]:
    """Where a module that is imported lies: (dotted name, tree), none where it is not a user's own."""
    said, relative = name
    dotted = said.strip(".") if relative else tree.meant(said, package)
    if dotted:
        yield dotted, tree
    elif not relative and tree.allowed is None:
        yield from ((said, place) for place in _on_path(said.partition(".")[0]))


def _on_path(top: str) -> list[Tree]:
    """Where a top-level module of the user's own lies that Python finds by sys.path; several for a package without a
    file, none for installed ones."""
    spec = _spec(top)
    if spec is None or installed(top):
        return []
    if str(spec.origin).endswith(".py") and spec.has_location:
        return [Tree.of_module(top, Path(str(spec.origin)))]
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    return [Tree(folder.parent, "", folder) for folder in folders if spec.origin is None]


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # such as __main__, which has none
        return None


def installed(name: str, *, beside: Path | None = None) -> bool:
    """Whether a top-level module is Python's, autolmk's, or of an installed package. beside: a user's file or folder of
    that name; a file counts more than an installed folder without code of its own."""
    if name == "autolmk" or name in sys.stdlib_module_names:
        return True
    spec = _spec(name)
    if spec is None:
        return False
    if spec.origin is None or not spec.has_location:
        places, folder_only = list(spec.submodule_search_locations or ()), spec.submodule_search_locations is not None
        if folder_only and beside is not None and beside.is_file():
            return False
        return not folder_only or any(SITE & {*Path(place).parts} for place in places)
    return bool(SITE & {*Path(spec.origin).parts}) or Path(spec.origin) in _distributed(name)


@functools.cache
def _distributed(name: str) -> frozenset[Path]:
    """The files of installed packages that hold a top-level module, as in a folder of `pip install --target`. Packages
    in development (`pip install -e`) list none: they are the user's own."""
    found = importlib.metadata.packages_distributions().get(name, ())
    files = (file for distribution in found for file in importlib.metadata.files(distribution) or ())
    return frozenset(Path(str(file.locate())) for file in files if file.parts[0] in (name, f"{name}.py"))


@functools.cache
def _say_installed(file: Path, name: str) -> None:
    logger.warning(
        "%s is not imported: Python's own or an installed package has the name %s and comes first. Rename the file if "
        "it is meant.",
        file,
        name,
    )


# -- importing --------------------------------------------------------------------------------------------------------

_trees: dict[str, Tree] = {}  # by the first part of their modules' names


def load(tree: Tree) -> ModuleType:
    """The entry's module, loaded once a content of all files; whatever its import raises."""
    prefix = PLUGIN + tree.digest()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _trees[prefix] = tree
    before = set(sys.modules)
    try:
        return importlib.import_module(f"{prefix}.{tree.entry}")
    except BaseException:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == prefix:
                del sys.modules[name]
        raise


def loaded(module: ModuleType) -> dict[str, Path]:
    """Dotted name -> file of the modules that were imported so far from the tree of a module that `load` gave."""
    prefix = module.__name__.partition(".")[0] + "."
    files = {name: getattr(found, "__file__", None) for name, found in list(sys.modules.items())}
    return {n.removeprefix(prefix): Path(f) for n, f in files.items() if n.startswith(prefix) and f and f[-3:] == ".py"}


class _Finder(MetaPathFinder):
    """Finds the modules of trees, for Python's import system."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        prefix, _, dotted = fullname.partition(".")
        tree = _trees.get(prefix)
        if tree is None:
            return None
        file = tree.find(dotted) if dotted else tree.root
        if file is None and tree.allowed is None:
            return None  # Python may find what is no .py file, such as a compiled module
        if file is None:
            raise ModuleNotFoundError(f"the model folder holds no module {dotted!r}", name=fullname)
        if not file.is_file():
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(file)]
            return spec
        inside = [str(file.parent)] if file.name == PACKAGE else None
        loader = _AsItIs(fullname, str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)


class _AsItIs(importlib.machinery.SourceFileLoader):
    """Compiles the file as it is now, its absolute imports of the tree's modules turned into those of their own names.
    Bytecode that Python keeps beside a file counts as current where size and second of change are the same, and would
    be left in users' folders."""

    def get_code(self, fullname: str) -> CodeType:
        prefix, _, dotted = fullname.partition(".")
        package = dotted if Path(self.path).name == PACKAGE else dotted.rpartition(".")[0]
        code = _OwnNames(_trees[prefix], prefix, package).visit(ast.parse(self.get_data(self.path), self.path))
        return compile(ast.fix_missing_locations(code), self.path, "exec", dont_inherit=True)


class _OwnNames(ast.NodeTransformer):
    """Turns `import mine` into `from autolmk_plugin_... import mine`, and other forms alike."""

    def __init__(self, tree: Tree, prefix: str, package: str) -> None:
        self.tree, self.prefix, self.package = tree, prefix, package

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        """One statement a name; two for `import a.b`, which binds a."""
        result: list[ast.stmt] = []
        for alias in node.names:
            dotted = self.tree.meant(alias.name, self.package)
            if dotted is None:
                result.append(ast.Import([alias]))
                continue
            top = alias.name.partition(".")[0]
            result.append(self._of(dotted, alias.asname or top))
            if "." in alias.name and alias.asname is None:
                below = alias.name.count(".")
                result.append(self._of(dotted.rsplit(".", below)[0], top))
        return [ast.copy_location(statement, node) for statement in result]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        """Relative ones are right as they are."""
        dotted = self.tree.meant(node.module, self.package) if node.level == 0 and node.module else None
        if dotted is not None:
            node.module = f"{self.prefix}.{dotted}"
        return node

    def _of(self, dotted: str, name: str) -> ast.stmt:
        above, _, last = f"{self.prefix}.{dotted}".rpartition(".")
        return ast.ImportFrom(above, [ast.alias(last, name)], 0)
