"""Names of landmarks from case to case: faults where annotators differ, warnings where anatomies may."""

from __future__ import annotations

from pathlib import Path

import pytest

from autolmk.check.names import name_faults


@pytest.mark.parametrize(
    ("one", "other", "severity"),
    [
        (("a", "b", "c"), ("1", "2", "3"), "dataset"),  # two annotators of the same points
        (("L_ASIS", "L_PSIS"), ("R_ASIS", "R_PSIS"), "warning"),  # hips of either side
        (("condyle left", "head left"), ("condyle right", "head right"), "warning"),
        (("C1", "C2", "C3", "C4", "C5", "C6", "C7"), ("T11", "T12", "S1", "S2"), "warning"),  # necks and backs
    ],
)
def test_groups_without_a_name_in_common(one: tuple[str, ...], other: tuple[str, ...], severity: str) -> None:
    cases = {f"c{i}": one if i < 4 else other for i in range(7)}
    (fault,) = name_faults(cases, Path("landmarksTr"), "dataset")
    assert "no landmark's name in common" in fault.problem and fault.severity == severity
    assert name_faults(cases, Path("landmarksTr"), None) == []
