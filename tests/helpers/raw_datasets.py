"""Small raw datasets and predictions with points of every state, for tests of what leads out of autolmk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autolmk.annotations import write, write_table
from autolmk.files.serialization import write_json
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.imageio import write_image
from autolmk.landmarks import Landmarks, Status

NAMES = ("Nasion", "S 2", "ü-x")
WIDTH, HEIGHT, PIXEL = 40, 30, 0.25
TURN = np.deg2rad(20)
DIRECTION = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])[:, ::-1]
GRID = Geometry.from_parts((12, 14, 16), (2.0, 1.0, 0.5), (5.0, -6.0, 7.0), DIRECTION)
VOXELS = {  # x, y, z
    "a": np.array([[3.25, 4.5, 5.0], [10.0, 8.0, 2.5], [12.125, 11.0, 9.0]]),
    "b": np.array([[4.0, 5.0, 6.0], [9.0, 7.0, 3.5], [np.nan] * 3]),
}
PIXELS = {
    "a": np.array([[10.25, 5.5], [20.0, 8.75], [30.5, 20.0]]),
    "b": np.array([[11.0, 6.0], [21.5, 9.25], [np.nan] * 2]),
}


def marks(points: FloatArray, missing: Status = Status.UNKNOWN) -> Landmarks:
    """Of three points in mm, those without a position in this state."""
    status = np.where(np.isfinite(points).all(axis=1), Status.PRESENT, missing).astype(np.int8)
    return Landmarks(NAMES, points, status, np.array([0.9, 0.8, 0.3]), np.array([1.0, 2.0, np.nan]))


def volumes(folder: Path, voxels: Mapping[str, FloatArray] = VOXELS, missing: Status = Status.UNKNOWN) -> Path:
    """A raw dataset of oblique volumes, points in .mrk.json."""
    for seed, (case, points) in enumerate(voxels.items()):
        array = np.random.default_rng(seed).random((1, *GRID.shape)).astype(np.float32)
        (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
        (folder / "landmarksTr").mkdir(exist_ok=True)
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", Image(array, GRID))
        write(folder / "landmarksTr" / f"{case}.mrk.json", marks(GRID.to_physical(points[:, ::-1]), missing))
    names = {name: {"index": i} for i, name in enumerate(NAMES)}
    write_json(folder / "dataset.json", {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "landmarks": names})
    return folder


def pictures(
    folder: Path, pixels: Mapping[str, FloatArray] = PIXELS, missing: Status = Status.UNKNOWN, split: str = "Tr"
) -> Path:
    """A raw dataset of pictures whose pixels are PIXEL mm wide, points in landmarks.csv."""
    for seed, case in enumerate(pixels):
        array = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
        (folder / f"images{split}").mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"images{split}" / f"{case}_0000.png"))
    write_table(
        folder / f"landmarks{split}" / "landmarks.csv",
        {case: marks(points * PIXEL, missing) for case, points in pixels.items()},
    )
    content = {
        "channel_names": {"0": "photo"},
        "landmarks": {name: {"index": i} for i, name in enumerate(NAMES)},
        "spacing": [PIXEL, PIXEL],
        "file_ending": ".png",
    }
    write_json(folder / "dataset.json", content)
    return folder


def predictions(folder: Path, points: Mapping[str, FloatArray], unit: str = "mm") -> Path:
    """What autolmk_predict leaves of these points, in mm: landmarks.csv, CASE.mrk.json, run.json."""
    folder.mkdir(parents=True)
    found = {case: marks(mm, Status.ABSENT) for case, mm in points.items()}
    write_table(folder / "landmarks.csv", found)
    for case, landmarks in found.items():
        write(folder / f"{case}.mrk.json", landmarks, unit=unit)
    write_json(folder / "run.json", {"unit": unit})
    return folder
