"""Test files of training as modules of their own, for the tiny datasets and plans in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load(name: str) -> ModuleType:
    """A new module of `tests/training/NAME.py`; what a test changes in it, others do not see."""
    file = Path(__file__).parents[1] / "training" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_apart", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
