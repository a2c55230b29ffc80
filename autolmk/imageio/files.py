"""Which files of a folder are images, and to which case and channel each belongs."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from autolmk.errors import AutolmkError

logger = logging.getLogger(__name__)

ENDINGS = (
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".dcm",
    ".png",
    ".tif",
    ".tiff",
    ".jpg",
    ".jpeg",
    ".bmp",
)
DICOM = "dicom"  # instead of an ending: every case is a folder that holds one DICOM series
SIZELESS = (
    ".png",
    ".tif",
    ".tiff",
    ".jpg",
    ".jpeg",
    ".bmp",
)  # their resolution is for printing, it is no physical size
CHANNEL = re.compile(r"(.+)_(\d{4})")


def ending_of(path: Path) -> str | None:
    """The ending in `ENDINGS` of a file's name, "dicom" for a folder, None for anything else."""
    if path.is_dir():
        return DICOM
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)


def split_name(path: Path) -> tuple[str, int]:
    """(case, channel) of CASE_0000.ext, CASE_0000/ and, with channel 0, of CASE.ext and CASE/."""
    ending = ending_of(path)
    stem = path.name if ending in (None, DICOM) else path.name[: -len(ending or "")]
    match = CHANNEL.fullmatch(stem)
    return (match.group(1), int(match.group(2))) if match else (stem, 0)


def list_cases(
    folder: Path, file_ending: str | None = None, n_channels: int | None = None
) -> dict[str, tuple[Path, ...]]:
    """The images of a folder: case -> its files by channel, sorted by name.

    file_ending: of `ENDINGS`, or "dicom"; None takes the only one that is there.
    n_channels: where given, each case must have that many files, or one file, which may hold all channels.
    AutolmkError where the folder is missing, holds several kinds of images, or two files for one channel.
    """
    if not folder.is_dir():
        raise AutolmkError("a folder of images is missing", file=folder, remedy="check the path")
    found = [(p, ending_of(p)) for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    kinds = Counter(ending for _, ending in found if ending)
    wanted = _wanted_ending(folder, file_ending, kinds)
    cases: dict[str, dict[int, Path]] = {}
    for path, ending in found:
        if ending is None or ending != wanted:
            continue
        case, channel = split_name(path)
        if channel in cases.setdefault(case, {}):
            other = cases[case][channel].name
            raise AutolmkError(
                f"channel {channel} of a case has two images",
                file=path,
                case=case,
                found=f"{other} and {path.name}",
                remedy="remove or rename one of them",
            )
        cases[case][channel] = path
    result = {case: tuple(files[c] for c in sorted(files)) for case, files in sorted(cases.items())}
    for case, files in result.items():
        if n_channels is not None:
            check_channels(case, files, n_channels)
    return result


def list_mixed_cases(folder: Path, preferred: str | None = None) -> dict[str, tuple[Path, ...]]:
    """`list_cases` of a folder that may hold several kinds of images, as test images from elsewhere do.

    preferred: kind whose image stands for a case that has several; without it, two kinds for one case are an
    AutolmkError. What is left aside is said in a warning.
    """
    if not folder.is_dir():
        return list_cases(folder)
    kinds = {kind for p in folder.iterdir() if not p.name.startswith(".") and (kind := ending_of(p))}
    if preferred != DICOM and kinds != {DICOM}:
        kinds.discard(DICOM)  # a folder among images is some other folder
    result: dict[str, tuple[Path, ...]] = {}
    for kind in sorted(kinds, key=lambda k: (k != preferred, k)):
        for case, files in list_cases(folder, kind).items():
            if case not in result:
                result[case] = files
                continue
            if ending_of(result[case][0]) != preferred:
                raise AutolmkError(
                    "a case has images of two kinds",
                    file=folder,
                    case=case,
                    found=f"{result[case][0].name} and {files[0].name}",
                    remedy="keep one of them",
                )
            logger.warning("%s: %s is used, %s is left aside", case, result[case][0].name, files[0].name)
    return dict(sorted(result.items()))


def check_channels(case: str, files: Sequence[Path], n_channels: int) -> None:
    """AutolmkError unless the files are the channels 0 to n_channels - 1, or one file, which may hold all channels."""
    channels = [split_name(f)[1] for f in files]
    if channels in (list(range(n_channels)), [0]):
        return
    missing = sorted(set(range(n_channels)) - set(channels))
    raise AutolmkError(
        "the channels of a case are not complete" if missing else "a case has more channels than the dataset",
        case=case,
        file=files[0].parent if files else None,
        found=", ".join(f.name for f in files) or "no file",
        expected=f"the channels {', '.join(f'_{c:04d}' for c in range(n_channels))}",
        remedy=f"{'add the missing' if missing else 'remove the other'} ones, or correct channel_names in dataset.json",
    )


def _wanted_ending(folder: Path, file_ending: str | None, kinds: Counter[str]) -> str | None:
    if file_ending is not None:
        wanted = DICOM if file_ending.lower().strip(".") in ("", DICOM) else file_ending.lower()
        if wanted != DICOM and wanted not in ENDINGS:
            raise AutolmkError(
                "this kind of image is not known",
                found=f"the file ending {file_ending!r}",
                expected=f"one of {', '.join(ENDINGS)}, or {DICOM!r} for a folder a case",
                remedy="correct file_ending in dataset.json, or convert the images",
            )
        return wanted
    if len(kinds) > 1:
        raise AutolmkError(
            "a folder holds several kinds of images",
            file=folder,
            found=", ".join(f"{n} × {ending}" for ending, n in sorted(kinds.items())),
            expected="one kind",
            remedy="name the right one as file_ending in dataset.json",
        )
    return next(iter(kinds), None)
