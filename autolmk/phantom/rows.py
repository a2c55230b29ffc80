"""A phantom of rows: photographs of a column of bodies that look alike, as vertebrae do, whole or in part.

Every body is a landmark. Which one it is, only the ends of the column tell (a head above, a sacrum below), an organ
beside it, and that bodies grow from the first to the last by a quarter. Columns are bent, stretched, turned by a few
degrees and moved; with `partial` an image shows half to four fifths of the length, anywhere along it, and the landmarks
beyond are absent.
"""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np

from autolmk.files.serialization import write_json
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.phantom.anatomy import Structure
from autolmk.phantom.phantom import NOISE, Phantom, _paint, _rotation, _Shape
from autolmk.progress_bars import tracked

STEP = 10.0  # px of the model between neighbours
WIDTH, ENDS = 64, 30.0  # px: of images; of the model above the first body and below the last one
SHOWN = (0.5, 0.8)  # of the length, in images that show a part
TURNED, MOVED = 4.0, 5.0  # degrees and px, at most
BENT, BENDS = 5.0, (0.7, 1.4)  # px by which a column bends at most; lengths of a bend, in lengths of the column


def make_row_phantom(seed: int, *, row: int, partial: bool = False) -> Phantom:
    """One case of a column of `row` bodies, a function of its arguments alone. partial: it shows a part of the
    length."""
    rng = np.random.default_rng([seed, row, 2])
    length = STEP * (row - 1) + 2 * ENDS
    shape = _column(rng, length)
    low, high = -length / 2, length / 2
    if partial:
        shown = rng.uniform(*SHOWN) * length
        low = rng.uniform(low, high - shown)
        high = low + shown
    geometry = Geometry.from_parts((round(high - low), WIDTH), (1.0, 1.0), [-(WIDTH - 1) / 2, low])
    voxels = np.stack(np.meshgrid(*[np.arange(float(n)) for n in geometry.shape], indexing="ij"), axis=-1)
    values = _paint(shape.to_model(geometry.to_physical(voxels)), structures(row))
    values = np.abs(values + rng.normal(0, NOISE, values.shape)) * rng.uniform(140, 190)
    points = shape.to_room(centres(row))
    inside = geometry.contains(geometry.to_voxels(points))
    status = np.where(inside, Status.PRESENT, Status.ABSENT)
    image = Image(np.round(values.clip(0, 255))[None].astype(np.float32), geometry)
    return Phantom(image, Landmarks(row_names(row), points, status))


def row_names(row: int) -> tuple[str, ...]:
    """The names of a row's landmarks, from the first body to the last."""
    return tuple(f"Body_{i + 1:02d}" for i in range(row))


def centres(row: int) -> FloatArray:
    """The bodies' centres, (row, 2) px of the model."""
    along = STEP * (np.arange(row) - (row - 1) / 2)
    return np.stack([np.zeros(row), along], axis=1)


def structures(row: int) -> list[Structure]:
    """The structures that are drawn: the flesh, both ends, an organ beside the column, and the bodies."""
    end = STEP * (row - 1) / 2
    bodies = [Structure((0.0, float(y)), (4 + i / max(row - 1, 1), 3.0), 1.0) for i, (_, y) in enumerate(centres(row))]
    return [
        Structure((0, 0), (27, inf), 0.3),
        Structure((0, -end - 18), (13, 12), 0.9),
        Structure((0, end + 15), (8, 9), 0.8),
        Structure((16, 0.2 * end), (5, 9), 0.6),
        *bodies,
    ]


def _column(rng: np.random.Generator, length: float) -> _Shape:
    """How a column lies: bent to the sides by two waves along it, stretched, turned and moved."""
    bends = length * rng.uniform(*BENDS, 2)
    return _Shape(
        inverse=np.diag(1 / rng.uniform(0.93, 1.07, 2)) @ _rotation(rng, 2, TURNED).T,
        shift=rng.uniform(-MOVED, MOVED, 2),
        waves=2 * np.pi / bends[:, None] * np.array([0.0, 1.0]),
        phases=rng.uniform(0, 2 * np.pi, 2),
        directions=np.outer(rng.uniform(0, BENT / 2, 2), [1.0, 0.0]),
    )


def write_row_phantom(
    folder: Path, *, row: int, partial: bool = False, n_train: int = 20, n_test: int = 8, seed: int = 0
) -> None:
    """Write a raw dataset of PNG and CSV into `folder`, errors in pixels; the same arguments give the same files."""
    from autolmk import annotations, imageio

    for split, first, cases in (("Tr", 0, n_train), ("Ts", n_train, n_test)):
        for i in tracked(range(first, first + cases), f"phantom {split}"):
            phantom = make_row_phantom(seed * 1_000_003 + i, row=row, partial=partial)
            case, marks = f"row_{i:03d}", phantom.landmarks
            pixels = phantom.image.geometry.to_voxels(marks.points)[:, ::-1]  # a PNG holds no origin
            imageio.write_image(folder / f"images{split}" / f"{case}_0000.png", phantom.image)
            annotations.write(
                folder / f"landmarks{split}" / f"{case}.csv", Landmarks(marks.names, pixels, marks.status), unit="px"
            )
    description = {
        "name": "Rows",
        "channel_names": {"0": "grey"},
        "landmarks": {name: {"index": i} for i, name in enumerate(row_names(row))},
        "numTraining": n_train,
        "file_ending": ".png",
    }
    write_json(folder / "dataset.json", description)
