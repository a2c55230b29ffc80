"""Former places of modules: users' trainers and the copies in model folders import them, autolmk itself does not.

An old name gives the very module of today, with a DeprecationWarning that says the new one.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Where modules went, below autolmk; those below a package that moved went with it.
MODULES = {
    "atomic": "files.atomic",
    "augmentation": "data.augmentation",
    "backdrop": "data.backdrop",
    "calibration": "evaluation.presence_calibration",
    "checkpoint": "fold.checkpoint",
    "co_slice": "shapes.shared_slice",
    "context_rules": "planning.context_rules",
    "crossval": "fold.held_out",
    "design": "planning.window_search",
    "digest": "files.digest",
    "foreground": "data.foreground",
    "frame": "data.blosc2_frame",
    "label_maps": "data.label_maps",
    "loading": "data.loading",
    "locks": "files.locks",
    "losses": "methods.losses",
    "measured": "fold.measured",
    "memory": "planning.memory",
    "method_order": "planning.method_order",
    "placement": "data.stage_windows",
    "planner": "planning.planner",
    "point_errors": "fold.point_errors",
    "precision": "networks.precision",
    "preprocessing": "data.preprocessing",
    "recipe": "selection",
    "registry": "methods.registry",
    "rotation": "data.rotation",
    "row_shape": "shapes.row",
    "rules": "planning.rules",
    "runlog": "fold.log",
    "sampling": "data.sampling",
    "serialization": "files.serialization",
    "shape": "shapes.pose",
    "shape_model": "shapes.point_distribution",
    "splits": "data.splits",
    "store": "data.store",
    "strict_json": "files.strict_json",
    "trainer": "methods.trainer",
    "window_rules": "planning.window_rules",
}
# Names that went elsewhere than the rest of their module: old module -> {name: new module}.
NAMES = {
    "digest": dict.fromkeys(("PREPROCESSING_KEYS", "preprocessing_digest"), "data.store"),
    "registry": {
        **dict.fromkeys(("Source", "has_checkpoints", "keep_sources", "kept_sources"), "methods.sources"),
        "model_trainer_class": "methods.sources",
        "planner_class": "planning.planner",
        "trainer_class": "methods.trainer",
    },
}
ROOT = "autolmk."


def new_name(name: str) -> str | None:
    """Today's full name of a module, by its old one; None where it did not move."""
    if not name.startswith(ROOT):
        return None
    first, dot, rest = name.removeprefix(ROOT).partition(".")
    return f"{ROOT}{MODULES[first]}{dot}{rest}" if first in MODULES else None


class MovedModules:
    """Finds and loads modules by their old names, for Python's import system. (Without its base classes, whose module
    takes as long to import as all the rest.)"""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec that leads to today's module; None for names that did not move."""
        new = new_name(fullname)
        if new is None or importlib.util.find_spec(new) is None:
            return None
        loader: Any = self
        return importlib.machinery.ModuleSpec(fullname, loader)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Python's own choice; `exec_module` replaces it."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Put today's module under the old name, as Python lets a module do while it is loaded."""
        old = module.__name__
        new = new_name(old)
        assert new is not None
        warnings.warn(f"{old} has moved: import {new}", DeprecationWarning, stacklevel=2)
        scattered = NAMES.get(old.removeprefix(ROOT))
        today = importlib.import_module(new)
        sys.modules[old] = today if scattered is None else _Scattered(old, today, scattered)


class _Scattered(ModuleType):
    """An old module of which some names went elsewhere than the rest."""

    def __init__(self, old: str, rest: ModuleType, elsewhere: dict[str, str]) -> None:
        super().__init__(old, rest.__doc__)
        self.__spec__ = importlib.machinery.ModuleSpec(old, None)
        self._rest, self._elsewhere = rest, elsewhere
        self.__all__ = sorted({*(name for name in vars(rest) if not name.startswith("_")), *elsewhere})

    def __getattr__(self, name: str) -> Any:
        if name not in self._elsewhere:
            return getattr(self._rest, name)
        new = ROOT + self._elsewhere[name]
        warnings.warn(f"{self.__name__}.{name} has moved: import it from {new}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(new), name)


def install() -> None:
    """Let old names be imported. Before other finders: the folder of a package that moved would serve its modules a
    second time, under the old name."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())
