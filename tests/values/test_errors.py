"""The exception that users read."""

from __future__ import annotations

import copy

from autolmk.errors import AutolmkError, counted, some


def test_an_error_gets_the_name_of_its_case_once_and_keeps_the_rest() -> None:
    error = AutolmkError("bad", file="f", found=[1], expected=2, remedy="mend it")
    named = error.of_case("c1")
    assert str(named) == "bad\n  file: f\n  case: c1\n  found: [1]\n  expected: 2\n  what to do: mend it"
    assert named.of_case("c2").case == "c1" and error.case is None
    assert str(copy.copy(named)) == str(named)  # as it travels between processes


def test_counts_agree_with_their_nouns() -> None:
    assert [counted(n, "case") for n in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
    assert (
        counted(1, "case was", "cases were") == "1 case was" and counted(3, "case was", "cases were") == "3 cases were"
    )
    assert some(["a", "b"]) == "a, b" and some(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
