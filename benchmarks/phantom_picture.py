"""Draws the README's picture from what `make demo` left: slices of test cases with true points and predictions.

python benchmarks/phantom_picture.py --folder demo_output --output documentation/images/phantom.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from autolmk import annotations
from autolmk.dataset import Dataset
from autolmk.landmarks import Landmarks, Status

NAMES = ("Nose_Tip", "Eye_L", "Ear_R", "Ventricle_L", "Pineal", "Basion")
CASES = 2


def main() -> None:
    """One row a case, one column a landmark, the canonical axial slice through the true point."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, default=Path("demo_output"))
    arguments.add_argument("--output", type=Path, default=Path("documentation/images/phantom.png"))
    args = arguments.parse_args()
    dataset = Dataset.open(args.folder / "raw" / "Dataset001_Phantom")
    predicted = annotations.read_table(args.folder / "predictions" / "landmarks.csv")
    figure, axes = plt.subplots(CASES, len(NAMES), figsize=(2 * len(NAMES), 2.15 * CASES), facecolor="black")
    for row, case in zip(axes, dataset.cases("Ts")[:CASES], strict=True):
        image = dataset.read_image(case)
        found = predicted[case.identifier]
        prediction = Landmarks(found.names, found.points, found.status)
        draw_case(row, image.canonical(), dataset.read_landmarks(case, image.geometry), prediction)
    figure.subplots_adjust(0.002, 0.005, 0.998, 0.93, 0.02, 0.12)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=80)


def draw_case(row, image, truth: Landmarks, prediction: Landmarks) -> None:  # type: ignore[no-untyped-def]
    """Green ring: truth; red cross: prediction, projected onto the slice; a landmark that is absent says so."""
    prediction = prediction.reordered(truth.names)
    for axis, name in zip(row, NAMES, strict=True):
        i = truth.names.index(name)
        here = truth if truth.present[i] else prediction
        centre = image.geometry.to_voxels(here.points[i]) if here.present[i] else [n / 2 for n in image.geometry.shape]
        axis.imshow(image.array[0, round(float(centre[0]))], cmap="gray", aspect="equal")
        for marks, style in ((truth, {"marker": "o", "mfc": "none", "mec": "lime", "ms": 11}), (prediction, CROSS)):
            if marks.present[i]:
                _, y, x = image.geometry.to_voxels(marks.points[i])
                axis.plot(x, y, linestyle="none", mew=1.3, **style)
        state = {Status.PRESENT: "", Status.ABSENT: " (absent)", Status.UNKNOWN: " (unknown)"}[Status(truth.status[i])]
        axis.set_title(name.replace("_", " ") + state, color="white", fontsize=9)
        axis.axis("off")


CROSS = {"marker": "+", "mec": "red", "ms": 10}

if __name__ == "__main__":
    main()
