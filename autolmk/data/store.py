"""Preprocessed cases on disk: CASE.b2nd (blosc2, in chunks), labels/CASE.b2nd where the case has a label map, and
CASE.json, written atomically, read in part."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.data.blosc2_frame import check_frame
from autolmk.data.label_maps import UNKNOWN, Labels
from autolmk.errors import AutolmkError
from autolmk.files.atomic import refuse_link, remove_leftovers, replacing
from autolmk.files.digest import digest
from autolmk.files.serialization import near, read_json, write_json
from autolmk.geometry import Geometry
from autolmk.image import FloatImage, Image
from autolmk.landmarks import Landmarks
from autolmk.plans import Configuration, Plans

VERSION = 1
PREPROCESSING_KEYS = ("spacing", "normalization")  # of a configuration, that the arrays depend on
CHUNK = {2: 256, 3: 64}  # voxels a side of a chunk, the unit of a read from disk
LABELS = "labels"  # folder of label maps
BLOCK = {2: 64, 3: 32}  # of a block, the unit of decompression
FURTHEST = 1e9  # mm from the origin: a point beyond is damage
REMEDY = "run autolmk_preprocess again; it redoes only what is missing or changed"


@dataclass(frozen=True, eq=False)
class StoredCase:
    """One preprocessed case, as it lies in the store.

    array: (C, *S) float32, in memory or a blosc2 array that is read in part. fill: (C,) what lies outside the image.
    subject: whom the case shows. digest: of everything that the case was made from. plans_digest: of the part of the
    plans that it was made by, see `preprocessing_digest`. labels: (1, *S) uint8, as `array`, of the user's label
    map; None without.
    """

    identifier: str
    array: Any
    geometry: Geometry
    fill: tuple[float, ...]
    landmarks: Landmarks
    subject: str
    digest: str
    plans_digest: str
    labels: Any = None

    def read(self, start: Sequence[int], shape: Sequence[int]) -> FloatImage:
        """The region of `shape` whose first voxel is `start` (array order), padded by `fill`: (C, *shape) float32."""
        result = np.empty((len(self.fill), *shape), dtype=np.float32)
        for channel, value in enumerate(self.fill):
            result[channel] = _box(self.array, channel, start, shape, value)
        return result

    def read_labels(self, start: Sequence[int], shape: Sequence[int]) -> Labels:
        """Read a box of the label map, as `read`: (*shape) uint8, 255 beyond the image."""
        return np.asarray(_box(self.labels, 0, start, shape, UNKNOWN), dtype=np.uint8)

    def image(self) -> Image:
        """The whole case in memory."""
        return Image(np.asarray(self.array[:], dtype=np.float32), self.geometry)


def _box(array: Any, channel: int, start: Sequence[int], shape: Sequence[int], fill: float) -> npt.NDArray[Any]:
    """The box `shape` of one channel of array (C, *S) whose first voxel is `start`, padded by `fill`."""
    from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd  # imports torch

    box = [[int(a), int(a + n)] for a, n in zip(start, shape, strict=True)]
    if any(b <= 0 or a >= n for (a, b), n in zip(box, array.shape[1:], strict=True)):
        return np.full(tuple(shape), fill)  # crop_and_pad_nd gives zeros, whatever the fill
    found: npt.NDArray[Any] = crop_and_pad_nd(array, [[channel, channel + 1], *box], pad_value=fill)[0]
    return found


class Store:
    """The preprocessed cases of one configuration, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def cases(self) -> list[str]:
        """Identifiers of the complete cases, sorted."""
        return sorted(f.stem for f in self.folder.glob("*.json") if f.with_suffix(".b2nd").exists())

    def files(self, case: str) -> tuple[Path, Path]:
        """The files of a case's array and of its description."""
        return self.folder / f"{case}.b2nd", self.folder / f"{case}.json"

    def labels_file(self, case: str) -> Path:
        """The file of a case's label map."""
        return self.folder / LABELS / f"{case}.b2nd"

    def write(self, case: str, stored: StoredCase) -> None:
        """Write or replace a case. AutolmkError where the disk refuses.

        A reader sees the old case, none, or the whole new one: the description goes first and comes last.
        """
        array_file, description = self.files(case)
        try:
            description.unlink(missing_ok=True)
            record: dict[str, Any] = _put(array_file, np.asarray(stored.array[:], dtype=np.float32))
            self.labels_file(case).unlink(missing_ok=True)
            if stored.labels is not None:
                record["labels"] = _put(self.labels_file(case), np.asarray(stored.labels[:], dtype=np.uint8))
        except (OSError, RuntimeError) as error:
            raise AutolmkError(
                "a preprocessed case cannot be written",
                file=array_file,
                case=case,
                found=getattr(error, "strerror", None) or str(error),
                remedy="free disk space, or choose another folder that you may write to",
            ) from None
        write_json(description, {"version": VERSION, **record, **_describe(stored)}, indent=None)

    def load(self, case: str) -> StoredCase:
        """A case, its array left on disk. AutolmkError where it is missing or damaged."""
        array_file, description = self.files(case)
        if not description.exists() or not array_file.exists():
            raise AutolmkError(
                f"there is no preprocessed case {case!r}{near(case, self.cases())}", file=array_file, remedy=REMEDY
            )
        value = read_json(description, remedy=REMEDY)
        try:
            if value["version"] != VERSION:
                raise ValueError(f"version {value['version']}, not {VERSION}")
            stored = _parse(case, value)
            array = _open_array(array_file, value, "<f4", (len(stored.fill), *stored.geometry.shape))
            labels = None
            if "labels" in value:
                labels = _open_array(self.labels_file(case), value["labels"], "|u1", (1, *stored.geometry.shape))
            return dataclasses.replace(stored, array=array, labels=labels)
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError, RuntimeError, OSError) as error:
            raise AutolmkError(
                "a preprocessed case is damaged", file=array_file, case=case, found=str(error), remedy=REMEDY
            ) from None

    def verify(self, case: str) -> StoredCase:
        """`load`, after reading the whole array to see that no byte of it changed on the disk."""
        stored = self.load(case)
        array_file, description = self.files(case)
        value = read_json(description)
        for file, record in ((array_file, value), (self.labels_file(case), value.get("labels"))):
            if record is not None and checksum(file) != record.get("crc32"):
                raise AutolmkError(
                    "a preprocessed case is damaged",
                    file=file,
                    case=case,
                    found="another checksum than when it was written",
                    remedy=REMEDY,
                )
        return stored

    def remove(self, case: str) -> None:
        """Forget a case, if it is there."""
        for file in (*reversed(self.files(case)), self.labels_file(case)):
            file.unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what a killed writer left behind; no other writer may be at work."""
        for folder in (self.folder, self.folder / LABELS):
            refuse_link(folder)
            remove_leftovers(folder)

    def digest(self, case: str) -> str | None:
        """The digest of a case that is whole, None otherwise."""
        try:
            return self.verify(case).digest
        except AutolmkError:
            return None  # missing or damaged: to be made again

    def read(self, case: str, start: Sequence[int], shape: Sequence[int]) -> FloatImage:
        """`StoredCase.read` of a case."""
        return self.load(case).read(start, shape)


def checksum(file: Path) -> int:
    """CRC-32 of a file's content."""
    value = 0
    with open(file, "rb") as stream:
        while part := stream.read(1 << 22):
            value = zlib.crc32(part, value)
    return value


def _put(file: Path, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Write or replace an array (C, *S) atomically; gives the size and the checksum of its file."""
    refuse_link(file.parent)
    with replacing(file, ".b2nd") as temporary:
        _write_array(temporary, array)
        return {"bytes": temporary.stat().st_size, "crc32": checksum(temporary)}


def _write_array(file: Path, array: npt.NDArray[Any]) -> None:
    import blosc2

    chunks = _chunks(array.shape)
    blocks = (1, *(min(n, BLOCK[array.ndim - 1]) for n in array.shape[1:]))
    file.unlink(missing_ok=True)
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(file),
        chunks=chunks,
        blocks=blocks,
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1},
    )


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an array of this shape, (C, *S)."""
    return (1, *(min(n, CHUNK[len(shape) - 1]) for n in shape[1:]))


def _open_array(file: Path, record: dict[str, Any], dtype: str, shape: tuple[int, ...]) -> Any:
    """ValueError where the file has another size than its record says, or is no plain array of this type and shape."""
    import blosc2

    if file.stat().st_size != record["bytes"]:
        raise ValueError(f"{file.stat().st_size} bytes instead of {record['bytes']}")
    check_frame(file, dtype=dtype, shape=shape, chunks=_chunks(shape))
    return blosc2.open(str(file), mode="r", dparams={"nthreads": 1})


def _describe(stored: StoredCase) -> dict[str, Any]:
    marks = stored.landmarks
    return {
        "geometry": stored.geometry.to_json(),
        "fill": list(stored.fill),
        "landmarks": {"names": marks.names, "points": marks.points, "status": marks.status},
        "subject": stored.subject,
        "digest": stored.digest,
        "plans_digest": stored.plans_digest,
    }


def _parse(case: str, value: dict[str, Any]) -> StoredCase:
    """A case as its description says, without its arrays."""
    geometry = Geometry.from_json(value["geometry"])
    marks = value["landmarks"]
    points = np.array(marks["points"], dtype=np.float64).reshape(len(marks["names"]), geometry.physical_ndim)
    landmarks = Landmarks(tuple(marks["names"]), points, np.array(marks["status"], dtype=np.int8))
    if (np.abs(landmarks.points) > FURTHEST).any():
        raise ValueError(f"points further than {FURTHEST:g} mm from the origin")
    fill = tuple(float(v) for v in value["fill"])
    for name in (case, *landmarks.names):
        if not isinstance(name, str):
            raise ValueError(f"the name {name!r}, which is no text")
    texts = (value["subject"], value["digest"], value["plans_digest"])
    if not all(isinstance(text, str) for text in texts) or not np.isfinite(fill).all():
        raise ValueError("its subject, digests or fill values are of another kind than was written")
    return StoredCase(case, None, geometry, fill, landmarks, *texts)


def preprocessing_digest(plans: Plans, configuration: Configuration) -> str:
    """The digest of the part of the plans that preprocessed data depends on."""
    part = {key: getattr(configuration, key) for key in PREPROCESSING_KEYS}
    return digest({**part, "landmarks": plans.landmarks, "channels": plans.channel_names, "version": plans.version})
