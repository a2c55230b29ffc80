"""The files of a source: annotation files, and the images that they name, which are never sought outside."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from autolmk import imageio
from autolmk.annotations.formats.imported import Options
from autolmk.annotations.text import UTF16, read_text
from autolmk.errors import AutolmkError, some

MAX_FILES = 500_000
MAX_BYTES = 256 * 2**20  # of an annotation file
DRIVE = re.compile(r"[A-Za-z]:")
DETACHED = (".mhd", ".nhdr", ".hdr")
Images = tuple[Path, ...]


class ImportedFiles:
    """A file or folder that is imported, and the folder with its images."""

    def __init__(self, path: Path, options: Options) -> None:
        """Raise AutolmkError where either is missing."""
        self.path, self.options = Path(path), options
        self.folder = self.path if self.path.is_dir() else self.path.parent
        self.images_folder = options.images or self.folder
        for what, place in (("source", self.path), ("folder of images", self.images_folder)):
            if not place.exists():
                raise AutolmkError(f"the {what} to import is missing", file=place, remedy="check the path")

    def files(self, endings: Sequence[str]) -> list[Path]:
        """The source itself where it is a file, else all files of the folder with one of the endings, by path.

        AutolmkError where there are none.
        """
        if self.path.is_file():
            return [self.path]
        found = [f for f in _walk(self.folder) if f.name.lower().endswith(tuple(endings))]
        if not found:
            raise AutolmkError(
                "the source holds no file of this format",
                file=self.folder,
                found=some(sorted(f.name for f in _walk(self.folder))) or "an empty folder",
                expected=f"files that end with {', '.join(endings)}",
                remedy="check the path and --format",
            )
        return [inside(f, self.folder) for f in found]

    def only_file(self, endings: Sequence[str]) -> Path:
        """The one file with such an ending. AutolmkError where there are several."""
        found = self.files(endings)
        if len(found) > 1:
            raise AutolmkError(
                "the source holds several files of this format",
                file=self.folder,
                found=some([f.name for f in found]),
                expected="one file",
                remedy="name the file itself as the source, and the folder of its images with --images",
            )
        return found[0]

    def image(self, name: str, file: Path, where: str) -> Images | None:
        """The image that a file names; None where there is none of that name.

        name: a file's name or a relative path, with or without the image's ending. AutolmkError where it points
        outside, or fits several images.
        """
        parts = self._parts(name, file, where)
        for fold in (_nfc, _folded):
            for stem in (False, True):
                wanted = [fold(p) for p in parts]
                same = self._by_last.get(_folded(parts[-1]), [])
                found = [f for f in same if _fits(self._relative(f, stem), wanted, fold)]
                if len(found) > 1:
                    raise AutolmkError(
                        "several images fit a name",
                        file=file,
                        found=f"{name!r} in {where}: {some([str(f.relative_to(self.images_folder)) for f in found])}",
                        expected="one image",
                        remedy="give each image a name of its own, or choose a folder with --images",
                    )
                if found:
                    return (inside(found[0], self.images_folder),)
        return self._channels(_nfc(parts[-1])) if len(parts) == 1 else None

    def pairs(self, files: Sequence[Path], suffixes: Sequence[str]) -> Iterator[tuple[str, Path, Images | None]]:
        """Each case, its annotation file and its images, where every file is a case; the images are None where there is
        no image.

        A file belongs to the image of its name; to the only image of its folder, where it is the only annotation
        there; or to the image with whose name, followed by - _ . or a blank, its own begins.
        """
        annotations, pictures = Counter(f.parent for f in files), Counter(f.parent for f in self._candidates)
        single = {folder for folder, n in annotations.items() if n == pictures[folder] == 1}
        alone = {f.parent: f for f in self._candidates if f.parent in single}
        for file in files:
            stem = _without(file.name, suffixes)
            images = (
                self._channels(_nfc(stem), file.parent) or _one(alone.get(file.parent)) or self._beginning(_nfc(stem))
            )
            yield stem, file, images

    def all_images(self) -> list[Path]:
        """Every image in the folder of images."""
        return self._candidates

    @cached_property
    def _candidates(self) -> list[Path]:
        found = [f for f in _walk(self.images_folder) if imageio.ending_of(f) not in (None, imageio.DICOM)]
        slices = Counter(f.parent for f in found if f.name.lower().endswith(".dcm") and f.parent != self.images_folder)
        series = {folder for folder, n in slices.items() if n > 1}  # a DICOM series is a folder
        return sorted([*(f for f in found if f.parent not in series), *series])

    @cached_property
    def _by_last(self) -> dict[str, list[Path]]:
        """Images by their names, with and without ending, whatever their case."""
        found: dict[str, list[Path]] = {}
        for file in self._candidates:
            for name in {_folded(file.name), _folded(stem_of(file))}:
                found.setdefault(name, []).append(file)
        return found

    @cached_property
    def _stems(self) -> dict[str, list[Path]]:
        stems: dict[str, list[Path]] = {}
        for file in self._candidates:
            stems.setdefault(_nfc(stem_of(file)), []).append(file)
        return stems

    def _channels(self, stem: str, folder: Path | None = None) -> Images | None:
        """The image of that stem, or its channels STEM_0000, STEM_0001, ...; of several the one in `folder`."""
        found = self._stems.get(stem, [])
        beside = [f for f in found if f.parent == folder]
        found = beside if len(beside) == 1 else found
        if len(found) > 1:
            raise AutolmkError(
                "several images fit a name",
                file=self.images_folder,
                found=some([str(f.relative_to(self.images_folder)) for f in found]),
                expected=f"one image {stem}",
                remedy="remove or rename the others, or choose a folder with --images",
            )
        if found:
            return (inside(found[0], self.images_folder),)
        channels: list[Path] = []
        while len(one := self._stems.get(f"{stem}_{len(channels):04d}", [])) == 1:
            channels.append(inside(one[0], self.images_folder))
        return tuple(channels) or None

    def _beginning(self, stem: str) -> Images | None:
        fitting = [s for s in self._stems if stem.startswith(s) and stem[len(s) : len(s) + 1] in ("-", "_", ".", " ")]
        fitting += [
            s[:-5] for s in self._stems if s.endswith("_0000") and stem.startswith(s[:-5]) and stem[len(s) - 5 :]
            and stem[len(s) - 5] in "-_. "
        ]  # fmt: skip
        return self._channels(max(fitting, key=len)) if fitting else None

    def _relative(self, file: Path, stem: bool) -> list[str]:
        relative = list(file.relative_to(self.images_folder).parts)
        return [*relative[:-1], stem_of(file)] if stem else relative

    def _parts(self, name: str, file: Path, where: str) -> list[str]:
        """The parts of a path that a file names. AutolmkError where it points outside the folder of images."""
        path = PurePosixPath(name.strip().replace("\\", "/"))
        parts = [p for p in path.parts if p not in (".", "/")]
        outside = path.is_absolute() or ".." in parts or any(DRIVE.match(p) for p in parts[:1])
        if outside and not self.options.by_name:
            raise AutolmkError(
                "a file names an image by a path that leads outside",
                file=file,
                found=f"{name!r} in {where}",
                expected="a file's name, or a path below the source",
                remedy="take the folders out of the file; or add --by-name, which looks for the last part of each path "
                "alone, in the source or the folder of --images",
            )
        parts = parts[-1:] if self.options.by_name else parts
        if not parts or parts[-1] == ".." or "\0" in name:
            raise AutolmkError(
                "a file names no image", file=file, found=f"{name!r} in {where}", remedy="correct the file"
            )
        return parts


def _one(image: Path | None) -> Images | None:
    return None if image is None else (image,)


def stem_of(image: Path) -> str:
    """An image's name without its ending, that of a DICOM series whole."""
    ending = imageio.ending_of(image)
    return image.name if ending in (None, imageio.DICOM) else image.name[: -len(ending or "")]


def text_of(file: Path) -> str:
    """The text of an annotation file. AutolmkError where it is no text, or too large to be one."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise AutolmkError(
            "a file cannot be read", file=file, found=error.strerror or str(error), remedy="check the path"
        ) from None
    if size > MAX_BYTES:
        raise AutolmkError(
            "an annotation file is too large",
            file=file,
            found=f"{size / 2**20:.0f} MiB",
            expected=f"at most {MAX_BYTES // 2**20} MiB",
            remedy="split it, or check that it is the right file",
        )
    return read_text(file)


def head_of(file: Path, size: int = 65536) -> str:
    """The first bytes of a file as text, without what is no UTF-8, for sniffing; '' where it cannot be read."""
    try:
        with file.open("rb") as stream:
            data = stream.read(size)
        code = "utf-16" if data.startswith(UTF16) else "utf-8-sig"
        return data.decode(code, errors="ignore").replace("\r\n", "\n").replace("\r", "\n")
    except OSError:
        return ""


def some_files(path: Path, endings: Sequence[str], limit: int = 5) -> list[Path]:
    """The path itself or the first few files of a folder with such endings, for sniffing."""
    if path.is_file():
        return [path] if path.name.lower().endswith(tuple(endings)) else []
    found: list[Path] = []
    for count, file in enumerate(_walk(path, strict=False)):
        if file.name.lower().endswith(tuple(endings)):
            found.append(file)
        if len(found) == limit or count > 20_000:
            break
    return found


def _walk(folder: Path, *, strict: bool = True) -> Iterator[Path]:
    """All files below a folder that are not hidden, by path. Links to folders are not followed."""
    count = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(d for d in folders if not d.startswith("."))
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                if not strict:
                    return
                raise AutolmkError(
                    "a folder holds too many files to search",
                    file=folder,
                    found=f"more than {MAX_FILES}",
                    remedy="name a smaller folder as the source, or with --images",
                )
            if not name.startswith("."):
                yield Path(parent) / name


def inside(file: Path, folder: Path) -> Path:
    """The file. AutolmkError where it, or a part of a DICOM series, is a link that leads out of the folder."""
    for member in [file, *(file.iterdir() if file.is_dir() else ())]:
        if not member.resolve().is_relative_to(folder.resolve()):
            raise AutolmkError(
                "a link leads out of the source",
                file=member,
                found=f"a link to {member.resolve()}",
                expected=f"a file below {folder}",
                remedy="put the file itself there, or name the folder that holds it with --images",
            )
    return file


def _fits(relative: Sequence[str], wanted: Sequence[str], fold: object) -> bool:
    """Whether one of the paths ends with the other."""
    assert callable(fold)
    n = min(len(relative), len(wanted))
    return [fold(p) for p in relative[-n:]] == list(wanted[-n:])


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return _nfc(text).casefold()


def _without(name: str, suffixes: Sequence[str]) -> str:
    ending = next((s for s in sorted(suffixes, key=len, reverse=True) if name.lower().endswith(s)), "")
    return name[: len(name) - len(ending)] or name
