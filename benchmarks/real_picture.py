"""Draws the README's picture of real data: heads of mice, with annotated and predicted points.

python benchmarks/real_picture.py --dataset RAW/Dataset001_mouse_ct_small --predictions PREDICTIONS

Each is shown as the brightest voxel along every ray from left to right. The cases are not picked by eye: of all that
are annotated, those whose mean error lies nearest to the 25th, 50th and 75th percentile. `benchmarks/real_data.py`
writes the dataset and the predictions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from autolmk import annotations
from autolmk.dataset import Case, Dataset
from autolmk.geometry import FloatArray, Geometry, round_length

PERCENTILES = (25, 50, 75)
ACROSS = 2  # the array axis to look along
SIDE, DPI = 3.2, 100  # inches of a panel
ROOM = 1.15  # of the points' extent, that is shown
BRIGHT, GAMMA = 99.9, 0.75  # percentile of a projection that is white
ANNOTATED = {"marker": "o", "mfc": "none", "mec": "lime", "ms": 11, "mew": 1.3}
PREDICTED = {"marker": "+", "mec": "red", "ms": 10, "mew": 1.3}


def main() -> None:
    """A panel a case."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--dataset", type=Path, required=True, help="the raw dataset, with annotated test cases")
    arguments.add_argument("--predictions", type=Path, required=True, help="of its imagesTs")
    arguments.add_argument("--output", type=Path, default=Path("documentation/images/mouse.png"))
    args = arguments.parse_args()
    dataset = Dataset.open(args.dataset)
    found = annotations.read_table(args.predictions / "landmarks.csv")
    marks: dict[str, tuple[FloatArray, FloatArray]] = {}
    cases: dict[str, Case] = {}
    for case in dataset.cases("Ts"):
        if case.annotation is not None and case.identifier in found:
            truth = dataset.read_landmarks(case, dataset.read_geometry(case))
            said = found[case.identifier]
            order = [said.names.index(name) for name in truth.names]
            cases[case.identifier], marks[case.identifier] = case, (truth.points, said.points[order])
    chosen = typical({name: float(np.nanmean(np.linalg.norm(a - b, axis=1))) for name, (a, b) in marks.items()})
    figure, axes = plt.subplots(1, len(chosen), figsize=(SIDE * len(chosen), SIDE), facecolor="black", squeeze=False)
    for panel, name in zip(axes[0], chosen, strict=True):
        image = dataset.read_image(cases[name]).canonical()
        draw(panel, image.array[0], image.geometry, marks[name])
    figure.subplots_adjust(0.002, 0.005, 0.998, 0.995, 0.01, 0)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=DPI)
    print(f"{args.output}: {', '.join(chosen)}")


def typical(errors: dict[str, float]) -> list[str]:
    """Cases at the percentiles of the mean error, each once."""
    wanted = np.percentile(list(errors.values()), PERCENTILES)
    return list(dict.fromkeys(min(errors, key=lambda name: abs(errors[name] - value)) for value in wanted))


def draw(axes: Axes, array: npt.NDArray[np.float32], geometry: Geometry, marks: tuple[FloatArray, FloatArray]) -> None:
    """One projection around the annotated points, superior up, with a scale bar."""
    rows, columns = (a for a in range(3) if a != ACROSS)
    shown = array.max(axis=ACROSS)
    spacing = np.array(geometry.spacing)[[rows, columns]]
    extent = (0, shown.shape[1] * spacing[1], 0, shown.shape[0] * spacing[0])
    low, high = np.percentile(shown, [5, BRIGHT])
    grey = ((shown - low) / (high - low)).clip(0, 1) ** GAMMA
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent, interpolation="bilinear")
    annotated, predicted = ((geometry.to_voxels(points)[:, [rows, columns]] + 0.5) * spacing for points in marks)
    axes.plot(annotated[:, 1], annotated[:, 0], linestyle="none", **ANNOTATED)  # type: ignore[arg-type]
    axes.plot(predicted[:, 1], predicted[:, 0], linestyle="none", **PREDICTED)  # type: ignore[arg-type]
    low_corner, high_corner = np.nanmin(annotated, axis=0), np.nanmax(annotated, axis=0)
    side, middle = ROOM * float((high_corner - low_corner).max()), (low_corner + high_corner) / 2
    bottom, left = middle - side / 2
    axes.set(xlim=(left, left + side), ylim=(bottom, bottom + side), facecolor="black")
    length, right = round_length(0.3 * side), left + 0.97 * side
    axes.plot([right - length, right], [bottom + 0.03 * side] * 2, color="white", linewidth=2)
    axes.text(right, bottom + 0.05 * side, f"{length:g} mm", color="white", fontsize=9, ha="right")
    axes.set_axis_off()


if __name__ == "__main__":
    main()
