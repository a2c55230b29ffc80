"""Prediction of one preprocessed image: the only decoder, used by validation during training and by autolmk_predict.

Windows are looked at one at a time and only their candidates are kept, so that memory grows neither with the image nor,
beyond one window's output, with the number of landmarks. Candidates of different windows are ranked by log-odds (peak
against the learned "elsewhere"), which, unlike softmax height, compare across windows.

Shapes: B batch, C channels, L landmarks, K candidates, D image axes, P physical axes, *S spatial.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autolmk.codecs import Codec
from autolmk.detections import Detections
from autolmk.errors import AutolmkError
from autolmk.evaluation.presence_calibration import PresenceCalibration
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, decided
from autolmk.networks.precision import MixedPrecision, Precision
from autolmk.plans import Configuration, Plans
from autolmk.postprocessing.flags import row_flags
from autolmk.prediction.assignment import ShapePrior, assign
from autolmk.prediction.candidates import Pool, Ranked, cover, tile_starts
from autolmk.prediction.row_choice import Chosen, choose_rows
from autolmk.prediction.shrinkage import draw_best
from autolmk.selection import Conclusion
from autolmk.selection.results import FLAGS, Result
from autolmk.shapes.row import Rows
from autolmk.shapes.shared_slice import on_one_slice

BORDER = 0.25  # centrality under which a landmark is looked at again in a centred window
ROUNDS = 2  # of second looks
N_CANDIDATES = 5  # a landmark, after merging
MERGE_SIGMAS = 2.0  # candidates within so many widths of the heatmap are one


@dataclass(frozen=True, eq=False)
class Member:
    """One network with its codec, such as a fold; several are averaged as scores inside each window.

    untrained: names of landmarks that it never saw in training; its scores of them are left out of the average.
    """

    network: nn.Module
    codec: Codec
    untrained: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Prediction:
    """landmarks: mm, with status and likelihood. candidates: (L, K, P) mm, the first is the landmark's best position
    even where it is called absent; NaN where there is none. log_odds: (L, K), -inf there. looks: windows seen.
    detections: the same before groups were put on one slice, with the widths of the peaks. conclusion: of a recipe.
    reach: (L,) mm within which later stages look for members of rows, see `row_choice.Chosen`; empty without rows."""

    landmarks: Landmarks
    candidates: FloatArray
    log_odds: FloatArray
    looks: int
    detections: Detections
    conclusion: Conclusion | None = None
    reach: FloatArray = field(default_factory=lambda: np.empty(0))

    def result(self) -> Result:
        """As it is written."""
        if self.conclusion is not None:
            return replace(Result.of_conclusion(self.conclusion), landmarks=self.landmarks)
        flags = ["; ".join(reasons) for reasons in row_flags(self.detections, self.landmarks.present)]
        return Result(self.landmarks, self.candidates[:, 0], self.detections, {FLAGS: flags})

    def moved_by(self, moved: FloatArray) -> Prediction:
        """With a record of how far (L, P) mm the best candidates were drawn toward the mean shape."""
        return replace(self, detections=replace(self.detections, moved=moved))

    def in_rows(self, probability: FloatArray, reach: FloatArray) -> Prediction:
        """With what is known of members of rows, of `row_choice.Chosen`: (L,) each."""
        if not np.isfinite(reach).any():
            return self
        return replace(self, detections=replace(self.detections, row=probability), reach=reach)

    def best(self, *, separate: bool = False) -> FloatArray:
        """(L, P) best positions; separate: before groups were put on one slice."""
        return self.detections.best if separate else np.asarray(self.candidates[:, 0])


@dataclass(frozen=True)
class View:
    """How a window is seen. axis: array axis of test-time mirroring, None for none; partner: (L,) mirror partners."""

    axis: int | None
    partner: tuple[int, ...]


def predict_image(
    image: Image,
    fill: Sequence[float],
    members: Sequence[Member],
    plans: Plans,
    configuration: Configuration,
    measured: Sequence[Measured],
    *,
    device: torch.device | str,
    mirror: bool = True,
    step: float = 0.5,
) -> Prediction:
    """Landmarks of a preprocessed `image` (C, *S), in the physical space of its geometry, which preprocessing keeps.

    fill: (C,) for what a window shows beyond the image. members: on `device`. measured: of each member's fold; empty
    while nothing is measured, then likelihood is the plain logistic of the log-odds and sides are not assigned.
    mirror: average with the mirrored view where the plans allow mirroring. step: between windows, in window sides.
    Raises AutolmkError where a network's output is not finite.
    """
    look = Look(image, fill, members, plans, configuration, torch.device(device), mirror)
    ranked, looks = _search(look, plans, configuration, step)
    candidates, log_odds = image.geometry.to_physical(ranked.voxels), ranked.log_odds
    places, widths = candidates, ranked.spread * voxel_side(image.geometry)
    prior = pooled_prior(measured, plans, look.unknown)
    if prior is not None and image.geometry.ndim == image.geometry.physical_ndim:
        candidates, log_odds = assign(candidates, log_odds, prior, radius=merge_radius(configuration))
    chosen = in_order_of_rows(candidates, log_odds, measured, plans, prior, image.geometry)
    candidates, log_odds = chosen.candidates, chosen.log_odds
    spread = _widths_at(candidates[:, 0], places, widths)
    use = configuration.shape_prior and image.geometry.ndim == image.geometry.physical_ndim
    moved = draw_best(candidates, log_odds, spread, prior if use else None, measured, plans.landmarks)
    rest = (looks, image.geometry, plans, configuration, measured, look.unknown)
    return conclude(candidates, log_odds, spread, *rest).moved_by(moved).in_rows(chosen.probability, chosen.reach)


def in_order_of_rows(
    candidates: FloatArray,
    log_odds: FloatArray,
    measured: Sequence[Measured],
    plans: Plans,
    prior: ShapePrior | None,
    geometry: Geometry,
) -> Chosen:
    """Candidates (L, K, P) with log-odds (L, K) as the rows that the members' folds measured support them; unchanged
    where there are none, and in single slices in space, in which a row may turn over."""
    known = [one.rows for one in measured if one.rows is not None] if geometry.ndim == geometry.physical_ndim else []
    shape = None if prior is None else prior.points
    return choose_rows(candidates, log_odds, plans.landmarks, Rows.pooled(known), geometry, shape)


def voxel_side(geometry: Geometry) -> float:
    """mm: the geometric mean of a voxel's sides, for widths that codecs give in voxels."""
    return float(np.exp(np.mean(np.log(geometry.spacing))))


def _widths_at(points: FloatArray, places: FloatArray, widths: FloatArray) -> FloatArray:
    """(L,) widths of the candidates that lie at points (L, P), which assignment may have taken from a partner.

    places: (L, K, P) of all candidates, widths: (L, K). NaN where a point is none.
    """
    result = np.full(len(points), np.nan)
    flat, known = widths.reshape(-1), places.reshape(-1, places.shape[2])
    usable = np.flatnonzero(np.isfinite(known).all(axis=1))
    for i in np.flatnonzero(np.isfinite(points).all(axis=1)):
        if len(usable):
            result[i] = flat[usable[np.linalg.norm(known[usable] - points[i], axis=1).argmin()]]
    return result


class Look:
    """Sees windows of one image through all members and views; holds one window's scores at a time."""

    def __init__(
        self,
        image: Image,
        fill: Sequence[float],
        members: Sequence[Member],
        plans: Plans,
        configuration: Configuration,
        device: torch.device,
        mirror: bool,
    ) -> None:
        self.image, self.fill, self.members = image, tuple(fill), members
        self.precision = Precision(device)
        self.networks = [MixedPrecision(m.network, device, self.precision.dtype) for m in members]
        self.patch = configuration.patch_size
        untrained = np.stack([np.isin(plans.landmarks, m.untrained) for m in members])
        self.unknown = np.asarray(untrained.all(axis=0))  # (L,) landmarks that no member learned
        self.untrained = [np.flatnonzero(row).tolist() for row in untrained]
        self.counts = (~untrained).sum(axis=0).clip(1).tolist()
        partner = plans.pair_indices()
        physical = configuration.augmentation.mirror_axis
        self.views = [View(None, partner)]
        axis = None if physical is None else image.geometry.array_axis(physical)
        if mirror and axis is not None:
            self.views.insert(0, View(axis, partner))

    def scores(self, start: Sequence[int]) -> Tensor:
        """(1, L, *output) averaged over members and views, of the window whose first voxel is `start`."""
        geometry = self.image.geometry.crop(start, self.patch)
        data = self.precision.tensor(self.image.resample(geometry, fill=self.fill).array[None])
        total: Tensor | None = None
        for network, member, untrained in zip(self.networks, self.members, self.untrained, strict=True):
            for view in self.views:
                scores = _view(network, member.codec, data, view)
                if untrained:
                    scores[:, untrained] = 0.0
                total = scores if total is None else total.add_(scores)
                del scores
        if total is None:
            raise ValueError("prediction needs at least one member")
        if len(self.members) * len(self.views) == 1:
            return total
        counts = torch.tensor(self.counts, dtype=total.dtype, device=total.device) * len(self.views)
        return total.div_(counts.view(1, -1, *[1] * (total.ndim - 2)))

    def candidates(self, start: Sequence[int]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Window voxels (L, K, D), log-odds (L, K) and widths in voxels (L, K) of the window at `start`."""
        with torch.inference_mode(), evaluating(self.members):
            scores = self.scores(start)
            highest = float(scores.amax())  # NaN where there is any
            if not np.isfinite(highest):
                raise AutolmkError(
                    "the network's output is not finite",
                    found=f"scores up to {highest}",
                    remedy="check the image's intensities; if other images fail too, train again",
                )
            found = self.members[0].codec.decode(scores)
        log_odds = found.log_odds[0].double().cpu().numpy()
        log_odds[self.unknown] = -np.inf
        return found.voxels[0].double().cpu().numpy(), log_odds, found.spread[0].double().cpu().numpy()


def _view(network: nn.Module, codec: Codec, data: Tensor, view: View) -> Tensor:
    """Scores of one network for a window (1, C, *S), seen directly or mirrored."""
    if view.axis is None:
        return codec.scores(network(data))
    scores = codec.scores(network(data.flip(2 + view.axis)))
    for i, p in enumerate(view.partner):  # a pair at a time and in place: no second copy of a window's scores
        if i <= p:
            both = [i] if i == p else [i, p]
            scores[:, both] = codec.mirror(scores[:, both], view.axis, range(len(both))[::-1])
    return scores


@contextmanager
def evaluating(members: Sequence[Member]) -> Iterator[None]:
    """Networks in evaluation mode for a while."""
    training = [member.network.training for member in members]
    for member in members:
        member.network.eval()
    try:
        yield
    finally:
        for member, mode in zip(members, training, strict=True):
            member.network.train(mode)


def merge_radius(configuration: Configuration) -> float:
    """mm within which two candidates are one: some widths of the heatmap, at least two output voxels."""
    stride = configuration.architecture.output_stride
    cell = max(s * v for s, v in zip(stride, configuration.spacing, strict=True))
    return max(MERGE_SIGMAS * max(configuration.sigma), 2.0 * cell)


def _search(look: Look, plans: Plans, configuration: Configuration, step: float) -> tuple[Ranked, int]:
    """Tiles, then centred windows for landmarks that were found near a window's border; (candidates, windows seen)."""
    shape, patch = look.image.geometry.shape, configuration.patch_size
    spacing, radius = look.image.geometry.spacing, merge_radius(configuration)
    pool = Pool(len(plans.landmarks), shape, patch)
    starts = tile_starts(shape, patch, step)
    for start in starts:
        pool.add(*look.candidates(start), start)
    ranked = pool.ranked(N_CANDIDATES, spacing, radius)
    seen = set(starts)
    for _ in range(ROUNDS if len(starts) > 1 else 0):
        doubtful = np.flatnonzero((ranked.centrality[:, 0] < BORDER) & np.isfinite(ranked.log_odds[:, 0]))
        new = [s for s in cover(ranked.voxels[doubtful, 0], shape, patch, BORDER) if s not in seen]
        for start in new:
            pool.add(*look.candidates(start), start)
        seen.update(new)
        for landmark in doubtful:  # what a more central window does not confirm, was seen badly
            pool.drop(int(landmark), ranked.voxels[landmark, 0], spacing, radius, BORDER)
        ranked = pool.ranked(N_CANDIDATES, spacing, radius)
        if not len(doubtful):
            break
    return ranked, len(seen)


def pooled_prior(measured: Sequence[Measured], plans: Plans, unknown: npt.NDArray[np.bool_]) -> ShapePrior | None:
    """What assignment and shrinking need: the members' mean shapes, aligned and averaged; None where there are none.

    unknown: (L,) landmarks that no member learned; their partners have nothing to be mistaken for.
    """
    known = [m for m in measured if m.mean_shape]
    shapes = [m.mean_shape for m in known if m.mean_shape]
    if not shapes:
        return None
    p = len(next(iter(shapes[0].values())))
    nowhere = (float("nan"),) * p
    points = [np.array([shape.get(name, nowhere) for name in plans.landmarks], dtype=np.float64) for shape in shapes]
    spread = [[m.shape_spread.get(name, m.shape_residual or 0.0) for name in plans.landmarks] for m in known]
    unseen = [
        [m.shape_left_out.get(n, s) for n, s in zip(plans.landmarks, row, strict=True)]
        for m, row in zip(known, spread, strict=True)
    ]
    bounds = [m.scale_bounds for m in known]
    pairs = plans.pair_indices()
    return ShapePrior.pooled(
        points,
        [i if unknown[[i, p]].any() else p for i, p in enumerate(pairs)],
        residual=np.mean(spread, axis=0),
        scale_bounds=(min(b[0] for b in bounds), max(b[1] for b in bounds)),
        n_cases=min(m.shape_cases for m in known),
        left_out=np.mean(unseen, axis=0),
    )


def likelihoods(log_odds: FloatArray, measured: Sequence[Measured], names: Sequence[str] = ()) -> FloatArray:
    """Probability of presence from the best candidates' log-odds (L,): the members' calibrations, averaged. names: (L,)
    of the landmarks, whose prevalence counts; without them none does."""
    each = [
        PresenceCalibration(m.presence_slope, m.presence_intercept).likelihood(log_odds, m.prior(names) if names else 0)
        for m in measured or [Measured()]
    ]
    return np.asarray(np.mean(each, axis=0))


def conclude(
    candidates: FloatArray,
    log_odds: FloatArray,
    spread: FloatArray,
    looks: int,
    geometry: Geometry,
    plans: Plans,
    configuration: Configuration,
    measured: Sequence[Measured],
    unknown: npt.NDArray[np.bool_],
) -> Prediction:
    """What candidates (L, K, P) mm with log-odds (L, K), best first, say, members of a group on one slice.

    spread: (L,) mm, widths of the best candidates' peaks. geometry: of the preprocessed image. unknown: see
    `landmarks_of`.
    """
    likelihood = np.where(unknown, np.nan, likelihoods(log_odds[:, 0], measured, plans.landmarks))
    detections = Detections(plans.landmarks, candidates.copy(), log_odds.copy(), spread, likelihood, geometry)
    if configuration.co_slice and plans.co_slice_groups:
        candidates, log_odds = on_one_slice(
            candidates,
            log_odds,
            likelihood,
            geometry,
            plans.co_slice_groups,
            plans.landmarks,
            merge_radius(configuration),
        )
    landmarks = landmarks_of(candidates, log_odds, plans, measured, unknown)
    return Prediction(landmarks, candidates, log_odds, looks, detections)


def landmarks_of(
    candidates: FloatArray,
    log_odds: FloatArray,
    plans: Plans,
    measured: Sequence[Measured],
    unknown: npt.NDArray[np.bool_],
) -> Landmarks:
    """Status and likelihood of each landmark's best candidate, of candidates (L, K, P) mm with log-odds (L, K).

    unknown: (L,) landmarks that no member learned: of these nothing can be said.
    """
    likelihood = np.where(unknown, np.nan, likelihoods(log_odds[:, 0], measured, plans.landmarks))
    points = np.where(np.isfinite(log_odds[:, :1]), candidates[:, 0], np.nan)
    return decided(plans.landmarks, points, likelihood, plans.sometimes_absent)
