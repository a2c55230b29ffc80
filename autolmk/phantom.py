"""A phantom dataset: nested, deformed, mirror-symmetric structures with landmarks that are known exactly.

A case is the model head, bent by a smooth displacement, scaled along its axes, turned by at most 20 degrees and put on
an oblique, possibly flipped grid of 1 x 1 x 2.5 mm. Rendering goes from the voxel back to the model, so that nothing is
ever interpolated, and each voxel is the mean of two samples along its thick axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.serialization import write_json

SIDE = 80.0  # mm: the field of view that the model below was drawn for
SPACING = {3: (2.5, 1.0, 1.0), 2: (1.0, 1.0)}  # mm, array order
MAX_ROTATION, MAX_OBLIQUITY = 20.0, 10.0  # degrees: of the head in the room, of the grid in the room
WAVES, AMPLITUDE, WAVELENGTHS = 3, 0.8, (35.0, 60.0)  # of the displacement; its gradient stays below 0.5
NOISE = 0.05  # of the brightest structure
ABSENT_SHARE, UNKNOWN_SHARE = 0.2, 0.05


@dataclass(frozen=True)
class Structure:
    """An ellipsoid of the model, mm, physical order; later structures cover earlier ones.

    part_of: the landmark without which it is missing from the image.
    """

    centre: tuple[float, ...]
    radii: tuple[float, ...]
    value: float
    part_of: str | None = None


def _both(centre: tuple[float, ...], radii: tuple[float, ...], value: float, name: str) -> list[Structure]:
    """A structure on the left (+x) and its mirror image on the right."""
    mirrored = (-centre[0], *centre[1:])
    return [Structure(centre, radii, value, f"{name}_L"), Structure(mirrored, radii, value, f"{name}_R")]


HEAD = {
    3: [
        Structure((0, 0, 0), (22, 25, 24), 0.45),
        Structure((0, -24, -4), (3, 5, 3.5), 0.45),
        Structure((0, 0, 0), (20, 23, 22), 1.0),
        Structure((0, 2, 22.5), (3, 3, 3), 1.0),
        Structure((0, 23.5, -4), (3, 3, 3), 1.0),
        Structure((0, 0, 0), (17.8, 20.8, 19.8), 0.6),
        Structure((0, 6, -20.5), (3.5, 3.5, 4), 0.3),
        *_both((4.5, -1, 3), (2.2, 7.5, 3), 0.2, "Ventricle"),
        *_both((8.5, -19, 1), (4.2, 4.2, 4.2), 0.15, "Eye"),
        *_both((8.5, -22, 1), (1.6, 1.3, 1.6), 0.8, "Eye"),
        *_both((19.5, 2, -6), (4, 2.8, 2.8), 0.1, "Ear"),
        Structure((0, -6, -8), (2.5, 2.5, 2.5), 0.95),
        Structure((0, 8, 2), (2.5, 2.5, 2.5), 1.1, "Pineal"),
    ],
    2: [
        Structure((0, 0), (23, 28), 0.45),
        Structure((0, 0), (20, 25), 1.0),
        Structure((0, -25), (3, 3), 1.0),
        Structure((0, 25), (3, 3), 1.0),
        Structure((0, 0), (17.5, 22.5), 0.6),
        *_both((4.5, 2), (2, 7), 0.2, "Ventricle"),
        *_both((8.5, -11), (4, 4), 0.15, "Eye"),
        *_both((19.5, 5), (4, 2.8), 0.1, "Ear"),
        Structure((0, -2), (2.5, 2.5), 0.95),
        Structure((0, 14), (2.5, 2.5), 1.1, "Pineal"),
    ],
}
POINTS: dict[int, dict[str, tuple[float, ...]]] = {
    3: {
        "Nose_Tip": (0, -29, -4),
        "Crown": (0, 2, 22.5),
        "Inion": (0, 23.5, -4),
        "Basion": (0, 6, -20.5),
        "Pituitary": (0, -6, -8),
        "Pineal": (0, 8, 2),
        "Eye_L": (8.5, -19, 1),
        "Eye_R": (-8.5, -19, 1),
        "Ear_L": (19.5, 2, -6),
        "Ear_R": (-19.5, 2, -6),
        "Ventricle_L": (4.5, -8.5, 3),
        "Ventricle_R": (-4.5, -8.5, 3),
    },
    2: {
        "Crown": (0, -25),
        "Chin": (0, 25),
        "Pituitary": (0, -2),
        "Pineal": (0, 14),
        "Eye_L": (8.5, -11),
        "Eye_R": (-8.5, -11),
        "Ear_L": (19.5, 5),
        "Ear_R": (-19.5, 5),
        "Ventricle_L": (4.5, -5),
        "Ventricle_R": (-4.5, -5),
    },
}
SOMETIMES_ABSENT = ("Pineal", "Ear_L", "Ear_R")


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


def make_phantom(
    seed: int, *, ndim: int = 3, size: int = 60, absent: tuple[str, ...] = (), noise: float = NOISE
) -> Phantom:
    """One case, a function of its arguments alone. size: voxels an axis in the plane; the head grows with it.

    The structures of the landmarks `absent` are not drawn, and these landmarks have the status absent.
    """
    rng = np.random.default_rng([seed, ndim, size])
    shape = _random_shape(rng, ndim, size / SIDE)
    geometry = _random_grid(rng, ndim, size)
    structures = [s for s in HEAD[ndim] if s.part_of is None or s.part_of not in absent]
    values = _render(geometry, shape, structures)
    values *= 1 + 0.1 * np.sin(np.linspace(0, np.pi, size) + rng.uniform(0, 2 * np.pi))  # uneven coil
    values = np.abs(values + rng.normal(0, noise, values.shape)) * rng.uniform(140, 190)
    names = tuple(POINTS[ndim])
    points = shape.to_room(np.array([POINTS[ndim][name] for name in names]))
    status = [Status.ABSENT if name in absent else Status.PRESENT for name in names]
    image = Image(np.round(values.clip(0, 255))[None].astype(np.float32), geometry)
    return Phantom(image, Landmarks(names, points, np.array(status)))


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
        depth = ((1 - distance) * float(radii.mean())).clip(-8, 8)
        cover = 1 / (1 + np.exp(-4 * depth))
        values += cover * (structure.value - values)
    return values


def write_phantom(
    folder: Path, *, n_train: int = 20, n_test: int = 8, seed: int = 0, ndim: int = 3, size: int = 60
) -> None:
    """Write a raw dataset into `folder`, such as raw/Dataset001_Phantom; the same arguments give the same files.

    3D: NIfTI and .mrk.json; 2D: PNG and .csv, with errors in pixels. dataset.json is written last: it marks completion.
    """
    from autolmk import annotations, imageio

    ending, suffix, unit = (".nii.gz", ".mrk.json", "mm") if ndim == 3 else (".png", ".csv", "px")
    for split, cases in (("Tr", n_train), ("Ts", n_test)):
        first = 0 if split == "Tr" else n_train
        for case, phantom, unknown in tqdm(_cases(cases, first, seed, ndim, size), f"phantom {split}", cases):
            imageio.write_image(folder / f"images{split}" / f"{case}_0000{ending}", phantom.image)
            points = phantom.landmarks
            status = np.where(unknown & points.present, Status.UNKNOWN, points.status)
            known = Landmarks(points.names, _of_image(points.points, phantom.image, ndim), status)
            annotations.write(folder / f"landmarks{split}" / f"{case}{suffix}", known, unit=unit)
    write_json(folder / "dataset.json", _description(n_train, ndim, ending))


def _of_image(points: FloatArray, image: Image, ndim: int) -> FloatArray:
    """(L, P): a PNG holds no origin, so 2D points are pixels, physical order."""
    return points if ndim == 3 else image.geometry.to_voxels(points)[:, ::-1]


def _cases(n: int, first: int, seed: int, ndim: int, size: int) -> Iterator[tuple[str, Phantom, npt.NDArray[np.bool_]]]:
    """(name, phantom, which landmarks nobody annotated) of n cases; each landmark that may be absent is so in the same
    share of them."""
    rng = np.random.default_rng([seed, first, n])
    lacking = {name: rng.permutation(n)[: round(ABSENT_SHARE * n)] for name in SOMETIMES_ABSENT}
    for i in range(n):
        absent = tuple(name for name, cases in lacking.items() if i in cases)
        unknown = rng.random(len(POINTS[ndim])) < UNKNOWN_SHARE
        phantom = make_phantom(seed * 1_000_003 + first + i, ndim=ndim, size=size, absent=absent)
        yield f"phantom_{first + i:03d}", phantom, unknown


def _description(n_train: int, ndim: int, ending: str) -> dict[str, object]:
    landmarks: dict[str, dict[str, object]] = {}
    for index, name in enumerate(POINTS[ndim]):
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
