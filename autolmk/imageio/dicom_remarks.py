"""Remarks on what is odd about a DICOM header that can be read all the same: tables, polarity, and slices that
disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autolmk.errors import some
from autolmk.imageio.notices import notice

RADIOGRAPHS = ("CR", "DX", "IO", "MG", "PX")
ONE_SERIES = ("PatientID", "FrameOfReferenceUID", "Modality", "RescaleType", "Units")  # one value each


def remark(header: Any, file: Path) -> None:
    """Notice tables of values that are not applied, and what contradicts the polarity."""
    if header.get("ModalityLUTSequence"):
        found, remedy = "ModalityLUTSequence", "nothing, if stored values do as well: the table is not applied"
        notice("an image has a table that changes its values", file, found=found, remedy=remedy)
    shape, inverted = str(header.get("PresentationLUTShape") or "").strip().upper(), _inverted(header)
    if shape in ("INVERSE", "IDENTITY") and inverted != (shape == "INVERSE"):
        notice(
            "an image contradicts itself in what is bright",
            file,
            found=f"PhotometricInterpretation {header.get('PhotometricInterpretation')}, PresentationLUTShape {shape}",
            expected="INVERSE with MONOCHROME1, IDENTITY with MONOCHROME2 (DICOM PS3.3 C.8.11.1)",
            remedy="look whether dense tissue is bright, as in the other images: PhotometricInterpretation counts",
        )
    sign = str(header.get("PixelIntensityRelationshipSign") or "").strip()
    if sign in ("1", "-1") and str(header.get("Modality")) in RADIOGRAPHS and inverted != (sign == "1"):
        notice(
            "dense tissue is dark in a radiograph",
            file,
            found=f"PixelIntensityRelationshipSign {sign}, {header.get('PhotometricInterpretation')}",
            remedy="nothing, if it is so in all images of the dataset; else invert this one",
        )


def remark_on_series(headers: Mapping[Path, Any], folder: Path) -> None:
    """Notice where the slices of a series disagree in what all slices share."""
    for tag in ONE_SERIES:
        values = dict.fromkeys(str(header.get(tag) or "").strip() for header in headers.values())
        values.pop("", None)
        if len(values) > 1:
            notice(
                "the slices of a series disagree",
                folder,
                found=f"{tag} {some(list(values))}",
                expected="one value",
                remedy="look whether they belong to one image of one patient",
            )


def _inverted(header: Any) -> bool:
    return str(header.get("PhotometricInterpretation") or "").strip().upper() == "MONOCHROME1"
