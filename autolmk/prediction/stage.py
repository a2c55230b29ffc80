"""Stage: one trained configuration, ready to predict, and the last two stops of each look: assign and conclude.

Shapes: L landmarks, K candidates, M members, P physical axes. Everything in mm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autolmk.codecs import Codec
from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.evaluation.presence_calibration import PresenceCalibration
from autolmk.fold.checkpoint import checkpoint_file, load_weights
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, decided
from autolmk.methods.trainer import Trainer, build
from autolmk.networks.precision import Precision
from autolmk.plans import Configuration, Plans
from autolmk.prediction.assignment import ShapePrior, assign
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.row_choice import Chosen, choose_rows
from autolmk.prediction.shrinkage import draw_best
from autolmk.shapes.row import Rows
from autolmk.shapes.shared_slice import on_one_slice

MERGE_SIGMAS = 2.0  # candidates within so many widths of the heatmap are one


@dataclass(frozen=True, eq=False)
class Prepared:
    """A preprocessed image (canonical, at a configuration's spacing, normalised); fill: (C,) the value outside it.
    upright: the canonical grid from which this one was turned; None where it was not.
    """

    image: Image
    fill: tuple[float, ...]
    upright: Geometry | None = None

    def array_axis(self, physical: int) -> int | None:
        """The array axis of a physical one, see `Geometry.array_axis`; of a turned grid, what it was before."""
        return (self.upright or self.image.geometry).array_axis(physical)

    def turned(self, rotation: FloatArray) -> Prepared:
        """The image on a grid that is turned by a rotation (P, P) about the same centre, and holds all of it."""
        grid = self.image.geometry
        ends = grid.to_physical(list(itertools.product(*((0, n - 1) for n in grid.shape))))
        reach = np.abs(grid.window(grid.centre, (1,) * grid.ndim, rotation).to_voxels(ends)).max(axis=0)
        target = grid.window(grid.centre, [int(n) for n in 2 * np.ceil(reach) + 1], rotation)
        return Prepared(self.image.resample(target, fill=self.fill), self.fill, grid)


@dataclass(frozen=True, eq=False)
class Member:
    """One network with its codec, such as a fold; several are averaged as scores inside each window.

    untrained: names of landmarks that it never saw in training; its scores of them are left out of the average.
    """

    network: nn.Module
    codec: Codec
    untrained: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Assigned:
    """Candidates in their final order, one image's, as `Stage.conclude` reads them.

    candidates: (L, K, P) mm, best first. log_odds: (L, K). spread: (L,) mm, widths of the best candidates' peaks.
    moved: (L, P) mm by which the best ones were drawn toward the mean shape; empty where none was. probability, reach:
    (L,) of members of rows, see `row_choice.Chosen`; empty where there are none.
    """

    candidates: FloatArray
    log_odds: FloatArray
    spread: FloatArray
    moved: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    probability: FloatArray = field(default_factory=lambda: np.empty(0))
    reach: FloatArray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, eq=False)
class Stage:
    """A trained configuration, ready to predict.

    members: on `device`. measured: what each member's fold measured, in the same order; empty while nothing is
    measured, then likelihood is the plain logistic of the log-odds and sides are not assigned. mirror: average with the
    mirrored view where the plans allow mirroring. step: between windows, in window sides.
    """

    plans: Plans
    configuration: Configuration
    members: tuple[Member, ...]
    measured: tuple[Measured, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mirror: bool = True
    step: float = 0.5

    @cached_property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """The landmarks (L,) that no member learned: nothing can be said of them."""
        untrained = [one.untrained for one in self.members or self.measured]
        names = self.plans.landmarks
        return np.asarray(
            np.all([np.isin(names, one) for one in untrained] or [np.zeros(len(names), dtype=bool)], axis=0)
        )

    @cached_property
    def prior(self) -> ShapePrior | None:
        """The members' mean shapes, aligned and averaged; None where no fold measured one.

        A landmark that no member learned, and its mirror partner, count as without partner: nothing to be mistaken for.
        """
        known = [m for m in self.measured if m.mean_shape]
        shapes = [m.mean_shape for m in known if m.mean_shape]
        if not shapes:
            return None
        names = self.plans.landmarks
        nowhere = (float("nan"),) * len(next(iter(shapes[0].values())))
        points = [np.array([shape.get(name, nowhere) for name in names], dtype=np.float64) for shape in shapes]
        spread = [[m.shape_spread.get(name, m.shape_residual or 0.0) for name in names] for m in known]
        unseen = [
            [m.shape_left_out.get(n, s) for n, s in zip(names, row, strict=True)]
            for m, row in zip(known, spread, strict=True)
        ]
        bounds = [m.scale_bounds for m in known]
        return ShapePrior.pooled(
            points,
            [i if self.unknown[[i, p]].any() else p for i, p in enumerate(self.plans.pair_indices())],
            residual=np.mean(spread, axis=0),
            scale_bounds=(min(b[0] for b in bounds), max(b[1] for b in bounds)),
            n_cases=min(m.shape_cases for m in known),
            left_out=np.mean(unseen, axis=0),
        )

    @cached_property
    def merge_radius(self) -> float:
        """The distance in mm within which two candidates are one: two widths of the heatmap or output voxels."""
        c = self.configuration
        cell = max(s * v for s, v in zip(c.architecture.output_stride, c.spacing, strict=True))
        return max(MERGE_SIGMAS * max(c.sigma), 2.0 * cell)

    # -- assign -------------------------------------------------------------------------------------------------------

    def assign(self, candidates: FloatArray, log_odds: FloatArray, widths: FloatArray, geometry: Geometry) -> Assigned:
        """Assign a candidate to each landmark: mirror partners told apart, rows in order, drawn toward the mean shape.

        candidates: (L, K, P) as they were found in the image of `geometry`; log_odds, widths of their peaks: (L, K).
        """
        places = candidates
        if self.prior is not None and not is_slice_in_space(geometry):
            candidates, log_odds = assign(candidates, log_odds, self.prior, radius=self.merge_radius)
        chosen = self.in_order_of_rows(candidates, log_odds, geometry)
        spread = _widths_at(chosen.candidates[:, 0], places, widths)
        rows = {"probability": chosen.probability, "reach": chosen.reach}
        return self.drawn(Assigned(chosen.candidates, chosen.log_odds, spread, **rows), geometry)

    def in_order_of_rows(self, candidates: FloatArray, log_odds: FloatArray, geometry: Geometry) -> Chosen:
        """Candidates (L, K, P) with log-odds (L, K) as the rows that the members' folds measured support them;
        unchanged where there are none, and in single slices in space, in which a row may turn over."""
        known = [] if is_slice_in_space(geometry) else [m.rows for m in self.measured if m.rows is not None]
        shape = None if self.prior is None else self.prior.points
        return choose_rows(candidates, log_odds, self.plans.landmarks, Rows.pooled(known), geometry, shape)

    def drawn(self, found: Assigned, geometry: Geometry) -> Assigned:
        """The same candidates, the best ones drawn toward the mean shape where plans and folds say so."""
        use = self.configuration.shape_prior and not is_slice_in_space(geometry)
        candidates, prior = found.candidates.copy(), self.prior if use else None
        moved = draw_best(candidates, found.log_odds, found.spread, prior, self.measured, self.plans.landmarks)
        return replace(found, candidates=candidates, moved=moved)

    # -- conclude -----------------------------------------------------------------------------------------------------

    def likelihoods(self, log_odds: FloatArray) -> FloatArray:
        """Probabilities of presence (L,) from the best candidates' log-odds (L,): the members' calibrations, averaged.
        NaN where no member learned the landmark."""
        names = self.plans.landmarks
        each = [
            PresenceCalibration(m.presence_slope, m.presence_intercept).likelihood(log_odds, m.prior(names))
            for m in self.measured or (Measured(),)
        ]
        return np.where(self.unknown, np.nan, np.mean(each, axis=0))

    def landmarks(self, candidates: FloatArray, log_odds: FloatArray) -> Landmarks:
        """Status and likelihood of each landmark's best candidate, of candidates (L, K, P) with log-odds (L, K)."""
        points = np.where(np.isfinite(log_odds[:, :1]), candidates[:, 0], np.nan)
        return decided(self.plans.landmarks, points, self.likelihoods(log_odds[:, 0]), self.plans.sometimes_absent)

    def conclude(self, found: Assigned, looks: int, geometry: Geometry) -> Prediction:
        """Conclude from the candidates: presence is decided, and members of a group are put on one slice.

        looks: windows seen. geometry: of the preprocessed image.
        """
        names, groups = self.plans.landmarks, self.plans.co_slice_groups
        candidates, log_odds = found.candidates, found.log_odds
        likelihood = self.likelihoods(log_odds[:, 0])
        in_rows = bool(np.isfinite(found.reach).any())
        detections = Detections(
            names, candidates.copy(), log_odds.copy(), found.spread, likelihood, geometry,
            moved=found.moved, **({"row": found.probability} if in_rows else {}),
        )  # fmt: skip
        if self.configuration.co_slice and groups:
            radius = self.merge_radius
            candidates, log_odds = on_one_slice(candidates, log_odds, likelihood, geometry, groups, names, radius)
        landmarks = self.landmarks(candidates, log_odds)
        reach = found.reach if in_rows else np.empty(0)
        return Prediction(landmarks, candidates, log_odds, looks, detections, reach=reach)


def load_stage(trainers: Sequence[Trainer], folders: Sequence[Path], checkpoint: str, device: torch.device) -> Stage:
    """Load the networks that these folders of folds hold, one of each trainer, with checkpoint_`checkpoint`.

    AutolmkError where a file is missing or damaged, or does not fit its trainer.
    """
    precision = Precision(device)
    members, measured = [], []
    for trainer, folder in zip(trainers, folders, strict=True):
        network, codec = build(trainer)
        load_weights(checkpoint_file(folder, checkpoint), network, codec)
        measured.append(Measured.load(folder))
        part = trainer.prediction_network(network).eval()
        members.append(Member(precision.place(part), codec.eval().to(device), measured[-1].untrained))
    for member in members:
        member.codec.adopt(type(member.codec).pooled([one.decoding for one in measured]))
    return Stage(trainers[0].plans, trainers[0].configuration, tuple(members), tuple(measured), device)


def is_slice_in_space(geometry: Geometry) -> bool:
    """Whether an image is a single slice in space, in which a shape may turn over."""
    return geometry.ndim < geometry.physical_ndim


def voxel_side(geometry: Geometry) -> float:
    """The geometric mean of a voxel's sides in mm, for widths that codecs give in voxels."""
    return float(np.exp(np.mean(np.log(geometry.spacing))))


def require_finite(scores: Tensor) -> None:
    """Raise AutolmkError where a network's scores (...) hold NaN or infinity."""
    highest = float(scores.amax())  # NaN where there is any
    if not np.isfinite(highest):
        raise AutolmkError(
            "the network's output is not finite",
            found=f"scores up to {highest}",
            remedy="check the image's intensities; if other images fail too, train again",
        )


@contextmanager
def evaluating(members: Sequence[Member]) -> Iterator[None]:
    """Put networks into evaluation mode for a while."""
    training = [member.network.training for member in members]
    for member in members:
        member.network.eval()
    try:
        yield
    finally:
        for member, mode in zip(members, training, strict=True):
            member.network.train(mode)


def _widths_at(points: FloatArray, places: FloatArray, widths: FloatArray) -> FloatArray:
    """Widths (L,) of the candidates that lie at points (L, P), which assignment may have taken from a partner.

    places: (L, K, P) of all candidates, widths: (L, K). NaN where a point is none.
    """
    result = np.full(len(points), np.nan)
    flat, known = widths.reshape(-1), places.reshape(-1, places.shape[2])
    usable = np.flatnonzero(np.isfinite(known).all(axis=1))
    for i in np.flatnonzero(np.isfinite(points).all(axis=1)):
        if len(usable):
            result[i] = flat[usable[np.linalg.norm(known[usable] - points[i], axis=1).argmin()]]
    return result
