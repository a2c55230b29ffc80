"""Small DICOM files and series, with any tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from dicom_headers import _dicom
from pydicom.uid import ExplicitVRLittleEndian

BASE = {"Rows": 4, "Columns": 5, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "Modality": "CR",
        "PhotometricInterpretation": "MONOCHROME2"}  # fmt: skip
PIXELS = np.arange(20, dtype="<u2").reshape(4, 5)


def write(file: Path, pixels: np.ndarray = PIXELS, **tags: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_dicom(pixels, pixels.dtype.kind == "i", ExplicitVRLittleEndian, {**BASE, **tags}))
    return file


def series(folder: Path, n: int = 4, **tags: Any) -> Path:
    for k in range(n):
        place = {"ImagePositionPatient": [0, 0, 2.0 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        write(folder / f"IM{k}", PIXELS + k, **{"PixelSpacing": [0.5, 0.5], **place, **tags})
    return folder
