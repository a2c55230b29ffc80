"""What is wrong with a case as seen beside the others: shape outliers, exchanged names, poses in another frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from autolmk.annotations import Frame
from autolmk.check.case import FRAME_WORDS, Findings
from autolmk.check.report import Fault
from autolmk.errors import some
from autolmk.fingerprint.symmetry import mirror
from autolmk.geometry import FloatArray
from autolmk.shape import MeanShape, fit_similarity, mean_shape, shape_deviations

FEWEST_CASES = 5  # below which nothing is typical
OUTLIER = 6.0  # deviation of a landmark over what is typical of it
LEAST_OUTLIER = 4.0  # and over what is typical of all
EXCHANGED = 0.35  # deviation after an exchange of two names, over the one before
FRAME_GAIN = 0.25  # distance from the typical place in another frame, over the one in the frame that counts


def population_faults(
    findings: Sequence[Findings], names: Sequence[str], pairs: Sequence[tuple[str, str]], unit: str
) -> list[Fault]:
    """Warnings about cases that are unlike the training cases. findings: of good cases, test cases too, which do not
    say what is typical. pairs: that dataset.json declares."""
    findings = [f for f in findings if f.summary is not None]
    training = np.array([f.split == "Tr" for f in findings], dtype=bool)
    if training.sum() < FEWEST_CASES:
        return []
    points = np.stack([f.summary.landmarks.points for f in findings if f.summary is not None])
    if points.shape[1] < points.shape[2] + 2 or np.isfinite(points[training]).all(axis=2).sum() < 2 * FEWEST_CASES:
        return _frame_faults(findings, training)
    shape = _posed(mean_shape(points[training]), points, training)
    found = mirror(shape.points, names, pairs or None)
    partner = {a: b for pair in (found.pairs if found else pairs) for a, b in (pair, pair[::-1])}
    deviations = shape_deviations(shape, points)
    typical = _typical(deviations[training])
    faults = _frame_faults(findings, training)
    for finding, case_points, deviation, pose in zip(findings, points, deviations, shape.poses, strict=True):
        mirrored = _mirrored_fault(finding, case_points, shape, partner, names)
        if mirrored is not None:
            faults.append(mirrored)
        elif pose is not None:
            faults += _outlier_faults(
                finding, case_points, deviation, typical, pose.apply(shape.points), partner, names, unit
            )
    return faults


def _posed(shape: MeanShape, points: FloatArray, training: npt.NDArray[np.bool_]) -> MeanShape:
    """With the poses of all cases (N, L, P), those that did not shape the mean too."""
    poses, p = iter(shape.poses), points.shape[2]
    seen = np.asarray(np.isfinite(points + shape.points).all(axis=2))
    return MeanShape(
        shape.points,
        tuple(
            next(poses) if shaped else fit_similarity(shape.points, case).similarity if shown.sum() >= p else None
            for case, shown, shaped in zip(points, seen, training.tolist(), strict=True)
        ),
    )


def _typical(deviations: FloatArray) -> FloatArray:
    """(L,) median deviation of each landmark (N, L), NaN where too few cases show it."""
    counts = np.isfinite(deviations).sum(axis=0)
    result = np.full(deviations.shape[1], np.nan)
    enough = counts >= FEWEST_CASES
    result[enough] = np.nanmedian(deviations[:, enough], axis=0)
    return result


def _outlier_faults(
    finding: Findings,
    points: FloatArray,
    deviation: FloatArray,
    typical: FloatArray,
    expected: FloatArray,
    partner: dict[str, str],
    names: Sequence[str],
    unit: str,
) -> list[Fault]:
    overall = float(np.nanmedian(typical)) if np.isfinite(typical).any() else np.nan
    limit = np.maximum(OUTLIER * typical, LEAST_OUTLIER * overall)
    with np.errstate(invalid="ignore"):
        far = np.flatnonzero(deviation > limit)
    exchanged = _exchanged(points, expected, deviation, far)
    faults = []
    for i, j in exchanged:
        sides = partner.get(names[i]) == names[j]
        faults.append(
            _fault(
                finding,
                "a left/right pair looks swapped" if sides else "the names of two landmarks look exchanged",
                found=f"{names[i]} and {names[j]} are {deviation[i]:.1f} and {deviation[j]:.1f} {unit} off, "
                f"each near the other's place",
                expected=f"typically {typical[i]:.1f} and {typical[j]:.1f} {unit}",
                remedy="look at the two points, and exchange their names in the annotation if so",
            )
        )
    rest = [i for i in far[np.argsort(-deviation[far])] if i not in {k for pair in exchanged for k in pair}]
    if rest:
        faults.append(
            _fault(
                finding,
                "points lie far from where the other cases' shape puts them",
                found=some([f"{names[i]} {deviation[i]:.1f} {unit} (typically {typical[i]:.1f})" for i in rest]),
                expected="a shape like the others', after alignment (Procrustes)",
                remedy="look at these points; true anatomy may stay",
            )
        )
    return faults


def _exchanged(
    points: FloatArray, expected: FloatArray, deviation: FloatArray, far: npt.NDArray[np.int_]
) -> list[tuple[int, int]]:
    """Pairs of outliers that lie at each other's expected place: the cheapest assignment of points to places."""
    if len(far) < 2:
        return []
    apart = np.linalg.norm(points[far][:, None] - expected[far][None], axis=2)
    rows, columns = linear_sum_assignment(apart)
    place = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [
        (int(far[a]), int(far[b]))
        for a, b in place.items()
        if a < b and place[b] == a and apart[a, b] + apart[b, a] < EXCHANGED * (deviation[far[a]] + deviation[far[b]])
    ]


def _mirrored_fault(
    finding: Findings, points: FloatArray, shape: MeanShape, partner: dict[str, str], names: Sequence[str]
) -> Fault | None:
    """All left and right names exchanged: the shape fits far better with every pair swapped."""
    where = {name: i for i, name in enumerate(names)}
    swapped = points[[where[partner.get(name, name)] for name in names]]
    seen = np.asarray(np.isfinite(points + shape.points).all(axis=1))
    shown = sum(name in partner and bool(seen[i]) for i, name in enumerate(names))
    if shown < 4 or seen.sum() < points.shape[1] + 2:
        return None
    as_is = fit_similarity(shape.points, points, robust=False).residuals
    exchanged = fit_similarity(shape.points, swapped, robust=False).residuals
    before, after = float(np.nanmean(as_is)), float(np.nanmean(exchanged))
    if not after < EXCHANGED * before:
        return None
    return _fault(
        finding,
        "all left/right pairs of a case look swapped, or its image is mirrored",
        found=f"the points are {before:.1f} off the other cases' shape, with left and right exchanged {after:.1f}",
        expected="left where the other cases have left",
        remedy="see whether the image or the names are the wrong way round (an axis flipped on export, say)",
    )


def _frame_faults(findings: Sequence[Findings], training: npt.NDArray[np.bool_]) -> list[Fault]:
    """Cases whose points lie where the others' do only if they are read in another frame."""
    frames: set[Frame] = {f.frame for f in findings if f.frame is not None}
    placed = np.stack([_relative(f, f.readings[f.frame]) for f in findings if f.frame is not None])
    if len(placed) != len(findings) or not frames:
        return []
    seen = np.isfinite(placed[training]).all(axis=2).any(axis=0)
    typical = np.full(placed.shape[1:], np.nan)
    typical[seen] = np.nanmedian(placed[training][:, seen], axis=0)
    faults = []
    for finding, place in zip(findings, placed, strict=True):
        here = _distance(place, typical)
        others = {
            frame: _distance(_relative(finding, points), typical)
            for frame, points in finding.readings.items()
            if frame != finding.frame
        }
        if not others or finding.frame is None:
            continue
        best = min(others, key=lambda frame: others[frame])
        if others[best] < FRAME_GAIN * here:
            faults.append(
                _fault(
                    finding,
                    "the points of a case look as if they were in another frame than said",
                    found=f"read as {FRAME_WORDS[finding.frame]} they lie {here:.0f} from where the other cases' do, "
                    f"as {FRAME_WORDS[best]} {others[best]:.0f}",
                    expected=f"points in {FRAME_WORDS[finding.frame]}",
                    remedy="export the points again in the frame of the other cases",
                )
            )
    return faults


def _relative(finding: Findings, points: FloatArray) -> FloatArray:
    assert finding.summary is not None
    return points - finding.summary.geometry.centre


def _distance(points: FloatArray, typical: FloatArray) -> float:
    """Mean over the landmarks that both have; infinite without any."""
    apart = np.linalg.norm(points - typical, axis=1)
    apart = apart[np.isfinite(apart)]
    return float(apart.mean()) if len(apart) else np.inf


def _fault(finding: Findings, problem: str, *, found: str, expected: str, remedy: str) -> Fault:
    case = finding.case
    return Fault("warning", problem, str(case.annotation), case.identifier, found, expected, remedy)
