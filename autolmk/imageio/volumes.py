"""NIfTI, NRRD and MetaImage: which reader reads a volume's grid and voxels."""

from __future__ import annotations

from pathlib import Path

from autolmk.errors import AutolmkError
from autolmk.imageio import metaimage, nifti, nrrd
from autolmk.imageio.files import files_below
from autolmk.imageio.integrity import voxels_beside
from autolmk.imageio.itk import ImageSource
from autolmk.nifti_header import Form


def data_files(file: Path) -> list[Path]:
    """The files beside a header that hold its voxels; none where the header is in the file itself, or damaged."""
    try:
        name = file.name.lower()
        if name.endswith(".hdr"):
            return [voxels for voxels in [voxels_beside(file)] if voxels is not None]
        if name.endswith(".nhdr"):
            return nrrd.data_files(nrrd.read_header(file))
        return metaimage.data_files(metaimage.read_header(file)) if name.endswith(".mhd") else []
    except AutolmkError:
        return []


def files_of(path: Path) -> list[Path]:
    """The file itself and those beside it that hold its voxels, or all files below a folder, by name; hidden ones are
    left out.
    """
    return [*files_below(path), *([] if path.is_dir() else data_files(path))]


def inspect(file: Path, ending: str, form: Form | None = None) -> ImageSource:
    """The grid of a NIfTI, NRRD or MetaImage file. AutolmkError where it is damaged or its header makes no sense.

    form: which one counts where the two forms of a NIfTI header disagree.
    """
    if ending in (".nii", ".nii.gz", ".hdr"):
        return nifti.inspect(file, form)
    return nrrd.inspect(file) if ending in (".nrrd", ".nhdr") else metaimage.inspect(file)
