"""NIfTI, NRRD and MetaImage: which reader reads a volume's grid and voxels."""

from __future__ import annotations

from pathlib import Path

from autolmk.imageio import metaimage, nifti, nrrd
from autolmk.imageio.itk import ImageSource
from autolmk.nifti_header import Form


def inspect(file: Path, ending: str, form: Form | None = None) -> ImageSource:
    """The grid of a NIfTI, NRRD or MetaImage file. AutolmkError where it is damaged or its header makes no sense.

    form: which one counts where the two forms of a NIfTI header disagree.
    """
    if ending in (".nii", ".nii.gz"):
        return nifti.inspect(file, form)
    return nrrd.inspect(file) if ending in (".nrrd", ".nhdr") else metaimage.inspect(file)
