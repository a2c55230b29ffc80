"""Pictures of a prediction: for each landmark the slices through it, with a cross; for a 2D image all of them on it.

The case stands on top; each landmark's name, status and likelihood stand over its slices, or beside the image. A scale
bar, and letters of the patient's sides where the image tells them, stand on the first row of slices, or on the image.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.files.atomic import replacing
from autolmk.geometry import FloatArray, Geometry, round_length
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status

TILE = 160  # pixels
TITLE, HEADING, GAP, SEAM = 28, 18, 12, 2  # pixels: the case on top, a line of text, between landmarks, slices
COLUMNS = 3  # landmarks side by side
LIST = 360  # pixels: the width of the list beside a 2D image
LARGEST = 800  # pixels of a 2D image's longer side
LONGEST = 30  # letters of a name; its middle is left out beyond
BAR, BAR_HEIGHT = 0.3, 2  # of a picture's width, at most; pixels: a scale bar
DPI = 100
LARGE, SMALL = 11, 9  # points
WHITE, PRESENT, ABSENT, UNKNOWN = "#ffffff", "#35e05a", "#ff7a3c", "#c8c8c8"
VIEWS = ("axial", "coronal", "sagittal")

Picture = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Caption:
    """Starting at pixel (x, y), its middle line; size: points."""

    x: float
    y: float
    text: str
    colour: str
    size: float = SMALL


@dataclass(frozen=True)
class Cross:
    """A cross at pixel (x, y), with a name beside it where it has one."""

    x: float
    y: float
    colour: str
    name: str = ""


def write_overlay(
    file: Path, case: str, image: Image, landmarks: Landmarks, best: FloatArray, *, unit: str = "mm"
) -> None:
    """A PNG of one case. image: canonical, the first channel is shown. best: (L, P) mm; absent landmarks are
    marked at their best candidate, in another colour. unit: mm or px.

    In 3D axial, coronal and sagittal slice of each landmark, in radiological display. AutolmkError where the disk
    refuses.
    """
    grey = _grey(image.array[0])
    voxels = image.geometry.to_voxels(best)
    draw = _plane if image.geometry.ndim == 2 else _volume
    canvas, texts, crosses = draw(grey, image.geometry.spacing, landmarks, voxels)
    orient = _orient_plane if image.geometry.ndim == 2 else _orient_volume
    texts += orient(canvas, image.geometry, voxels, unit)
    shown = sum(bool(s == Status.PRESENT) for s in landmarks.status)
    letters = max(LONGEST, (canvas.shape[1] - LIST) // LARGE)
    title = f"{_short(case, letters)}   {shown} of {len(landmarks.names)} landmarks present"
    _write(file, canvas, [Caption(GAP, TITLE / 2, title, WHITE, LARGE), *texts], crosses)


Drawing = tuple[Picture, list[Caption], list[Cross]]


def _volume(grey: Picture, spacing: tuple[float, ...], landmarks: Landmarks, voxels: FloatArray) -> Drawing:
    """Three slices a landmark, `COLUMNS` landmarks side by side, each under a heading."""
    columns = min(COLUMNS, len(landmarks.names))
    rows = -(-len(landmarks.names) // COLUMNS)
    height, width = HEADING + TILE + GAP, 3 * TILE + 2 * SEAM + GAP
    canvas = np.zeros((TITLE + rows * height, GAP + columns * width), dtype=np.float32)
    texts, crosses = [], []
    for i in range(len(landmarks.names)):
        top, left = TITLE + i // COLUMNS * height, GAP + i % COLUMNS * width
        colour, heading = _colour(landmarks, i), _heading(landmarks, i)
        if not np.isfinite(voxels[i]).all():
            texts.append(Caption(left, top + HEADING / 2, f"{heading}, no candidate", colour))
            continue
        texts.append(Caption(left, top + HEADING / 2, heading, colour))
        for axis, view in enumerate(VIEWS):
            tile, y, x = _slice(grey, spacing, voxels[i], axis)
            corner, edge = top + HEADING, left + axis * (TILE + SEAM)
            canvas[corner : corner + TILE, edge : edge + TILE] = tile
            crosses.append(Cross(edge + x, corner + y, colour))
            if i < COLUMNS:
                texts.append(Caption(edge + 3, corner + TILE - 8, view, UNKNOWN, SMALL - 2))
    return canvas, texts, crosses


def _plane(grey: Picture, spacing: tuple[float, ...], landmarks: Landmarks, voxels: FloatArray) -> Drawing:
    """The image with all landmarks, in their physical proportions, and the list of them on its right."""
    size = np.array(grey.shape) * spacing
    pixels = np.maximum(1, np.round(size / size.max() * LARGEST)).astype(int)
    per_voxel = pixels / np.array(grey.shape)
    where = [
        np.minimum((np.arange(n) / f).astype(int), m - 1) for n, f, m in zip(pixels, per_voxel, grey.shape, strict=True)
    ]
    height = max(int(pixels[0]), HEADING * len(landmarks.names) + GAP)
    canvas = np.zeros((TITLE + height, int(pixels[1]) + LIST), dtype=np.float32)
    canvas[TITLE : TITLE + pixels[0], : pixels[1]] = grey[np.ix_(*where)]
    texts, crosses = [], []
    for i, name in enumerate(landmarks.names):
        colour, heading = _colour(landmarks, i), _heading(landmarks, i)
        found = bool(np.isfinite(voxels[i]).all())
        place = float(pixels[1]) + GAP, TITLE + (i + 0.5) * HEADING
        texts.append(Caption(*place, heading if found else f"{heading}, no candidate", colour))
        if found:
            y, x = ((voxels[i] + 0.5) * per_voxel - 0.5).tolist()
            crosses.append(Cross(x, TITLE + y, colour, _short(name)))
    return canvas, texts, crosses


@dataclass(frozen=True)
class Panel:
    """A slice on the picture: its upper left pixel and its sides in pixels. per_unit: pixels a mm, or a px."""

    top: float
    left: float
    height: float
    width: float
    per_unit: float


def _orient_volume(canvas: Picture, geometry: Geometry, voxels: FloatArray, unit: str) -> list[Caption]:
    """On the slices of the first row, which those below are like."""
    texts = []
    size = np.array(geometry.extent)
    for i in np.flatnonzero(np.isfinite(voxels[:COLUMNS]).all(axis=1)):
        for axis in range(3):
            rows, columns = (a for a in range(3) if a != axis)
            left = GAP + int(i) * (3 * TILE + 2 * SEAM + GAP) + axis * (TILE + SEAM)
            frame = Panel(TITLE + HEADING, left, TILE, TILE, TILE / float(max(size[rows], size[columns])))
            first, last = geometry.sides(rows)
            top, bottom = (last, first) if rows == 0 else (first, last)  # superior is up
            texts += _oriented(canvas, frame, (top, bottom, *geometry.sides(columns)), unit)
    return texts


def _orient_plane(canvas: Picture, geometry: Geometry, _: FloatArray, unit: str) -> list[Caption]:
    size = np.array(geometry.extent)
    height, width = np.maximum(1, np.round(size / size.max() * LARGEST)).astype(int).tolist()
    frame = Panel(TITLE, 0, height, width, width / float(size[1]))
    return _oriented(canvas, frame, (*geometry.sides(0), *geometry.sides(1)), unit)


def _oriented(canvas: Picture, frame: Panel, sides: tuple[str, str, str, str], unit: str) -> list[Caption]:
    """Captions of the letters at the top, bottom, left and right, and of a scale bar, which is drawn."""
    top, bottom, left, right = sides
    middle, centre, letter = frame.top + frame.height / 2, frame.left + frame.width / 2 - 3, SMALL + 2
    places = [
        Caption(centre, frame.top + letter / 2 + 2, top, WHITE),
        Caption(centre, frame.top + frame.height - 8, bottom, WHITE),
        Caption(frame.left + 3, middle, left, WHITE),
        Caption(frame.left + frame.width - letter * max(1, len(right)), middle, right, WHITE),
    ]
    length = round_length(BAR * frame.width / frame.per_unit)
    pixels = max(1, round(length * frame.per_unit))
    end, low = int(frame.left + frame.width) - 4, int(frame.top + frame.height) - 5
    canvas[low - 1 : low + BAR_HEIGHT + 1, end - pixels - 1 : end + 1] = 0.0
    canvas[low : low + BAR_HEIGHT, end - pixels : end] = 1.0
    said = f"{length:g} {unit}"
    places.append(Caption(end - max(pixels, 7 * len(said)), low - 8, said, WHITE, SMALL - 1))
    return [place for place in places if place.text]


def _heading(landmarks: Landmarks, i: int) -> str:
    """Name, status and likelihood, where it is known."""
    status, likelihood = Status(landmarks.status[i]).name.lower(), float(landmarks.likelihood[i])
    return f"{_short(landmarks.names[i])}: {status}" + (
        f", {100 * likelihood:.0f} %" if np.isfinite(likelihood) else ""
    )


def _short(text: str, longest: int = LONGEST) -> str:
    """The text, its middle left out where it is longer."""
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def _colour(landmarks: Landmarks, i: int) -> str:
    return {Status.PRESENT: PRESENT, Status.ABSENT: ABSENT}.get(Status(landmarks.status[i]), UNKNOWN)


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


def _write(file: Path, picture: Picture, texts: list[Caption], crosses: list[Cross]) -> None:
    """As PNG, a pixel each, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    height, width = picture.shape
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    outline = [withStroke(linewidth=2.5, foreground="black")]
    style: dict[str, Any] = {"path_effects": outline, "clip_on": True, "parse_math": False, "va": "center"}
    for cross in crosses:
        x, y = [cross.x], [cross.y]
        axes.plot(x, y, "+", color=cross.colour, markersize=10, markeredgewidth=1.2, path_effects=outline)
        if cross.name:
            beyond = cross.x > width - LIST - 8 * len(cross.name)  # or it would be written over the list
            side, place = ("right", cross.x - 6) if beyond else ("left", cross.x + 6)
            axes.text(place, cross.y - 6, cross.name, color=cross.colour, fontsize=SMALL, ha=side, **style)
    for text in texts:
        axes.text(text.x, text.y, text.text, color=text.colour, fontsize=text.size, **style)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    try:
        with replacing(file) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a letter that the font lacks is drawn as a box
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise AutolmkError(
            "a picture cannot be written",
            file=file,
            found=error.strerror or str(error),
            remedy="free disk space, or choose another folder",
        ) from None
