"""Pictures of a prediction: for each landmark the slices through it, with a cross; for a 2D image all of them on it."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status

TILE = 160  # pixels
COLUMNS = 4  # landmarks side by side
DPI = 100
PRESENT, ABSENT = "#35e05a", "#ff7a3c"

Picture = npt.NDArray[np.float32]


def write_overlay(file: Path, image: Image, landmarks: Landmarks, best: FloatArray) -> None:
    """A PNG of one case. image: canonical, the first channel is shown. best: (L, P) mm; absent landmarks are
    marked at their best candidate, in another colour.

    In 3D a row of axial, coronal and sagittal slice a landmark, in radiological display. AutolmkError where the disk
    refuses.
    """
    grey = _grey(image.array[0])
    voxels = image.geometry.to_voxels(best)
    if image.geometry.ndim == 2:
        _write(file, grey, _marks_2d(landmarks, voxels), pixels=max(1.0, 800 / max(grey.shape)))
        return
    rows = -(-len(landmarks.names) // COLUMNS)
    canvas = np.zeros((rows * TILE, min(COLUMNS, len(landmarks.names)) * 3 * TILE), dtype=np.float32)
    marks = []
    for i, name in enumerate(landmarks.names):
        top, left = i // COLUMNS * TILE, i % COLUMNS * 3 * TILE
        colour = _colour(landmarks, i)
        if not np.isfinite(voxels[i]).all():
            marks.append(Mark(left + 4.0, top + 4.0, f"{name}: no candidate", colour, cross=False))
            continue
        for axis in range(3):
            tile, y, x = _slice(grey, image.geometry.spacing, voxels[i], axis)
            canvas[top : top + TILE, left + axis * TILE : left + (axis + 1) * TILE] = tile
            text = f"{name} {landmarks.likelihood[i]:.2f}" if axis == 0 else ""
            marks.append(Mark(left + axis * TILE + x, top + y, text, colour, cross=True, label=(left + 4.0, top + 4.0)))
    _write(file, canvas, marks, pixels=1.0)


class Mark:
    """A cross at pixel (x, y) and a text at `label`, by default beside it."""

    def __init__(
        self, x: float, y: float, text: str, colour: str, *, cross: bool, label: tuple[float, float] | None = None
    ) -> None:
        self.x, self.y, self.text, self.colour, self.cross = x, y, text, colour, cross
        self.label = label or (x + 2, y)


def _marks_2d(landmarks: Landmarks, voxels: FloatArray) -> list[Mark]:
    return [
        Mark(float(v[1]), float(v[0]), name, _colour(landmarks, i), cross=True)
        for i, (name, v) in enumerate(zip(landmarks.names, voxels, strict=True))
        if np.isfinite(v).all()
    ]


def _colour(landmarks: Landmarks, i: int) -> str:
    return PRESENT if landmarks.status[i] == Status.PRESENT else ABSENT


def _grey(channel: npt.NDArray[np.float32]) -> Picture:
    """To [0, 1], between the 1st and 99.5th percentile."""
    low, high = np.percentile(channel[tuple(slice(None, None, max(1, n // 64)) for n in channel.shape)], [1, 99.5])
    return np.asarray(((channel - low) / max(high - low, 1e-8)).clip(0, 1), dtype=np.float32)


def _slice(grey: Picture, spacing: tuple[float, ...], voxel: FloatArray, axis: int) -> tuple[Picture, float, float]:
    """The slice across `axis` through a voxel, on a square tile of even pixels, and the voxel's place (y, x) on it.

    Superior and anterior are up, the patient's left is on the right.
    """
    index = int(np.clip(np.round(voxel[axis]), 0, grey.shape[axis] - 1))
    plane: Picture = np.asarray(grey.take(index, axis=axis))
    rows, columns = (a for a in range(3) if a != axis)
    size = np.array([plane.shape[0] * spacing[rows], plane.shape[1] * spacing[columns]])
    pixel = size.max() / TILE  # mm
    centres = (np.arange(TILE) + 0.5) * pixel - (TILE * pixel - size)[:, None] / 2  # mm from the plane's edge, an axis
    where = [np.floor(c / s).astype(int) for c, s in zip(centres, (spacing[rows], spacing[columns]), strict=True)]
    inside = [(w >= 0) & (w < n) for w, n in zip(where, plane.shape, strict=True)]
    tile = plane[np.ix_(*(w.clip(0, n - 1) for w, n in zip(where, plane.shape, strict=True)))]
    tile = np.where(inside[0][:, None] & inside[1][None], tile, 0.0).astype(np.float32)
    at = (voxel[[rows, columns]] + 0.5) * np.array([spacing[rows], spacing[columns]])
    y, x = ((at + (TILE * pixel - size) / 2) / pixel - 0.5).tolist()
    if rows == 0:  # superior is up
        tile, y = tile[::-1], TILE - 1 - y
    return tile, float(y), float(x)


def _write(file: Path, picture: Picture, marks: list[Mark], *, pixels: float) -> None:
    """The picture enlarged by `pixels`, with marks, as PNG, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = picture.shape
    figure = Figure(figsize=(width * pixels / DPI, height * pixels / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    for mark in marks:
        if mark.cross:
            axes.plot([mark.x], [mark.y], "+", color=mark.colour, markersize=9, markeredgewidth=1)
        if mark.text:
            axes.text(*mark.label, mark.text, color=mark.colour, fontsize=7, va="top", clip_on=True, parse_math=False)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".writing_") as folder:
            temporary = Path(folder) / "picture.png"
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph")  # a letter that the font lacks is drawn as a box
                figure.savefig(temporary, format="png")
            os.replace(temporary, file)
    except OSError as error:
        raise AutolmkError(
            "a picture cannot be written",
            file=file,
            found=error.strerror or str(error),
            remedy="free disk space, or choose another folder",
        ) from None
