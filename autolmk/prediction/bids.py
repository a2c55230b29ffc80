"""A BIDS tree: which images to predict, and where their landmarks belong among its derivatives.

BIDS has no file for anatomical landmarks of images. Names and the fields of the sidecar follow AFIDs' practice, which
takes them from BIDS' coordsystem.json of electrophysiology.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import autolmk
from autolmk.annotations import mrk_json
from autolmk.errors import AutolmkError, some
from autolmk.files.atomic import refuse_link
from autolmk.files.serialization import read_json, write_json
from autolmk.landmarks import Landmarks

VERSION = "1.10.0"  # of BIDS
DESCRIPTION = "dataset_description.json"
ENDINGS = (".nii.gz", ".nii")
DESCRIBED = "autolmk"  # the desc entity of results
IMAGE = re.compile(
    r"(?P<entities>sub-[A-Za-z0-9]+(?:_[A-Za-z]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)(\.nii\.gz|\.nii)"
)


@dataclass(frozen=True)
class BidsImage:
    """One image to predict. files: a file a channel. folder: below the tree's root, such as sub-01/ses-1/anat.
    entities: of its name, such as sub-01_ses-1; suffix: of the first channel."""

    files: tuple[Path, ...]
    folder: Path
    entities: str
    suffix: str

    @property
    def name(self) -> str:
        """The name of the result's files, without ending. An image's own desc entity, such as preproc, becomes part of
        ours.
        """
        parts = [part for part in self.entities.split("_") if not part.startswith("desc-")]
        (own,) = [part[5:] for part in self.entities.split("_") if part.startswith("desc-")] or [""]
        described = f"{own}{DESCRIBED.capitalize()}" if own else DESCRIBED
        return f"{'_'.join(parts)}_desc-{described}_{self.suffix}"


def images_of(root: Path, suffixes: Sequence[str], participants: Sequence[str] = ()) -> list[BidsImage]:
    """The images sub-*/[ses-*/]anat/*_SUFFIX.nii[.gz] of a tree, in order; suffixes: one a channel.

    participants: labels with or without `sub-`; none: all. AutolmkError where the tree is none, a participant is not
    there, an image lacks a channel, or there is no image.
    """
    subjects = _subjects(root, participants)
    found = []
    for subject in subjects:
        files = sorted([*subject.glob("anat/sub-*"), *subject.glob("ses-*/anat/sub-*")])
        by_name: dict[tuple[Path, str, str], Path] = {}
        for file in files:
            named = IMAGE.fullmatch(file.name)
            if named and named["suffix"] in suffixes:
                by_name[file.parent, named["entities"], named["suffix"]] = file
        for folder, entities, suffix in by_name:
            if suffix == suffixes[0]:
                channels = [by_name.get((folder, entities, other)) for other in suffixes]
                found.append(_image(root, folder, entities, suffixes, channels))
    if not found:
        raise AutolmkError(
            "there is no image to predict",
            file=root,
            expected=f"sub-*/[ses-*/]anat/*_{suffixes[0]}.nii.gz",
            remedy="check the folder, --participant_label, and --suffix, the images' suffix",
        )
    return found


def _subjects(root: Path, participants: Sequence[str]) -> list[Path]:
    if not root.is_dir():
        raise AutolmkError("a BIDS tree is missing", file=root, remedy="check the folder")
    there = {f.name: f for f in sorted(root.glob("sub-*")) if f.is_dir()}
    wanted = [f"sub-{label.removeprefix('sub-')}" for label in participants] or list(there)
    missing = [name for name in wanted if name not in there]
    if missing:
        raise AutolmkError(
            "participants are not in the BIDS tree",
            file=root,
            found=some(list(there)) or "no sub-* folder",
            expected=some(missing),
            remedy="check --participant_label",
        )
    return [there[name] for name in wanted]


def _image(
    root: Path, folder: Path, entities: str, suffixes: Sequence[str], channels: Sequence[Path | None]
) -> BidsImage:
    files = tuple(file for file in channels if file is not None)
    if len(files) < len(suffixes):
        lacking = [suffix for suffix, file in zip(suffixes, channels, strict=True) if file is None]
        raise AutolmkError(
            "an image lacks a channel",
            file=folder,
            case=entities,
            found=", ".join(file.name for file in files),
            expected=", ".join(f"{entities}_{suffix}.nii.gz" for suffix in lacking),
            remedy="add it, or leave the participant out with --participant_label",
        )
    return BidsImage(files, folder.relative_to(root), entities, suffixes[0])


def require_free(root: Path, output: Path, images: Sequence[BidsImage]) -> None:
    """Raise AutolmkError where results would replace what autolmk did not write: in the tree itself, in another
    pipeline's derivatives, or through a link in the place of a folder.
    """
    if output.resolve() == root.resolve():
        raise AutolmkError(
            "results cannot be written into the BIDS tree itself",
            file=output,
            expected=f"a folder of their own, such as {root / 'derivatives' / 'autolmk'}",
            remedy="choose another OUTPUT_DIR",
        )
    for folder in {parent for image in images for parent in (image.folder, *image.folder.parents)} - {Path(".")}:
        refuse_link(output / folder)
    file = output / DESCRIPTION
    if os.path.lexists(file):
        if not _is_ours(file):
            raise AutolmkError(
                "the folder for results holds what autolmk did not make",
                file=file,
                found="a description without autolmk in GeneratedBy",
                expected="a new or empty folder, or one of autolmk_bids",
                remedy="choose another OUTPUT_DIR",
            )
        return
    files = [output / image.folder / f"{image.name}{end}" for image in images for end in (".json", ".mrk.json")]
    found = [str(file.relative_to(output)) for file in files if os.path.lexists(file)]
    if found:
        raise AutolmkError(
            "files are in the way that autolmk did not write",
            file=output,
            found=some(found),
            expected=f"a new or empty folder, or one of autolmk_bids, with its {DESCRIPTION}",
            remedy="choose another OUTPUT_DIR, or move these files away",
        )


def _is_ours(file: Path) -> bool:
    try:
        value = None if file.is_symlink() else read_json(file)
    except AutolmkError:
        return False
    made = value.get("GeneratedBy") if isinstance(value, dict) else None
    return isinstance(made, list) and [m.get("Name") for m in made if isinstance(m, dict)] == ["autolmk"]


def write_description(output: Path, model: str) -> None:
    """dataset_description.json of the derivatives."""
    made_by = {"Name": "autolmk", "Version": autolmk.__version__, "Description": f"landmarks by the model {model}"}
    content = {
        "Name": "autolmk landmarks",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [made_by],
    }
    write_json(output / DESCRIPTION, content)


def write_result(output: Path, image: BidsImage, landmarks: Landmarks) -> Path:
    """The image's landmarks as NAME.mrk.json, with the sidecar NAME.json; the former."""
    file = output / image.folder / f"{image.name}.mrk.json"
    write_json(output / image.folder / f"{image.name}.json", _sidecar(image, landmarks))
    mrk_json.write(file, landmarks)
    return file


def _sidecar(image: BidsImage, landmarks: Landmarks) -> dict[str, Any]:
    present = landmarks.present
    points = dict(zip(landmarks.names, landmarks.points.tolist(), strict=True))
    return {
        "Sources": [f"bids::{(image.folder / file.name).as_posix()}" for file in image.files],
        "FiducialsCoordinateSystem": "Other",
        "FiducialsCoordinateSystemDescription": "the image's own space, LPS: x to the left, y to the posterior, z up",
        "FiducialsCoordinateUnits": "mm",
        "FiducialsCoordinates": {
            name: points[name] for name, there in zip(landmarks.names, present, strict=True) if there
        },
        "Likelihood": dict(zip(landmarks.names, landmarks.likelihood.tolist(), strict=True)),
        "OutsideTrainingRange": list(landmarks.outside),
    }
