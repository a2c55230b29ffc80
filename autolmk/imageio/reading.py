"""Reading images and headers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.image import FloatImage, Image
from autolmk.imageio import dicom, picture_files, tiff, volumes
from autolmk.imageio.files import DICOM, ENDINGS, SIZELESS, ending_of
from autolmk.imageio.foreign import known_format
from autolmk.imageio.itk import ImageSource, describe, header, load
from autolmk.imageio.notices import notice
from autolmk.nifti_header import Form


def read_image(
    files: Sequence[Path], *, spacing: Sequence[float] | None = None, nifti_affine: Form | None = None
) -> Image:
    """One case, float32: channels of all files stacked, in order; colour images give three channels.

    spacing: (D,) mm, array order, used only where the files carry no physical size; without it their spacing is 1.
    nifti_affine: which one counts where the two forms of a NIfTI header disagree. AutolmkError where a file cannot be
    read faithfully, or where the files differ in geometry.
    """
    if not files:
        raise AutolmkError("a case has no image", remedy="add its files, CASE_0000.ext for the first channel")
    arrays: list[FloatImage] = []
    geometries: list[Geometry] = []
    padding: list[tuple[float, float] | None] = []
    for file in files:
        source = _inspect(Path(file), nifti_affine)
        array = _read_array(Path(file), source)
        geometries.append(_sized(source, spacing, Path(file)))
        arrays.append(array)
        padding += [source.padding] * len(array)
        if not geometries[0].is_close(geometries[-1]):
            raise AutolmkError(
                "the channels of a case differ in their geometry",
                file=file,
                found=describe(geometries[-1]),
                expected=f"{describe(geometries[0])}, as in {Path(files[0]).name}",
                remedy="resample the channels to one grid",
            )
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return Image(array, geometries[0], tuple(padding) if any(padding) else None)


def squeeze(image: Image) -> Image:
    """A volume of one slice as a plane, which keeps its frame in space. AutolmkError where there is no single slice."""
    geometry = image.geometry
    if geometry.shape.count(1) != 1 or geometry.ndim != 3:
        raise AutolmkError(
            "a volume is not a single slice",
            found=f"{' × '.join(map(str, geometry.shape[::-1]))} voxels",
            expected="one slice, as in the other images",
            remedy="keep plane images and volumes in separate datasets",
        )
    axis = geometry.shape.index(1)
    shape = tuple(n for a, n in enumerate(geometry.shape) if a != axis)
    plane = Geometry(shape, np.delete(geometry.affine, axis, axis=1))
    return Image(image.array.squeeze(axis + 1), plane, image.padding)


def read_geometry(file: Path, *, spacing: Sequence[float] | None = None, nifti_affine: Form | None = None) -> Geometry:
    """The geometry of an image, from its header alone; spacing and nifti_affine as in `read_image`."""
    return _sized(_inspect(Path(file), nifti_affine), spacing, Path(file))


def has_physical_size(file: Path) -> bool:
    """Whether the file says how large a voxel is in mm. PNG, JPEG and TIFF do not, nor do some DICOM radiographs, NRRD
    files and MetaImages."""
    if ending_of(Path(file)) in (".nii", ".nii.gz") and Path(file).exists():
        return True  # or reading it is an error
    return _inspect(Path(file)).has_physical_size


def calibration(file: Path) -> tuple[float, float, str] | None:
    """Width and height of a pixel, and their unit, that ImageJ has written into a TIFF; None of other files."""
    return tiff.calibration(Path(file)) if ending_of(Path(file)) in (".tif", ".tiff") else None


def metadata(file: Path, tag: str) -> str | None:
    """A DICOM element, such as "0008|0060" (modality), of a file or of the first slice of a folder; None if missing."""
    if ending_of(Path(file)) not in (DICOM, ".dcm"):
        return None
    reader = header(_inspect(Path(file)).files[0], Path(file))
    return str(reader.GetMetaData(tag)).strip() if reader.HasMetaDataKey(tag) else None


def _inspect(path: Path, nifti_affine: Form | None = None) -> ImageSource:
    ending = ending_of(path)
    if ending is None or not path.exists():
        missing, known = not path.exists(), known_format(path.name)
        raise AutolmkError(
            "an image is missing" if missing else "this kind of image is not known",
            file=path,
            found=None if missing or known is None else known[0],
            expected=None if missing else f"one of {', '.join(ENDINGS)}, or a folder with a DICOM series",
            remedy="check the path" if missing else known[1] if known else "convert the image, for example to .nii.gz",
        )
    if ending in (DICOM, ".dcm"):
        return dicom.inspect_series(path) if ending == DICOM else dicom.inspect_file(path)
    if ending in SIZELESS:
        return picture_files.inspect(path, ending)
    return volumes.inspect(path, ending, nifti_affine)


def _sized(source: ImageSource, spacing: Sequence[float] | None, path: Path) -> Geometry:
    geometry = source.geometry
    if source.has_physical_size or spacing is None:
        return geometry
    given = tuple(float(s) for s in spacing)
    if len(given) == geometry.ndim - 1 and geometry.shape[0] == 1:
        given = (geometry.spacing[0], *given)
    if len(given) != geometry.ndim or min(given) <= 0:
        raise AutolmkError(
            "spacing does not fit an image",
            file=path,
            found=f"{len(given)} values for an image of {geometry.ndim} axes: {given}",
            expected=f"{geometry.ndim} positive numbers in mm",
            remedy="correct spacing in dataset.json",
        )
    return Geometry.from_parts(geometry.shape, given, [float(x) for x in geometry.origin], geometry.direction)


def _read_array(path: Path, source: ImageSource) -> FloatImage:
    array = load(source.files, path) if source.load is None else source.load()
    if np.iscomplexobj(array):
        raise AutolmkError("an image holds complex numbers", file=path, remedy="write their magnitude")
    array = array.reshape(*source.geometry.shape, -1)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite, and is refused below
        result = np.ascontiguousarray(np.moveaxis(array, -1, 0), dtype=np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2 and np.abs(result).max() > 2**24:
        found = f"whole numbers up to {np.abs(result).max():.9g}"
        remedy = "nothing, if the last digits mean nothing; they are rounded to 7 digits"
        notice("an image has values of more digits than are kept", path, found=found, remedy=remedy)
    if not np.isfinite(result).all():
        raise AutolmkError(
            "an image holds values that are not numbers",
            file=path,
            found=f"{int((~np.isfinite(result)).sum())} voxels that are NaN, infinite or beyond 3e38",
            expected="finite numbers",
            remedy="replace them by the value of the background (SPM and FSL write NaN outside the field of view;"
            " fslmaths IN -nan OUT makes them 0)",
        )
    return result
