"""What autolmk_evaluate says of measurements: predicted beside annotated values, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autolmk.agreement import Agreement, Pair
    from autolmk.annotations import Annotation
    from autolmk.bootstrap import Estimate
    from autolmk.dataset.description import Measurement
    from autolmk.landmarks import Landmarks
    from autolmk.measurements import Measured


def measured_pairs(
    truth: Mapping[str, Landmarks],
    predictions: Mapping[str, Annotation],
    folder: Path,
    measurements: Mapping[str, Measurement],
    unit: str,
) -> tuple[Pair, ...]:
    """Values of the predicted present points beside the annotated ones; error radii as measurements.csv in the folder
    of the predictions says, else as they follow from those of the points. unit: mm or px."""
    from autolmk.agreement import compare
    from autolmk.measurements import TABLE, measured, read_measurements

    predicted: dict[str, dict[str, Measured]] = {}
    for case, marks in truth.items():
        found = _present(predictions[case], marks.points.shape[1]).reordered(marks.names)
        predicted[case] = measured(found, measurements)
    written = read_measurements(folder / TABLE) if (folder / TABLE).is_file() else {}
    for case, values in written.items():
        if case in predicted:
            predicted[case] |= {name: value for name, value in values.items() if name in measurements}
    return compare(truth, predicted, measurements, unit=unit)


def _present(found: Annotation, p: int) -> Landmarks:
    """Of a prediction, what it calls present and gives a place."""
    import numpy as np

    from autolmk.landmarks import Landmarks, Status

    points = found.points[:, :p]
    there = found.present & np.isfinite(points).all(axis=1)
    status = np.where(there, Status.PRESENT, Status.ABSENT)
    return Landmarks(found.names, points, status.astype(np.int8), found.likelihood, found.error_radius)


def agreement_table(agreements: Mapping[str, Agreement]) -> str:
    """Readable: a row a measurement, intervals in brackets."""
    rows = [["measurement", "cases", "unit", "bias", "SD", "limits of agreement", "within radius", "median radius"]]
    for name, found in agreements.items():
        n = f"{found.n} ({found.missing} missing)" if found.missing else str(found.n)
        limits = "-" if found.sd is None else f"{_number(found.lower.value)} to {_number(found.upper.value)}"
        row = [name, n, found.unit or "1", _estimate(found.bias), _number(found.sd), limits]
        rows.append([*row, _estimate(found.coverage, 100, " %"), _number(found.median_radius)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    notes = ["predicted minus annotated; limits: bias ∓ 1.96 SD (Bland and Altman 1986); [95 % intervals over cases]"]
    return "\n".join([*(line.rstrip() for line in lines), "", *notes])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _estimate(estimate: Estimate, factor: float = 1.0, unit: str = "") -> str:
    if estimate.value is None:
        return "-"
    text = f"{_number(factor * estimate.value)}{unit}"
    if estimate.low is None or estimate.high is None:
        return f"{text} [-]"
    return f"{text} [{_number(factor * estimate.low)}, {_number(factor * estimate.high)}]"
