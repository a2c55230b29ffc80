"""DICOM: single images, files of several frames, and folders that hold the slices of one series.

Every slice or frame must say itself where it is. They are put into the order of their places, whatever their names,
numbers or order in the file; they must lie on one even, straight grid, or the case is refused with the reason. Values
are rescaled slice by slice. What a header says is read in `dicom_header`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError, counted, some
from autolmk.geometry import FloatArray, Geometry
from autolmk.imageio import integrity
from autolmk.imageio.dicom_header import (
    DicomFrame,
    aspect,
    between,
    described,
    frames_of,
    read_header,
    thickness,
    understood,
)
from autolmk.imageio.dicom_remarks import remark, remark_on_series
from autolmk.imageio.dicom_values import PLAIN, inverted_at, padding, values
from autolmk.imageio.files import files_below
from autolmk.imageio.itk import ImageSource
from autolmk.imageio.notices import notice

SPACING_TOLERANCE = 0.01  # how far slices may lie from even spacing, over that spacing
SHIFT = 0.1  # voxels: how far a voxel may lie from where its header says
KIND = ("Rows", "Columns", "SamplesPerPixel")  # what all slices of a series share
SAME_PLACE = 0.01  # mm
ROUNDING = 0.01  # mm: how far the last slice may lie off the normal by what headers round
UNITS = (1.0, 0.1, 0.01, 0.001)  # mm, to which positions may be rounded
COARSE = 0.25  # of the distance of slices, the coarsest of them that leaves them told apart
NO_IMAGES = {  # what is made of images, and lies beside them
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose",
}
COSINES = 5e-4  # by which headers round directions and sizes from slice to slice


def inspect_file(file: Path) -> ImageSource:
    """A single DICOM file: a radiograph, a slice, or a volume of several frames."""
    with understood(file):
        header = read_header(file)
        _require_pixels(header, file)
        frames = frames_of(header, file)
        if len(frames) == 1:
            return _single(file, header, frames[0])
        order, geometry = _stacked(frames, header, file, [f"frame {i + 1}" for i in range(len(frames))], file)
        remark(header, file)
        declared = padding(header, frames, inverted_at(header))
        return ImageSource((str(file),), geometry, True, lambda: values(file, header, frames)[order], declared)


def inspect_series(folder: Path) -> ImageSource:
    """The slices of the one series in a folder and those below it. AutolmkError where they form no even grid."""
    headers = _series(folder)
    files = list(headers)
    if len(files) == 1:
        return inspect_file(files[0])
    with understood(folder):
        remark_on_series(headers, folder)
    frames: list[DicomFrame] = []
    usual = files[_usual([str([h.get(tag) for tag in KIND]) for h in headers.values()])]
    first = headers[usual]
    for file, header in headers.items():
        with understood(file):
            found = frames_of(header, file)
            remark(header, file)
        if len(found) != 1:
            raise _several(folder, file, len(found), len(files))
        if (header.Rows, header.Columns) != (first.Rows, first.Columns):
            raise _differing(file, f"{header.Columns} x {header.Rows} pixels", f"{first.Columns} x {first.Rows}", usual)
        if (samples := int(header.get("SamplesPerPixel") or 1)) != (others := int(first.get("SamplesPerPixel") or 1)):
            raise _differing(file, counted(samples, "value") + " a pixel", counted(others, "value"), usual)
        frames += found
    order, geometry = _stacked(frames, first, folder, [file.name for file in files], files)
    slices = [(files[i], headers[files[i]], frames[i]) for i in order]
    declared = set()
    for file, header, frame in slices:
        with understood(file):
            declared.add(padding(header, [frame], inverted_at(header)))
    return ImageSource(
        tuple(str(file) for file, _, _ in slices),
        geometry,
        True,
        lambda: np.stack([values(file, header, [frame])[0] for file, header, frame in slices]),
        declared.pop() if len(declared) == 1 else None,
    )


def _single(file: Path, header: Any, frame: DicomFrame) -> ImageSource:
    shape = (1, int(header.Rows), int(header.Columns))
    remark(header, file)
    if frame.size is None:
        ratio = aspect(header, file)
        if ratio != 1:
            found, remedy = f"PixelAspectRatio {ratio:g}, no size", "give the size as spacing in dataset.json"
            notice("an image has pixels that are not square", file, found=found, remedy=remedy)
        geometry = Geometry.from_parts(shape, (1.0, ratio, 1.0))
    elif frame.position is None or frame.axes is None:
        geometry = Geometry.from_parts(shape, (thickness(header, file), *frame.size))
    else:
        normal = np.cross(frame.axes[:, 1], frame.axes[:, 0])
        spacing, axes = (thickness(header, file), *frame.size), np.column_stack([normal, frame.axes])
        geometry = Geometry.from_parts(shape, spacing, frame.position.tolist(), axes)
    declared = padding(header, [frame], inverted_at(header))
    return ImageSource((str(file),), geometry, frame.size is not None, lambda: values(file, header, [frame]), declared)


# -- which files ------------------------------------------------------------------------------------------------------


def _series(folder: Path) -> dict[Path, Any]:
    """file -> header of the images of the only series in a folder."""
    headers: dict[Path, Any] = {}
    others: list[str] = []
    for file in files_below(folder):
        if not integrity.is_dicom(file) and file.suffix.lower() != ".dcm":
            others += [file.name] if file.name.upper() != "DICOMDIR" else []
            continue
        header = read_header(file)
        with understood(file):
            image = "Rows" in header
            if image:
                _require_pixels(header, file)
                _ = [
                    header.get(tag) for tag in (*KIND, "SeriesInstanceUID")
                ]  # converted here, where errors have a name
        if not image:
            others.append(f"{file.name} ({described(header)}, no image)")
            continue
        headers[file] = header
    others += _set_aside(headers)
    if others and headers:
        notice("a DICOM folder holds other files", folder, found=some(others), remedy="nothing: they are left aside")
    series: dict[str, list[Path]] = {}
    for file, header in headers.items():
        series.setdefault(str(header.get("SeriesInstanceUID")), []).append(file)
    if len(series) != 1:
        listed = [f"{described(headers[f[0]])}: {counted(len(f), 'file')}" for f in series.values()]
        raise AutolmkError(
            "a folder holds several DICOM series" if series else "a folder holds no DICOM series",
            file=folder,
            found=some(listed) or some(others) or "an empty folder",
            expected="the slices of one series",
            remedy="keep one series a folder",
        )
    return headers


def _set_aside(headers: dict[Path, Any]) -> list[str]:
    """Take segmentations and doses from among images, and copies of a file; name them."""
    made = {file: NO_IMAGES[uid] for file, h in headers.items() if (uid := str(h.get("SOPClassUID"))) in NO_IMAGES}
    found = made if len(made) < len(headers) else {}
    uids = Counter(str(header.get("SOPInstanceUID") or file) for file, header in headers.items())
    first: dict[bytes, Path] = {}
    for file, header in headers.items():
        if uids[str(header.get("SOPInstanceUID") or file)] > 1:
            other = first.setdefault(hashlib.sha256(file.read_bytes()).digest(), file)
            if other != file:
                found[file] = f"a copy of {other.name}"
    for file in found:
        del headers[file]
    return [f"{file.name} ({what})" for file, what in found.items()]


def _require_pixels(header: Any, file: Path) -> None:
    """AutolmkError where there is no image, or the file is cut off within it."""
    if "Rows" not in header or "Columns" not in header or not int(header.Rows) or not int(header.Columns):
        raise AutolmkError(
            "a DICOM file holds no image",
            file=file,
            found=described(header),
            expected="rows and columns of pixels",
            remedy="remove it, or export the images of the series",
        )
    if "MOSAIC" in str(header.get("ImageType")).upper():
        raise AutolmkError(
            "a DICOM file holds the slices of a volume side by side in one picture (a mosaic of Siemens)",
            file=file,
            found=f"ImageType {header.get('ImageType')}, {header.Columns} x {header.Rows} pixels",
            expected="a file a slice, or a volume of frames that say where they are",
            remedy="convert it by dcm2niix, which takes mosaics apart, to .nii.gz",
        )
    pixels = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel") or 1)
    needed = pixels * int(header.get("NumberOfFrames") or 1) * int(header.get("BitsAllocated") or 0) // 8
    if str(header.get("PhotometricInterpretation")).strip().upper() == "YBR_FULL_422":
        needed = needed * 2 // 3  # two pixels share their colour differences
    syntax = str(getattr(header.file_meta, "TransferSyntaxUID", PLAIN[0]))
    size = file.stat().st_size
    if syntax in PLAIN and syntax != PLAIN[2] and size < needed:
        raise AutolmkError(
            "a DICOM file is damaged: it is truncated",
            file=file,
            found=f"{size} bytes",
            expected=f"{needed} bytes of pixels",
            remedy="copy or export it again from the source",
        )


# -- the grid ---------------------------------------------------------------------------------------------------------


def _stacked(
    frames: Sequence[DicomFrame], header: Any, place: Path, names: Sequence[str], files: Path | Sequence[Path]
) -> tuple[npt.NDArray[np.intp], Geometry]:
    """(order along the normal of the planes, their grid). AutolmkError where they form no even, straight grid."""
    missing = [
        name for name, f in zip(names, frames, strict=True) if f.position is None or f.axes is None or not f.size
    ]
    if missing:
        raise AutolmkError(
            "slices do not say where they are",
            file=place,
            found=f"no position, orientation or pixel size in {some(missing)}"
            + (
                f"; SliceThickness {header.SliceThickness} mm, which is no distance"
                if header.get("SliceThickness")
                else ""
            ),
            expected="ImagePositionPatient, ImageOrientationPatient and PixelSpacing of each slice",
            remedy="export the volume again as single slices or as enhanced DICOM, or convert it by a program that "
            "knows the device, to .nii.gz or .nrrd; frames that are points in time are no volume",
        )
    usual = _usual([_plane(frame) for frame in frames])
    first = frames[usual]
    assert first.size is not None and first.axes is not None
    share = max(COSINES, SHIFT / max(int(header.Rows), int(header.Columns)))  # beyond it, their last pixels lie apart
    for name, frame in zip(names, frames, strict=True):
        assert frame.size is not None and frame.axes is not None
        if not np.allclose(frame.size, first.size, rtol=share) or not np.allclose(frame.axes, first.axes, atol=share):
            raise _differing(place, f"{name}: {_plane(frame)}", _plane(first), Path(names[usual]))
    _require_meaning(frames, names, place)
    positions = np.array([frame.position for frame in frames])
    normal = np.cross(first.axes[:, 1], first.axes[:, 0])
    order = np.argsort(positions @ normal, kind="stable")
    if len(frames) == 1:
        step = normal * thickness(header, place)
    else:
        sorted_files = [files[i] for i in order] if not isinstance(files, Path) else [files] * len(order)
        step = _slice_step(positions[order], normal, place, sorted_files, [names[i] for i in order])
        _compare_distance(float(np.linalg.norm(step)), header, place)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([step, first.axes * first.size])
    affine[:3, 3] = positions[order[0]]
    return order, Geometry((len(frames), int(header.Rows), int(header.Columns)), affine)


def _require_meaning(frames: Sequence[DicomFrame], names: Sequence[str], place: Path) -> None:
    """AutolmkError where some slices say how their values are rescaled, and others do not."""
    silent = [name for name, frame in zip(names, frames, strict=True) if not frame.rescaled]
    scales = sorted({(f.slope, f.intercept) for f in frames if f.rescaled} - {(1.0, 0.0)})
    if silent and scales:
        raise AutolmkError(
            "some slices do not say what their values mean",
            file=place,
            found=f"no RescaleSlope and RescaleIntercept in {some(silent)}; in others "
            + some([f"{slope:g} and {intercept:g}" for slope, intercept in scales]),
            expected="both of each slice, or of none",
            remedy="export the series again from the source",
        )


def _slice_step(
    positions: FloatArray, normal: FloatArray, place: Path, files: Sequence[Path], names: Sequence[str]
) -> FloatArray:
    """(3,) mm from slice to slice. AutolmkError where they are not evenly spaced along their common normal."""
    steps = np.diff(positions, axis=0)
    twice = np.flatnonzero(np.linalg.norm(steps, axis=1) < SAME_PLACE)
    if len(twice):
        raise AutolmkError(
            "the slices of a DICOM series are not evenly spaced: several are at one place",
            file=files[twice[0] + 1],
            found=f"{names[twice[0]]} and {names[twice[0] + 1]} at {np.round(positions[twice[0]], 3).tolist()} mm"
            + (f", and {len(twice) - 1} such pairs more" if len(twice) > 1 else ""),
            expected="one image a place: no second echo, point in time, or copy",
            remedy="keep one of them a folder",
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off: FloatArray = positions - positions[0] - np.arange(len(positions))[:, None] * step
    units = np.array([_unit(along) for along in positions.T])
    told = units.max() <= COARSE * np.linalg.norm(step)
    if not told or (np.abs(off) > units + 1e-6).any():  # a unit: half for each of two slices
        _require_even(steps, step, np.linalg.norm(off, axis=1), files, names)
    rounding = float(np.linalg.norm(units)) if told else 0.0  # mm, at the last slice
    aside = step - normal * (step @ normal)
    if np.linalg.norm(aside) > SPACING_TOLERANCE * np.linalg.norm(step) + 1e-3 + rounding / len(steps):
        raise AutolmkError(
            "the slices of a DICOM series are not stacked along their normal (tilted gantry)",
            file=place,
            found=f"a step of {np.round(step, 3).tolist()} mm along the normal {np.round(normal, 3).tolist()}",
            remedy="resample the series to a straight grid, for example in 3D Slicer",
        )
    return step if np.linalg.norm(aside) * len(steps) > ROUNDING + rounding else np.asarray(normal * (step @ normal))


def _unit(along: FloatArray) -> float:
    """The unit in mm to which coordinates (n,) are rounded; 0 for finer ones, and where all are the same."""
    varied = np.ptp(along) > 1e-6
    return next((u for u in UNITS if varied and np.abs(along - np.round(along / u) * u).max() < 1e-6), 0.0)


def _require_even(
    steps: FloatArray, step: FloatArray, astray: FloatArray, files: Sequence[Path], names: Sequence[str]
) -> None:
    """AutolmkError where slices lie at uneven distances. astray: (n,) mm, from an even grid of `step`."""
    typical = np.median(steps, axis=0)
    deviation = np.linalg.norm(steps - typical, axis=1)
    length, worst = float(np.linalg.norm(typical)), int(np.argmax(deviation))
    if deviation[worst] > SPACING_TOLERANCE * length + 1e-3:
        raise AutolmkError(
            "the slices of a DICOM series are not evenly spaced",
            file=files[worst + 1],
            found=f"{np.linalg.norm(steps[worst]):.4g} mm between {names[worst]} and {names[worst + 1]}, slices "
            f"{worst + 1} and {worst + 2} of {len(astray)}",
            expected=f"{length:.4g} mm, as between the others",
            remedy="look for missing or doubled slices, or resample the series to even spacing",
        )
    if astray.max() > SHIFT * length:
        worst = int(np.argmax(astray))
        raise AutolmkError(
            "the slices of a DICOM series are not evenly spaced",
            file=files[worst],
            found=f"{names[worst]}, slice {worst + 1} of {len(astray)}, is {astray[worst]:.4g} mm off an even grid",
            expected=f"{length:.4g} mm between all slices",
            remedy="resample the series to even spacing",
        )


def _compare_distance(length: float, header: Any, place: Path) -> None:
    """Notice where SpacingBetweenSlices is another one than the slices' positions have."""
    said = between(header, place)
    decimals = 0 if said is None else len(f"{said:.9f}".rstrip("0").partition(".")[2])
    rounded = min(0.5 * 10.0**-decimals, COARSE / 4 * length)
    if said is not None and abs(abs(said) - length) > max(SPACING_TOLERANCE * length, rounded) + 1e-3:
        notice(
            "the slices of a series lie at another distance than its header says",
            place,
            found=f"SpacingBetweenSlices {said:g} mm; {length:.4g} mm between positions",
            remedy="nothing, if the positions are right: they count",
        )


def _usual(kinds: Sequence[str]) -> int:
    """The first of the most frequent kind."""
    return kinds.index(Counter(kinds).most_common(1)[0][0])


def _plane(frame: DicomFrame) -> str:
    assert frame.size is not None and frame.axes is not None
    return f"pixels of {frame.size[0]:g} x {frame.size[1]:g} mm, orientation {np.round(frame.axes.T[::-1], 3).tolist()}"


def _differing(file: Path, found: str, expected: str, other: Path) -> AutolmkError:
    return AutolmkError(
        "the slices of a DICOM series differ in size, spacing or direction",
        file=file,
        found=found,
        expected=f"{expected}, as in {other.name}",
        remedy="keep one series of parallel slices a folder; a scout belongs elsewhere",
    )


def _several(folder: Path, file: Path, frames: int, files: int) -> AutolmkError:
    return AutolmkError(
        "a folder holds a file of several frames among others",
        file=file,
        found=f"{counted(frames, 'frame')}, one of {counted(files, 'file')} in {folder.name}",
        expected="one such file, or files of one slice",
        remedy="keep one volume a folder",
    )
