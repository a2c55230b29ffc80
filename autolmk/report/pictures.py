"""Pictures of single points: the slices through the annotation, with annotation and prediction marked on them.

Every slice has a scale bar, and letters of the directions at its edges (R, L, A, P, I, S) where the image tells them.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autolmk.geometry import FloatArray, Geometry, round_length
from autolmk.image import Image

TILE, SEAM = 168, 4  # pixels: a slice's side, between slices
CONTEXT = 0.35  # least side of a tile, of the image's longest
AROUND = 2.6  # least side of a tile, of the distance between the marks
VIEWS = ("axial", "coronal", "sagittal")
BAR = 0.3  # of a tile's side: a scale bar, at most
EDGE, FONT = 4, 11  # pixels: between a tile's edge and what is written, a letter's height

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice. marks: (y, x) pixels of annotation and prediction, NaN where there is none. sides: letters of the
    directions at its top, bottom, left and right, empty where the image tells none."""

    grey: Grey
    marks: FloatArray
    view: str
    sides: tuple[str, str, str, str]


def picture(image: Image, annotated: FloatArray, predicted: FloatArray, alternative: str, *, unit: str = "mm") -> str:
    """SVG of a point (P,) of a canonical image, its first channel: cut around the annotation, with a ring there and a
    cross where the prediction lies (NaN: none). In 3D three slices, in radiological display. unit: mm or px."""
    geometry = image.geometry
    voxels = geometry.to_voxels(np.stack([annotated, predicted]))
    spacing = np.array(geometry.spacing)
    low, high = window(image.array[0])
    size = np.array(geometry.shape) * spacing
    apart = np.linalg.norm((voxels[1] - voxels[0]) * spacing)
    side = float(min(max(CONTEXT * size.max(), AROUND * np.nan_to_num(apart)), size.max()))
    axes = range(3) if geometry.ndim == 3 else (None,)
    tiles = [_tile(image.array[0], geometry, voxels, axis, side, (low, high)) for axis in axes]
    return _drawn(tiles, alternative, round_length(BAR * side), unit, TILE / side)


def window(channel: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Intensities that are shown black and white: the 1st and 99.5th percentile."""
    some = channel[tuple(slice(None, None, max(1, n // 64)) for n in channel.shape)]
    low, high = np.percentile(some, [1, 99.5])
    return float(low), float(max(high, low + 1e-8))


def png(grey: Grey) -> bytes:
    """An 8-bit grey PNG (ISO/IEC 15948), each row the difference from the one above, which compresses well."""
    height, width = grey.shape
    above = np.vstack([np.zeros((1, width), dtype=np.uint8), grey[:-1]])
    rows = np.hstack([np.full((height, 1), 2, dtype=np.uint8), grey - above])  # 2: filter "up", modulo 256

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def _tile(
    channel: npt.NDArray[np.float32],
    geometry: Geometry,
    voxels: FloatArray,
    axis: int | None,
    side: float,
    shown: tuple[float, float],
) -> Tile:
    """Across an axis, or of a plane image; superior is up."""
    kept = [a for a in range(channel.ndim) if a != axis]
    plane: npt.NDArray[np.float32] = channel
    if axis is not None:
        index = int(np.clip(np.round(voxels[0, axis]), 0, channel.shape[axis] - 1))
        plane = np.asarray(channel.take(index, axis=axis))
    pixel = side / TILE
    step = pixel / np.array(geometry.spacing)[kept]  # voxels a pixel, an axis
    centre = voxels[0, kept]
    where = [c + s * (np.arange(TILE) - (TILE - 1) / 2) for c, s in zip(centre, step, strict=True)]
    values = ndimage.map_coordinates(plane, np.meshgrid(*where, indexing="ij"), order=1, cval=shown[0])
    grey = np.round(255 * ((values - shown[0]) / (shown[1] - shown[0])).clip(0, 1)).astype(np.uint8)
    marks = (voxels[:, kept] - centre) / step + (TILE - 1) / 2
    down, across = (geometry.sides(a) for a in kept)
    if geometry.physical_ndim == 3 and geometry.array_axis(2) == kept[0]:
        grey, marks, down = grey[::-1], marks * [-1, 1] + [TILE - 1, 0], (down[1], down[0])
    return Tile(grey, marks, "" if axis is None else VIEWS[axis], (*down, *across))


def _drawn(tiles: list[Tile], alternative: str, bar: float, unit: str, per_unit: float) -> str:
    """bar: its length in `unit`, of which one is `per_unit` pixels."""
    width = len(tiles) * TILE + (len(tiles) - 1) * SEAM
    root = ElementTree.Element(
        "svg", {"class": "picture", "viewBox": f"0 0 {width} {TILE}", "role": "img", "aria-label": alternative}
    )
    ElementTree.SubElement(root, "title").text = alternative
    for i, tile in enumerate(tiles):
        frame = {"x": str(i * (TILE + SEAM)), "y": "0", "width": str(TILE), "height": str(TILE)}
        inner = ElementTree.SubElement(root, "svg", {**frame, "viewBox": f"0 0 {TILE} {TILE}"})
        data = "data:image/png;base64," + base64.b64encode(png(np.ascontiguousarray(tile.grey))).decode()
        ElementTree.SubElement(inner, "image", {"href": data, "width": str(TILE), "height": str(TILE)})
        _label(inner, tile.view, EDGE, TILE - 6, "start")
        _sides(inner, tile.sides)
        _scale(inner, bar * per_unit, f"{bar:g} {unit}")
        for kind, (y, x) in zip(("annotated", "predicted"), tile.marks.tolist(), strict=True):
            if np.isfinite([y, x]).all():
                _mark(inner, kind, x + 0.5, y + 0.5)
    return ElementTree.tostring(root, encoding="unicode")


def _label(parent: ElementTree.Element, text: str, x: float, y: float, anchor: str) -> None:
    """(x, y): of the middle, start or end of its base line."""
    if text:
        place = {"class": "view", "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
        ElementTree.SubElement(parent, "text", place).text = text


def _sides(parent: ElementTree.Element, sides: tuple[str, str, str, str]) -> None:
    """Letters at the top, bottom, left and right."""
    middle = TILE / 2
    top, bottom, left, right = sides
    _label(parent, top, middle, EDGE + FONT - 2, "middle")
    _label(parent, bottom, middle, TILE - 6, "middle")
    _label(parent, left, EDGE, middle + EDGE, "start")
    _label(parent, right, TILE - EDGE, middle + EDGE, "end")


def _scale(parent: ElementTree.Element, length: float, text: str) -> None:
    """A bar of so many pixels at the lower right, its length above it."""
    for layer in ("under", "over"):
        path = f"M{TILE - EDGE - length:.1f},{TILE - 7}h{length:.1f}"
        ElementTree.SubElement(parent, "path", {"class": f"scale {layer}", "d": path})
    _label(parent, text, TILE - EDGE, TILE - 12, "end")


def _mark(parent: ElementTree.Element, kind: str, x: float, y: float) -> None:
    """A ring or a cross, dark under light, so that it shows on any grey."""
    ring = f"M{x - 7:.1f},{y:.1f}a7,7 0 1 0 14,0a7,7 0 1 0 -14,0"
    cross = f"M{x - 8:.1f},{y:.1f}h16M{x:.1f},{y - 8:.1f}v16"
    for layer in ("under", "over"):
        path = ring if kind == "annotated" else cross
        ElementTree.SubElement(parent, "path", {"class": f"{kind} {layer}", "d": path})
