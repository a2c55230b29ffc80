"""Label maps of nnLandmark: images in which a small cube of one value marks each landmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy  # loads its parts when they are used

from autolmk.annotations.annotation import Annotation
from autolmk.errors import AutolmkError, counted
from autolmk.imageio import read_image
from autolmk.landmarks import Status


def read(file: Path, labels: Mapping[str, int]) -> Annotation:
    """The centre of mass of each label, in voxels (ITK index order); a landmark whose label is missing is unknown.

    labels: landmark -> value. AutolmkError where the map holds other values, or a label lies in several pieces, as
    it does where cubes overlap or two cases were mixed.
    """
    array = read_image([file]).array[0].astype(np.int64)
    values = [v for v in np.unique(array).tolist() if v != 0]
    strange = sorted(set(values) - set(labels.values()))
    if strange:
        raise AutolmkError(
            "a label map holds unknown values",
            file=file,
            found=", ".join(map(str, strange[:20])),
            expected=f"the values of {counted(len(labels), 'landmark')}",
            remedy="correct name_to_label.json or the label map",
        )
    boxes = scipy.ndimage.find_objects(array)
    points = np.full((len(labels), array.ndim), np.nan)
    for row, (name, value) in enumerate(labels.items()):
        if value not in values:
            continue
        box = boxes[value - 1]
        mask = array[box] == value
        _, pieces = scipy.ndimage.label(mask, np.ones((3,) * array.ndim))
        if pieces > 1:
            raise AutolmkError(
                f"the label of {name!r} lies in {pieces} separate pieces",
                file=file,
                expected="one small cube a landmark",
                remedy="remake the label map, or import from all_landmarks_voxel.json alone",
            )
        points[row] = np.array(scipy.ndimage.center_of_mass(mask)) + [s.start for s in box]
    present = np.isfinite(points).all(axis=1)
    status = np.where(present, Status.PRESENT, Status.UNKNOWN)
    return Annotation(tuple(labels), points[:, ::-1], status.astype(np.int8), "voxel")
