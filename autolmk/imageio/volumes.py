"""NIfTI, NRRD and MetaImage: what a header says of a volume's grid."""

from __future__ import annotations

from pathlib import Path

from autolmk.imageio import integrity
from autolmk.imageio.itk import Source, geometry_of, header


def inspect(file: Path, ending: str) -> Source:
    """The grid of a NIfTI, NRRD or MetaImage file. AutolmkError where it is damaged or its header makes no sense."""
    integrity.check(file, ending)
    return Source((str(file),), geometry_of(header(str(file), file), file), True)
