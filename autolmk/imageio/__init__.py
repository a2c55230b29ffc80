"""Images from files: NIfTI, NRRD, MHA, DICOM series, PNG, TIFF and JPEG, through SimpleITK.

Whatever cannot be read faithfully is an AutolmkError: ITK itself fills the missing part of a truncated NIfTI or JPEG
file, spreads unevenly spaced slices evenly and drops damaged slices, with a warning on the console at most.
"""

from __future__ import annotations

from autolmk.imageio.channels import as_channels, require_contrast
from autolmk.imageio.files import (
    DICOM,
    ENDINGS,
    SIZELESS,
    check_channels,
    ending_of,
    list_cases,
    list_mixed_cases,
    others_in,
    same_format,
    split_name,
    stem_of,
)
from autolmk.imageio.foreign import conversion, conversion_in
from autolmk.imageio.notices import Notice, notice, noticed
from autolmk.imageio.reading import calibration, has_physical_size, metadata, read_geometry, read_image, squeeze
from autolmk.imageio.volumes import data_files, files_of
from autolmk.imageio.writing import write_image

__all__ = [
    "DICOM",
    "ENDINGS",
    "SIZELESS",
    "Notice",
    "as_channels",
    "calibration",
    "check_channels",
    "conversion",
    "conversion_in",
    "data_files",
    "ending_of",
    "files_of",
    "has_physical_size",
    "list_cases",
    "list_mixed_cases",
    "metadata",
    "notice",
    "noticed",
    "others_in",
    "read_geometry",
    "read_image",
    "require_contrast",
    "same_format",
    "split_name",
    "squeeze",
    "stem_of",
    "write_image",
]
