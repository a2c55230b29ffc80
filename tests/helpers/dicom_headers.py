"""Generated DICOM files, consistent and contradictory, written by pydicom, with what must come of them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy.spatial.transform import Rotation

from autolmk import imageio
from autolmk.errors import AutolmkError

REASONS = {
    "gap": "not evenly spaced",
    "twice": "several are at one place",
    "tilt": "tilted gantry",
    "size": "differ in size, spacing",
    "turned": "differ in size, spacing",
    "missing": "do not say where they are",
    "nonsense": "makes no sense",
}


@dataclass(frozen=True)
class Header:
    """files: name -> bytes, in a folder or, if there is one, by itself. places: (F, 4, 3) LPS mm of the corners of each
    frame as it lies in space, sorted; values: (F, rows, columns). expected: "read" or a key of `REASONS`."""

    files: dict[str, bytes]
    places: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    expected: str
    sized: bool
    ending: str = ""


def headers(seed: int, n: int) -> list[Header]:
    """`n` different ones."""
    return [_header(Random(f"{seed}-{i}")) for i in range(n)]


def check(header: Header, file: Path) -> str:
    """ "read" or why it was refused. AssertionError where that is not as it must be, or a position is 1e-6 mm off."""
    place = file.with_name("series")
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    for name, data in header.files.items():
        (place / name).write_bytes(data)
    source = place if len(header.files) > 1 else place / next(iter(header.files))
    try:
        with imageio.noticed():
            image = imageio.read_image([source])
            sized = imageio.has_physical_size(source)
    except AutolmkError as error:
        assert header.expected != "read" and REASONS[header.expected] in str(error), (header.expected, str(error))
        return header.expected
    assert header.expected == "read", (header.expected, "was read")
    assert sized == header.sized
    f, h, w = image.geometry.shape
    corners = np.array([[[k, y, x] for y in (0, h - 1) for x in (0, w - 1)] for k in range(f)], dtype=float)
    found = image.geometry.to_physical(corners)
    if header.sized:
        assert np.abs(found - header.places).max() <= 1e-6, (found[0], header.places[0])
    np.testing.assert_allclose(image.array[0], header.values, rtol=1e-6)
    return "read"


def _header(random: Random) -> Header:
    kind = random.choice(("series", "series", "enhanced", "radiograph"))
    rows, columns = random.randint(3, 7), random.randint(3, 7)
    count = 1 if kind == "radiograph" else random.randint(3, 6)
    angles = [random.choice((0, 90, 180)) + random.choice((0, random.uniform(-30, 30))) for _ in range(3)]
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    along_row, along_column, normal = (np.round(a, 9) for a in axes.T)
    size = (random.choice((0.1, 0.35, 0.7)), random.choice((0.1, 0.35, 0.7)))
    distance, start = random.choice((0.6, 1.25, 5.0)), np.array([random.uniform(-100, 100) for _ in range(3)]).round(4)
    fault = random.choice(("", "", "", *REASONS)) if kind != "radiograph" else random.choice(("", "", "nonsense"))
    positions = np.array([start + k * distance * normal for k in range(count)])
    if fault == "gap":
        positions[count // 2 :] += distance * normal
    elif fault == "twice":
        positions[1] = positions[0]
    elif fault == "tilt":
        positions += np.arange(count)[:, None] * 0.3 * distance * along_column
    positions = positions.round(9)
    signed = [random.random() < 0.4 for _ in range(count)]
    slopes = [(random.choice((1.0, 0.5, 2.0)), random.choice((0.0, -1024.0, 10.0))) for _ in range(count)]
    if kind == "enhanced":
        signed = [signed[0]] * count
    inverted = random.random() < 0.2
    stored = [_pixels(random, s, rows, columns) for s in signed]
    values = []
    for pixels, s, (slope, intercept) in zip(stored, signed, slopes, strict=True):
        real = (-1 if s else 4095) - pixels.astype(float) if inverted else pixels.astype(float)
        values.append(real * slope + intercept)
    orientation = [*along_row, *along_column]
    base = {
        "Rows": rows, "Columns": columns, "Modality": "CT", "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11,
        "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
        "SliceThickness": distance * random.choice((1, 2)),
    }  # fmt: skip
    files: dict[str, bytes] = {}
    syntax = random.choice((ExplicitVRLittleEndian, ImplicitVRLittleEndian))
    sized = True
    if kind == "radiograph":
        tags, sized = _radiograph(random, size, fault)
        size = tags.pop("_size", size)
        tags |= {"RescaleSlope": slopes[0][0], "RescaleIntercept": slopes[0][1]}
        files["a.dcm"] = _dicom(stored[0], signed[0], syntax, {**base, **tags})
        positions, along_row, along_column = np.zeros((1, 3)), np.array([1.0, 0, 0]), np.array([0.0, 1, 0])
    elif kind == "series":
        for k in random.sample(range(count), count):
            tags = {"PixelSpacing": list(size), "ImagePositionPatient": positions[k].tolist()}
            tags |= {"ImageOrientationPatient": orientation, "InstanceNumber": random.randint(1, 99)}
            tags |= {"RescaleSlope": slopes[k][0], "RescaleIntercept": slopes[k][1]}
            if k == 1:
                tags |= _odd_slice(fault, size, orientation)
            files[f"IM{random.randint(0, 10**9)}"] = _dicom(stored[k], signed[k], syntax, {**base, **tags})
    else:
        order = random.sample(range(count), count)
        frames = []
        for k in order:
            frame = _frame(positions[k], slopes[k], orientation, size, fault if k == 1 else "")
            frames.append(frame)
        tags = {"SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": count}
        tags["PerFrameFunctionalGroupsSequence"] = Sequence(frames)
        files["a.dcm"] = _dicom(np.stack([stored[k] for k in order]), signed[0], syntax, {**base, **tags})
    if fault == "tilt" and kind == "radiograph":
        fault = ""
    offsets = [y * size[0] * along_column + x * size[1] * along_row for y in (0, rows - 1) for x in (0, columns - 1)]
    places = positions[:, None] + np.array(offsets)[None]
    return Header(files, places, np.array(values), fault or "read", sized)


def _radiograph(random: Random, size: tuple[float, float], fault: str) -> tuple[dict[str, Any], bool]:
    """Tags of the size of pixels, and whether they say it."""
    other = [round(size[0] * 1.4, 6), round(size[1] * 1.4, 6)]
    if fault == "nonsense":
        return {"PixelSpacing": random.choice(([0.0, 0.1], [-0.1, 0.1], [0.1], [0.1, 0.1, 0.1]))}, True
    return random.choice(
        (
            ({"PixelSpacing": list(size)}, True),
            ({"ImagerPixelSpacing": list(size)}, True),
            ({"NominalScannedPixelSpacing": list(size)}, True),
            ({"PixelSpacing": list(size), "ImagerPixelSpacing": other}, True),
            ({"ImagerPixelSpacing": list(size), "NominalScannedPixelSpacing": other}, True),
            ({"PixelSpacing": None, "ImagerPixelSpacing": list(size)}, True),
            ({}, False),
            ({"PixelAspectRatio": [2, 1]}, False),
        )
    )


def _odd_slice(fault: str, size: tuple[float, float], orientation: list[float]) -> dict[str, Any]:
    return {
        "size": {"PixelSpacing": [round(size[0] * 1.1, 6), size[1]]},
        "turned": {"ImageOrientationPatient": [*orientation[3:], *orientation[:3]]},
        "missing": {"ImagePositionPatient": None},
        "nonsense": {"ImagePositionPatient": [0.0, 1.0]},
    }.get(fault, {})


def _pixels(random: Random, signed: bool, rows: int, columns: int) -> npt.NDArray[Any]:
    values = [random.randint(-200 if signed else 0, 2000) for _ in range(rows * columns)]
    return np.array(values, "<i2" if signed else "<u2").reshape(rows, columns)


def _frame(
    position: npt.NDArray[np.float64],
    slope: tuple[float, float],
    orientation: list[float],
    size: tuple[float, float],
    fault: str,
) -> Dataset:
    tags = {
        "PixelSpacing": list(size),
        "ImageOrientationPatient": orientation,
        "ImagePositionPatient": position.tolist(),
        **_odd_slice(fault, size, orientation),
    }
    groups = {
        "PixelMeasuresSequence": "PixelSpacing",
        "PlanePositionSequence": "ImagePositionPatient",
        "PlaneOrientationSequence": "ImageOrientationPatient",
    }
    frame = Dataset()
    for group, tag in groups.items():
        item = Dataset()
        setattr(item, tag, tags[tag])
        setattr(frame, group, Sequence([item]))
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept = slope
    frame.PixelValueTransformationSequence = Sequence([item])
    return frame


def _dicom(pixels: npt.NDArray[Any], signed: bool, syntax: str, tags: dict[str, Any]) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, pydicom.uid.generate_uid(None)
    meta.TransferSyntaxUID = syntax
    d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID, d.SeriesInstanceUID, d.StudyInstanceUID = CTImageStorage, "1.2.3", "1.2.4", "1.2.5"
    d.SamplesPerPixel, d.PixelRepresentation = 1, int(signed)
    for key, value in tags.items():
        setattr(d, key, value)
    d.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    d.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
