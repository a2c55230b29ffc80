"""Images from files: NIfTI, NRRD, MHA, DICOM series, PNG, TIFF and JPEG, through SimpleITK.

Whatever cannot be read faithfully is an AutolmkError: ITK itself fills the missing part of a truncated NIfTI or JPEG
file, spreads unevenly spaced slices evenly and drops damaged slices, with a warning on the console at most.
"""

from __future__ import annotations

from autolmk.imageio.files import (
    DICOM,
    ENDINGS,
    SIZELESS,
    check_channels,
    ending_of,
    list_cases,
    list_mixed_cases,
    split_name,
)
from autolmk.imageio.notices import Notice, notice, noticed
from autolmk.imageio.reading import has_physical_size, metadata, read_geometry, read_image, squeeze
from autolmk.imageio.writing import write_image

__all__ = [
    "DICOM",
    "ENDINGS",
    "SIZELESS",
    "Notice",
    "check_channels",
    "ending_of",
    "has_physical_size",
    "list_cases",
    "list_mixed_cases",
    "metadata",
    "notice",
    "noticed",
    "read_geometry",
    "read_image",
    "split_name",
    "squeeze",
    "write_image",
]
