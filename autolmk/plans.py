"""Plans: what a planner derived from a fingerprint. Data only: versioned, strict, never mutated.

All lists along image axes are in array order (z, y, x) of canonical orientation; lengths in mm (or pixels, see `unit`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autolmk.errors import AutolmkError
from autolmk.files.digest import digest
from autolmk.files.serialization import from_json, near, read_json, to_json, write_json
from autolmk.paths import plain_name

VERSION = 1
MOST_STAGES, MOST_FEATURES, MOST_PER_STAGE = 32, 2**15, 128  # of a network; beyond them, a file is damaged
MOST_WINDOWS, MOST_VOXELS = 2**16, 2**36  # of a batch
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # version -> plans of the next version

Rate = Literal["polynomial", "constant", "restarts", "apga"]


@dataclass(frozen=True)
class Normalization:
    """The normalisation of one channel. scheme `foreground`: mean and std of the case's foreground, without padding,
    background and outliers such as metal; `robust`: the same of all but padding and outliers; `robust_rescale`: the
    foreground's percentiles `low` and `high` to [0, 1]; see `autolmk.data.foreground`. In the first two, `low` and
    `high` are the percentiles that tell outliers. What lies far beyond is drawn in, see `normalization.bounded`.

    `ct`: clip to [low, high], then (v - mean) / std with these numbers of the whole dataset; `rgb`: 0 to 255 to [0, 1];
    `window`: mean -+ 2 standard deviations of the case's voxels above 0 (of all, where none is) to 0 and 255, as APGA;
    `none`. Of older plans or by name: `zscore`, mean and std of the case itself; `rescale`, case minimum and maximum to
    [0, 1].
    """

    scheme: Literal["ct", "zscore", "rescale", "rgb", "none", "foreground", "robust", "robust_rescale", "window"]
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if self.by_foreground and not 0 < self.low < self.high < 100:
            raise ValueError(
                f"low and high of {self.scheme} must be percentiles, 0 < low < high < 100, got {self.low}, {self.high}"
            )

    @property
    def by_foreground(self) -> bool:
        """Whether the case's own foreground or padding counts."""
        return self.scheme in ("foreground", "robust", "robust_rescale")


@dataclass(frozen=True)
class Architecture:
    """A U-Net on dynamic_network_architectures' blocks; lists have an entry a stage, kernels and strides an axis.

    output_stride: how many input voxels one output voxel spans, an axis; the decoder stops at that resolution.
    """

    features_per_stage: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    n_conv_per_stage: tuple[int, ...]
    n_conv_per_stage_decoder: tuple[int, ...]
    output_stride: tuple[int, ...]
    residual: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError where a number cannot be one of a network."""
        stages = (self.features_per_stage, self.n_conv_per_stage, self.n_conv_per_stage_decoder)
        axes = (*self.kernel_sizes, *self.strides, self.output_stride)
        if max(map(len, (*stages, self.kernel_sizes, self.strides)), default=0) > MOST_STAGES:
            raise ValueError(f"a network has at most {MOST_STAGES} stages")
        lengths = {len(values) for values in (self.kernel_sizes, self.strides, self.n_conv_per_stage)}
        if self.kernel_sizes and lengths != {len(self.features_per_stage)}:
            n = len(self.features_per_stage)
            raise ValueError(
                f"kernel_sizes, strides and n_conv_per_stage must have {n} entries, as features_per_stage has"
            )
        if not all(1 <= n <= MOST_FEATURES for n in self.features_per_stage):
            raise ValueError(f"features_per_stage must be 1 to {MOST_FEATURES}, got {list(self.features_per_stage)}")
        if not all(0 <= n <= MOST_PER_STAGE for n in (*self.n_conv_per_stage, *self.n_conv_per_stage_decoder)):
            raise ValueError(f"convolutions of a stage must be at most {MOST_PER_STAGE}, and not below 0")
        if not all(1 <= n <= MOST_PER_STAGE for axis in axes for n in axis):
            raise ValueError(f"kernel_sizes, strides and output_stride must be 1 to {MOST_PER_STAGE} voxels")


@dataclass(frozen=True)
class SliceGroup:
    """Landmarks that annotators place on one slice. axis: array axis (0 = z) of the image in canonical orientation that
    is perpendicular to the slice."""

    axis: int
    landmarks: tuple[str, ...]


@dataclass(frozen=True)
class Windows:
    """Windows that training and inference cut from an image. kind `whole`: the image fits one window; `random`: tiles,
    random places; `landmark`: a window a landmark, around where the previous stage found it, see `data.stage_windows`.

    holding: share of random training windows that are placed to hold a random present landmark.
    Of training windows that hold many landmarks: elsewhere: share that lies far off, or shows no image at all, with a
    random backdrop beyond the image, see `sampling`: from these the network learns to say that a landmark is not here.
    exact: share that lies on the image's own voxels, neither turned nor scaled, as in prediction, so that nothing is
    interpolated. order: of the spline that interpolates the others. low_pass: the filter before, in training and in
    prediction, see `image.low_pass_sigma`.
    Of kind `landmark`: per_sample: windows of a case that make a training sample, of landmarks drawn at random; None:
    one of every landmark, in order. pose: turned and scaled into the pose of the fitted mean shape; else as the image.
    rounds: looks of prediction, each around the points of the one before. jitter: standard deviation an axis of the
    previous stage's errors, as a share of the window's side, until training has measured them. least_side: shortest
    side (voxels an axis) that the measured errors may choose; patch_size is the longest. groups: landmarks that were
    annotated on one slice; their windows turn only within it and share their place across it. drawn: how far off their
    landmark training's windows lie, and how large they are: as errors were measured; or of the planned side, off by a
    Gaussian of `jitter`, or anywhere so that they hold the landmark (uniform). search: whether what a window calls
    elsewhere is looked for around it.
    """

    kind: Literal["whole", "random", "landmark"]
    holding: float = 0.7
    per_sample: int | None = None
    pose: bool = False
    rounds: int = 1
    jitter: float = 1 / 6
    least_side: tuple[int, ...] | None = None
    groups: tuple[SliceGroup, ...] = ()
    elsewhere: float = 0.0
    exact: float = 0.0
    order: int = 1
    low_pass: Literal["crossed", "widest"] = "widest"
    drawn: Literal["measured", "gaussian", "uniform"] = "measured"
    search: bool = True

    def __post_init__(self) -> None:
        for name in ("holding", "elsewhere", "exact"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share between 0 and 1, got {getattr(self, name)}")
        if not 1 <= self.order <= 5:
            raise ValueError(f"order must be that of a spline, 1 to 5, got {self.order}")
        if self.rounds < 1 or (self.per_sample is not None and self.per_sample < 1) or not 0 < self.jitter < 1:
            raise ValueError("rounds and per_sample must be 1 or more, and jitter a share between 0 and 1")


@dataclass(frozen=True)
class LabelMap:
    """A region that training shows a network beside the landmarks: the convex hull of a group of them, a capsule about
    two, a ball about one; see `label_maps`. radius: mm, of ball and capsule, and half of a hull's least thickness.
    value: instead, of the region in the label maps of labelsTr."""

    name: str
    landmarks: tuple[str, ...] = ()
    radius: float = 0.0
    value: int | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (bool(self.landmarks) and self.radius > 0):
            raise ValueError("a label map needs landmarks and a radius above 0, or a value, and not both")


@dataclass(frozen=True)
class Augmentation:
    """Ranges from the fingerprint's pose spread.

    rotation: half range in degrees about each physical axis x, y, z (2D: one number); 180 is any angle.
    scale: (low, high) factors. translation: half range in mm an axis.
    mirror_axis: axis of canonical grids (0 = x) along which images may be mirrored, pairs swapped; None forbids it.
    stretch: 0.1 lets the anatomy appear 1/1.1 to 1.1 times as long along each axis of a window, by itself.
    """

    rotation: tuple[float, ...]
    scale: tuple[float, float]
    translation: tuple[float, ...]
    mirror_axis: int | None = None
    intensity: float = 1.0  # strength of the intensity augmentation, 0 switches it off
    stretch: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be two factors above 0, the lower one first, got {list(self.scale)}")
        if not all(value >= 0 for value in (*self.rotation, *self.translation, self.intensity, self.stretch)):
            raise ValueError("rotation, translation, intensity and stretch must be 0 or more")


@dataclass(frozen=True)
class Schedule:
    """Length and rate of training. max_seconds None: epochs alone count. validation_share: of the time, at most. rate:
    how the learning rate goes on, see `training.schedule.learning_rate_factor`."""

    epochs: int
    iterations_per_epoch: int
    max_seconds: float | None
    learning_rate: float
    weight_decay: float
    ema_decay: float
    validation_share: float
    rate: Rate = "polynomial"

    def __post_init__(self) -> None:
        if min(self.epochs, self.iterations_per_epoch) < 1 or not (self.max_seconds is None or self.max_seconds > 0):
            raise ValueError("epochs, iterations_per_epoch and max_seconds must be above 0")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ValueError("learning_rate must be above 0 and weight_decay 0 or more")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.validation_share < 1:
            raise ValueError("ema_decay and validation_share must be shares below 1")


@dataclass(frozen=True)
class Configuration:
    """One stage of one method: everything that preprocessing, training and prediction need to know."""

    trainer: str
    data_identifier: str
    spacing: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    normalization: tuple[Normalization, ...]
    windows: Windows
    architecture: Architecture
    sigma: tuple[float, ...]  # of the heatmap's Gaussian, mm an axis
    augmentation: Augmentation
    schedule: Schedule
    shape_prior: bool = True  # uncertain points are drawn toward the fitted mean shape, where held-out cases gain
    co_slice: bool = True  # points of the plans' co_slice_groups are put on one slice
    label_maps: tuple[LabelMap, ...] = ()  # that batches hold beside the image, of windows that hold many landmarks
    previous_stage: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the trainer's Options
    why: dict[str, str] = field(default_factory=dict)  # a short reason for each number above

    def __post_init__(self) -> None:
        plain_name(self.data_identifier, "data_identifier")
        plain_name(self.trainer.rpartition(":")[2], "the trainer's name")
        if self.previous_stage is not None:
            plain_name(self.previous_stage, "previous_stage")
        values = {name: list(getattr(self, name)) for name in ("spacing", "patch_size", "sigma")}
        if len({len(v) for v in values.values()}) != 1 or not all(x > 0 for v in values.values() for x in v):
            got = ", ".join(f"{name} {v}" for name, v in values.items())
            raise ValueError(f"spacing, patch_size and sigma must be numbers above 0, one an axis each, got {got}")
        if not 1 <= self.batch_size <= MOST_WINDOWS:
            raise ValueError(f"batch_size must be 1 to {MOST_WINDOWS}, got {self.batch_size}")
        if math.prod(self.patch_size) * self.batch_size > MOST_VOXELS:
            raise ValueError(f"patch_size {list(self.patch_size)} x batch_size {self.batch_size}: more than any memory")


@dataclass(frozen=True)
class Plans:
    """plans.json. landmarks: names in channel order. pairs: left/right partners. sometimes_absent: landmarks that some
    training case lacks, the only ones that a prediction may call absent. unit: `mm`, or `px` without physical size.
    co_slice_groups: landmarks that annotators placed on one slice."""

    dataset_name: str
    plans_name: str
    planner: str
    preset: str
    ndim: int
    unit: Literal["mm", "px"]
    channel_names: tuple[str, ...]
    landmarks: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    sometimes_absent: tuple[str, ...]
    device: str  # that the planner planned for: cpu or cuda
    memory_target_gb: float
    configurations: dict[str, Configuration]
    co_slice_groups: tuple[SliceGroup, ...] = ()
    why: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        for name, what in ((self.dataset_name, "dataset_name"), (self.plans_name, "plans_name")):
            plain_name(name, what)
        for name in self.configurations:
            plain_name(name, "a configuration's name")

    @classmethod
    def load(cls, file: Path) -> Plans:
        """Read and check plans.json, migrating older versions. AutolmkError names the key at fault."""
        return cls.parse(read_json(file, remedy="restore it, or plan again"), file=file)

    @classmethod
    def parse(cls, value: Any, *, file: Path | str | None = None) -> Plans:
        """Read plans from parsed JSON of any version that is known."""
        if not isinstance(value, dict) or type(value.get("version")) is not int:
            raise AutolmkError(
                "these are no autolmk plans",
                file=file,
                expected='an object with a whole number "version"',
                remedy="give a file that autolmk_plan_experiment wrote, or plan again",
            )
        while value["version"] in MIGRATIONS:
            value = MIGRATIONS[value["version"]](value)
        if value["version"] != VERSION:
            raise AutolmkError(
                "plans of another version",
                file=file,
                found=f"version {value['version']}",
                expected=f"version {VERSION} or older",
                remedy="update autolmk, or plan again",
            )
        plans = from_json(cls, value, file=file)
        fault = _contradiction(plans)
        if fault is not None:
            raise AutolmkError(
                "plans contradict themselves", file=file, found=fault, remedy="correct it, or plan again"
            )
        return plans

    def save(self, file: Path) -> None:
        """Write the plans to a file, atomically."""
        write_json(file, self)

    def configuration(self, name: str) -> Configuration:
        """The configuration of that name. AutolmkError with near names where there is none of that name."""
        if name not in self.configurations:
            raise AutolmkError(
                f"the plans {self.plans_name!r} hold no configuration {name!r}{near(name, self.configurations)}",
                expected=f"one of {', '.join(self.configurations)}",
                remedy="choose a configuration of these plans, or other plans with -p",
            )
        return self.configurations[name]

    def chain(self, name: str) -> tuple[str, ...]:
        """The stages of a configuration, first to last: those before it, and itself."""
        names: list[str] = [name]
        while (before := self.configuration(names[0]).previous_stage) is not None:
            names.insert(0, before)
        return tuple(names)

    def with_stages(self, names: Iterable[str] | None) -> tuple[str, ...]:
        """Configurations and the stages before them, each once; None: all there are."""
        wanted = self.configurations if names is None else names
        return tuple(dict.fromkeys(stage for name in wanted for stage in self.chain(name)))

    def pair_indices(self) -> tuple[int, ...]:
        """The index of each landmark's mirror partner, its own index where it has none."""
        partner = {a: b for pair in self.pairs for a, b in (pair, pair[::-1])}
        where = {name: i for i, name in enumerate(self.landmarks)}
        return tuple(where[partner.get(name, name)] for name in self.landmarks)

    def digest(self) -> str:
        """The digest of everything but reasons: two plans with the same digest lead to the same training."""
        return digest({k: v for k, v in to_json(self).items() if k != "why"})


def _contradiction(plans: Plans) -> str | None:
    """Numbers of one part of the plans that do not suit another part."""
    for name, c in plans.configurations.items():
        if len(c.spacing) != plans.ndim:
            return f"configurations.{name}.spacing: {list(c.spacing)} for {plans.ndim} axes"
        if len(c.normalization) != len(plans.channel_names):
            return (
                f"configurations.{name}.normalization: {len(c.normalization)} for {len(plans.channel_names)} channels"
            )
        for place, numbers in _numbers_an_axis(c).items():
            if len(numbers) != plans.ndim:
                return f"configurations.{name}.{place}: {list(numbers)} for {plans.ndim} axes"
        if (c.previous_stage is None) == (c.windows.kind == "landmark"):
            return f"configurations.{name}: windows a landmark need a previous_stage, and only they have one"
        strangers = sorted({member for m in c.label_maps for member in m.landmarks} - set(plans.landmarks))
        if strangers or (c.label_maps and c.windows.kind == "landmark"):
            said = f"{', '.join(strangers)}, which are no landmarks" if strangers else "none with windows a landmark"
            return f"configurations.{name}.label_maps: {said}"
        if c.windows.groups and c.augmentation.mirror_axis is not None:
            return f"configurations.{name}.augmentation.mirror_axis: windows of slice groups are seen as they lie"
        before, seen = c.previous_stage, {name}
        while before is not None:
            if before not in plans.configurations or before in seen:
                return f"configurations.{name}.previous_stage: {before!r} is no other configuration of these plans"
            seen.add(before)
            before = plans.configurations[before].previous_stage
    if not plans.landmarks or len(set(plans.landmarks)) != len(plans.landmarks):
        return "landmarks: a name stands twice" if plans.landmarks else "landmarks: none"
    if any(not 0 <= group.axis < plans.ndim for group in plans.co_slice_groups):
        return f"co_slice_groups: axes must be from 0 to {plans.ndim - 1}"
    for field_name, sets in (("pairs", plans.pairs), ("co_slice_groups", [g.landmarks for g in plans.co_slice_groups])):
        unknown = sorted({name for names in sets for name in names} - set(plans.landmarks))
        if unknown:
            return f"{field_name}: {', '.join(unknown)}, which are no landmarks"
    return None


def _numbers_an_axis(c: Configuration) -> dict[str, Sequence[float]]:
    """Where a configuration holds one number an axis, beside those that it compares itself."""
    a = c.architecture
    found: dict[str, Sequence[float]] = {"augmentation.translation": c.augmentation.translation}
    for field_name, stages in (("kernel_sizes", a.kernel_sizes), ("strides", a.strides)):
        found |= {f"architecture.{field_name}[{k}]": stage for k, stage in enumerate(stages)}
    found |= {"architecture.output_stride": a.output_stride} if a.output_stride else {}
    return found | ({} if c.windows.least_side is None else {"windows.least_side": c.windows.least_side})


def replace_configuration(plans: Plans, name: str, **changes: Any) -> Plans:
    """New plans in which fields of one configuration differ."""
    changed = dataclasses.replace(plans.configuration(name), **changes)
    return dataclasses.replace(plans, configurations={**plans.configurations, name: changed})
