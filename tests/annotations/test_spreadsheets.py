"""What spreadsheets make of tables and of .fcsv: read as it is meant, or refused where nobody can know."""

from __future__ import annotations

from pathlib import Path

import pytest

from autolmk.annotations import read
from autolmk.annotations.formats.parsing import Table
from autolmk.errors import AutolmkError
from autolmk.landmarks import Status


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "sep=;;;;"])
def test_the_line_that_names_the_separator_is_no_header(first: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"{first}\r\nlandmark;x;y\r\na;1,5;2\r\n", newline="")
    assert read(file).points.tolist() == [[1.5, 2]]
    assert Table(file).rows[0][1] == ["landmark", "x", "y"]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ("a;1,234;2.5\n", "1,234 (line 2) and 2.5 (line 2)"),
        ("a;1.234;2\nb;3;2,5\n", "1.234 (line 2) and 2,5 (line 3)"),
    ],
)
def test_separators_of_thousands_are_no_decimal_signs(rows: str, found: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"landmark;x;y\n{rows}")
    with pytest.raises(AutolmkError, match="decimal points and numbers with commas") as caught:
        read(file)
    assert caught.value.found == found
    table = Table(file)
    with pytest.raises(AutolmkError, match="decimal points and numbers with commas"):
        [table.number(text, line, "x") for line, row in table.body(1, 3) for text in row[1:]]


def test_an_fcsv_that_a_spreadsheet_saved_keeps_its_frame_and_its_states(tmp_path: Path) -> None:
    file = tmp_path / "a.fcsv"
    columns = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    head = (
        f"# Markups fiducial file version = 5.6{15 * ','}\n# CoordinateSystem = RAS{15 * ','}\n# columns = {columns},,"
    )
    file.write_text(f"{head}\n1,1,2,3,0,0,0,1,1,1,0,a,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,b,,,3,0\n")
    annotation = read(file)
    assert annotation.frame == "RAS" and annotation.points[0].tolist() == [1, 2, 3]
    assert annotation.status.tolist() == [Status.PRESENT, Status.ABSENT]
