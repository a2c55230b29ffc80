"""Pictures of single points: the slices through the annotation, with annotation and prediction marked on them."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autolmk.geometry import FloatArray
from autolmk.image import Image

TILE, SEAM = 168, 4  # pixels: a slice's side, between slices
CONTEXT = 0.35  # least side of a tile, of the image's longest
AROUND = 2.6  # least side of a tile, of the distance between the marks
VIEWS = ("axial", "coronal", "sagittal")

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice. marks: (y, x) pixels of annotation and prediction, NaN where there is none."""

    grey: Grey
    marks: FloatArray
    view: str


def picture(image: Image, annotated: FloatArray, predicted: FloatArray, alternative: str) -> str:
    """SVG of a point (P,) of a canonical image, its first channel: cut around the annotation, with a ring there and a
    cross where the prediction lies (NaN: none). In 3D three slices, in radiological display."""
    voxels = image.geometry.to_voxels(np.stack([annotated, predicted]))
    spacing = np.array(image.geometry.spacing)
    low, high = window(image.array[0])
    size = np.array(image.geometry.shape) * spacing
    apart = np.linalg.norm((voxels[1] - voxels[0]) * spacing)
    side = float(min(max(CONTEXT * size.max(), AROUND * np.nan_to_num(apart)), size.max()))
    axes = range(3) if image.geometry.ndim == 3 else (None,)
    tiles = [_tile(image.array[0], spacing, voxels, axis, side, (low, high)) for axis in axes]
    return _drawn(tiles, alternative)


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
    spacing: FloatArray,
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
    step = pixel / spacing[kept]  # voxels a pixel, an axis
    centre = voxels[0, kept]
    where = [c + s * (np.arange(TILE) - (TILE - 1) / 2) for c, s in zip(centre, step, strict=True)]
    values = ndimage.map_coordinates(plane, np.meshgrid(*where, indexing="ij"), order=1, cval=shown[0])
    grey = np.round(255 * ((values - shown[0]) / (shown[1] - shown[0])).clip(0, 1)).astype(np.uint8)
    marks = (voxels[:, kept] - centre) / step + (TILE - 1) / 2
    if axis is not None and kept[0] == 0:
        grey, marks = grey[::-1], marks * [-1, 1] + [TILE - 1, 0]
    return Tile(grey, marks, "" if axis is None else VIEWS[axis])


def _drawn(tiles: list[Tile], alternative: str) -> str:
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
        if tile.view:
            ElementTree.SubElement(inner, "text", {"class": "view", "x": "4", "y": str(TILE - 6)}).text = tile.view
        for kind, (y, x) in zip(("annotated", "predicted"), tile.marks.tolist(), strict=True):
            if np.isfinite([y, x]).all():
                _mark(inner, kind, x + 0.5, y + 0.5)
    return ElementTree.tostring(root, encoding="unicode")


def _mark(parent: ElementTree.Element, kind: str, x: float, y: float) -> None:
    """A ring or a cross, dark under light, so that it shows on any grey."""
    ring = f"M{x - 7:.1f},{y:.1f}a7,7 0 1 0 14,0a7,7 0 1 0 -14,0"
    cross = f"M{x - 8:.1f},{y:.1f}h16M{x:.1f},{y - 8:.1f}v16"
    for layer in ("under", "over"):
        path = ring if kind == "annotated" else cross
        ElementTree.SubElement(parent, "path", {"class": f"{kind} {layer}", "d": path})
