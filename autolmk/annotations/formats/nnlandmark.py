"""nnLandmark's datasets, which `autolmk.dataset.nnlandmark` converts as a whole, and its files of predictions.

A dataset holds images, label maps with a small cube of a value of its own at each landmark, and JSON files:
name_to_label.json, spacing.json and all_landmarks_voxel.json, whose voxels are [i, j, k], 0 at the first one's centre.
Predictions are CASE.json, {"1": {"coordinates": [i, j, k], "likelihood": p}, ...} with labels as keys, and
prediction_all_landmark_voxel.json with names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autolmk import imageio
from autolmk.annotations.formats.exported import Export, ExportedCase, Writer, cannot_hold
from autolmk.annotations.formats.imported import Format
from autolmk.errors import some
from autolmk.files.serialization import write_json
from autolmk.geometry import FloatArray
from autolmk.image import Image

LABEL_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".bmp")
RESERVED = ("dataset", "plans", "combined_predictions", "measurement", "predict_from_raw_data_args", "name_to_label",
            "spacing", "prediction_all_landmark_voxel")  # fmt: skip


def sniff(path: Path) -> bool:
    """Whether a folder has nnLandmark's files."""
    known = ("all_landmarks_voxel.json", "name_to_label.json")
    return path.is_dir() and (path / "imagesTr").is_dir() and any((path / name).is_file() for name in known)


def _write(export: Export, folder: Path) -> Sequence[str]:
    labels = {name: i for i, name in enumerate(export.landmark_names, start=1)}
    write_json(folder / "name_to_label.json", labels)
    write_json(folder / "spacing.json", {case.identifier: _spacings(case) for case in export.cases})
    listed = {case.identifier: _listed(export, case) for case in export.cases}
    said = ["voxels are in the order i, j, k, 0 at the first one's centre; a landmark that is not present is left out"]
    if export.predicted:
        _write_predictions(export, listed, labels, folder)
    else:
        write_json(folder / "all_landmarks_voxel.json", listed)
        _write_dataset(export, labels, folder)
        said.append("each landmark is a cube of 3 voxels in the label maps, of 1 where cubes would touch")
    return [*said, *filter(None, [export.missing()])]


def _listed(export: Export, case: ExportedCase) -> dict[str, list[float]]:
    """landmark -> [i, j, k], of those that are present."""
    points = export.voxels(case)
    there = zip(case.landmarks.names, points, case.landmarks.present, strict=True)
    return {name: point.tolist() for name, point, present in there if present}


def _spacings(case: ExportedCase) -> dict[str, list[float] | None]:
    """Of the image, and, where its file says none, of the annotation."""
    if case.geometry is None:
        return {"image_spacing": None, "annotation_spacing": None}
    spacing = list(case.geometry.spacing[::-1])
    sized = imageio.has_physical_size(case.images[0])
    return {"image_spacing": spacing if sized else None, "annotation_spacing": None if sized else spacing}


def _write_predictions(
    export: Export, listed: dict[str, dict[str, list[float]]], labels: dict[str, int], folder: Path
) -> None:
    odd = [case for case in listed if case in RESERVED or case.startswith("summary") or case.endswith("_mm")]
    if odd:
        cannot_hold("predictions of a case of that name", "nnLandmark", some(odd),
                    f"none of {', '.join(RESERVED)}, summary... and ..._mm", "rename the image")  # fmt: skip
    write_json(folder / "prediction_all_landmark_voxel.json", listed)
    for case in export.cases:
        values: dict[str, Any] = {}
        for name, likelihood in zip(case.landmarks.names, case.landmarks.likelihood, strict=True):
            if name in listed[case.identifier]:
                known = {"likelihood": float(likelihood)} if np.isfinite(likelihood) else {}
                values[str(labels[name])] = {"coordinates": listed[case.identifier][name], **known}
        write_json(folder / f"{case.identifier}.json", values)


def _write_dataset(export: Export, labels: dict[str, int], folder: Path) -> None:
    endings = {imageio.ending_of(case.images[0]) or "" for case in export.cases}
    if len(endings) > 1 or not endings <= set(LABEL_ENDINGS):
        cannot_hold("images of these kinds", "nnLandmark", ", ".join(sorted(endings)),
                    f"one of {', '.join(LABEL_ENDINGS)}, as its label maps are of the same kind",
                    "convert the images, without loss")  # fmt: skip
    ending = endings.pop()
    for case in export.cases:
        split = "Ts" if case.test else "Tr"
        images = folder / f"images{split}"
        images.mkdir(exist_ok=True)
        for channel, file in enumerate(case.images):
            target = images / f"{case.identifier}_{channel:04d}{ending}"
            if export.link:
                os.symlink(file.resolve(), target)
            else:
                shutil.copyfile(file, target)
        (folder / f"labels{split}").mkdir(exist_ok=True)
        _write_labels(export, case, folder / f"labels{split}" / f"{case.identifier}{ending}")
    content = {
        "name": export.name,
        "channel_names": export.channel_names,
        "labels": {"background": 0, **labels},
        "numTraining": sum(not case.test for case in export.cases),
        "numTest": sum(case.test for case in export.cases),
        "file_ending": ending,
    }
    write_json(folder / "dataset.json", content)


def _write_labels(export: Export, case: ExportedCase, file: Path) -> None:
    """A cube of 3 voxels around each landmark, of 1 where it would touch another one's. AutolmkError where a landmark
    lies outside the image, or two lie in one voxel."""
    assert case.geometry is not None
    points = export.voxels(case)
    rows = np.flatnonzero(case.landmarks.present)
    centres = np.round(points[rows][:, ::-1]).astype(np.int64)  # in array order
    outside = [case.landmarks.names[r] for r, c in zip(rows, centres, strict=True) if not case.geometry.contains(c)]
    apart = _apart(centres)
    same = [case.landmarks.names[r] for r, d in zip(rows, apart, strict=True) if d == 0]
    if outside or same:
        cannot_hold(f"landmarks {'outside their image' if outside else 'in one voxel'}", "nnLandmark's label maps",
                    f"{some(outside or same)} of {case.identifier}", "a voxel of its own for each landmark",
                    "correct the points, or take the case out")  # fmt: skip
    array = np.zeros((1, *case.geometry.shape), dtype=np.float32)
    for row, centre, distance in zip(rows, centres, apart, strict=True):
        half = 1 if distance > 2 else 0
        box = tuple(slice(max(c - half, 0), c + half + 1) for c in centre.tolist())
        array[0][box] = row + 1
    imageio.write_image(file, Image(array, case.geometry))


def _apart(centres: FloatArray | np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    """The distance, along the axis where it is largest, of each voxel to the nearest other one."""
    found = []
    for i, centre in enumerate(centres):
        others = np.delete(centres, i, axis=0)
        found.append(int(np.abs(others - centre).max(axis=1).min()) if len(others) else 2**31)
    return found


FORMAT = Format("nnlandmark", "dataset of nnLandmark", sniff, None, ("--unlisted",), ("nnlm",))
WRITER = Writer("nnlandmark", "dataset, or predictions, of nnLandmark", _write, "always")
