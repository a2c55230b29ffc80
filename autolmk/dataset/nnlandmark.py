"""Import of datasets in the format of nnLandmark (github.com/MIC-DKFZ/nnLandmark).

Its folder holds imagesTr, labelsTr, imagesTs, labelsTs, dataset.json, name_to_label.json (landmark -> value in the
label maps), all_landmarks_voxel.json (case -> landmark -> [i, j, k]) and spacing.json. Points come from
all_landmarks_voxel.json, which is sub-voxel, and are compared with the label maps; what it lacks comes from those.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autolmk import imageio
from autolmk.annotations import Annotation, label_map, write_table
from autolmk.dataset.description import DatasetDescription, LandmarkDescription
from autolmk.dataset.raw import TABLE, Split
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, near, read_json, write_json
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Status
from autolmk.progress_bars import tracked

POINTS, LABELS, SPACINGS = "all_landmarks_voxel.json", "name_to_label.json", "spacing.json"
CUBE = 1.5  # voxels by which a point may differ from its cube: rounding, and half of a cube that the border cuts off
SPACING_TOLERANCE = 0.01  # relative
DETACHED = (".mhd", ".nhdr", ".hdr")


def import_dataset(
    source: Path,
    target: Path,
    *,
    unlisted: Literal["unknown", "absent"] = "unknown",
    link: bool = False,
    progress: bool = True,
) -> DatasetDescription:
    """Make the raw dataset `target` from nnLandmark's `source`; returns its dataset.json.

    unlisted: what a landmark that a case lacks means. link: link to the images instead of copying them.
    AutolmkError where something is missing or contradictory; the target appears only when all of it is there.
    """
    if target.exists():
        raise AutolmkError("the dataset is there already", file=target, remedy="remove it, or choose another name")
    unfinished = target.parent / f".{target.name}.importing"
    _clear(unfinished)
    try:
        unfinished.mkdir(parents=True)
        description = _Import(source, unfinished, unlisted, link, progress).run(target.name)
        unfinished.rename(target)
    except OSError as error:
        raise AutolmkError(
            "the dataset cannot be written",
            file=error.filename or target,
            found=error.strerror or str(error),
            remedy="free disk space, choose another raw folder, or use --link",
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return description


def _clear(unfinished: Path) -> None:
    """Remove what a run that was killed left. AutolmkError where anything else is there."""
    own = {"dataset.json", "imagesTr", "imagesTs", "landmarksTr", "landmarksTs"}
    if unfinished.is_dir() and not unfinished.is_symlink() and {p.name for p in unfinished.iterdir()} <= own:
        shutil.rmtree(unfinished, ignore_errors=True)
    if unfinished.exists() or unfinished.is_symlink():
        raise AutolmkError(
            "the place where the import is prepared is taken",
            file=unfinished,
            remedy="move it away: it holds what no import has left",
        )


class _Import:
    def __init__(
        self, source: Path, target: Path, unlisted: Literal["unknown", "absent"], link: bool, progress: bool
    ) -> None:
        self.source, self.target, self.unlisted, self.link, self.progress = source, target, unlisted, link, progress
        self.given = DatasetDescription.load(source / "dataset.json")
        self.labels = self._labels()
        self.points = _optional(dict[str, dict[str, list[float] | None]], source / POINTS)
        self.spacings = _optional(dict[str, dict[str, list[float] | None]], source / SPACINGS)

    def run(self, name: str) -> DatasetDescription:
        counts: dict[Split, int] = {"Tr": self._import_split("Tr"), "Ts": 0}
        if (self.source / "imagesTs").is_dir():
            counts["Ts"] = self._import_split("Ts")
        names = sorted(self.labels, key=lambda n: self.labels[n])
        description = replace(
            self.given,
            name=self.given.name or name.partition("_")[2],
            labels=None,
            landmarks={n: LandmarkDescription(i) for i, n in enumerate(names)},
            coordinates="voxel",
            unlisted_landmark_means=self.unlisted,
            numTraining=counts["Tr"],
            numTest=counts["Ts"],
        )
        write_json(self.target / "dataset.json", description.to_json())
        return description

    def _labels(self) -> dict[str, int]:
        labels = _optional(dict[str, int], self.source / LABELS) or self.given.labels
        if not labels:
            raise AutolmkError(
                "nothing names the landmarks",
                file=self.source / LABELS,
                expected='{"landmark": value in the label maps, ...}, or labels in dataset.json',
                remedy="add the file",
            )
        return {name: value for name, value in labels.items() if value > 0}

    def _import_split(self, split: Split) -> int:
        channels = self.given.channel_names
        if self.given.file_ending in DETACHED:
            raise AutolmkError(
                "images whose data is in a second file cannot be imported",
                file=self.source / "dataset.json",
                found=f"the file ending {self.given.file_ending}",
                remedy="convert them to .nii.gz, .nrrd or .mha",
            )
        cases = imageio.list_cases(self.source / f"images{split}", self.given.file_ending, len(channels or "0"))
        for case, files in cases.items():
            imageio.check_channels(case, files, len(channels or "0"))
        table: dict[str, Annotation] = {}
        for case, files in tracked(cases.items(), f"importing images{split}", shown=self.progress):
            points = self._annotation(case, split)
            if points is not None:
                table[case] = points
            elif split == "Tr":
                raise AutolmkError(
                    "a training case has no landmarks",
                    case=case,
                    expected=f"its name in {POINTS}, or labels{split}/{case} with the ending of the images",
                    remedy="add them, or remove the image",
                )
            for file in files:
                self._import_image(case, file, self.target / f"images{split}" / file.name)
        if table:
            write_table(self.target / f"landmarks{split}" / TABLE, table)
        return len(cases)

    def _annotation(self, case: str, split: Split) -> Annotation | None:
        listed = (self.points or {}).get(case)
        maps = [f for f in (self.source / f"labels{split}").glob(f"{case}.*") if imageio.ending_of(f)]
        mapped = label_map.read(maps[0], self.labels) if maps else None
        if listed is None:
            return mapped
        points = np.full((len(self.labels), 3), np.nan)
        for row, name in enumerate(self.labels):
            point = listed.get(name)
            if point is not None:
                points[row] = _three(point, f"{case}.{name}", self.source / POINTS)
        for name in listed:
            if name not in self.labels:
                raise AutolmkError(
                    f"an unknown landmark{near(name, self.labels)}",
                    file=self.source / POINTS,
                    case=case,
                    found=name,
                    expected=f"a name of {LABELS}",
                    remedy="correct one of the files",
                )
        if mapped is not None:
            points = self._compare(case, points, mapped, maps[0])
        status = np.where(np.isfinite(points).all(axis=1), Status.PRESENT, Status.UNKNOWN)
        return Annotation(tuple(self.labels), points, status.astype(np.int8), "voxel")

    def _compare(self, case: str, points: FloatArray, mapped: Annotation, file: Path) -> FloatArray:
        """The listed points, completed by those of the label map. AutolmkError where the two are not the same."""
        from_map = mapped.points if mapped.points.shape[1] == 3 else np.pad(mapped.points, ((0, 0), (0, 1)))
        apart = np.nan_to_num(np.abs(points - from_map)).max(axis=1)
        if apart.max() > CUBE:
            worst = int(np.argmax(apart))
            turned = np.nan_to_num(np.abs(points[:, ::-1] - from_map)).max() <= CUBE
            raise AutolmkError(
                f"{POINTS} and the label map disagree",
                file=file,
                case=case,
                found=f"{tuple(self.labels)[worst]} at {points[worst].tolist()} in {POINTS}, "
                f"at {np.round(from_map[worst], 1).tolist()} in the label map",
                expected=f"the same place within {CUBE} voxels, in the order i, j, k",
                remedy=f"{POINTS} has its coordinates in the order k, j, i: turn them"
                if turned
                else "correct one of them",
            )
        return np.where(np.isfinite(points), points, from_map)

    def _import_image(self, case: str, file: Path, target: Path) -> None:
        geometry = imageio.read_geometry(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        spacing = self._true_spacing(case, file, geometry)
        if spacing is not None:
            image = imageio.read_image([file])
            imageio.write_image(target, Image(image.array, _with_spacing(geometry, spacing)))
        elif self.link:
            os.symlink(file.resolve(), target)
        elif file.is_dir():
            shutil.copytree(file, target)
        else:
            shutil.copy2(file, target)

    def _true_spacing(self, case: str, file: Path, geometry: Geometry) -> tuple[float, ...] | None:
        """(D,) mm, array order, where the image's own is not to be trusted: image_spacing is null in spacing.json."""
        entry = (self.spacings or {}).get(case, {})
        in_image, in_annotation = entry.get("image_spacing"), entry.get("annotation_spacing")
        expected = in_image if in_image is not None else in_annotation
        if expected is None:
            return None
        if len(expected) != geometry.ndim or min(expected) <= 0:
            raise AutolmkError(
                "wrong spacing of a case",
                file=self.source / SPACINGS,
                case=case,
                found=expected,
                expected="x, y, z in mm",
                remedy="correct the file",
            )
        spacing = tuple(float(s) for s in expected[::-1])
        if np.allclose(spacing, geometry.spacing, rtol=SPACING_TOLERANCE):
            return None
        if in_image is None:
            return spacing
        raise AutolmkError(
            f"{SPACINGS} and the image disagree",
            file=file,
            case=case,
            found=f"{geometry.spacing[::-1]} mm in the image",
            expected=f"{tuple(expected)} mm, the image_spacing of {SPACINGS}",
            remedy="correct the one that is wrong; image_spacing null means that the image's own is not to be trusted",
        )


def _with_spacing(geometry: Geometry, spacing: tuple[float, ...]) -> Geometry:
    return Geometry.from_parts(geometry.shape, spacing, [float(x) for x in geometry.origin], geometry.direction)


def _optional(cls: type[Any], file: Path) -> Any:
    return from_json(cls, read_json(file), file=file) if file.exists() else None


def _three(point: list[float], path: str, file: Path) -> list[float]:
    if len(point) not in (2, 3):
        raise AutolmkError(
            "wrong voxel of a landmark",
            file=file,
            found=f"{path}: {point}",
            expected="[i, j, k]",
            remedy="correct the file",
        )
    return [*point, 0.0][:3]
