"""The image files of a folder, and the case and channel to which each belongs.

Names compare in Unicode's composed form. A name that ends in `_` and four digits names a channel where the folder as a
whole is numbered so, and only there: cameras number pictures in the same way (`DSC_0012.JPG`).
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from autolmk.errors import AutolmkError, some
from autolmk.imageio import integrity
from autolmk.landmarks import normal

logger = logging.getLogger(__name__)

ENDINGS = (
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".nhdr",
    ".hdr",
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
FORMATS = ((".nii.gz", ".nii"), (".nrrd", ".nhdr"), (".mha", ".mhd"), (".tif", ".tiff"), (".jpg", ".jpeg"))
FAMILIES = (SIZELESS, (".nii.gz", ".nii", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd"), (".dcm", DICOM))  # together


def ending_of(path: Path) -> str | None:
    """The ending in `ENDINGS` of a file's name, "dicom" for a folder, ".dcm" for a DICOM file of any other name, None
    for anything else."""
    if os.path.isdir(path):  # unlike path.is_dir, no error for a name that is too long
        return DICOM
    named = _named_ending(path)
    if named is None and integrity.is_dicom(path):
        return ".dcm"
    return named


def stem_of(path: Path) -> str:
    """The name of an image without its ending, in Unicode's composed form. AutolmkError where it is no text: results
    could not name it."""
    if any("\ud800" <= c <= "\udfff" for c in path.name):
        raise AutolmkError(
            "the name of an image is not in UTF-8",
            file=path,
            found=repr(os.fsencode(path.name)),
            remedy="rename it",
        )
    if len(path.name.splitlines()) > 1:
        raise AutolmkError(
            "the name of an image breaks the line", file=path, found=ascii(path.name), remedy="rename it"
        )
    ending = None if path.is_dir() else _named_ending(path)
    return normal(path.name[: -len(ending)] if ending else path.name)


def split_name(path: Path) -> tuple[str, int]:
    """The case and the channel of CASE_0000.ext, CASE_0000/ and, with channel 0, of CASE.ext and CASE/."""
    stem = stem_of(path)
    match = CHANNEL.fullmatch(stem)
    return (match.group(1), int(match.group(2))) if match else (stem, 0)


def files_below(path: Path) -> list[Path]:
    """The file itself, or all files below a folder, by name; hidden ones are left out."""
    if not path.is_dir():
        return [path]
    inside = (file for file in sorted(path.rglob("*")) if file.is_file())
    return [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]


def others_in(folder: Path) -> str:
    """The other files in a folder without an image, for messages."""
    if not folder.is_dir():
        return "no such folder"
    return some([file.name for file in sorted(folder.iterdir())]) or "an empty folder"


def list_cases(
    folder: Path,
    file_ending: str | None = None,
    n_channels: int | None = None,
    *,
    known: Collection[str] = (),
) -> dict[str, tuple[Path, ...]]:
    """The images of a folder: case -> its files by channel, sorted by name.

    file_ending: of `ENDINGS`, or "dicom"; other spellings of it count too (.jpg and .jpeg). None takes all that is
    there, if it goes together: only pictures; only NIfTI, NRRD and MetaImage; or only DICOM. n_channels: of the
    dataset. known: names of cases that are known from elsewhere, as from files of landmarks. Both tell whether numbers
    at the end of names are channels, see `numbers_channels`.
    AutolmkError where the folder is missing, holds several kinds of images, or two files for one channel.
    """
    found = _images(folder)
    wanted = same_format(file_ending) if file_ending else _only_family(folder, Counter(kind for _, kind in found))
    images = [(path, kind) for path, kind in found if kind in wanted]
    return _grouped(images, file_ending and file_ending.lower(), n_channels, known)


def same_format(file_ending: str) -> tuple[str, ...]:
    """All spellings of an ending: .jpg and .jpeg. AutolmkError where the ending is not known."""
    wanted = DICOM if file_ending.lower().strip(".") in ("", DICOM) else file_ending.lower()
    if wanted != DICOM and wanted not in ENDINGS:
        raise AutolmkError(
            "this kind of image is not known",
            found=f"the file ending {file_ending!r}",
            expected=f"one of {', '.join(ENDINGS)}, or {DICOM!r} for a folder a case",
            remedy="correct file_ending in dataset.json, or convert the images",
        )
    return next((spellings for spellings in FORMATS if wanted in spellings), (wanted,))


def list_mixed_cases(
    folder: Path, preferred: str | None = None, n_channels: int | None = None, *, known: Collection[str] = ()
) -> dict[str, tuple[Path, ...]]:
    """`list_cases` of a folder that may hold images of any kind, as test images from elsewhere do.

    preferred: kind whose image stands for a case that has several; without it, two kinds for one case are an
    AutolmkError. What is left aside is said in a warning.
    """
    found = _images(folder)
    if preferred != DICOM and any(kind != DICOM for _, kind in found):
        found = [(p, kind) for p, kind in found if kind != DICOM]  # a folder among images is some other folder
    return _grouped(found, preferred, n_channels, known)


def numbers_channels(stems: Iterable[str], n_channels: int | None = None, known: Collection[str] = ()) -> bool:
    """Whether `_0000` at the end of most images' names is the number of a channel, and no part of the case's name.

    Names of `known` cases decide, then the number of channels: channels begin with 0 and end before `n_channels`. Where
    neither is known, most cases must have the same channels, which begin with 0 and leave none out.
    """
    numbers: dict[str, set[int]] = {}
    for match in map(CHANNEL.fullmatch, stems):
        if match:
            numbers.setdefault(match.group(1), set()).add(int(match.group(2)))
    whole = {f"{case}_{number:04d}" for case, found in numbers.items() for number in found}
    as_channels, as_names = len(numbers.keys() & known), len(whole & set(known))
    if as_channels != as_names:
        return as_channels > as_names
    if n_channels is not None:
        return 2 * sum(max(found) < n_channels for found in numbers.values()) >= len(numbers)
    usual, count = Counter(map(frozenset, numbers.values())).most_common(1)[0] if numbers else (frozenset({0}), 0)
    return 2 * count >= len(numbers) and usual == set(range(len(usual)))


def _images(folder: Path) -> list[tuple[Path, str]]:
    """All images of a folder with their kinds; a folder in it may be one DICOM series."""
    if not folder.is_dir():
        raise AutolmkError("a folder of images is missing", file=folder, remedy="check the path")
    found = [(p, ending_of(p)) for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    return [(path, kind) for path, kind in found if kind is not None]


def _grouped(
    found: Sequence[tuple[Path, str]], preferred: str | None, n_channels: int | None, known: Collection[str]
) -> dict[str, tuple[Path, ...]]:
    """case -> its files by channel; of the preferred kind where there are several."""
    numbered = numbers_channels((stem_of(path) for path, _ in found), n_channels, known)
    cases: dict[str, dict[int, tuple[Path, str]]] = {}
    for path, kind in sorted(found, key=lambda f: (f[1] != preferred, f[1], f[0].name)):
        case, channel = split_name(path) if numbered else (stem_of(path), 0)
        channels = cases.setdefault(case, {})
        if channel not in channels and all(kind == other for _, other in channels.values()):
            channels[channel] = (path, kind)
            continue
        other, of_kind = channels.get(channel) or next(iter(channels.values()))
        if of_kind == kind or of_kind != preferred:
            raise AutolmkError(
                f"channel {channel} of a case has two images" if of_kind == kind else "a case has images of two kinds",
                file=path,
                case=case,
                found=f"{other.name} and {path.name}",
                expected="one image, or one a channel, all of one kind",
                remedy="remove or rename one of them",
            )
        logger.warning("%s: %s is used, %s is left aside", case, other.name, path.name)
    return {case: tuple(files[c][0] for c in sorted(files)) for case, files in sorted(cases.items())}


def check_channels(case: str, files: Sequence[Path], n_channels: int) -> None:
    """Raise AutolmkError unless the files are the channels 0 to n_channels - 1, or one file, which may hold all
    channels.
    """
    channels = [0 if stem_of(f) == normal(case) else split_name(f)[1] for f in files]
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


def _named_ending(path: Path) -> str | None:
    named = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    return None if named == ".hdr" and not integrity.is_nifti_pair(path) else named


def _only_family(folder: Path, kinds: Mapping[str, int]) -> tuple[str, ...]:
    families = [family for family in FAMILIES if any(kind in kinds for kind in family)]
    if len(families) > 1:
        raise AutolmkError(
            "a folder holds several kinds of images",
            file=folder,
            found=some([f"{n} × {ending}" for ending, n in sorted(kinds.items())]),
            expected="only pictures, only volumes, or only DICOM",
            remedy="name the right one as file_ending in dataset.json, and keep the others elsewhere",
        )
    return families[0] if families else ()
