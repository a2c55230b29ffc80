"""Strict JSON to dataclasses: values out of all bounds, and of other kinds, are errors that name the place."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, read_json, write_json


@dataclass(frozen=True)
class Example:
    count: int = 0
    length: float = 0.0
    kind: Literal["a", "b", 1] = "a"
    maybe: float | None = None
    names: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "value",
    [
        {"count": 10**30}, {"count": -(2**63)}, {"count": True}, {"count": 1.0}, {"length": 10**30},
        {"length": math.nan}, {"length": math.inf}, {"length": 1e300}, {"length": 10**400}, {"maybe": -math.inf},
        {"kind": True}, {"kind": ["a"]},
        {"names": "abc"}, {"names": [1]}, {"options": [1]}, {"options": None}, {"count": "x" * 10**6}, [], None, 3,
    ],
    ids=range(20),
)  # fmt: skip
def test_values_of_another_kind_or_size_are_named(value: Any) -> None:
    with pytest.raises(AutolmkError, match="wrong value at") as error:
        from_json(Example, value, file="x.json")
    assert len(str(error.value)) < 1000


def test_values_within_bounds_pass() -> None:
    assert from_json(Example, {"count": 2**62, "length": -5, "maybe": None, "kind": 1}) == Example(2**62, -5.0, 1)


def test_paths_that_are_no_utf8_do_not_keep_a_record_from_being_written(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"model": Path(os.fsdecode(b"/bad\xff"))})
    assert read_json(tmp_path / "run.json") == {"model": "/bad?"}
