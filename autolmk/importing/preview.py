"""A picture of one case with its points, so that a wrong frame or convention shows at a glance."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autolmk.dataset import Case, Dataset
from autolmk.files.serialization import write_bytes
from autolmk.geometry import FloatArray
from autolmk.image import Image

MOST_NAMED = 60  # points whose names are written beside them
RANGE = (1.0, 99.0)  # percentiles shown as black and white


def write_preview(dataset: Dataset, case: Case, file: Path) -> None:
    """Write a PNG of a case: the picture, or three slices through the middle of the points, which are all drawn."""
    image = dataset.read_image(case)
    landmarks = dataset.read_landmarks(case, image.geometry)
    voxels = image.geometry.to_voxels(landmarks.points[landmarks.present])
    panels = 1 if image.geometry.ndim == 2 else 3
    figure = Figure(figsize=(8.0 if panels == 1 else 15.0, 8.0 if panels == 1 else 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{case.identifier}: {len(voxels)} of {len(landmarks.names)} landmarks are present", parse_math=False
    )
    for panel, axes in enumerate(np.atleast_1d(figure.subplots(1, panels))):
        across = None if panels == 1 else panel
        _draw(axes, image, across, voxels, [n for n, p in zip(landmarks.names, landmarks.present, strict=True) if p])
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name that the font lacks is drawn as boxes
        figure.savefig(buffer, format="png", dpi=110)
    write_bytes(file, buffer.getvalue())


def _draw(axes: Axes, image: Image, across: int | None, voxels: FloatArray, names: list[str]) -> None:
    """across: array axis of a volume's slice; None for a picture."""
    shown, (rows, columns) = _slice(image, across, voxels)
    low, high = np.percentile(shown, RANGE)
    scaled = np.clip((shown - low) / max(high - low, 1e-12), 0, 1)
    spacing = image.geometry.spacing
    axes.imshow(scaled, cmap="gray", aspect=spacing[rows] / spacing[columns], interpolation="nearest")
    axes.plot(voxels[:, columns], voxels[:, rows], "o", color="#ffb000", markersize=4, markeredgecolor="black")
    for name, point in zip(names[:MOST_NAMED], voxels, strict=False):
        axes.annotate(
            name, (point[columns], point[rows]), xytext=(4, 4), textcoords="offset points", color="#ffb000", fontsize=7,
            parse_math=False,
        )  # fmt: skip
    if across is None:
        axes.set_title("first pixel at the upper left", fontsize=9)
    else:
        axes.set_title(
            f"slice {_middle(image, across, voxels)} across axis {'zyx'[across]} of the file; all points", fontsize=9
        )


def _slice(image: Image, across: int | None, voxels: FloatArray) -> tuple[FloatArray, tuple[int, int]]:
    """What is shown, (rows, columns) or (rows, columns, 3), and which array axes these are."""
    array = image.array
    if across is None:
        colour = len(array) == 3
        return (np.moveaxis(array, 0, -1) if colour else array[0]).astype(np.float64), (0, 1)
    rows, columns = (axis for axis in range(3) if axis != across)
    return np.take(array[0], _middle(image, across, voxels), axis=across).astype(np.float64), (rows, columns)


def _middle(image: Image, across: int, voxels: FloatArray) -> int:
    n = image.geometry.shape[across]
    middle = float(np.median(voxels[:, across])) if len(voxels) else n / 2
    return int(np.clip(round(middle), 0, n - 1))
