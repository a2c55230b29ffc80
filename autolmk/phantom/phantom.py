"""A phantom dataset: nested, deformed, mirror-symmetric structures with landmarks that are known exactly.

A case is the model head, bent by a smooth displacement, scaled along its axes, turned by at most 20 degrees and put on
an oblique, possibly flipped grid of 1 x 1 x 2.5 mm. Rendering goes from the voxel back to the model, so that nothing is
ever interpolated, and each voxel is the mean of two samples along its thick axis.

With `co_slice` it also holds two groups of landmarks that annotators place on one slice of the file each, on different
axes. A rod runs through all slices and looks the same on each of them: only the other members of its group tell on
which one its landmark lies, and they are further away than what a small window around it shows.

With `look_alikes` it also holds a row of identical balls, like vertebrae: a small window shows a ball with a neighbour
on either side, and only the head far away tells which one it is. These heads also nod by up to 30 degrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from autolmk.files.serialization import write_json
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.phantom.anatomy import CO_SLICE, HEAD, POINTS, ROW, ROW_POINTS, SOMETIMES_ABSENT, Structure
from autolmk.progress_bars import tracked

SIDE = 80.0  # mm: the field of view that the model below was drawn for
SPACING = {3: (2.5, 1.0, 1.0), 2: (1.0, 1.0)}  # mm, array order
MAX_ROTATION, MAX_OBLIQUITY = 20.0, 10.0  # degrees: of the head in the room, of the grid in the room
WAVES, AMPLITUDE, WAVELENGTHS = 3, 0.8, (35.0, 60.0)  # of the displacement; its gradient stays below 0.5
NOISE = 0.05  # of the brightest structure
MAX_NOD = 30.0  # degrees, of heads with look-alikes: the direction in which a row runs must not tell its members apart
ABSENT_SHARE, UNKNOWN_SHARE = 0.2, 0.05
SLICE_VARIES, REACH = 9.0, 40.0  # mm of the model: where a group's slice lies, and how far members are looked for
JITTER = 0.4  # mm, standard deviation of annotations within their slice


@dataclass(frozen=True, eq=False)
class Phantom:
    """One case: the image, and every landmark with its true point, absent ones excepted."""

    image: Image
    landmarks: Landmarks


@dataclass(frozen=True, eq=False)
class _Shape:
    """From room to model: `model = bend(inverse @ (room - shift))`, `bend(y) = y + sum of waves`."""

    inverse: FloatArray
    shift: FloatArray
    waves: FloatArray  # (WAVES, P) wave vectors
    phases: FloatArray
    directions: FloatArray  # (WAVES, P) mm

    def to_model(self, room: FloatArray) -> FloatArray:
        """(..., P) mm in the room -> (..., P) mm in the model."""
        return self._bend((room - self.shift) @ self.inverse.T)

    def to_room(self, model: FloatArray) -> FloatArray:
        """Inverse of `to_model`, by fixed-point iteration: the displacement contracts by half a step at least."""
        straight = model
        for _ in range(80):
            straight = straight - (self._bend(straight) - model)
        return straight @ np.linalg.inv(self.inverse).T + self.shift

    def _bend(self, straight: FloatArray) -> FloatArray:
        result = straight.copy()
        for wave, phase, direction in zip(self.waves, self.phases, self.directions, strict=True):
            result += np.sin(straight @ wave + phase)[..., None] * direction
        return result


class Kinds(TypedDict, total=False):
    """Kinds of structures that a phantom holds beside the head, see `make_phantom`."""

    co_slice: bool
    look_alikes: bool


def make_phantom(
    seed: int,
    *,
    ndim: int = 3,
    size: int = 60,
    absent: tuple[str, ...] = (),
    noise: float = NOISE,
    co_slice: bool = False,
    look_alikes: bool = False,
) -> Phantom:
    """One case, a function of its arguments alone. size: voxels an axis in the plane; the head grows with it.

    The structures of the landmarks `absent` are not drawn, and these landmarks have the status absent. co_slice: with
    the groups of `CO_SLICE`; look_alikes: with the row of `ROW`; volumes only, ValueError otherwise.
    """
    if ndim != 3 and (co_slice or look_alikes):
        raise ValueError("the groups on slices and the row of look-alikes are of volumes: they need ndim=3")
    rng = np.random.default_rng([seed, ndim, size])
    shape = _random_shape(rng, ndim, size / SIDE)
    if look_alikes:
        shape = _nodded(shape, np.radians(np.random.default_rng([seed, 4]).uniform(-MAX_NOD, MAX_NOD)))
    geometry = _random_grid(rng, ndim, size)
    structures = [s for s in HEAD[ndim] if s.part_of is None or s.part_of not in absent]
    planted, extra = _planted(seed, shape, geometry) if co_slice else ([], {})
    structures += [*planted, *(ROW if look_alikes else ())]
    model = {**POINTS[ndim], **(ROW_POINTS if look_alikes else {})}
    values = _render(geometry, shape, structures)
    values *= 1 + 0.1 * np.sin(np.linspace(0, np.pi, size) + rng.uniform(0, 2 * np.pi))  # uneven coil
    values = np.abs(values + rng.normal(0, noise, values.shape)) * rng.uniform(140, 190)
    points = np.concatenate([shape.to_room(np.array(list(model.values()))), *extra.values()])
    names = landmark_names(ndim, co_slice, look_alikes)
    status = [Status.ABSENT if name in absent else Status.PRESENT for name in names]
    image = Image(np.round(values.clip(0, 255))[None].astype(np.float32), geometry)
    return Phantom(image, Landmarks(names, points, np.array(status)))


def landmark_names(ndim: int, co_slice: bool = False, look_alikes: bool = False) -> tuple[str, ...]:
    """The landmarks' names, in the order of `make_phantom`."""
    members = (s.part_of for group in CO_SLICE.values() for s in group if s.part_of)
    return (*POINTS[ndim], *(ROW_POINTS if look_alikes else ()), *(members if co_slice else ()))


def _planted(seed: int, shape: _Shape, geometry: Geometry) -> tuple[list[Structure], dict[str, FloatArray]]:
    """(structures of the groups, landmark -> (1, P) mm), each group on a slice of the grid of its own."""
    rng = np.random.default_rng([seed, 3])
    steps = np.linspace(-REACH, REACH, 321)
    structures: list[Structure] = []
    points: dict[str, FloatArray] = {}
    for axis, members in CO_SLICE.items():
        along = np.eye(3)[2 - axis]
        lines = [np.array(member.centre) + steps[:, None] * along for member in members]
        slices = [geometry.to_voxels(shape.to_room(line))[:, axis] for line in lines]
        number = round(float(np.interp(rng.uniform(-SLICE_VARIES, SLICE_VARIES), steps, slices[0])))
        for member, crossed in zip(members, slices, strict=True):
            order = np.argsort(crossed)
            centre = np.array(member.centre) + np.interp(number, crossed[order], steps[order]) * along
            voxels = geometry.to_voxels(shape.to_room(centre))
            voxels[axis] = number
            points[str(member.part_of)] = geometry.to_physical(voxels)[None]
            structures.append(member if inf in member.radii else replace(member, centre=tuple(centre)))
    return structures, points


def _random_shape(rng: np.random.Generator, ndim: int, scale: float) -> _Shape:
    stretch = scale * rng.uniform(0.93, 1.07) * rng.uniform(0.97, 1.03, ndim)
    wavelengths = rng.uniform(*WAVELENGTHS, WAVES)
    waves = 2 * np.pi / wavelengths[:, None] * _unit_vectors(rng, WAVES, ndim)
    return _Shape(
        inverse=np.diag(1 / stretch) @ _rotation(rng, ndim, MAX_ROTATION).T,
        shift=rng.uniform(-3, 3, ndim) * scale,
        waves=waves,
        phases=rng.uniform(0, 2 * np.pi, WAVES),
        directions=AMPLITUDE * _unit_vectors(rng, WAVES, ndim),
    )


def _nodded(shape: _Shape, angle: float) -> _Shape:
    """Turned in the room about the axis from left to right, by so many radians."""
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return replace(shape, inverse=shape.inverse @ turn.T, shift=turn @ shape.shift)


def _random_grid(rng: np.random.Generator, ndim: int, size: int) -> Geometry:
    """Oblique, with axes that may be flipped, its centre at the room's; in 2D straight, as photographs are."""
    spacing = SPACING[ndim]
    shape = [round(size / step) for step in spacing]
    if ndim == 2:
        return Geometry.from_parts(shape, spacing, [-(size - 1) / 2] * 2)
    flips = rng.choice([-1.0, 1.0], 3)
    direction = _rotation(rng, 3, MAX_OBLIQUITY) @ (np.eye(3)[:, ::-1] * flips)
    centre = direction @ (np.array(spacing) * (np.array(shape) - 1) / 2)
    return Geometry.from_parts(shape, spacing, -centre, direction)


def _rotation(rng: np.random.Generator, ndim: int, largest: float) -> FloatArray:
    """A rotation by at most `largest` degrees about a random axis."""
    angle = np.radians(rng.uniform(-largest, largest))
    if ndim == 2:
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x, y, z = _unit_vectors(rng, 1, 3)[0]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)  # Rodrigues


def _unit_vectors(rng: np.random.Generator, n: int, ndim: int) -> FloatArray:
    vectors = rng.normal(size=(n, ndim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _render(geometry: Geometry, shape: _Shape, structures: list[Structure]) -> FloatArray:
    """(*S) values: the mean of two samples along the first, thick axis."""
    voxels = np.stack(np.meshgrid(*[np.arange(float(n)) for n in geometry.shape], indexing="ij"), axis=-1)
    offset = np.zeros(geometry.ndim)
    offset[0] = 0.25
    samples = [_paint(shape.to_model(geometry.to_physical(voxels + o)), structures) for o in (offset, -offset)]
    return np.asarray(np.mean(samples, axis=0))


def _paint(model: FloatArray, structures: list[Structure]) -> FloatArray:
    """Values at model points (..., P): each structure covers what lies below it, with an edge 1 mm soft."""
    values = np.zeros(model.shape[:-1])
    for structure in structures:
        radii = np.array(structure.radii)
        distance = np.sqrt((((model - structure.centre) / radii) ** 2).sum(axis=-1))
        depth = ((1 - distance) * float(radii[np.isfinite(radii)].mean())).clip(-8, 8)
        cover = 1 / (1 + np.exp(-4 * depth))
        values += cover * (structure.value - values)
    return values


def write_phantom(
    folder: Path,
    *,
    n_train: int = 20,
    n_test: int = 8,
    seed: int = 0,
    ndim: int = 3,
    size: int = 60,
    **kinds: Unpack[Kinds],
) -> None:
    """Write a raw dataset into `folder`, such as raw/Dataset001_Phantom; the same arguments give the same files.

    3D: NIfTI and .mrk.json; 2D: PNG and .csv, with errors in pixels. dataset.json is written last: it marks completion.
    kinds: `co_slice` and `look_alikes`, see `make_phantom`; the members of groups are annotated on their slice, with a
    jitter within it.
    """
    from autolmk import annotations, imageio

    ending, suffix, unit = (".nii.gz", ".mrk.json", "mm") if ndim == 3 else (".png", ".csv", "px")
    for split, cases in (("Tr", n_train), ("Ts", n_test)):
        first = 0 if split == "Tr" else n_train
        made = _cases(cases, first, seed, ndim, size, kinds)
        for case, phantom, unknown in tracked(made, f"phantom {split}", total=cases):
            imageio.write_image(folder / f"images{split}" / f"{case}_0000{ending}", phantom.image)
            points = phantom.landmarks
            status = np.where(unknown & points.present, Status.UNKNOWN, points.status)
            known = Landmarks(points.names, _of_image(points.points, phantom.image, ndim), status)
            annotations.write(folder / f"landmarks{split}" / f"{case}{suffix}", known, unit=unit)
    write_json(folder / "dataset.json", _description(n_train, ndim, ending, landmark_names(ndim, **kinds)))


def _of_image(points: FloatArray, image: Image, ndim: int) -> FloatArray:
    """(L, P): a PNG holds no origin, so 2D points are pixels, physical order."""
    return points if ndim == 3 else image.geometry.to_voxels(points)[:, ::-1]


def _cases(
    n: int, first: int, seed: int, ndim: int, size: int, kinds: Kinds
) -> Iterator[tuple[str, Phantom, npt.NDArray[np.bool_]]]:
    """(name, phantom as annotated, which landmarks nobody annotated) of n cases; each landmark that may be absent is so
    in the same share of them."""
    rng = np.random.default_rng([seed, first, n])
    lacking = {name: rng.permutation(n)[: round(ABSENT_SHARE * n)] for name in SOMETIMES_ABSENT}
    for i in range(n):
        absent = tuple(name for name, cases in lacking.items() if i in cases)
        unknown = rng.random(len(landmark_names(ndim, **kinds))) < UNKNOWN_SHARE
        phantom = make_phantom(seed * 1_000_003 + first + i, ndim=ndim, size=size, absent=absent, **kinds)
        yield f"phantom_{first + i:03d}", _jittered(rng, phantom) if kinds.get("co_slice") else phantom, unknown


def _jittered(rng: np.random.Generator, phantom: Phantom) -> Phantom:
    """Members of groups moved within their slice, as annotators differ."""
    marks, geometry = phantom.landmarks, phantom.image.geometry
    voxels = geometry.to_voxels(marks.points)
    for axis, members in CO_SLICE.items():
        rows = np.isin(marks.names, [str(member.part_of) for member in members])
        moves = rng.normal(0, JITTER, (int(rows.sum()), 3)) / geometry.spacing
        moves[:, axis] = 0.0
        voxels[rows] += moves
    return Phantom(phantom.image, Landmarks(marks.names, geometry.to_physical(voxels), marks.status))


def _description(n_train: int, ndim: int, ending: str, names: tuple[str, ...]) -> dict[str, object]:
    landmarks: dict[str, dict[str, object]] = {}
    for index, name in enumerate(names):
        landmarks[name] = {"index": index}
        if name.endswith("_L"):
            landmarks[name]["pair"] = f"{name[:-2]}_R"
    return {
        "name": "Phantom",
        "channel_names": {"0": "MR" if ndim == 3 else "grey"},
        "landmarks": landmarks,
        "numTraining": n_train,
        "file_ending": ending,
    }
