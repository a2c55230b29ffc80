"""The place of the voxels by a NIfTI header, and what happens where the header contradicts itself.

A header holds up to three answers: `pixdim` (sizes), the qform (a rotation; sizes from `pixdim`) and the sform (any
matrix). Their codes say whether they were set. ITK and nibabel choose differently where they disagree, so that one
place in the image has two positions in space. Here:

- One form is set: it counts. Its sizes must be those of `pixdim`.
- Both are set: they must agree within `TOLERANCE` voxels, and rounding, at every corner, unless the caller chooses one.
- None is set: only the sizes are known. The grid is put at the origin of LPS, as ITK and 3D Slicer do, and it is said.
- A sheared sform is refused, as no other medical format can hold it; so is a form that is not finite or singular.
- `xyzt_units` says metres, millimetres or microns for `pixdim` and both forms; 0, not said, is taken for millimetres.

See the standard's nifti1.h, sections on methods 1 to 3 of orientation.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Form = Literal["sform", "qform"]

TOLERANCE = 0.1  # voxels: how far two answers of a header may put one corner apart
ROUNDED = 1e-3  # of a corner's distance from the first voxel, beside that: float32 holds no half turn any better
HALF_TURN = 1e-7  # squared real part of a quaternion, below which nifti1_io.c, too, takes it for 0
SKEW = 0.06  # degrees off a right angle: 0.1 voxel in a hundred; float32 makes a ten-thousandth of that
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units & 7
UNITS = {0: "no unit", 1: "metres", 2: "millimetres", 3: "microns"}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PLAUSIBLE = (1e-4, 100.0)  # mm: voxels outside are read, and said


def ras_affine(header: Any, form: Form | None = None) -> tuple[Matrix, list[tuple[str, str, str]]]:
    """The matrix (4, 4) from voxels (i, j, k) to RAS mm, and what is odd about it: (problem, found, remedy) each.

    header: a NIfTI header of nibabel's. ValueError says both readings where they contradict each other.
    """
    unit = int(header["xyzt_units"]) & 7
    if unit not in MILLIMETRES:
        raise ValueError(f"xyzt_units {int(header['xyzt_units'])} names no unit of length")
    dim = header["dim"].astype(int)
    shape = np.array([max(1, int(n)) if axis < dim[0] else 1 for axis, n in enumerate(dim[1:4])])
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64)) * MILLIMETRES[unit]
    usable = np.isfinite(sizes) & (sizes > 0)
    if not usable[shape > 1].all():
        raise ValueError(f"voxels without a size: pixdim {_listed(header['pixdim'][1:4])}")
    sizes = np.where(usable, sizes, 1.0)
    forms = _forms(header, MILLIMETRES[unit], sizes)
    remarks = _remarks(header, sizes[shape > 1])
    if not forms:
        found = f"qform_code 0, sform_code 0, voxels of {_listed(sizes)} mm"
        remedy = (
            "look whether left and right are right; points in voxel coordinates are safe, points in mm only if the "
        )
        remedy += "program that placed them read this file as 3D Slicer does"
        remarks.append(("an image does not say how it lies in the room", found, remedy))
        return RAS_TO_LPS @ np.diag([*sizes, 1.0]), remarks
    chosen = form if form in forms else next(iter(forms))
    _require_grid(forms[chosen], chosen)
    if form is None:
        _require_agreement(forms, sizes, shape)
    return forms[chosen], remarks


def _forms(header: Any, millimetres: float, sizes: Matrix) -> dict[Form, Matrix]:
    """Those that are set, the sform first, in mm."""
    forms: dict[Form, Matrix] = {}
    if int(header["sform_code"]) > 0:
        rows = np.array([header[f"srow_{axis}"] for axis in "xyz"], dtype=np.float64) * millimetres
        forms["sform"] = np.vstack([rows, [0, 0, 0, 1]])
    if int(header["qform_code"]) > 0:
        b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
        square = b * b + c * c + d * d
        if not math.isfinite(square) or square > 1 + 1e-5:
            raise ValueError(f"the quaternion of the qform is none: b, c, d = {b:g}, {c:g}, {d:g}")
        a = math.sqrt(1 - square) if 1 - square >= HALF_TURN else 0.0
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        side = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
        affine = np.eye(4)
        affine[:3, :3] = rotation / max(math.sqrt(square + a * a), 1e-12) ** 2 * sizes * [1, 1, side]
        affine[:3, 3] = [float(header[f"qoffset_{axis}"]) * millimetres for axis in "xyz"]
        forms["qform"] = affine
    return forms


def _require_grid(affine: Matrix, name: str) -> None:
    """ValueError where a form is not finite or singular, or where its axes are not at right angles."""
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-18:
        raise ValueError(f"the {name} is no grid: {np.round(affine[:3], 4).tolist()}")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    skew = np.degrees(np.arcsin(np.abs(axes.T @ axes - np.eye(3)).max().clip(0, 1)))
    if skew > SKEW:
        raise ValueError(f"the {name} is sheared: two axes are {90 - skew:.2f} degrees apart, not 90")


def _require_agreement(forms: dict[Form, Matrix], sizes: Matrix, shape: npt.NDArray[np.int_]) -> None:
    """ValueError where qform and sform, or the sform and pixdim, disagree by more than `TOLERANCE` voxels and what
    numbers are rounded by."""
    ends = [(0, n - 1) for n in shape]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T
    if len(forms) == 2:
        places = {name: corners @ affine[:3, :3].T + affine[:3, 3] for name, affine in forms.items()}
        apart = np.linalg.norm(places["sform"] - places["qform"], axis=1)
        if not (apart <= TOLERANCE * sizes.min() + ROUNDED * np.linalg.norm(corners * sizes, axis=1)).all():
            said = "; ".join(f"{name}: {_described(forms[name])}" for name in ("qform", "sform"))
            raise ValueError(f"qform and sform are up to {apart.max():.4g} mm apart ({said})")
    if "sform" in forms:
        scales = np.linalg.norm(forms["sform"][:3, :3], axis=0)
        longer = np.abs(scales - sizes) * np.maximum(shape - 1, 0)
        if not (longer <= TOLERANCE * min(sizes.min(), scales.min()) + ROUNDED * sizes * shape).all():
            raise ValueError(
                f"sform and pixdim are of other sizes: voxels of {_listed(scales)} mm by the sform, "
                f"of {_listed(sizes)} mm by pixdim"
            )


def _remarks(header: Any, sizes: Matrix) -> list[tuple[str, str, str]]:
    remarks = []
    if (header["pixdim"][1:4] < 0).any():
        found = f"pixdim {_listed(header['pixdim'][1:4])}"
        remarks.append(("a header holds negative sizes of voxels", found, "nothing, if left and right are right"))
    if len(sizes) and not (PLAUSIBLE[0] <= sizes.min() and sizes.max() <= PLAUSIBLE[1]):
        found = f"voxels of {_listed(sizes)} mm (xyzt_units: {UNITS[int(header['xyzt_units']) & 7]})"
        remarks.append(("an image has voxels of an unusual size", found, "look whether the header's unit is right"))
    return remarks


def _described(affine: Matrix) -> str:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return f"voxels of {_listed(sizes)} mm, first voxel at {np.round(affine[:3, 3], 3).tolist()} RAS"


def _listed(values: npt.ArrayLike) -> str:
    return " x ".join(f"{float(v):.6g}" for v in np.asarray(values))
