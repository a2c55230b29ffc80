"""A bundle read, verified and unpacked: every path, count, size and SHA-256, before anything of it is used."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autolmk.bundles.archive import Files, broken, is_bundle, opened
from autolmk.bundles.card import Card
from autolmk.bundles.manifest import CARD, CARDS, LARGEST, MANIFEST, Manifest, parse, require_different
from autolmk.errors import AutolmkError, some
from autolmk.files import strict_json
from autolmk.files.serialization import from_json

CHUNK = 2**20  # bytes


def read(place: Path) -> tuple[Manifest, Card]:
    """Read a bundle's manifest and card; its other files are not opened. AutolmkError as in `unpack`."""
    with opened(place) as files:
        manifest = _manifest(files, whole=False)
        return manifest, card_of(files, manifest)


def unpack(place: Path, target: Path, *, trust_code: bool = False) -> Manifest:
    """Verify a bundle and write its model folder, with the manifest and without the card's pages, as `target`, which
    must not exist. Gives its manifest.

    AutolmkError, and no target, where anything in the bundle is not what its manifest says, where it holds a file that
    no model folder has, or, without `trust_code`, code. Nothing in it is run.
    """
    with opened(place) as files:
        manifest = _manifest(files)
        _require_no_code(manifest, place, trust_code=trust_code)
        card_of(files, manifest)
        _make(target)
        try:
            _require_room(manifest, target)
            for name in manifest.files:
                if name not in _pages(place):
                    _copy(files, name, manifest, None if name in CARDS[1:] else target / name)
            with files.open(MANIFEST) as stream, _written(target / MANIFEST) as write:
                write(stream.read(LARGEST[".json"]))
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        return manifest


def verify(place: Path) -> Manifest:
    """Count and hash all files of a bundle, and write nothing. AutolmkError as of `unpack`; code is no fault here."""
    with opened(place) as files:
        manifest = _manifest(files)
        card_of(files, manifest)
        for name in manifest.files:
            _copy(files, name, manifest, None)
        return manifest


@contextmanager
def weights_of(place: Path | None) -> Iterator[Path | None]:
    """Give the folder or file from which training starts: a bundle's zip is opened as by `model_of`, without running
    its code; anything else is passed on as it is.
    """
    if place is None or not place.is_file() or place.suffix != ".zip":
        yield place
        return
    with model_of(place, trust_code=True) as folder:
        yield folder


@contextmanager
def model_of(place: Path, *, trust_code: bool = False) -> Iterator[Path]:
    """The model folder to read: `place` itself, or, of a bundle's zip, a private temporary copy that is removed
    afterwards. AutolmkError as of `unpack`."""
    if not place.is_file():
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="autolmk-bundle-") as temporary:
        manifest, _ = read(place)
        folder = Path(temporary) / manifest.model
        unpack(place, folder, trust_code=trust_code)
        yield folder


def card_of(files: Files, manifest: Manifest) -> Card:
    """The model card, verified. AutolmkError where it is damaged or of another version."""
    text = _content(files, CARD, manifest)
    try:
        return from_json(Card, strict_json.parse(text.decode()), file=f"{files.place}: {CARD}")
    except (ValueError, RecursionError) as error:
        raise broken(files.place, f"{CARD}: {error}"[:500]) from None


def _pages(place: Path) -> tuple[str, ...]:
    """Files of an unpacked bundle that are made anew of the card where it is installed, and are never read."""
    return CARDS[1:] if place.is_dir() else ()


def _manifest(files: Files, *, whole: bool = True) -> Manifest:
    """AutolmkError where there is none, it is damaged, or, if `whole`, the files are not those that it lists."""
    if MANIFEST not in files.sizes:
        raise AutolmkError(
            "this is no bundle of autolmk",
            file=files.place,
            found=some(sorted(files.sizes)) or "nothing",
            expected=f"{MANIFEST} and the files of a model folder",
            remedy="give a file that autolmk_export wrote; a model folder is made one by autolmk_export",
        )
    with files.open(MANIFEST) as stream:
        data = stream.read(LARGEST[".json"] + 1)
    try:
        if len(data) > LARGEST[".json"]:
            raise ValueError(f"more than {LARGEST['.json']} bytes")
        value = strict_json.parse(data.decode())
    except (ValueError, RecursionError) as error:
        raise broken(files.place, f"{MANIFEST}: {error}"[:500]) from None
    manifest = parse(value, file=f"{files.place}: {MANIFEST}")
    if whole:
        _require_same_files(files, manifest)
    elif CARD not in files.sizes:
        raise broken(files.place, f"no {CARD}")
    return manifest


def _require_same_files(files: Files, manifest: Manifest) -> None:
    there, listed = set(files.sizes) - {MANIFEST}, set(manifest.files)
    if there != listed:
        more, fewer = sorted(there - listed), sorted(listed - there)
        said = [f"not listed: {some(more)}"] * bool(more) + [f"missing: {some(fewer)}"] * bool(fewer)
        raise broken(files.place, "; ".join(said)[:500])
    for name, file in manifest.files.items():
        if files.sizes[name] != file.size and name not in _pages(files.place):
            raise broken(files.place, f"{name[:200]!r}: {files.sizes[name]} bytes, {file.size} in {MANIFEST}")
    try:
        require_different([MANIFEST, *manifest.files])
    except ValueError as error:
        raise broken(files.place, str(error)) from None


def _require_no_code(manifest: Manifest, place: Path, *, trust_code: bool) -> None:
    if manifest.code and not trust_code:
        raise AutolmkError(
            "this bundle holds code, of a trainer that is not part of autolmk",
            file=place,
            found=some(manifest.code),
            expected="weights, plans and numbers alone",
            remedy="unzip it and read that code, then give --trust-code; or ask for a model of a trainer of autolmk",
        )


def _make(target: Path) -> None:
    try:
        target.mkdir()
    except OSError as error:
        raise AutolmkError(
            "a folder cannot be made", file=target, found=error.strerror or str(error),
            remedy="choose another folder, one that you may write to",
        ) from None  # fmt: skip


def _require_room(manifest: Manifest, target: Path) -> None:
    free = shutil.disk_usage(target).free
    if manifest.total > free:
        raise AutolmkError(
            "a bundle does not fit on this disk",
            file=target.parent,
            found=f"{free / 2**20:.0f} MiB free",
            expected=f"{manifest.total / 2**20:.0f} MiB",
            remedy="free disk space, or choose another folder",
        )


def _content(files: Files, name: str, manifest: Manifest) -> bytes:
    """Of a small file, verified."""
    wanted = manifest.files[name]
    with files.open(name) as stream:
        data = stream.read(wanted.size + 1)
    if len(data) != wanted.size or hashlib.sha256(data).hexdigest() != wanted.sha256:
        raise broken(files.place, f"{name[:200]!r} is not the file that {MANIFEST} lists")
    return data


def _copy(files: Files, name: str, manifest: Manifest, target: Path | None) -> None:
    """Stream one file, counted and hashed, to `target`, or nowhere. AutolmkError where it is not the listed one."""
    wanted, size, found = manifest.files[name], 0, hashlib.sha256()
    with files.open(name) as source, _written(target) as write:
        while size <= wanted.size and (data := source.read(min(CHUNK, wanted.size + 1 - size))):
            size += len(data)
            found.update(data)
            write(data)
    if size != wanted.size or found.hexdigest() != wanted.sha256:
        raise broken(files.place, f"{name[:200]!r} is not the file that {MANIFEST} lists")


@contextmanager
def _written(target: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Writes to a new file, synced at the end; to nowhere without one. AutolmkError where the disk refuses."""

    def refusal(error: OSError) -> AutolmkError:
        found = error.strerror or str(error)
        return AutolmkError("a file cannot be written", file=target, found=found, remedy="free disk space, or choose "
                            "another folder that you may write to")  # fmt: skip

    if target is None:
        yield lambda data: None
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = target.open("xb")
    except OSError as error:
        raise refusal(error) from None

    def write(data: bytes) -> None:
        try:
            stream.write(data)
        except OSError as error:
            raise refusal(error) from None

    with stream:
        yield write
        try:
            stream.flush()
            os.fsync(stream.fileno())
        except OSError as error:
            raise refusal(error) from None


__all__ = ["card_of", "is_bundle", "model_of", "read", "unpack", "verify", "weights_of"]
