"""The reading of a DICOM header: the pixels' size, their place, and what their values mean.

**Size of a pixel**, (row spacing, column spacing) in mm: PixelSpacing, which is calibrated at the anatomy; else
ImagerPixelSpacing, which is that of the detector; else NominalScannedPixelSpacing, of a scanned film; else the only
ultrasound region that is measured in centimetres. Where PixelSpacing and ImagerPixelSpacing differ, it is said. Without
any of them an image has no physical size; PixelAspectRatio keeps its pixels from being taken for squares.

**Place**: ImagePositionPatient and ImageOrientationPatient, of each frame by itself where a file holds several: from
its functional groups, or by what `dicom_offsets` finds. SliceThickness is how thick a slice is, not how far the next
one is away, and is believed for a single slice alone.

**Values**: RescaleSlope x stored + RescaleIntercept, by frame; MONOCHROME1 is inverted before, so that dense is bright.

See DICOM PS3.3, C.7.6.2, C.7.6.3, C.7.6.16, C.8.5.5, 10.7.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray
from autolmk.imageio.dicom_offsets import offsets
from autolmk.imageio.integrity import is_bare_dicom
from autolmk.imageio.notices import notice

DIFFERENT = 0.01  # share by which two spacings differ that are not the same, rounded
COSINES = 0.02  # how far direction cosines may be from unit vectors at a right angle: two decimals
CENTIMETRES = 3  # in PhysicalUnitsXDirection


@dataclass(frozen=True)
class DicomFrame:
    """One plane. size: (row, column) spacing in mm; None where nothing says. position: (3,) LPS mm of the first pixel.

    axes: (3, 2), the directions in which rows and columns are counted. position and axes are None where nothing says.
    slope, intercept: of stored values; rescaled: whether a header says them.
    """

    size: tuple[float, float] | None
    position: FloatArray | None
    axes: FloatArray | None
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: bool = False


def read_header(file: Path) -> Any:
    """pydicom's dataset without the pixels. AutolmkError where the file is no DICOM file or damaged."""
    return _read(file, stop_before_pixels=True)


def read_whole(file: Path) -> Any:
    """pydicom's dataset with the pixels. AutolmkError where the file is no DICOM file or damaged."""
    return _read(file, stop_before_pixels=False)


def frames_of(header: Any, file: Path) -> list[DicomFrame]:
    """The frames of a DICOM file, in the order in which they are stored. AutolmkError where a number makes no sense."""
    count = int(_number(header, "NumberOfFrames", file) or 1)
    size = pixel_size(header, file)
    if count < 1 or count > 1_000_000:
        raise _senseless(file, f"NumberOfFrames {count}", "a number of frames from 1 on")
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    each = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    if count == 1 and not shared and not each:
        return [_frame([header], size, file)]
    if each and len(each) != count:
        raise _senseless(file, f"{count} frames, but functional groups of {len(each)}", "one for each frame")
    if not each and not shared:
        return _by_offsets(header, count, size, file)
    return [_frame([*each[i : i + 1], *shared, header], size, file) for i in range(count)]


def pixel_size(header: Any, file: Path) -> tuple[float, float] | None:
    """The size of a pixel, (row spacing, column spacing) in mm; None where no tag says it. AutolmkError where a tag
    holds nonsense.
    """
    calibrated = _pair(header, "PixelSpacing", file)
    detector = _pair(header, "ImagerPixelSpacing", file)
    found = calibrated or detector or _pair(header, "NominalScannedPixelSpacing", file)
    if found is None:
        return _of_ultrasound(header, file)
    with contextlib.suppress(AutolmkError, ValueError, TypeError):  # what is only compared refuses nothing
        _compare(header, file, found, calibrated, detector)
    return found


def _compare(
    header: Any,
    file: Path,
    found: tuple[float, float],
    calibrated: tuple[float, float] | None,
    detector: tuple[float, float] | None,
) -> None:
    """Notice where other tags say another size or shape."""
    if detector is not None:
        _compare_with_detector(header, file, calibrated, detector)
    regions = _ultrasound_sizes(header, file)
    if len(regions) == 1 and not np.allclose(found, next(iter(regions)), rtol=DIFFERENT, atol=0):
        said = f"{_mm(found)}; its only ultrasound region {_mm(next(iter(regions)))}"
        remedy = "look which one is right: the first one is used"
        notice("an image has two sizes of its pixels", file, found=said, remedy=remedy)
    ratio = aspect(header, file)
    if ratio != 1 and abs(ratio * found[1] / found[0] - 1) > DIFFERENT:
        said = f"{_mm(found)}; PixelAspectRatio {ratio:g}"
        remedy = "look whether shapes are right: PixelAspectRatio is left aside where there is a size"
        notice("an image has two shapes of its pixels", file, found=said, remedy=remedy)


def _compare_with_detector(
    header: Any, file: Path, calibrated: tuple[float, float] | None, detector: tuple[float, float]
) -> None:
    """Notice where a size is calibrated, and where it is that at the detector although the header knows better."""
    if calibrated and not np.allclose(calibrated, detector, rtol=DIFFERENT, atol=0):
        how = " ".join(str(header.get(f"PixelSpacingCalibration{part}") or "") for part in ("Type", "Description"))
        notice(
            "an image has two sizes of its pixels",
            file,
            found=f"PixelSpacing {_mm(calibrated)}{f' ({how.strip()})' if how.strip() else ''}, ImagerPixelSpacing "
            f"{_mm(detector)}",
            remedy="nothing, if sizes at the anatomy are meant: PixelSpacing, the calibrated one, is used",
        )
        return
    said = "EstimatedRadiographicMagnificationFactor"
    factor = _number(header, said, file)
    source = [_number(header, f"DistanceSourceTo{end}", file) for end in ("Detector", "Patient")]
    if not factor and source[0] and source[1]:
        factor, said = source[0] / source[1], "DistanceSourceToDetector over DistanceSourceToPatient"
    if factor and abs(factor - 1) > DIFFERENT:
        notice(
            "the size of an image's pixels is that at the detector",
            file,
            found=f"{'PixelSpacing and ' if calibrated else ''}ImagerPixelSpacing {_mm(detector)}, {said} {factor:.4g}",
            remedy=f"nothing, if sizes at the detector are meant; the anatomy is about {factor:.4g} times smaller",
        )


def aspect(header: Any, file: Path) -> float:
    """The height of a pixel over its width, by PixelAspectRatio; 1 where it is missing."""
    ratio = _pair(header, "PixelAspectRatio", file)
    return 1.0 if ratio is None else ratio[0] / ratio[1]


def thickness(header: Any, file: Path) -> float:
    """The thickness of a single slice in mm.

    1 where the header does not say it, or says a number below 0, which is noticed.
    """
    said = _measure(header, "SliceThickness", file)
    if said is not None and said < 0:
        notice("a slice has a thickness below 0", file, found=f"{said:g} mm", remedy="nothing: it is left aside")
    return said if said is not None and said > 0 else 1.0


def between(header: Any, file: Path) -> float | None:
    """SpacingBetweenSlices in mm; None where it is missing, 0 or no number."""
    with contextlib.suppress(AutolmkError, ValueError, TypeError):
        return _measure(header, "SpacingBetweenSlices", file) or None
    return None


def described(header: Any) -> str:
    """The series of a file, for messages."""
    words = [str(header.get(tag) or "") for tag in ("Modality", "SeriesNumber", "SeriesDescription")]
    return " ".join(word for word in words if word) or "no description"


# -- parts ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def understood(file: Path) -> Iterator[None]:
    """Turn pydicom's warnings about values into notices of the file, and values that it cannot convert into an
    AutolmkError.
    """
    said: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield
    except (AutolmkError, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:
            raise _damaged(file, error) from None
        raise AutolmkError(
            "an image cannot be opened", file=file, found=error.strerror or str(error), remedy="check its permissions"
        ) from None
    except Exception as error:  # pydicom converts values when they are used, and raises whatever its parts raise
        raise _damaged(file, error) from None
    finally:
        for message in dict.fromkeys(" ".join(str(warning.message).split())[:300] for warning in said):
            notice("a DICOM header is odd", file, found=message, remedy="export it again, if you can")


def _read(file: Path, *, stop_before_pixels: bool) -> Any:
    import pydicom  # takes a quarter of a second
    from pydicom.errors import InvalidDicomError

    with understood(file):
        with file.open("rb") as stream:
            start = stream.read(132)
        bare = start[128:] != b"DICM" and is_bare_dicom(start)
        try:
            return pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, force=bare)
        except InvalidDicomError:
            raise AutolmkError(
                "a file is no DICOM file",
                file=file,
                found="an empty file" if not start else f"it begins with {start[:12]!r}",
                expected="DICM after 128 bytes",
                remedy="remove it, or rename it if it is an image of another kind",
            ) from None


def _damaged(file: Path, error: Exception) -> AutolmkError:
    return AutolmkError(
        "a DICOM file is damaged",
        file=file,
        found=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
        expected="an intact DICOM file",
        remedy="copy or export it again from the source",
    )


def _measure(header: Any, tag: str, file: Path) -> float | None:
    """Of the header, or of the functional groups that its frames share or that the first one has."""
    groups = (g for key in ("Shared", "PerFrame") for g in list(_groups(header, f"{key}FunctionalGroupsSequence"))[:1])
    places = [header, *(m for g in groups for m in _groups(g, "PixelMeasuresSequence"))]
    return next((found for place in places if (found := _number(place, tag, file)) is not None), None)


def _frame(places: list[Any], size: tuple[float, float] | None, file: Path) -> DicomFrame:
    """places: from the frame's own functional groups to the file's header; the first that says something counts."""
    own = next(
        (
            found
            for p in places
            for m in _groups(p, "PixelMeasuresSequence")
            if (found := _pair(m, "PixelSpacing", file))
        ),
        None,
    )
    origin = _first(places, "PlanePositionSequence", lambda d: _vector(d, "ImagePositionPatient", 3, file))
    turned = _first(places, "PlaneOrientationSequence", lambda d: _vector(d, "ImageOrientationPatient", 6, file))
    slope = _first(places, "PixelValueTransformationSequence", lambda d: _number(d, "RescaleSlope", file))
    intercept = _first(places, "PixelValueTransformationSequence", lambda d: _number(d, "RescaleIntercept", file))
    if slope == 0:
        remedy = "look whether values are as in the other images: 1 is taken instead, as by common readers"
        notice("an image's values are scaled by 0", file, found="RescaleSlope 0", remedy=remedy)
    if slope is None and intercept is None:
        slope = _number(places[-1], "DoseGridScaling", file)
    rescaled = slope is not None or intercept is not None
    axes = None if turned is None else _axes(turned, file)
    return DicomFrame(own or size, origin, axes, slope or 1.0, intercept or 0.0, rescaled)


def _first(places: list[Any], sequence: str, read: Callable[[Any], Any]) -> Any:
    for place in places:
        for item in (*_groups(place, sequence), place):
            found = read(item)
            if found is not None:
                return found
    return None


def _groups(place: Any, sequence: str) -> Iterator[Any]:
    yield from place.get(sequence) or []


def _by_offsets(header: Any, count: int, size: tuple[float, float] | None, file: Path) -> list[DicomFrame]:
    """Frames without functional groups, which other tags put along the normal of the first one."""
    first = _frame([header], size, file)
    if count == 1:
        return [first]
    placed = first.position is not None and first.axes is not None and first.size is not None
    steps = offsets(header, count, between(header, file), file) if placed else None
    if steps is None or first.position is None or first.axes is None:
        return [replace(first, position=None, axes=None)] * count
    normal = np.cross(first.axes[:, 1], first.axes[:, 0])
    return [replace(first, position=first.position + s * normal) for s in steps]


def _axes(values: FloatArray, file: Path) -> FloatArray:
    """(3, 2): the directions in which rows, then columns are counted, from the six cosines of the header."""
    along_row, along_column = values[:3], values[3:]
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if not np.allclose(lengths, 1, atol=COSINES) or abs(along_row @ along_column) > COSINES:
        raise _senseless(
            file, f"ImageOrientationPatient {values.tolist()}", "two unit vectors at a right angle to each other"
        )
    along_row = along_row / lengths[0]
    along_column = along_column - along_row * (along_row @ along_column)
    return np.column_stack([along_column / np.linalg.norm(along_column), along_row])


def _of_ultrasound(header: Any, file: Path) -> tuple[float, float] | None:
    sizes = _ultrasound_sizes(header, file)
    regions = len(list(_groups(header, "SequenceOfUltrasoundRegions")))
    if len(sizes) == 1 and regions == 1 and min(min(s) for s in sizes) > 0:
        return next(iter(sizes))
    if regions:
        found = f"{regions} ultrasound regions, {len(sizes)} sizes of pixels in cm"
        notice(
            "an image has no single size of its pixels", file, found=found, remedy="give it as spacing in dataset.json"
        )
    return None


def _ultrasound_sizes(header: Any, file: Path) -> set[tuple[float, float]]:
    """(row, column) spacing in mm of each region that is measured in centimetres."""
    sizes = set()
    for region in _groups(header, "SequenceOfUltrasoundRegions"):
        if [region.get(f"PhysicalUnits{axis}Direction") for axis in "YX"] == [CENTIMETRES, CENTIMETRES]:
            row, column = (abs(10 * (_number(region, f"PhysicalDelta{axis}", file) or 0)) for axis in "YX")
            sizes.add((row, column))
    return sizes


def _number(header: Any, tag: str, file: Path) -> float | None:
    value = header.get(tag)
    if value is None or str(value).strip() == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _senseless(file, f"{tag} {str(value)[:100]}", "one number") from None
    if not np.isfinite(number):
        raise _senseless(file, f"{tag} {number}", "a finite number")
    return number


def _vector(header: Any, tag: str, n: int, file: Path) -> FloatArray | None:
    value = header.get(tag)
    if value is None or str(value).strip() in ("", "[]"):
        return None
    try:
        numbers = np.array([float(v) for v in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != n or not np.isfinite(numbers).all():
        raise _senseless(file, f"{tag} {str(value)[:100]}", f"{n} finite numbers")
    return numbers


def _pair(header: Any, tag: str, file: Path) -> tuple[float, float] | None:
    numbers = _vector(header, tag, 2, file)
    if numbers is None:
        return None
    if numbers.min() <= 0:
        raise _senseless(file, f"{tag} {numbers.tolist()}", "two numbers above 0")
    return float(numbers[0]), float(numbers[1])


def _senseless(file: Path, found: str, expected: str) -> AutolmkError:
    return AutolmkError(
        "the header of an image makes no sense",
        file=file,
        found=found,
        expected=expected,
        remedy="export the image again from the source, or correct the header",
    )


def _mm(size: tuple[float, float]) -> str:
    return f"{size[0]:g} x {size[1]:g} mm (rows x columns)"
