"""Images whose size or values are unlike those of the other cases, as where a unit or an intercept is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autolmk.check.case import Findings
from autolmk.check.report import Fault
from autolmk.geometry import FloatArray

FEWEST_CASES = 5  # below which nothing is typical
UNLIKE = 6.0  # standard deviations (robust) over the cases
LARGER = 2.5  # times as large, from which a size is looked at; grown bodies beside newborn ones differ less
OFFSET = 800.0  # Hounsfield units; a scan of lungs beside scans of bones differs less than an intercept of -1024
MOST_LANDMARKS = 40  # whose distances are compared
HOUNSFIELD = ("CT",)  # channels whose values are absolute


def image_faults(findings: Sequence[Findings], channel_names: Sequence[str], unit: str) -> list[Fault]:
    """A warning for each case whose landmarks lie further apart or closer together than in the training cases, in mm,
    and for each whose CT numbers lie elsewhere. findings: of good cases, test cases too, which say nothing of what is
    typical."""
    findings = [f for f in findings if f.summary is not None]
    training = np.array([f.split == "Tr" for f in findings], dtype=bool)
    if training.sum() < FEWEST_CASES:
        return []
    faults = _size_faults(findings, training) if unit == "mm" else []
    for channel, name in enumerate(channel_names):
        if name.upper() in HOUNSFIELD:
            faults += _value_faults(findings, training, channel)
    return faults


def _size_faults(findings: Sequence[Findings], training: npt.NDArray[np.bool_]) -> list[Fault]:
    points = np.stack([f.summary.landmarks.points for f in findings if f.summary is not None])
    ratio = np.log(_relative_sizes(points, training))
    usual = np.nanmedian(ratio[training]) if np.isfinite(ratio[training]).any() else np.nan
    far = np.abs(ratio - usual)
    bound = max(np.log(LARGER), UNLIKE * _spread(ratio[training]))
    faults = []
    for finding, distance, how_much in zip(findings, far, np.exp(ratio - usual), strict=True):
        if not distance > bound or finding.summary is None:
            continue
        spacing = " x ".join(f"{s:.4g}" for s in finding.summary.geometry.spacing[::-1])
        faults.append(
            _warning(
                finding,
                "a case is of another size than the others",
                found=f"landmarks {how_much:.3g} times as far apart as in the other cases, voxels of {spacing} mm",
                expected="one unit of length in all cases",
                remedy="look whether the header's voxel size and unit are right, and the unit of the points",
            )
        )
    return faults


def _relative_sizes(points: FloatArray, training: npt.NDArray[np.bool_]) -> FloatArray:
    """(N,) of cases (N, L, P): the median over pairs of landmarks of their distance over the typical one; NaN without
    three pairs that are seen in most training cases."""
    seen = np.asarray(np.isfinite(points).all(axis=2))
    chosen = np.sort(np.argsort(-seen[training].sum(axis=0), kind="stable")[:MOST_LANDMARKS])
    first, second = np.triu_indices(len(chosen), k=1)
    apart = np.linalg.norm(points[:, chosen[first]] - points[:, chosen[second]], axis=2)
    apart[apart == 0] = np.nan
    known = np.isfinite(apart[training]).sum(axis=0) >= max(3, training.sum() / 2)
    apart = apart[:, known]
    relative = apart / np.nanmedian(apart[training], axis=0) if known.any() else apart
    enough = np.isfinite(relative).sum(axis=1) >= 3
    return np.array([np.nanmedian(row) if ok else np.nan for row, ok in zip(relative, enough, strict=True)])


def _value_faults(findings: Sequence[Findings], training: npt.NDArray[np.bool_], channel: int) -> list[Fault]:
    middle = np.array(
        [
            f.summary.channels[channel].quantiles[1]
            if f.summary is not None and channel < len(f.summary.channels)
            else np.nan
            for f in findings
        ]
    )
    if not np.isfinite(middle[training]).any():
        return []
    usual = float(np.nanmedian(middle[training]))
    bound = max(OFFSET, UNLIKE * _spread(middle[training]))
    return [
        _warning(
            finding,
            "the CT numbers of a case lie elsewhere than those of the others",
            found=f"a median of {value:.4g} in the foreground",
            expected=f"about {usual:.4g}, as in the other cases",
            remedy="look whether the values are Hounsfield units: some converters leave the intercept of -1024 out",
        )
        for finding, value in zip(findings, middle, strict=True)
        if abs(value - usual) > bound
    ]


def _spread(values: FloatArray) -> float:
    """Robust standard deviation of the finite values; 0 without any."""
    values = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def _warning(finding: Findings, problem: str, *, found: str, expected: str, remedy: str) -> Fault:
    file, case = str(finding.case.images[0]), finding.case.identifier
    return Fault("warning", problem, file, case, found, expected, remedy, split=finding.split)
