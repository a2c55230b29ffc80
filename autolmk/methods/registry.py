"""Names of methods -> classes. The registry holds text only: the core imports no method until a user names it.

A name is a shipped one (`heatmap`), an entry point of the group `autolmk.trainers` or `autolmk.planners`, a class of an
importable module (`package.module:Class`) or of a file (`path/to/file.py:Class`). A class that plans or a model folder
name, and that is neither shipped nor of an installed package, runs only where the user names it or says that it is
trusted.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from autolmk.errors import AutolmkError
from autolmk.files.serialization import near
from autolmk.methods.user_files import PLUGIN, Tree, load

TRAINERS = {
    "apga": "autolmk.trainers.apga:ApgaTrainer",
    "coordinates": "autolmk.trainers.coarse_to_fine:CoordinateTrainer",
    "fine": "autolmk.trainers.coarse_to_fine:FineTrainer",
    "global_cells": "autolmk.trainers.global_to_local:GlobalTrainer",
    "heatmap": "autolmk.trainers.heatmap:HeatmapTrainer",
    "local_cells": "autolmk.trainers.global_to_local:LocalTrainer",
}
PLANNERS = {
    "heatmap": "autolmk.planners.heatmap:HeatmapPlanner",  # plans order them by what they expect
    "apga": "autolmk.planners.apga:ApgaPlanner",
    "coarse_to_fine": "autolmk.planners.coarse_to_fine:CoarseToFinePlanner",
    "global_to_local": "autolmk.planners.global_to_local:GlobalToLocalPlanner",
}
SHIPPED = {"trainer": TRAINERS, "planner": PLANNERS}
GROUPS = {"trainer": "autolmk.trainers", "planner": "autolmk.planners"}


def known_names(kind: str) -> dict[str, str]:
    """Names of shipped and installed methods of a kind (trainer or planner) -> `module:Class`; shipped ones win."""
    installed = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUPS[kind])}
    return {**installed, **SHIPPED[kind]}


def label(specification: str) -> str:
    """The short name that folders carry: the name itself, or the class's name of a file or module."""
    return specification.rpartition(":")[2]


def place_in_plugin(error: BaseException) -> str | None:
    """FILE, line N, where the code of a user's .py file raised an error or led to it; None where none took part."""
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith(PLUGIN)
    ]
    return "{}, line {}".format(*places[-1]) if places else None


def absolute(specification: str) -> str:
    """The specification with its file, if it names one, as an absolute path: a run may be continued from elsewhere."""
    place, colon, name = specification.rpartition(":")
    return f"{Path(place).expanduser().absolute()}:{name}" if colon and place.endswith(".py") else specification


def is_foreign(specification: str) -> bool:
    """Whether a specification names a class of a file or module outside autolmk, which whoever wrote it may choose, and
    not a shipped method or one that an installed package announces."""
    place, colon, _ = specification.rpartition(":")
    return bool(colon) and (place.endswith(".py") or place.partition(".")[0] != "autolmk")


def require_asked(
    specifications: Iterable[str], file: Path, *, trust_code: bool, named: Iterable[str] = (), option: str | None = None
) -> None:
    """Raise AutolmkError where trainers that a file (plans, a record) names would run code that the user did not ask
    for.

    named: what the user named on this command line: other classes of the same files and modules count as asked for.
    option: of the command, that would name the trainer; None where there is none.
    """
    places = {absolute(specification).rpartition(":")[0] for specification in named}
    for specification in specifications:
        place, _, name = absolute(specification).rpartition(":")
        if is_foreign(specification) and not trust_code and place not in places:
            raise AutolmkError(
                "a trainer that is not part of autolmk is named in a file; its code is not run unasked",
                file=file,
                found=f"class {name} of {place}",
                expected="a trainer of autolmk or of an installed package, or one that is named on the command line",
                remedy=f"read {place}, then give --trust-code"
                + ("" if option is None else f", or name it yourself: {option} {place}:{name}"),
            )


# -- loading ----------------------------------------------------------------------------------------------------------


def load_class(kind: str, specification: str, base: type) -> Any:
    """The class that a user named, of a kind (trainer or planner) and derived from `base`. AutolmkError with near
    names, or with what went wrong while importing it."""
    module, name = located(kind, specification)
    return class_of(module, name, kind, base, specification)


def located(kind: str, specification: str) -> tuple[ModuleType, str]:
    """The module that a specification names, and the name in it."""
    place, colon, name = specification.rpartition(":")
    if not colon:
        names = known_names(kind)
        if specification not in names:
            raise AutolmkError(
                f"there is no {kind} {specification!r}{near(specification, names)}",
                expected=f"one of {', '.join(sorted(names))}, or file.py:Class, or module:Class",
                remedy=f"check the name; a plug-in's package announces it in the entry-point group {GROUPS[kind]}",
            )
        place, _, name = names[specification].rpartition(":")
    return _module_of_file(Path(place), kind) if place.endswith(".py") else _module(place, kind, specification), name


def class_of(module: ModuleType, name: str, kind: str, base: type, specification: str) -> Any:
    """The class of that name in a module, checked; see `load_class`. specification: for messages."""
    place = specification.rpartition(":")[0] or module.__name__
    found = getattr(module, name, None)
    if found is None:
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, base) and v is not base]
        raise AutolmkError(
            f"there is no class {name!r} in {place}{near(name, classes)}",
            expected=f"one of {', '.join(classes)}" if classes else f"a subclass of {base.__module__}.{base.__name__}",
            remedy="correct the class's name after the colon",
        )
    if not isinstance(found, type) or not issubclass(found, base):
        raise AutolmkError(
            f"{specification} is no {kind}",
            found=type(found).__name__
            if not isinstance(found, type)
            else f"a class that derives from {found.__mro__[1]}",
            expected=f"a subclass of {base.__module__}.{base.__name__}",
            remedy="name a class that derives from it",
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise AutolmkError(f"{specification} lacks required methods", found=f"abstract: {missing}", remedy="write them")
    return found


def _module(place: str, kind: str, specification: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise _import_failed(kind, specification, error) from error


def _module_of_file(file: Path, kind: str) -> ModuleType:
    """The module of a .py file, with what it imports from its folder and its package; see `user_files`."""
    file = file.expanduser().absolute()
    if not file.is_file():
        raise AutolmkError(
            f"the {kind}'s file does not exist", file=file, expected="path/to/file.py:Class", remedy="check the path"
        )
    return module_of_tree(Tree.of_file(file), kind)


def module_of_tree(tree: Tree, kind: str) -> ModuleType:
    """The module that a tree of user's files was named by. AutolmkError where it cannot be imported."""
    try:
        return load(tree)
    except Exception as error:
        raise _import_failed(kind, str(tree.file), error) from error


def _import_failed(kind: str, what: str, error: Exception) -> AutolmkError:
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
    else:
        innermost = traceback.extract_tb(error.__traceback__)[-1]
        where = f" ({innermost.filename}, line {innermost.lineno})"
    return AutolmkError(
        f"the {kind} {what} cannot be imported",
        found=f"{type(error).__name__}: {error}{where}",
        remedy="mend the import; --verbose shows the whole traceback",
    )
