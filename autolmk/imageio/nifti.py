"""NIfTI-1 and NIfTI-2: single files, packed by gzip or not whatever their names say, and pairs .hdr and .img.

Where the voxels are is said in `autolmk.nifti_header`. Voxels are `scl_slope` x stored + `scl_inter`, where the slope
is neither 0 nor NaN; stored values are taken as `datatype` says. A fifth axis holds components, a fourth one must be of
one point in time.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from isal import igzip
from isal.igzip_lib import IsalError

from autolmk.errors import AutolmkError, counted
from autolmk.geometry import Geometry
from autolmk.imageio.integrity import foreign, is_nifti_pair, truncated, unreadable, voxels_beside
from autolmk.imageio.itk import ImageSource
from autolmk.imageio.notices import notice
from autolmk.imageio.viewing import drop_opacity
from autolmk.nifti_header import Form, ras_affine

CHUNK = 1 << 22
DAMAGED = (cast(type[Exception], IsalError), gzip.BadGzipFile)  # where a gzip file cannot be unpacked


def inspect(file: Path, form: Form | None = None) -> ImageSource:
    """The grid of a NIfTI file. form: which one counts where a header's two forms disagree.

    AutolmkError where the file is damaged or unsupported, or where its header contradicts itself.
    """
    header = read_header(file)
    try:
        affine, remarks = ras_affine(header, form)
    except ValueError as error:
        raise _contradiction(file, str(error)) from None
    for problem, found, remedy in remarks:
        notice(problem, file, found=found, remedy=remedy)
    shape, _ = _axes(header, file)
    voxels = voxels_beside(file) or file if _paired(header) else file
    require_whole(voxels, header)
    return ImageSource((str(file),), Geometry.from_ras(shape, affine), True, lambda: _load(voxels, header))


# -- files ------------------------------------------------------------------------------------------------------------


def opened(file: Path) -> BinaryIO:
    """The bytes of a file, unpacked if it is a gzip file, whatever its name says."""
    with file.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return _unpacked(file) if packed else file.open("rb")


def _unpacked(file: Path) -> BinaryIO:
    """The contents of a gzip file, by Intel's library, in 0.4 of zlib's time."""
    unpacking: Any = igzip  # whose functions have no types
    return cast(BinaryIO, unpacking.open(file))


def read_header(file: Path) -> Any:
    """nibabel's header. AutolmkError where the file is no NIfTI file or damaged."""
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader  # takes a third of a second
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
    from nibabel.spatialimages import HeaderDataError

    try:
        with opened(file) as stream:
            start = stream.read(4)
            size = {struct.unpack(order + "i", start)[0] for order in "<>"} if len(start) == 4 else set()
            pair = is_nifti_pair(file)
            kinds: dict[int, Any] = {348: (Nifti1Header, Nifti1PairHeader), 540: (Nifti2Header, Nifti2PairHeader)}
            kind = next((kinds[n][pair] for n in kinds if n in size), None)
            if kind is None:
                raise foreign(file, "NIfTI")
            stream.seek(0)
            header = kind.from_fileobj(stream, check=False)  # checking sets sizes that are 0 to 1
    except (HeaderDataError, ValueError) as error:
        raise AutolmkError(
            "the header of a NIfTI file makes no sense",
            file=file,
            found=str(error),
            expected="a header of NIfTI-1 or NIfTI-2",
            remedy="export the image again from the source",
        ) from None
    except (EOFError, *DAMAGED) as error:
        raise truncated(file, str(error), "a whole .nii.gz file") from None
    except OSError as error:
        raise unreadable(file, error) from None
    if (_paired(header) and not pair) or bytes(header["magic"])[:1] != b"n":
        raise AutolmkError(
            "a NIfTI header has its voxels in another file, or is of the older Analyze format",
            file=file,
            found=f"magic {bytes(header['magic'])!r}",
            expected="a single file, n+1 or n+2, or a pair CASE.hdr and CASE.img of NIfTI",
            remedy="convert the pair to .nii.gz, for example with nibabel or 3D Slicer",
        )
    _require_type(file, header)
    return header


def _paired(header: Any) -> bool:
    """Whether the voxels are in a file of their own."""
    return bytes(header["magic"])[:3] in (b"ni1", b"ni2")


def _require_type(file: Path, header: Any) -> None:
    """AutolmkError where `datatype` is not known. Another size by `bitpix`, which no reader uses, is noticed."""
    from nibabel.spatialimages import HeaderDataError

    try:
        bits = header.get_data_dtype().itemsize * 8
    except (HeaderDataError, KeyError):
        bits = 0
    found = f"datatype {int(header['datatype'])}, {int(header['bitpix'])} bits"
    if bits == 0:
        raise AutolmkError(
            "the voxels of a NIfTI file are of a type that is not known",
            file=file,
            found=found,
            expected="whole or decimal numbers, or RGB, of the size that their type has",
            remedy="convert it, for example with nibabel or 3D Slicer",
        )
    if bits != int(header["bitpix"]):
        remedy = "look whether the image is as it should be: its type counts"
        notice("a NIfTI header says two sizes of its voxels", file, found=found, expected=f"{bits} bits", remedy=remedy)


def require_whole(file: Path, header: Any) -> None:
    """Raise AutolmkError where the file holds fewer bytes than its header announces; packed ones are unpacked
    in doubt.
    """
    needed = _needed(file, header)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
            if packed:
                stream.seek(-4, 2)
                said = struct.unpack("<I", stream.read(4))[0]  # the size after unpacking, modulo 2**32 (RFC 1952)
        if not packed and size < needed:
            raise truncated(file, f"{size} bytes", f"{needed} bytes")
        if not packed or said == needed % 2**32:
            _say_more(file, size if not packed else needed, needed)
            return
        unpacked = 0
        with _unpacked(file) as unpacking:  # several members, or bytes after the image: the only way is to unpack it
            while chunk := unpacking.read(CHUNK):
                unpacked += len(chunk)
    except (EOFError, *DAMAGED) as error:
        raise truncated(file, str(error), "a whole .nii.gz file") from None
    except OSError as error:
        raise unreadable(file, error) from None
    if unpacked < needed:
        raise truncated(file, f"{unpacked} bytes after unpacking", f"{needed} bytes")
    _say_more(file, unpacked, needed)


def _say_more(file: Path, size: int, needed: int) -> None:
    if size > needed + 1:  # some writers end by a line feed
        notice(
            "a file holds more voxels than its header says",
            file,
            found=f"{size} bytes",
            expected=f"{needed} bytes",
            remedy="look whether the header's sizes and type are right",
        )


def _needed(file: Path, header: Any) -> int:
    voxels = math.prod(max(1, int(n)) for n in header["dim"][1 : 1 + int(header["dim"][0])])
    return _offset(file, header) + voxels * int(header.get_data_dtype().itemsize)


def _offset(file: Path, header: Any) -> int:
    """Of the first voxel in the file; where 0 is said, which is "not said" to nibabel, too, right after the header."""
    first = 0 if _paired(header) else int(header["sizeof_hdr"]) + 4  # after the bytes that announce extensions
    offset = float(header["vox_offset"]) or float(first)
    if not math.isfinite(offset) or offset < first or offset != int(offset):
        raise AutolmkError(
            "the header of a NIfTI file makes no sense",
            file=file,
            found=f"vox_offset {offset:g}",
            expected=f"a whole number from {first} on",
            remedy="export the image again from the source",
        )
    return int(offset)


def _axes(header: Any, file: Path) -> tuple[tuple[int, ...], int]:
    """(shape (i, j[, k]), channels): a fifth axis holds components, a fourth of one point in time is dropped."""
    n = int(header["dim"][0])
    dim = [int(x) for x in header["dim"][1 : 1 + n]]
    if n < 2 or min(dim) < 1:
        raise _contradiction(file, f"dim {[n, *dim]}: {counted(n, 'axis', 'axes')}, each of which must have a voxel")
    channels = dim[4] if n >= 5 else 1
    if math.prod(dim[3:]) != channels:
        raise AutolmkError(
            "an image has too many axes",
            file=file,
            found=f"{n} axes of {' x '.join(map(str, dim))}",
            expected="2 or 3 axes",
            remedy="write one file for each channel or point in time, CASE_0000.ext, CASE_0001.ext, ...",
        )
    return tuple(dim[:3]), channels


def _load(file: Path, header: Any) -> npt.NDArray[Any]:
    """(*S, C) with the axes of `Geometry.from_ras`."""
    shape, channels = _axes(header, file)
    from nibabel.spatialimages import HeaderDataError

    dtype, offset = header.get_data_dtype(), _offset(file, header)
    try:
        with opened(file) as stream:
            stream.seek(offset)
            data = stream.read(math.prod(shape) * channels * dtype.itemsize)
            while stream.read(CHUNK):  # to the end, where gzip compares its checksum
                pass
        array = np.frombuffer(data, dtype).reshape((*shape, channels), order="F")
        slope, inter = header.get_slope_inter()
        if math.isinf(float(header["scl_slope"])):  # which nibabel takes for one that is not set
            raise HeaderDataError(f"scl_slope {float(header['scl_slope'])}")
    except (EOFError, *DAMAGED, OSError, ValueError) as error:
        raise truncated(file, str(error), "a whole NIfTI file") from None
    except HeaderDataError as error:
        raise _contradiction(file, str(error)) from None
    if dtype.names is not None:  # RGB24, RGBA32, which no slope scales
        array = np.stack([array[..., 0][name] for name in dtype.names], axis=-1)
        array = drop_opacity(file, array, 255) if array.shape[-1] == 4 else array
    elif slope is not None and (slope, inter) != (1.0, 0.0):
        array = array * np.float64(slope) + np.float64(inter)
    return np.moveaxis(array, range(len(shape)), range(len(shape))[::-1])


def _contradiction(file: Path, found: str) -> AutolmkError:
    sheared, forms = "sheared" in found, "sform" in found or "qform" in found
    remedy = "export the image again from the source, or write the right numbers into the header"
    if sheared:
        remedy = "resample it to a straight grid, for example in 3D Slicer or with nibabel.processing.conform"
    elif forms:
        remedy = (
            'say with "nifti_affine": "sform" or "qform" in dataset.json which one counts (the one that the program '
        )
        remedy += "used in which the points were placed), or mend the header"
    return AutolmkError(
        "the header of an image contradicts itself"
        if forms and not sheared
        else "the header of an image makes no sense",
        file=file,
        found=found,
        expected="sizes, directions and a place in the room that agree",
        remedy=remedy,
    )
