"""JSON of strangers: what is sane is read as json reads it; the rest is an error, soon, and of one kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autolmk.errors import AutolmkError
from autolmk.files.serialization import near, read_json, read_text
from autolmk.files.strict_json import DEEPEST, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_what_json_writes_is_read(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    if "\\ud" not in text.lower() and all(not 0xD800 <= ord(c) < 0xE000 for c in text):
        assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "deep"), ('{"a":' * 5_000 + "1" + "}" * 5_000, "deep"), ("[" * 101 + "]" * 101, "deep"),
        ("1" * 5_000, "whole number"), ("1" + "0" * 30, "whole number"), ("-" + "9" * 25, "whole number"),
        ("1e999", "too large"), ("0." + "1" * 500, "too long"), ("NaN", "NaN"), ("[-Infinity]", "Infinity"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"), ("[" + "0," * 6_000_000 + "0]", "values"),
        ('"\\ud800"', "surrogates"), ("[1, 2", "delimiter"), ("", "Expecting"),
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_beyond_all_bounds_is_one_kind_of_error(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(AutolmkError, match="not valid JSON") as error:
        read_json(file, remedy="restore it")
    assert str(file) in str(error.value) and "restore it" in str(error.value) and len(str(error.value)) < 1000


def test_brackets_in_texts_do_not_count() -> None:
    value = {"[" * 500: ['\\"[{' * 200, "]" * 50]}
    assert parse(json.dumps(value)) == value
    deep = "[" * DEEPEST + "]" * DEEPEST
    assert parse(f'{{"a": "x", "b": [{deep[2:-2]}]}}')["a"] == "x"


def test_nan_only_where_it_is_meant() -> None:
    assert str(parse("[NaN]", nan=True)) == "[nan]"


def test_devices_pipes_folders_and_large_files_are_not_read(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 2000)
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    for name, words in (
        ("pipe", "pipe"),
        ("large", "at most 1000"),
        (".", "cannot be read"),
        ("latin", "not in UTF-8"),
    ):
        with pytest.raises(AutolmkError, match=words):
            read_text(tmp_path / name, largest=1000)
    with pytest.raises(AutolmkError, match="pipe"):
        read_text(Path("/dev/zero"))


def test_line_breaks_are_one_kind(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "a") == "a\nb\nc\n"


def test_near_names_of_huge_names_are_not_sought() -> None:
    assert near("a" * 10**6, ["a" * 10**6]) == "" and "'abc'" in near("abd", ["abc"])
