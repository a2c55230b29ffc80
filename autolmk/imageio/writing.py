"""The writing of images to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.files.atomic import replacing
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio.files import ending_of
from autolmk.imageio.itk import last_line, quiet, simpleitk


def write_image(file: Path, image: Image) -> None:
    """Write an image, atomically: float32, or 8 bit for PNG, JPEG and BMP. A slice of a volume is written as a volume.

    AutolmkError where the format cannot hold it or the disk refuses.
    """
    sitk = simpleitk()
    file, ending = Path(file), ending_of(Path(file))
    array, geometry = np.moveaxis(image.array, 0, -1), _with_all_axes(image.geometry)
    if ending in (".png", ".jpg", ".jpeg", ".bmp"):
        if array.min() < 0 or array.max() > 255 or (array != np.round(array)).any():
            raise AutolmkError(
                "this format holds whole numbers from 0 to 255", file=file, remedy="write .nii.gz or .tif"
            )
        array = array.astype(np.uint8)
    if not np.allclose(geometry.direction.T @ geometry.direction, np.eye(geometry.ndim), atol=1e-5):
        raise AutolmkError("image files cannot hold a sheared grid", file=file, remedy="resample the image first")
    array = array.reshape(*geometry.shape, array.shape[-1])
    single = array.shape[-1] == 1
    itk = sitk.GetImageFromArray(array[..., 0] if single else array, isVector=not single)
    itk.SetSpacing([float(s) for s in geometry.spacing[::-1]])
    itk.SetOrigin([float(x) for x in geometry.origin])
    itk.SetDirection([float(x) for x in geometry.direction[:, ::-1].ravel()])
    try:
        with replacing(file, ending or "") as temporary, quiet(file):
            sitk.WriteImage(itk, str(temporary), ending in (".nii.gz", ".nrrd", ".mha"))
    except (RuntimeError, OSError) as error:
        raise AutolmkError(
            "an image cannot be written",
            file=file,
            found=last_line(error),
            remedy="free disk space, choose another folder, or another format",
        ) from None


def _with_all_axes(geometry: Geometry) -> Geometry:
    """D = P: a slice of a volume as a volume of one slice, 1 mm thick."""
    if geometry.ndim == geometry.physical_ndim:
        return geometry
    normal = np.cross(geometry.direction[:, 1], geometry.direction[:, 0])
    affine = np.column_stack([np.append(normal, 0.0), geometry.affine])
    return Geometry((1, *geometry.shape), affine)
