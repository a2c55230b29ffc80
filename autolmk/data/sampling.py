"""Training windows: where they lie, and what they hold.

Spatial augmentation is a perturbed Geometry: a window is a grid that is turned, scaled, shifted and perhaps mirrored in
physical space, the image is interpolated on it once, and points follow exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from autolmk.data.backdrop import depth_in, paint
from autolmk.data.label_maps import Labels, draw_label_maps
from autolmk.data.rotation import UNTURNED, draw_rotation, draw_transform, quarter_turns
from autolmk.data.stage_windows import Frame, Placement, Shape, centres, frame_of, mirror_normal, simulate
from autolmk.data.store import StoredCase
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage, LowPass, low_pass_sigma, resample
from autolmk.landmarks import Status
from autolmk.plans import Augmentation, Configuration, LabelMap, Windows

ALIKE = 0.01  # relative difference of spacings up to which a window may exchange their axes
CENTRAL = 0.8  # share of a window, an axis, in which the landmark that it is placed by lies
REACH = 4.0  # standard deviations that the low-pass filter of `image.resample` looks beyond a window
SPLINE_REACH = 6  # voxels beyond a window that splines of order 2 and more are felt from
BLANK = 0.2  # share of the windows elsewhere that show no image at all
OVERLAP = 0.25  # of a window or the image, an axis, that the others share at least
PLAIN = Windows("random")  # how windows are interpolated where no plans say it


@dataclass(frozen=True, eq=False)
class Window:
    """A training window in an image. geometry: of the window, (P, D) as the image's. mirrored: its content is a mirror
    image, so that landmark pairs change their names. backdrop: seed of what it shows beyond the image, see `backdrop`;
    None: what prediction pads with. blank: the backdrop covers the image, too, so that no landmark is there.
    """

    geometry: Geometry
    mirrored: bool
    backdrop: int | None = None
    blank: bool = False


class Sample(TypedDict):
    """A training sample, cut from one window. data: (C, *patch) float32. voxels: (L, D) float64 in window voxels, NaN
    unless present. status: (L,) int8. A present landmark may lie outside the window. labels: (G, *patch), of
    configurations with label maps, see `label_maps`. Where each landmark has a window of its own: data (W, C, *patch),
    and landmarks (W,) says which landmark each window, and row of voxels and status, answers for; grids: of each of the
    W windows.
    """

    data: FloatImage
    voxels: FloatArray
    status: npt.NDArray[np.int8]
    labels: NotRequired[Labels]
    landmarks: NotRequired[npt.NDArray[np.int64]]
    grids: NotRequired[list[Geometry]]


def draw_window(
    rng: np.random.Generator,
    geometry: Geometry,
    points: FloatArray,
    status: npt.NDArray[np.int8],
    configuration: Configuration,
    *,
    elsewhere: float | None = None,
) -> Window:
    """A random window of `configuration.patch_size` on an image of `geometry`, a function of the arguments alone.

    points: (L, P) mm. status: (L,). Windows of kind `whole` lie on the middle of the image, shifted within the
    augmentation's translation. Of kind `random`, the share `holding` is placed so that a random present landmark lies
    anywhere in its central 80 %, the others lie uniformly in the image. The share `elsewhere` of both kinds lies across
    the image's border (or the share given here), and a fifth of these is blank. The share `exact` is not scaled, turned
    by quarters at most, and moved to the nearest whole voxel.
    """
    augmentation, windows = configuration.augmentation, configuration.windows
    exact = windows.exact > 0 and rng.random() < windows.exact
    share = windows.elsewhere if elsewhere is None else elsewhere
    across = share > 0 and rng.random() < share
    transform = np.eye(geometry.physical_ndim)
    if not exact:
        transform = draw_transform(rng, geometry, augmentation, unturned=0.0 if windows.exact > 0 else UNTURNED)
    centre = (
        _across_the_border(rng, geometry, configuration.patch_size)
        if across
        else _draw_centre(rng, geometry, points, status, configuration, transform)
    )
    window = geometry.window(centre, configuration.patch_size, transform)
    if exact:
        window = _on_voxels(rng, geometry, window, augmentation)
    axis = None if augmentation.mirror_axis is None else geometry.array_axis(augmentation.mirror_axis)
    mirrored = axis is not None and rng.random() < 0.5
    if axis is not None and mirrored:
        window = window.mirrored(axis)
    if not across:
        return Window(window, mirrored)
    return Window(window, mirrored, int(rng.integers(2**32)), bool(rng.random() < BLANK))


def _draw_centre(
    rng: np.random.Generator,
    geometry: Geometry,
    points: FloatArray,
    status: npt.NDArray[np.int8],
    configuration: Configuration,
    transform: FloatArray,
) -> FloatArray:
    """(P,) of a window on the image, see `draw_window`."""
    patch = np.array(configuration.patch_size)
    if configuration.windows.kind == "whole":
        translation = configuration.augmentation.translation
        shift = geometry.frame() @ (rng.uniform(-1, 1, geometry.physical_ndim) * translation)
        return geometry.to_physical(geometry.to_voxels(geometry.centre + shift))  # stays in a slice's plane
    present = np.flatnonzero(status == Status.PRESENT)
    if len(present) and rng.random() < configuration.windows.holding:
        place = rng.uniform(-1, 1, geometry.ndim) * CENTRAL * patch / 2  # of the landmark, from the window's middle
        return np.asarray(points[rng.choice(present)] - transform @ geometry.matrix @ place)
    half, shape = (patch - 1) / 2, np.array(geometry.shape)
    low, high = np.minimum(half, shape - 1 - half), np.maximum(half, shape - 1 - half)
    return geometry.to_physical(rng.uniform(low, high))


def _across_the_border(rng: np.random.Generator, geometry: Geometry, patch_size: Sequence[int]) -> FloatArray:
    """(P,) centre of a window that reaches beyond the image along a random axis and lies anywhere along the others; of
    each side, a quarter or more lies on the image."""
    shape, patch = np.array(geometry.shape), np.array(patch_size)
    furthest = (shape + patch) / 2 - OVERLAP * np.minimum(shape, patch)
    moved, axis = rng.uniform(-furthest, furthest), rng.integers(geometry.ndim)
    nearest = max(0.0, (shape[axis] - patch[axis]) / 2)
    moved[axis] = np.copysign(rng.uniform(nearest, furthest[axis]), moved[axis])
    return geometry.to_physical((shape - 1) / 2 + moved)


def _on_voxels(rng: np.random.Generator, geometry: Geometry, window: Geometry, augmentation: Augmentation) -> Geometry:
    """A window whose voxels are the image's own: near to `window`, turned by one of the quarter turns that augmentation
    allows, of axes along which voxels are alike."""
    step = np.array(geometry.spacing)
    turns = [
        (axes, flips)
        for axes, flips in quarter_turns(geometry.ndim, augmentation.rotation)
        if np.allclose(step[list(axes)], step, rtol=ALIKE)
    ]
    axes, flips = turns[int(rng.integers(len(turns)))]
    shape = np.array(window.shape)[np.argsort(axes)]
    start = np.round(geometry.to_voxels(window.centre) - (shape - 1) / 2)
    turned = geometry.crop(start.tolist(), shape.tolist()).permuted(axes)
    for axis in flips:
        turned = turned.mirrored(axis)
    return turned


class Readable(Protocol):
    """An image of which regions can be read, as of a `StoredCase`."""

    @property
    def geometry(self) -> Geometry:
        """The grid of the whole array."""

    def read(self, start: Sequence[int], shape: Sequence[int]) -> FloatImage:
        """Read a box (C, *shape) whose first voxel is `start` (D,), padded where it lies outside."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """An image whose voxels are the means of blocks of `size` (D,) voxels of another one: of this, windows of so wide
    voxels are cut in a fraction of the time."""

    image: Readable
    size: tuple[int, ...]

    @property
    def geometry(self) -> Geometry:
        """The grid of the blocks; the last ones may reach beyond the image."""
        fine, size = self.image.geometry, np.array(self.size)
        affine = fine.affine.copy()
        affine[:-1, :-1] = fine.matrix * size
        affine[:-1, -1] = fine.to_physical((size - 1) / 2)
        return Geometry(tuple(int(n) for n in np.ceil(fine.shape / size)), affine)

    def read(self, start: Sequence[int], shape: Sequence[int]) -> FloatImage:
        """Read a box of the blocks, see `Readable.read`."""
        array = self.image.read(np.multiply(start, self.size).tolist(), np.multiply(shape, self.size).tolist())
        parts = [n for pair in zip(shape, self.size, strict=True) for n in pair]
        inner = tuple(range(2, len(parts) + 1, 2))
        return np.asarray(array.reshape(len(array), *parts).mean(axis=inner, dtype=np.float32))


def coarser(image: Readable, spacing: Sequence[float], planned: Sequence[float]) -> Readable:
    """The image, of voxels of `planned` (D,) mm, for windows of voxels of `spacing` (D,) mm: means of as many voxels as
    one of these spans, or itself."""
    size = tuple(max(1, int(s / p + 1e-6)) for s, p in zip(spacing, planned, strict=True))
    return image if max(size) == 1 else Blocks(image, size)


def cut(case: Readable, window: Geometry, order: int = 1, low_pass: LowPass = "crossed") -> FloatImage:
    """The image of a stored case on the grid `window`: (C, *window.shape) float32; see `image.resample`.

    Reads only the region that the window touches. What lies outside the image is `fill`, of which one voxel (more where
    a filter or spline looks further) is enough, because the interpolation repeats a region's border.
    """
    region, start = _touched(case, window, order, low_pass)
    array = case.read(start, region.shape)
    result = resample(array, region, window, order=order, low_pass=low_pass)
    if order > 1:
        for before, after in zip(array, result, strict=True):
            np.clip(after, before.min(), before.max(), out=after)  # a spline overshoots at edges
    return result


def cut_labels(case: StoredCase, window: Geometry) -> Labels:
    """The label map of a stored case on the grid `window`, as `cut`: (*window.shape) uint8, 255 beyond the image."""
    region, start = _touched(case, window, 0, None)
    values = case.read_labels(start, region.shape)[None].astype(np.float32)
    return np.asarray(resample(values, region, window, order=0)[0].astype(np.uint8))


def _touched(case: Readable, window: Geometry, order: int, low_pass: LowPass | None) -> tuple[Geometry, list[int]]:
    """The region of a case that a window needs, and its first voxel."""
    matrix, offset = window.map_to(case.geometry)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in window.shape], indexing="ij")).reshape(window.ndim, -1)
    touched = matrix @ corners + offset[:, None]
    sigma = np.zeros(window.ndim) if low_pass is None else low_pass_sigma(matrix, low_pass)
    reach = np.ceil(REACH * sigma) + (SPLINE_REACH if order > 1 else 0)
    size = np.array(case.geometry.shape)
    start = np.floor(touched.min(axis=1) - reach - 1e-6).clip(-1 - reach, size + reach).astype(int)
    stop = (np.ceil(touched.max(axis=1) + reach + 1e-6) + 1).clip(start + 1, size + 1 + reach).astype(int)
    return case.geometry.crop(start, tuple(stop - start)), start.tolist()


def sample(
    case: StoredCase,
    window: Window,
    partners: Sequence[int],
    maps: Sequence[LabelMap] = (),
    windows: Windows = PLAIN,
) -> Sample:
    """Draw the sample that a window holds. partners: (L,) index of each landmark's mirror partner, its own where it has
    none, see `Plans.pair_indices`; a mirrored window shows the left one where the right one is. maps: that it draws as
    labels. windows: of the plans, which say how images are interpolated. A present landmark is absent from a blank
    window.
    """
    order = list(partners) if window.mirrored else list(range(len(partners)))
    grid, marks = window.geometry, case.landmarks
    voxels, status = grid.to_voxels(marks.points)[order], marks.status[order]
    if window.blank:
        gone = status == Status.PRESENT
        voxels = np.where(gone[:, None], np.nan, voxels)
        status = np.where(gone, Status.ABSENT, status).astype(np.int8)
    result: Sample = {"data": _shown(case, window, windows), "voxels": voxels, "status": status}
    if maps:
        theirs = any(label_map.value is not None for label_map in maps)
        known = theirs and case.labels is not None and not window.mirrored and not window.blank
        given = cut_labels(case, grid) if known else None  # nobody says which of their values are partners
        where = (result["voxels"], result["status"], grid.spacing, grid.shape)
        result["labels"] = draw_label_maps(maps, marks.names, *where, given)
    return result


def _shown(case: StoredCase, window: Window, windows: Windows) -> FloatImage:
    """(C, *S): the image in a window, before its backdrop."""
    data = cut(case, window.geometry, windows.order, windows.low_pass)
    if window.backdrop is None:
        return data
    rng = np.random.default_rng(window.backdrop)
    return paint(rng, data, depth_in(case.geometry, window.geometry), case.fill, blank=window.blank)


def sample_landmarks(
    rng: np.random.Generator,
    case: StoredCase,
    configuration: Configuration,
    placement: Placement,
    frame: Frame,
    shape: Shape | None,
    partners: Sequence[int],
) -> Sample:
    """A window a landmark, cut around points as the stage before might have found them.

    frame: in which the case's true points lie. partners: see `sample`; where the plan mirrors, a landmark's window is
    half of the time the mirror image of its partner's. Windows without a place (a landmark that is not present, where
    no mean shape tells its place) show the image's middle and are marked unknown.
    """
    windows, marks = configuration.windows, case.landmarks
    spacing, less = _draw_look(rng, configuration, placement)
    truth = np.where(marks.present[:, None], marks.points, frame.expected)
    found = simulate(rng, truth, frame, configuration, placement, less)
    seen = frame_of(found, case.geometry, windows, shape, frame.pose)
    middles = centres(found, seen, case.geometry, windows.groups, marks.names)
    shown = np.arange(len(marks.names))  # in a landmark's window
    normal = mirror_normal(seen, case.geometry, configuration, shape, partners)
    flip = np.eye(case.geometry.physical_ndim)
    if normal is not None and rng.random() < 0.5:
        shown, flip = np.array(partners), flip - 2 * np.outer(normal, normal)
    which = draw_landmarks(rng, marks.status[shown], windows.per_sample)
    turn = _turn(rng, case.geometry, seen, configuration) @ flip
    shown_case = coarser(case, spacing, configuration.spacing)
    data, voxels, status, grids = [], [], [], []
    for i in shown[which]:
        placed = bool(np.isfinite(middles[i]).all())
        middle = middles[i] if placed else case.geometry.centre
        window = seen.window(middle, placement.side, spacing, turn)
        data.append(cut(shown_case, window, low_pass=windows.low_pass))
        voxels.append(window.to_voxels(marks.points[i]))
        grids.append(window)
        status.append(marks.status[i] if placed else Status.UNKNOWN)
    return {
        "data": np.stack(data),
        "voxels": np.stack(voxels),
        "status": np.array(status, dtype=np.int8),
        "landmarks": which,
        "grids": grids,
    }


def _draw_look(
    rng: np.random.Generator, configuration: Configuration, placement: Placement
) -> tuple[tuple[float, ...], float]:
    """(mm of the windows' voxels (D,), factor of the measured errors) of one of the looks: of the last, which decides,
    at least half of the time, more where the first is hardly wider. After the first look, half of the time errors are
    as much smaller as voxels, as where that look went well; else as before it, as it may have missed."""
    looks = placement.looks(configuration.spacing)
    if len(looks) == 1:
        return looks[0], 1.0
    wider = 0.5 * min(1.0, float(np.log2(np.divide(looks[0], looks[-1]).max())))
    spacing = looks[int(rng.integers(len(looks) - 1))] if rng.random() < wider else looks[-1]
    return spacing, float(np.divide(spacing, looks[0]).max()) if rng.random() < 0.5 else 1.0


def draw_landmarks(rng: np.random.Generator, status: npt.NDArray[np.int8], n: int | None) -> npt.NDArray[np.int64]:
    """Draw n landmarks whose state in status (L,) is known, in random order, again where there are fewer; None: all, in
    order.
    """
    if n is None:
        return np.arange(len(status))
    known = np.flatnonzero(status != Status.UNKNOWN)
    pool = known if len(known) else np.arange(len(status))
    rounds = -(-n // len(pool))
    return np.concatenate([rng.permutation(pool) for _ in range(rounds)])[:n]


def _turn(rng: np.random.Generator, geometry: Geometry, frame: Frame, configuration: Configuration) -> FloatArray:
    """(P, P): the augmentation's rotation and scale, about the frame's axes; of slice groups within their plane."""
    augmentation, groups = configuration.augmentation, configuration.windows.groups
    if groups and geometry.ndim == 3:
        axes = {group.axis for group in groups}
        free = [angle if axes == {2 - i} else 0.0 for i, angle in enumerate(augmentation.rotation)]
        augmentation = dataclasses.replace(augmentation, rotation=tuple(free))
    if geometry.ndim == 2 or not configuration.windows.pose:
        return draw_transform(rng, geometry, augmentation)
    rotation = frame.rotation @ draw_rotation(rng, augmentation.rotation) @ frame.rotation.T
    low, high = augmentation.scale
    return np.asarray(rotation / np.exp(rng.uniform(np.log(low), np.log(high))))
