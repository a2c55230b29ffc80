"""The comparison of a new image with the range of the training images, in words that a user reads once.

Each number is compared with those of the training images that the fingerprint holds. It is outside where it is beyond
all of them by a margin, and beyond the interval in which one more image of their distribution would lie with 99.9 %
(Student's prediction interval, Fisher 1935; Hahn, JASA 1970), so that few cases are not taken for all there can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from autolmk.errors import AutolmkError, counted
from autolmk.files.serialization import read_json
from autolmk.fingerprint.appearance import Appearance
from autolmk.fingerprint.case_pose import Usual, case_pose, uprighting, usual_of, voxel_side
from autolmk.fingerprint.fingerprint import FILE_NAME, VERSION, Fingerprint
from autolmk.fingerprint.landmark_statistics import rotation_matrix
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks

ALARMS = 0.001  # share of images of the training images' distribution that one number may call outside
FACTOR = 1.2  # of fields of view and spacings, beyond the largest or smallest of training
OBLIQUITY, ROTATION = 10.0, 10.0  # degrees
PLACE = 0.15  # of the range of grey values: where its background and its foreground lie
NOISE, GREY_VALUES, WIDTH = 2.0, 4.0, 1.5  # factors
EXTREME, CLIPPED, PADDING = 0.0003, 0.1, 0.1  # shares of voxels
LEVEL = 0.25  # of the training images' range of grey values, by which the foreground's median may differ
SIZE, MISFIT = 1.15, 1.5  # factors
EXTENTS, GREYS, POSES = "field of view, spacing and orientation", "grey values", "pose and shape of the landmarks"
NOTHING = (EXTENTS, GREYS, POSES)  # is judged without a fingerprint
RESTORE = "restore the file from where the model was trained, or remove it: images are then not judged by it"
WINDOWED = 256  # grey values of an image with 8 bits


@dataclass(frozen=True)
class Bounds:
    """The bounds of one number. low, high: beyond which a number is outside. least, most: of the training images.
    Judged on a scale that `TrainingRange` chooses, the logarithm for factors; these are on the number's own.
    """

    low: float
    high: float
    least: float
    most: float


def bounds(values: npt.ArrayLike, *, margin: float, ratio: bool = False) -> Bounds:
    """The bounds that the numbers (n,) of training images set. margin: beyond the outermost of them, a factor if
    `ratio`.
    """
    own = np.asarray(values, dtype=np.float64)
    scale = np.log(np.maximum(own, 1e-12)) if ratio else own
    margin = float(np.log(margin)) if ratio else margin
    n, away = len(scale), 0.0
    if n > 1:
        quantile = float(stdtrit(n - 1, 1 - ALARMS / 2))  # of Student's t
        away = quantile * float(scale.std(ddof=1)) * float(np.sqrt(1 + 1 / n))
    middle = float(scale.mean())
    low, high = min(scale.min() - margin, middle - away), max(scale.max() + margin, middle + away)
    back: Callable[[float], float] = (lambda v: float(np.exp(min(v, 700.0)))) if ratio else float
    return Bounds(back(low), back(high), float(own.min()), float(own.max()))


class TrainingRange:
    """The range that the training images of a fingerprint span.

    not_judged: what it says nothing of, in words: it was made by an earlier version, or its landmarks are too few.
    """

    @classmethod
    def load(cls, folder: Path, *, ndim: int, channels: int) -> TrainingRange | None:
        """Load the range of the fingerprint in a model folder; None where there is none, or one of another version of
        autolmk. AutolmkError where it is damaged, or of images with other axes or channels than the model's.
        """
        file = folder / FILE_NAME
        if not file.is_file():
            return None
        value = read_json(file, remedy=RESTORE)
        if isinstance(value, dict) and value.get("version") != VERSION:
            return None
        fingerprint = Fingerprint.load(file)
        if (fingerprint.ndim, len(fingerprint.channel_names)) != (ndim, channels):
            raise AutolmkError(
                "the fingerprint in a model's folder is of other images than the model",
                file=file,
                found=f"{fingerprint.ndim}D images, {counted(len(fingerprint.channel_names), 'channel')}",
                expected=f"{ndim}D images, {counted(channels, 'channel')}",
                remedy=RESTORE,
            )
        return cls(fingerprint)

    def __init__(self, fingerprint: Fingerprint) -> None:
        self.fingerprint = fingerprint
        cases = list(fingerprint.cases.values())
        self._spacings = np.array([case.spacing for case in cases]).reshape(len(cases), fingerprint.ndim)
        self._extents = np.array([case.shape for case in cases]).reshape(self._spacings.shape) * self._spacings
        self._oblique = [case.obliquity for case in cases]
        self._appearances = list(fingerprint.appearances.values())
        self._usual = usual(fingerprint)
        self._poses = list(fingerprint.poses.values())
        self.not_judged = tuple(
            what
            for what, known in (
                (EXTENTS, cases),
                (GREYS, self._appearances),
                (POSES, self._poses and self._usual is not None),
            )
            if not known
        )

    # -- before anything is predicted ---------------------------------------------------------------------------------

    def outside(self, geometry: Geometry, looks: Sequence[Appearance], absolute: Sequence[bool]) -> tuple[str, ...]:
        """Name what of an image lies outside the range, each in a few words; usually nothing.

        geometry: of the image, in any orientation, as many axes as the training images. looks: of its channels.
        absolute: by channel, whether its grey values have a scale of their own, such as CT's.
        """
        said = [*self._size(geometry.canonical()), *self._grid(geometry)] if self._oblique else []
        names = self.fingerprint.channel_names
        for c, look in enumerate(looks if self._appearances else ()):
            found = self._looks([case[c] for case in self._appearances], look, absolute[c])
            said += [f"{names[c]}: {text}" if len(names) > 1 else text for text in found]
        return tuple(said)

    def _size(self, image: Geometry) -> list[str]:
        """Field of view and spacing, axis by axis of canonical orientation."""
        said = []
        unit = self.fingerprint.unit
        both = (("largest", "smallest"), ("coarsest", "finest"))
        rows = (
            ("field of view", np.array(image.extent), self._extents, both[0]),
            ("spacing", np.array(image.spacing), self._spacings, both[1]),
        )
        for what, own, training, (most, least) in rows:
            known = [bounds(training[:, a], margin=FACTOR, ratio=True) for a in range(image.ndim)]
            for extreme, beyond, limits in (
                (most, [own[a] > b.high for a, b in enumerate(known)], [b.most for b in known]),
                (least, [own[a] < b.low for a, b in enumerate(known)], [b.least for b in known]),
            ):
                axes = np.flatnonzero(beyond)
                if len(axes):
                    ratio = max((own[a] / limits[a] for a in axes), key=lambda r: abs(np.log(r)))
                    along = ", ".join(_axis(int(a), image) for a in axes)
                    here, there = (", ".join(f"{v[a]:.4g}" for a in axes) for v in (own, limits))
                    said.append(
                        f"{what} {ratio:.2g} times the {extreme} training image's ({along}: {here} {unit}, there "
                        f"{there} {unit})"
                    )
        return said

    def _grid(self, geometry: Geometry) -> list[str]:
        """Anisotropy and obliquity."""
        said = []
        own, training = np.array(geometry.spacing), self._spacings
        spacing = [bounds(column, margin=FACTOR, ratio=True) for column in training.T]
        within = all(b.low <= s <= b.high for b, s in zip(spacing, np.array(geometry.canonical().spacing), strict=True))
        ratio = bounds(training.max(axis=1) / training.min(axis=1), margin=FACTOR, ratio=True)
        if within and own.max() / own.min() > ratio.high:
            said.append(
                f"voxels {own.max() / own.min():.2g} times as long as wide, in training at most {ratio.most:.2g}"
            )
        lying = bounds(self._oblique, margin=OBLIQUITY)
        if geometry.ndim == geometry.physical_ndim and geometry.obliquity() > lying.high:
            said.append(f"grid oblique by {geometry.obliquity():.0f} degrees, in training at most {lying.most:.0f}")
        return said

    def _looks(self, training: Sequence[Appearance], own: Appearance, absolute: bool) -> list[str]:
        """One channel."""

        def of(name: str, margin: float, *, ratio: bool = False) -> Bounds:
            return bounds([getattr(case, name) for case in training], margin=margin, ratio=ratio)

        said = []
        for part, place in (("the border", "background"), ("the foreground", "foreground")):
            b, value = of(place, PLACE), getattr(own, place)
            if not b.low <= value <= b.high:
                said.append(
                    f"other contrast: {part} lies at {value:.0%} of the range of grey values, in training at "
                    f"{b.least:.0%} to {b.most:.0%}"
                )
        b = of("noise", NOISE, ratio=True)
        if own.noise > b.high:
            said.append(f"noise {own.noise / b.most:.2g} times the strongest of training")
        elif own.noise < b.low:
            said.append(f"smoother than in training: noise {own.noise / b.least:.2g} times the weakest there")
        for name, margin, what in (
            ("extreme", EXTREME, "of the voxels far outside the range of all others (metal?)"),
            ("clipped", CLIPPED, "of the voxels hold the lowest or the highest value (clipped?)"),
            ("padding", PADDING, "of the image is padding"),
        ):
            b, value = of(name, margin), getattr(own, name)
            if value > b.high:
                said.append(f"{value:.2%} {what}, in training at most {b.most:.2%}")
        b = of("grey_values", GREY_VALUES, ratio=True)
        if own.grey_values <= WINDOWED and own.grey_values < b.low:
            said.append(f"only {own.grey_values} different grey values, in training at least {b.least:.0f}")
        return said + (_absolute(training, own) if absolute else [])

    # -- of what was predicted ----------------------------------------------------------------------------------------

    def outside_pose(self, landmarks: Landmarks, geometry: Geometry) -> tuple[str, ...]:
        """Say whether the landmarks found in an image lie turned, sized or placed as no training case's did."""
        points = landmarks.reordered(self.fingerprint.landmarks).points
        found = None if self._usual is None or not self._poses else case_pose(points, geometry, self._usual)
        if found is None:
            return ()
        pose, furthest, _ = found
        name = self.fingerprint.landmarks[furthest]
        rotation, misfit, stray = self._rotation(), *self._misfits()
        size = self._size_of_landmarks()
        said = []
        if pose.rotation > rotation.high:
            said.append(f"landmarks turned by {pose.rotation:.0f} degrees, in training at most {rotation.most:.0f}")
        if not size.low <= pose.scale <= size.high:
            said.append(
                f"landmarks {pose.scale:.2g} times the mean size, in training {size.least:.2g} to {size.most:.2g}"
            )
        if pose.misfit > misfit.high or pose.stray > stray.high:
            said.append(
                f"landmarks unlike the mean shape: {pose.misfit / misfit.most:.2g} times as far from it as the most "
                f"unlike training case, {name} furthest"
            )
        return tuple(said)

    def turns(self, landmarks: Landmarks, geometry: Geometry, frame: FloatArray) -> list[FloatArray]:
        """Rotations (P, P) of a grid, whose frame is as of `Geometry.frame`, after which the landmarks found in it may
        lie as in training; none where they do. Where they were turned further than any training case's: the one that is
        found. In a picture its inverse, too, as networks err where they were shown nothing, and quarter turns, also
        where they are unlike the mean shape: nothing says which side of a picture is up.
        """
        points = landmarks.reordered(self.fingerprint.landmarks).points
        if self._usual is None or not self._poses:
            return []
        found = case_pose(points, geometry, self._usual)
        if found is None:
            return []
        pose, _, lying = found
        rotation, degrees = uprighting(lying, frame, self._usual)
        turned = degrees > self._rotation().most
        (misfit, stray), size = self._misfits(), self._size_of_landmarks()
        sized = size.low <= pose.scale <= size.high
        unlike = pose.misfit > misfit.high or pose.stray > stray.high or not sized
        if len(frame) == 3:
            return [rotation] if turned else []
        quarters = [rotation_matrix(np.array([k * np.pi / 2])) for k in (1, 2, 3)] if turned or unlike else []
        return [*((rotation, rotation.T) if turned else ()), *quarters]

    def _rotation(self) -> Bounds:
        return bounds([case.rotation for case in self._poses], margin=ROTATION)

    def _size_of_landmarks(self) -> Bounds:
        return bounds([case.scale for case in self._poses], margin=SIZE, ratio=True)

    def _misfits(self) -> tuple[Bounds, Bounds]:
        """Of misfit and stray. Training cases are nearer to a mean shape that was made from them than others are."""
        new = np.sqrt((len(self._poses) + 1) / max(len(self._poses) - 1, 1))
        voxel = voxel_side(self.fingerprint.median_spacing)
        return (
            bounds([new * max(case.misfit, voxel) for case in self._poses], margin=MISFIT, ratio=True),
            bounds([new * max(case.stray, 1.0) for case in self._poses], margin=MISFIT, ratio=True),
        )


def usual(fingerprint: Fingerprint) -> Usual | None:
    """The usual pose, with which others are compared; None where the fingerprint does not hold it."""
    if not fingerprint.mean_rotation or not fingerprint.mean_shape:
        return None
    f, nowhere = fingerprint, (np.nan,) * fingerprint.physical_ndim
    shape = np.array([f.mean_shape.get(name, nowhere) for name in f.landmarks])
    deviations = [f.landmark_statistics[name].shape_deviation for name in f.landmarks]
    return usual_of(shape, np.array(f.mean_rotation), deviations, f.shape_residual, voxel_side(f.median_spacing))


def _absolute(training: Sequence[Appearance], own: Appearance) -> list[str]:
    """Of a channel whose grey values mean the same in every image."""
    said = []
    level = bounds(
        [case.level for case in training], margin=LEVEL * float(np.median([case.width for case in training]))
    )
    if not level.low <= own.level <= level.high:
        said.append(
            f"grey values: median of the foreground {own.level:.4g}, in training {level.least:.4g} to {level.most:.4g}"
        )
    width = bounds([case.width for case in training], margin=WIDTH, ratio=True)
    if not width.low <= own.width <= width.high:
        said.append(f"grey values range over {own.width:.4g}, in training over {width.least:.4g} to {width.most:.4g}")
    return said


def _axis(axis: int, image: Geometry) -> str:
    """Of canonical orientation: x, y, z where array and physical axes are as many, else its number."""
    return "zyx"[-image.ndim :][axis] if image.ndim == image.physical_ndim else f"axis {axis}"
