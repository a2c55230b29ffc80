"""Images of another size or with other values than the rest: found where a unit or an intercept is wrong, and only
there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autolmk.check.case import Findings
from autolmk.check.report import Fault
from autolmk.check.unlike_images import image_faults
from autolmk.dataset import Case
from autolmk.fingerprint.summary import CaseSummary, ChannelSummary
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status

RNG = np.random.default_rng(0)
SHAPE = RNG.normal(scale=40, size=(6, 3))
NAMES = tuple("ABCDEF")


def findings(scales: list[float], medians: list[float] | None = None, missing: float = 0.0) -> list[Findings]:
    """Of cases of these sizes, their bodies differing by 5 %."""
    found = []
    for i, scale in enumerate(scales):
        points = SHAPE * scale * np.exp(RNG.normal(scale=0.05)) + RNG.normal(scale=2 * scale, size=SHAPE.shape)
        points[RNG.random(len(points)) < missing] = np.nan
        status = np.where(np.isfinite(points).all(axis=1), Status.PRESENT, Status.UNKNOWN).astype(np.int8)
        middle = 50.0 if medians is None else medians[i]
        channel = ChannelSummary(
            np.zeros(1, np.float32), -900, 2000, (middle - 99, middle, middle + 99), True, ((0, 1), (0, 1)), np.zeros(6)
        )
        geometry = Geometry.from_parts((9, 9, 9), (scale, scale, scale))
        landmarks = Landmarks(NAMES, points, status)
        summary = CaseSummary(str(i), geometry, landmarks, (channel,))
        found.append(Findings("Tr", Case(str(i), str(i), (Path("a.nii"),), Path("a.csv")), summary=summary))
    return found


def cases(faults: list[Fault]) -> list[str]:
    return [str(fault.case) for fault in faults]


@pytest.mark.parametrize("factor", [0.1, 0.3, 3.3, 10.0, 1000.0])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_wrong_unit_is_found(factor: float, missing: float) -> None:
    faults = image_faults(findings([1, 1, 1, factor, *[1.0] * 8], missing=missing), ("MR",), "mm")
    assert cases(faults) == ["3"] and "another size" in faults[0].problem and faults[0].severity == "warning"
    times = float(str(faults[0].found).split("landmarks ")[1].split()[0])
    assert times == pytest.approx(factor, rel=0.3)


def test_bodies_that_grow_are_not_doubted() -> None:
    assert image_faults(findings(list(np.linspace(1, 3, 12))), ("MR",), "mm") == []
    assert image_faults(findings([1.0] * 11 + [1.4]), ("MR",), "mm") == []
    assert image_faults(findings([1.0] * 11 + [0.48]), ("MR",), "mm") == []  # a newborn among adults
    assert image_faults(findings([1.0] * 11 + [10.0]), ("MR",), "px") == []
    assert image_faults(findings([1.0] * 3 + [10.0]), ("MR",), "mm") == []


@pytest.mark.parametrize(("channel", "found"), [("CT", ["2"]), ("MR", [])])
def test_ct_numbers_without_their_intercept_are_found(channel: str, found: list[str]) -> None:
    medians = [50.0, 40, 1074, 60, 55, 30, 70, 45]
    assert cases(image_faults(findings([1.0] * 8, medians), (channel,), "mm")) == found
