"""The values of a DICOM file's pixels: decoded, freed of what the bits above hold, inverted and rescaled.

PixelPaddingValue, to PixelPaddingRangeLimit, says which stored values show nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError, counted
from autolmk.imageio.codestreams import read_codestream
from autolmk.imageio.dicom_header import DicomFrame, read_whole, understood
from autolmk.imageio.itk import load
from autolmk.imageio.notices import notice

PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")  # not compressed
RUN_LENGTHS = "1.2.840.10008.1.2.5"
PALETTE = "PALETTE COLOR"
DECODING = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
KNOWN = (
    "MONOCHROME1", "MONOCHROME2", PALETTE, "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420",
    "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT",
)  # fmt: skip
EMBEDDED = ("MONOCHROME1", "MONOCHROME2", "RGB", PALETTE)  # photometric interpretations whose stored values are values


def values(file: Path, header: Any, frames: Sequence[DicomFrame]) -> npt.NDArray[Any]:
    """Read the pixels (F, rows, columns[, 3]) of a file, rescaled frame by frame. AutolmkError where they cannot be
    decoded.
    """
    with understood(file):
        return _rescaled(file, header, frames)


def _rescaled(file: Path, header: Any, frames: Sequence[DicomFrame]) -> npt.NDArray[Any]:
    photometric = _photometric(header)
    if photometric not in KNOWN:
        raise _unsupported(file, f"PhotometricInterpretation {photometric[:40]}")
    stored = _stored(file, header, len(frames), photometric)
    white = inverted_at(header)
    if white is not None:
        stored = white - stored.astype(np.int64)
    if all((f.slope, f.intercept) == (1.0, 0.0) for f in frames):
        return stored
    slope, intercept = (np.array([getattr(f, n) for f in frames]) for n in ("slope", "intercept"))
    ends = (slice(None), *([None] * (stored.ndim - 1)))
    return np.asarray(stored * slope[ends] + intercept[ends])


def _photometric(header: Any) -> str:
    return str(header.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper()


def inverted_at(header: Any) -> int | None:
    """The number that stored values are subtracted from, where low ones are shown white; None where they are not."""
    if _photometric(header) != "MONOCHROME1":
        return None
    return -1 if int(header.get("PixelRepresentation") or 0) else 2 ** int(header.BitsStored) - 1


def padding(header: Any, frames: Sequence[DicomFrame], inverted_at: int | None) -> tuple[float, float] | None:
    """The lowest and highest value that PixelPaddingValue and PixelPaddingRangeLimit (DICOM PS3.3 C.7.5.1.1.2) declare,
    as it is after rescaling; None without one, in colour images, and where frames differ.

    inverted_at: the stored value from which MONOCHROME1 is subtracted; None where it is not.
    """
    if int(header.get("SamplesPerPixel") or 1) > 1 or "PALETTE" in str(header.get("PhotometricInterpretation")).upper():
        return None
    first = _stored_value(header, "PixelPaddingValue")
    if first is None:
        return None
    last = _stored_value(header, "PixelPaddingRangeLimit")
    stored = [first, first if last is None else last]
    if inverted_at is not None:
        stored = [inverted_at - value for value in stored]
    found = {tuple(sorted(float(value * f.slope + f.intercept) for value in stored)) for f in frames}
    if len(found) != 1:
        return None
    ((low, high),) = found
    return low, high


def _stored_value(header: Any, tag: str) -> int | None:
    """As the pixel's bits hold it, whichever sign the header gives it; None where it is missing or no whole number."""
    try:
        value = int(header.get(tag))
        bits = int(header.get("BitsStored") or header.BitsAllocated)
        signed = bool(int(header.get("PixelRepresentation") or 0))
    except (TypeError, ValueError, AttributeError):
        return None
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _stored(file: Path, header: Any, n_frames: int, photometric: str) -> npt.NDArray[Any]:
    """(F, rows, columns[, 3]) as stored, colours as RGB. AutolmkError where they cannot be decoded."""
    implicit, little = header.original_encoding
    bare = PLAIN[0] if implicit else PLAIN[3] if little is False else PLAIN[1]
    syntax = getattr(header.file_meta, "TransferSyntaxUID", bare)
    colour = int(header.get("SamplesPerPixel") or 1) > 1
    whole = read_whole(file)
    whole.file_meta.TransferSyntaxUID = syntax
    if str(syntax) not in PLAIN:
        photometric = _agreeing(file, whole, n_frames, photometric)
    if str(syntax) == RUN_LENGTHS and colour and (photometric == "RGB" or int(whole.BitsAllocated) > 8):
        stored = _run_lengths(file, whole, n_frames, photometric)
    elif str(syntax) not in PLAIN or photometric not in EMBEDDED:
        stored = _decoded(file, whole, n_frames, colour)
    else:
        shifts = _take_all_bits(whole)
        try:
            stored = whole.pixel_array
        except (AttributeError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise AutolmkError(
                "the pixels of a DICOM file are damaged",
                file=file,
                found=" ".join(str(error).split())[:300],
                expected=f"{counted(n_frames, 'frame')} of {header.Columns} x {header.Rows} pixels",
                remedy="copy or export it again from the source",
            ) from None
        _say_high_bits(whole, file)
        if shifts is not None:
            if (stored & ((1 << (shifts[1] - shifts[0])) - 1)).any() and not _overlaid(whole):
                found = f"BitsStored {header.BitsStored}, HighBit {header.HighBit}, but lower bits that are in use"
                raise _unsupported(file, found)
            stored = np.right_shift(np.left_shift(stored, shifts[0]), shifts[1])
        stored = stored.reshape(n_frames, int(header.Rows), int(header.Columns), *([-1] if colour else []))
    stored = stored if colour else _used_bits(stored, whole, file)
    return _coloured(stored, whole) if photometric == PALETTE else stored


def _coloured(indices: npt.NDArray[Any], whole: Any) -> npt.NDArray[Any]:
    """(F, rows, columns) -> (F, rows, columns, 3): 8 bits for indices of 8 bits, as common viewers show them."""
    from pydicom.pixels.processing import apply_color_lut

    colours = np.asarray(apply_color_lut(indices, whole))
    if int(whole.BitsAllocated) != 8 or colours.dtype == np.uint8:
        return colours
    palette = np.asarray(apply_color_lut(np.arange(256, dtype=np.uint8), whole))
    return (colours >> (8 if palette.max() > 255 else 0)).astype(np.uint8)  # some hold 8 bits in words of 16


def _agreeing(file: Path, whole: Any, n_frames: int, photometric: str) -> str:
    """The photometric interpretation by which ITK decodes compressed pixels: that of the stream, where it says its own.

    AutolmkError where a frame's stream is of another size than the header says.
    """
    from pydicom.encaps import generate_frames

    try:
        frames = list(generate_frames(whole.PixelData, number_of_frames=n_frames))
    except ValueError:  # frames that cannot be told apart, which ITK may still decode, or refuses
        return photometric
    for number, data in enumerate(frames):
        stream = read_codestream(data)
        if stream is None:
            continue
        said = int(whole.Rows), int(whole.Columns), int(whole.get("SamplesPerPixel") or 1)
        if (stream.rows, stream.columns, stream.components) != said:
            raise AutolmkError(
                "the pixels of a DICOM file are of another size than its header says",
                file=file,
                found=f"{stream.columns} x {stream.rows} pixels of {counted(stream.components, 'value')} in the "
                f"compressed frame {number + 1}",
                expected=f"{said[1]} x {said[0]} pixels of {counted(said[2], 'value')}",
                remedy="export it again from the source",
            )
        if number == 0 and stream.luminance is not None and stream.luminance != photometric.startswith("YBR"):
            notice(
                "the colours of an image are stored in another way than its header says",
                file,
                found=f"PhotometricInterpretation {photometric}, a JPEG stream of "
                f"{'luminance and colour differences' if stream.luminance else 'red, green and blue'}",
                remedy="look whether its colours are right: the stream counts, as in common viewers",
            )
            photometric = "YBR_FULL_422" if stream.luminance else "RGB"
            whole.PhotometricInterpretation = photometric
    return photometric


def _used_bits(stored: npt.NDArray[Any], header: Any, file: Path) -> npt.NDArray[Any]:
    """Without the bits above BitsStored, where old devices put overlays."""
    used, allocated = int(header.get("BitsStored") or 0), int(header.BitsAllocated)
    if stored.dtype.kind not in "iu" or not 0 < used < allocated:
        return stored
    if int(header.get("HighBit", used - 1)) != used - 1:
        raise _unsupported(file, f"BitsStored {used}, HighBit {header.HighBit}: values that do not begin at bit 0")
    unused = allocated - used
    return np.asarray(np.right_shift(np.left_shift(stored, unused), unused))


def _take_all_bits(whole: Any) -> tuple[int, int] | None:
    """The bits above values and above and below them, where values do not begin at bit 0, which pydicom overlooks; all
    bits are then declared to be stored. None where they begin there.
    """
    allocated, used = int(whole.BitsAllocated), int(whole.get("BitsStored") or 0)
    high = int(whole.get("HighBit", used - 1))
    if allocated not in (8, 16, 32) or not 0 < used <= high < allocated:
        return None
    whole.BitsStored, whole.HighBit = allocated, allocated - 1
    return allocated - 1 - high, allocated - used


def _overlaid(whole: Any) -> bool:
    return any(element.tag.group & 0xFF01 == 0x6000 for element in whole)


def _say_high_bits(whole: Any, file: Path) -> None:
    """Notice bits above BitsStored that neither repeat the sign nor belong to an overlay; pydicom leaves them out."""
    used, allocated = int(whole.get("BitsStored") or 0), int(whole.BitsAllocated)
    if allocated not in (8, 16, 32) or not 0 < used < allocated or "PixelData" not in whole:
        return
    if _overlaid(whole):
        return
    order = "<" if whole.original_encoding[1] is not False else ">"
    raw = np.frombuffer(whole.PixelData, f"{order}u{allocated // 8}", count=len(whole.PixelData) // (allocated // 8))
    above = raw >> used != 0
    if int(whole.get("PixelRepresentation") or 0):
        above &= raw >> (used - 1) != 2 ** (allocated - used + 1) - 1
    if above.any():
        notice(
            "an image has more bits than its header says",
            file,
            found=f"{int(above.sum())} of {raw.size} values have bits above BitsStored {used}, such as {raw[above][0]}",
            expected="an overlay, or nothing there",
            remedy="look whether the image is as it should be: they are left out; if they belong to the values, "
            "correct BitsStored and HighBit",
        )


def _decoded(file: Path, whole: Any, n_frames: int, colour: bool) -> npt.NDArray[Any]:
    """As ITK decodes them: compressed pixels, YBR.

    It gets a copy of the pixels with what is needed to decode them, and nothing more: which rescaling it applies
    depends on the kind of image, and how it inverts on the compression.
    """
    import pydicom  # takes a quarter of a second
    from pydicom.uid import SecondaryCaptureImageStorage

    syntax: Any = getattr(whole.file_meta, "TransferSyntaxUID", "")
    plain = pydicom.Dataset()
    plain.update({e.tag: e for e in whole if e.keyword in DECODING})
    if _photometric(whole) in ("MONOCHROME1", PALETTE):
        plain.PhotometricInterpretation = "MONOCHROME2"
    plain.SOPClassUID, plain.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    plain.file_meta = pydicom.dataset.FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = syntax
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "pixels.dcm"
        try:
            plain.save_as(copy, enforce_file_format=True)
            array = load((str(copy),), file)
        except AutolmkError as error:
            raise _unsupported(file, f"{getattr(syntax, 'name', syntax)}: {error.found}") from None
    channels = array.shape[-1:] if colour or array.ndim == 4 else ()
    plane = array.shape[-3:-1] if channels else array.shape[-2:]
    return np.asarray(array.reshape(n_frames, *plane, *channels))


def _run_lengths(file: Path, whole: Any, n_frames: int, photometric: str) -> npt.NDArray[Any]:
    """Colours packed by RLE, of which ITK mixes up the bytes where a value has several."""
    import imagecodecs
    from pydicom.encaps import generate_frames

    if photometric != "RGB":
        raise _unsupported(file, f"{photometric} of {whole.BitsAllocated} bits by RLE")
    kind = np.dtype(f"<{'i' if int(whole.PixelRepresentation) else 'u'}{int(whole.BitsAllocated) // 8}")
    shape = int(whole.SamplesPerPixel), int(whole.Rows), int(whole.Columns)
    try:
        frames = [
            np.frombuffer(bytes(imagecodecs.dicomrle_decode(data, kind)), kind).reshape(shape)
            for data in generate_frames(whole.PixelData, number_of_frames=n_frames)
        ]
        return np.moveaxis(np.stack(frames), 1, -1)
    except (imagecodecs.DicomrleError, ValueError) as error:
        raise _unsupported(file, f"RLE: {error}") from None


def _unsupported(file: Path, found: str) -> AutolmkError:
    return AutolmkError(
        "the pixels of a DICOM file cannot be decoded: they are compressed in a way that is not known, or damaged",
        file=file,
        found=found,
        expected="pixels that are not compressed, or by JPEG, JPEG-LS, JPEG 2000 or RLE",
        remedy="decompress the file, for example by gdcmconv --raw or dcmdjpeg, or export it again",
    )
