"""NIfTI, NRRD and MetaImage: what a header says of a volume's grid."""

from __future__ import annotations

from pathlib import Path

from autolmk.imageio import integrity, nifti
from autolmk.imageio.itk import Source, geometry_of, header
from autolmk.nifti_header import Form


def inspect(file: Path, ending: str, form: Form | None = None) -> Source:
    """The grid of a NIfTI, NRRD or MetaImage file. AutolmkError where it is damaged or its header makes no sense.

    form: which one counts where the two forms of a NIfTI header disagree.
    """
    if ending in (".nii", ".nii.gz"):
        return nifti.inspect(file, form)
    integrity.check(file, ending)
    return Source((str(file),), geometry_of(header(str(file), file), file), True)
