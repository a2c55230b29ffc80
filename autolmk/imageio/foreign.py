"""Image formats that are not read, by their endings, and how to convert them without loss."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PAIR = (
    'in Python: nibabel.save(nibabel.load("CASE.img"), "CASE.nii.gz"); look whether left and right are right; '
    "a pair of NIfTI is read as it is, by its .hdr"
)
FREESURFER = "mri_convert CASE.mgz CASE.nii.gz, or nibabel"
SLICER = "open it in 3D Slicer and save it as .nrrd"
SCANCO = "open it in 3D Slicer with SlicerMorph and save it as .nrrd; look whether the voxel size is right"
AMIRA = "export it as .nrrd or NIfTI from Amira; look whether the voxel size is right"
RAW = "write a header beside it (CASE.mhd, ElementDataFile = its name), or export .nrrd from the program that knows it"
MICROSCOPE = "export TIFF, a file for each channel and point in time, with Bio-Formats, QuPath or Fiji"
PICTURE = "export PNG or TIFF, without scaling"
ARRAY = "write .nii.gz with nibabel, or .nrrd, with voxel size, place and direction; an array does not hold them"
CONVERT = {
    **dict.fromkeys((".img", ".hdr", ".img.gz"), ("a pair of files, of NIfTI or Analyze", PAIR)),
    **dict.fromkeys((".mgz", ".mgh"), ("FreeSurfer", FREESURFER)),
    ".mnc": ("MINC", "mnc2nii CASE.mnc CASE.nii, or nibabel"),
    **dict.fromkeys((".gipl", ".gipl.gz", ".vtk", ".vti", ".spr"), ("a volume", SLICER)),
    **dict.fromkeys((".isq", ".rsq", ".rad", ".aim"), ("Scanco", SCANCO)),
    **dict.fromkeys((".am", ".amiramesh"), ("Amira", AMIRA)),
    **dict.fromkeys((".raw", ".vol", ".vgi", ".vff", ".rek", ".pcr"), ("voxels without a header that is read", RAW)),
    **dict.fromkeys((".czi", ".nd2", ".lif", ".lsm", ".oib", ".svs", ".ndpi", ".mrxs"), ("a microscope", MICROSCOPE)),
    **dict.fromkeys((".gif", ".webp", ".heic", ".psd", ".jp2", ".dng", ".cr2", ".nef", ".pdf"), ("a picture", PICTURE)),
    **dict.fromkeys((".mat", ".npy", ".npz", ".h5", ".hdf5"), ("an array", ARRAY)),
}


def known_format(name: str) -> tuple[str, str] | None:
    """Name what a file is by its ending, and how to convert it; None where its ending says nothing."""
    return next((said for ending, said in CONVERT.items() if name.lower().endswith(ending)), None)


def conversion(names: Iterable[str]) -> str | None:
    """Say how to convert the first of these files whose format is known, with its name."""
    for name in names:
        if (said := known_format(name)) is not None:
            return f"{name} is of a format that is not read ({said[0]}); {said[1]}"
    return None


def conversion_in(folder: Path) -> str | None:
    """`conversion` of the files of a folder; None where there is no such folder."""
    return conversion(sorted(file.name for file in folder.iterdir())) if folder.is_dir() else None
