"""DICOM: which files of a folder are the slices of its series, and whether they lie on one even grid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray, Geometry
from autolmk.imageio import integrity
from autolmk.imageio.itk import Source, describe, errors, geometry_of, header, quiet, simpleitk

SPACING_TOLERANCE = 0.01  # how far slices may lie from even spacing, over that spacing


def has_pixel_size(reader: Any) -> bool:
    """Whether a header has PixelSpacing, ImagerPixelSpacing, NominalScannedPixelSpacing or a spacing that is not 1."""
    tags = ("0028|0030", "0018|1164", "0018|2010")
    return any(reader.HasMetaDataKey(t) for t in tags) or reader.GetSpacing()[:2] != (1.0, 1.0)


def inspect_file(file: Path) -> Source:
    """A single DICOM file: a radiograph, a slice or a volume of several frames."""
    reader = header(str(file), file)
    geometry, sized = geometry_of(reader, file), has_pixel_size(reader)
    if not sized:
        geometry = Geometry.from_parts(geometry.shape, [1.0] * geometry.ndim)
    return Source((str(file),), geometry, sized)


def inspect_series(folder: Path) -> Source:
    """The slices of the one series in a folder. AutolmkError where they do not lie on one even grid."""
    files = _series_files(folder)
    readers = [header(file, folder) for file in files]
    sized = has_pixel_size(readers[0])
    first = geometry_of(readers[0], folder)
    if len(files) == 1:
        return Source(files, first, sized)
    for file, reader in zip(files, readers, strict=True):
        geometry = geometry_of(reader, Path(file))
        if geometry.shape != first.shape or not np.allclose(geometry.matrix, first.matrix, atol=1e-3):
            raise AutolmkError(
                "the slices of a DICOM series differ in size, spacing or direction",
                file=file,
                found=describe(geometry),
                expected=f"{describe(first)}, as in {Path(files[0]).name}",
                remedy="keep one series of parallel slices a folder",
            )
    positions = np.array([reader.GetOrigin() for reader in readers])
    step = _slice_step(positions, first, folder, files)
    affine = first.affine.copy()
    affine[:-1, 0], affine[:-1, -1] = step, positions[0]
    return Source(files, Geometry((len(files), *first.shape[1:]), affine), sized)


def _series_files(folder: Path) -> tuple[str, ...]:
    sitk = simpleitk()
    with errors(folder), quiet():
        identifiers = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        series = {i: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), i) for i in identifiers}
    known = {os.path.realpath(f) for files in series.values() for f in files}
    for file in sorted(folder.iterdir()):
        if integrity.is_dicom(file) and os.path.realpath(file) not in known:
            raise AutolmkError(
                "a DICOM file is damaged or holds no image",
                file=file,
                expected=f"only the slices of one series in {folder.name}",
                remedy="copy it again from the source, or remove it",
            )
    if len(series) != 1:
        raise AutolmkError(
            "a folder holds several DICOM series" if series else "a folder holds no DICOM series",
            file=folder,
            found=", ".join(f"{i} ({len(f)} files)" for i, f in series.items()) or "no DICOM image",
            expected="the slices of one series",
            remedy="keep one series a folder",
        )
    return tuple(next(iter(series.values())))


def _slice_step(positions: FloatArray, first: Geometry, folder: Path, files: Sequence[str]) -> FloatArray:
    """(3,) mm from slice to slice. AutolmkError where they are not evenly spaced along their common normal."""
    steps = np.diff(positions, axis=0)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    typical = np.median(steps, axis=0)
    deviation = np.linalg.norm(steps - typical, axis=1)
    length = float(np.linalg.norm(typical))
    worst = int(np.argmax(deviation))
    if length < 1e-6 or deviation[worst] > SPACING_TOLERANCE * length + 1e-3:
        raise AutolmkError(
            "the slices of a DICOM series are not evenly spaced",
            file=files[worst + 1],
            found=f"{np.linalg.norm(steps[worst]):.4g} mm after slice {worst + 1} of {len(files)}",
            expected=f"{length:.4g} mm, as between the others",
            remedy="look for missing or doubled slices, or resample the series to even spacing",
        )
    normal = first.direction[:, 0]
    if np.linalg.norm(step - normal * (step @ normal)) > SPACING_TOLERANCE * length + 1e-3:
        raise AutolmkError(
            "the slices of a DICOM series are not stacked along their normal (tilted gantry)",
            file=folder,
            found=f"a step of {np.round(step, 3).tolist()} mm along the normal {np.round(normal, 3).tolist()}",
            remedy="resample the series to a straight grid, for example in 3D Slicer",
        )
    return np.asarray(normal * (step @ normal))
