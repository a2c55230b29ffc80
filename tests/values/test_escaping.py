"""Names of others: harmless on a terminal, in a spreadsheet and in HTML, and read back as they were."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autolmk.escaping import cell, html, indented, lines, uncell, visible

BIDIRECTIONAL = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C]
FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@x", "a;=1", "a\t-b", "＝1+1"]


@pytest.mark.parametrize(
    "code", [*range(0x20), *range(0x7F, 0xA0), *BIDIRECTIONAL, 0x2028, 0x2029, 0xFEFF, 0x200B, 0xD800]
)
def test_what_steers_a_terminal_is_shown_instead(code: int) -> None:
    shown = visible(f"a{chr(code)}b")
    assert shown.isprintable() or code == 9
    assert chr(code) not in shown or code == 9


def test_ordinary_text_stays() -> None:
    for text in ("Zoë 1", "左眼", "نقطة", "می\u200cخواهم", "C:\\data\\x", "a\u00a0b", "é"):
        assert visible(text) == text == lines(text) == uncell(cell(text))


@given(st.text())
def test_nothing_invisible_is_left(text: str) -> None:
    kept = "\t" + "\u200c\u200d"
    assert not [c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in kept]
    assert visible(visible(text)) == visible(text)


def test_a_value_cannot_look_like_the_next_part_of_a_message() -> None:
    assert indented("x\n  what to do: rm -rf") == "x\n      what to do: rm -rf"
    assert indented("x\n    as it was") == "x\n    as it was"


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_runs_no_name(text: str) -> None:
    written = cell(text)
    assert all(not part or part[0] not in "=+-@\r＝" for part in written.replace(";", "\t").split("\t"))
    assert uncell(written) == text


@pytest.mark.parametrize("number", ["-1.5", "+2", "1e-9", "-.5", "0", "12", "-3.0e+10"])
def test_numbers_stay_numbers(number: str) -> None:
    assert cell(number) == number == uncell(number)


@given(st.text(alphabet="='+-@;\t\r\na1 .", max_size=12))
def test_a_cell_reads_back(text: str) -> None:
    assert uncell(cell(text)) == text


def test_html_keeps_kinds() -> None:
    from markupsafe import Markup

    assert html(3) == 3 and html("a\u202eb") == "a\\u202eb" and html("a\nb") == "a\nb"
    assert isinstance(html(Markup("<b>\u202e</b>")), Markup)
