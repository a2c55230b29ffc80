"""The faults of a case that show beside the others: shape outliers, exchanged names, poses in another frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from autolmk.annotations import Frame
from autolmk.check.case import FRAME_WORDS, Findings
from autolmk.check.order import aligned, coincident, misplaced, outlying, relations
from autolmk.check.report import Fault
from autolmk.errors import some
from autolmk.fingerprint.symmetry import mirror
from autolmk.geometry import FloatArray
from autolmk.shapes.pose import MeanShape, fit_similarity, mean_shape

FEWEST_CASES = 5  # below which nothing is typical
UNLIKE = 4.0  # standard deviations (robust) over the cases that this gain is beyond theirs
EXCHANGED = 0.35  # deviation after an exchange of left and right, over the one before
LEAST_GAIN = 0.25  # logarithm of that gain, where other cases lose by it
LEAST_EXTENT = 0.3  # of an axis of the mean shape over the longest, from which it tells a pose
ONE_WAY, OTHER_WAY = 45.0, 135.0  # degrees that such an axis is turned in nearly all cases; in one that is upside down
FRAME_GAIN = 0.25  # distance from the typical place in another frame, over the one in the frame that counts


def population_faults(
    findings: Sequence[Findings], names: Sequence[str], pairs: Sequence[tuple[str, str]], unit: str
) -> list[Fault]:
    """Faults of cases that are unlike the training cases: landmarks at one place that elsewhere lie apart are a fault
    of the case, all else is a warning. findings: of good cases, test cases too, which do not say what is typical.
    pairs: that dataset.json declares."""
    findings = [f for f in findings if f.summary is not None]
    training = np.array([f.split == "Tr" for f in findings], dtype=bool)
    if training.sum() < FEWEST_CASES:
        return []
    points = np.stack([f.summary.landmarks.points for f in findings if f.summary is not None])
    faults = _frame_faults(findings, training)
    in_another_frame = {fault.case for fault in faults}
    if points.shape[1] < points.shape[2] + 2 or np.isfinite(points[training]).all(axis=2).sum() < 2 * FEWEST_CASES:
        return faults
    shape = _posed(mean_shape(points[training]), points, training)
    found = mirror(shape.points, names, pairs or None)
    partner = {a: b for pair in (found.pairs if found else pairs) for a, b in (pair, pair[::-1])}
    cases = aligned(shape, points)
    at_one_place = coincident(cases, training)
    turned = _turned_cases(shape, training)
    whole = _mirrored_faults(findings, points, shape, partner, names)
    seen = relations(shape.points, cases, training)
    for i, finding in enumerate(findings):
        scale = pose.scale if (pose := shape.poses[i]) is not None else 1.0
        if i in at_one_place:
            faults.append(_one_place_fault(finding, at_one_place[i], names, scale, unit))
        if i in turned and finding.case.identifier in in_another_frame:
            continue  # which turns it
        if i in whole or i in turned:
            faults.append(whole[i] if i in whole else _turned_fault(finding, turned[i]))
            continue
        doubled = {k for a, b, _ in at_one_place.get(i, []) for k in (a, b)}
        taken = {k: other for k, other in misplaced(seen, shape.points, i).items() if k not in doubled}
        faults += _order_faults(finding, taken, partner, names)
        far = [k for k in outlying(seen, i) if k not in doubled and k not in taken]
        if far:
            faults.append(_outlier_fault(finding, far, cases, i, training, names, scale, unit))
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


def _one_place_fault(
    finding: Findings, pairs: list[tuple[int, int, float]], names: Sequence[str], scale: float, unit: str
) -> Fault:
    listed = [f"{names[a]} and {names[b]} (typically {scale * apart:.1f} {unit} apart)" for a, b, apart in pairs]
    fault = _fault(
        finding,
        "landmarks are at one place that lie apart in the other cases",
        found=some(listed),
        expected="each landmark at its own place",
        remedy="place the wrong one of the two anew, or call it absent or unknown; if several are stored twice, "
        "see whether the names of the following ones are shifted",
    )
    return replace(fault, severity="case", split=finding.split)


def _order_faults(
    finding: Findings, taken: dict[int, int], partner: dict[str, str], names: Sequence[str]
) -> list[Fault]:
    """taken: landmarks at the place of another one, and whose."""
    faults, rest = [], dict(taken)
    for i, j in taken.items():
        if i < j and taken.get(j) == i:
            del rest[i], rest[j]
            sides = partner.get(names[i]) == names[j]
            faults.append(
                _fault(
                    finding,
                    "a left/right pair looks swapped" if sides else "the names of two landmarks look exchanged",
                    found=f"{names[i]} and {names[j]} each lie near the other's place",
                    expected="each where its neighbours lie in the other cases",
                    remedy="look at the two points, and exchange their names in the annotation if so",
                )
            )
    if rest:
        faults.append(
            _fault(
                finding,
                "landmarks lie where others are expected",
                found=some([f"{names[i]} at the place of {names[j]}" for i, j in rest.items()]),
                expected="each where its neighbours lie in the other cases",
                remedy="see whether names are exchanged, backwards or shifted, or one is there twice or left out",
            )
        )
    return faults


def _outlier_fault(
    finding: Findings,
    far: list[int],
    cases: FloatArray,
    i: int,
    training: npt.NDArray[np.bool_],
    names: Sequence[str],
    scale: float,
    unit: str,
) -> Fault:
    away = scale * np.linalg.norm(cases[:, far] - np.nanmedian(cases[training][:, far], axis=0), axis=2)
    typical = np.nanmedian(away[training], axis=0)
    order = np.argsort(-away[i])
    return _fault(
        finding,
        "points lie far from where the other cases' shape puts them",
        found=some([f"{names[far[k]]} {away[i, k]:.1f} {unit} (typically {typical[k]:.1f})" for k in order]),
        expected="a shape like the others', after alignment (Procrustes)",
        remedy="look at these points; true anatomy may stay",
    )


def _turned_cases(shape: MeanShape, training: npt.NDArray[np.bool_]) -> dict[int, float]:
    """Cases whose main axis points the other way, where those of nearly all point one way: by how many degrees."""
    centred = shape.points[np.isfinite(shape.points).all(axis=1)]
    centred = centred - centred.mean(axis=0)
    _, extent, axes = np.linalg.svd(centred, full_matrices=False)
    result: dict[int, float] = {}
    for axis in axes[extent >= LEAST_EXTENT * extent[0]]:
        ways = np.array([np.full(len(axis), np.nan) if pose is None else pose.rotation @ axis for pose in shape.poses])
        typical = np.nanmedian(ways[training], axis=0)
        cosine = ways @ typical / max(float(np.linalg.norm(typical)), 1e-12)
        angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        if not np.nanquantile(angles[training], 0.8) < ONE_WAY:
            continue
        with np.errstate(invalid="ignore"):
            for i in np.flatnonzero(angles > OTHER_WAY).tolist():
                result[i] = max(result.get(i, 0.0), float(angles[i]))
    return result


def _turned_fault(finding: Findings, degrees: float) -> Fault:
    return _fault(
        finding,
        "a case is upside down, or its landmarks run backwards",
        found=f"the landmarks are turned by {degrees:.0f} degrees against those of the other cases",
        expected=f"at most {ONE_WAY:.0f} degrees, as in most cases",
        remedy="see whether the image was turned, or the names are in the reverse order",
    )


def _mirrored_faults(
    findings: Sequence[Findings],
    points: FloatArray,
    shape: MeanShape,
    partner: dict[str, str],
    names: Sequence[str],
) -> dict[int, Fault]:
    """All left and right names exchanged, or the image mirrored: the shape fits far better with every pair swapped, or
    that much better than in other cases."""
    where = {name: i for i, name in enumerate(names)}
    swap = [where[partner.get(name, name)] for name in names]
    errors = np.array([_swapped_errors(case, shape, swap) for case in points])
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log(errors[:, 0] / errors[:, 1])  # > 0: better with left and right exchanged
    training = np.array([f.split == "Tr" for f in findings], dtype=bool)
    known = gain[training & np.isfinite(gain)]
    usual = float(np.median(known)) if len(known) >= FEWEST_CASES else np.nan
    spread = 1.4826 * float(np.median(np.abs(known - usual))) if len(known) >= FEWEST_CASES else np.nan
    with np.errstate(invalid="ignore"):
        swapped = (gain > -np.log(EXCHANGED)) | (
            (gain > max(LEAST_GAIN, -usual / 2)) & (gain - usual > UNLIKE * spread)
        )
    return {
        i: _fault(
            findings[i],
            "all left/right pairs of a case look swapped, or its image is mirrored",
            found=f"the points are {errors[i, 0]:.1f} off the other cases' shape, with left and right exchanged "
            f"{errors[i, 1]:.1f}",
            expected="left where the other cases have left",
            remedy="see whether the image or the names are the wrong way round (an axis flipped on export, say)",
        )
        for i in np.flatnonzero(swapped).tolist()
    }


def _swapped_errors(points: FloatArray, shape: MeanShape, swap: list[int]) -> tuple[float, float]:
    """Mean distance from the fitted mean shape, as it is and with every pair exchanged; NaN where too few are seen."""
    seen = np.asarray(np.isfinite(points + shape.points).all(axis=1))
    both = np.asarray(np.isfinite(points[swap] + shape.points).all(axis=1)) & seen
    if sum(i != j and bool(both[i]) for i, j in enumerate(swap)) < 4 or both.sum() < points.shape[1] + 2:
        return np.nan, np.nan
    as_is = fit_similarity(shape.points[both], points[both], robust=False).residuals
    exchanged = fit_similarity(shape.points[both], points[swap][both], robust=False).residuals
    return float(np.nanmean(as_is)), float(np.nanmean(exchanged))


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
