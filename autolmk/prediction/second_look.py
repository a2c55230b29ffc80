"""Second looks: a window around each landmark that the stage before found, see `data.stage_windows`; the only such
decoder, for validation and autolmk_predict.

Each member of an ensemble looks in the pose of its own mean shape; their points are fused. What a window answers with
"elsewhere" is searched in its neighbourhood, once, and kept where it was if that finds nothing. Where a fold measured
misses that windows of the planned spacing do not hold, looks go from coarse to fine (`Placement.spacings`): the first
one, and the search, see windows of wider voxels.

What the errors of the stage before were on held-out cases (`Placement`) says where a landmark may be. A window that
calls it elsewhere is believed as far as landmarks were outside their windows. What a search finds counts with its
log-odds, plus the logarithm of the share of errors that were as long as from the window's middle to there, less log n
outside the window, as n windows of the search share what it leaves. Else the best of many look-alikes around would beat
a true place that its window is half sure of.

Shapes: L landmarks, K candidates, D image axes, P physical axes, W windows.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from autolmk.data.sampling import coarser, cut
from autolmk.data.stage_windows import Frame, centres, frame_of
from autolmk.errors import AutolmkError
from autolmk.fold.measured import Measured
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage
from autolmk.networks.precision import MixedPrecision, Precision
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.stage import Assigned, Member, Prepared, Stage, evaluating, require_finite, voxel_side

N_CANDIDATES = 5
CHUNK = 16  # windows seen at a time where the network takes any number
LARGEST = 20.0  # log-odds that count where a neighbour's place is taken out
NEIGHBOUR = 0.5  # of a window's side, between the windows of a search
logger = logging.getLogger(__name__)

Row = tuple[int, Geometry, bool]  # a landmark, its window, whether what it shows counts
Seen = tuple[FloatArray, FloatArray, FloatArray]  # candidates (L, K, P) mm, log-odds and widths of peaks in mm (L, K)


def look_again(stage: Stage, prepared: Prepared, before: Prediction, *, search: bool = True) -> Prediction:
    """Landmarks of a preprocessed image from windows around `before`, what the previous stage says of this image.

    search: for what windows call elsewhere. AutolmkError where a fold measured no placement, or a network's output is
    not finite.
    """
    geometry = prepared.image.geometry
    looks = [_Looks(stage, prepared, *both) for both in zip(stage.members, stage.measured, strict=True)]
    found = [look.settle(before, search=search) for look in looks]
    candidates, log_odds, spread = fuse(found, stage.merge_radius)
    log_odds[stage.unknown] = -np.inf
    holds = np.mean([look.holds for look in looks])
    candidates = _keep(before, candidates, log_odds + holds)
    candidates, log_odds, spread = _beside(before, candidates, log_odds, spread)
    rows = {"probability": before.detections.row, "reach": before.reach} if len(before.reach) else {}
    assigned = stage.drawn(Assigned(candidates, log_odds, spread[:, 0], **rows), geometry)
    return stage.conclude(assigned, before.looks + sum(look.seen for look in looks), geometry)


class _Blocks:
    """A preprocessed image, read as a stored case is."""

    def __init__(self, prepared: Prepared) -> None:
        self.image, self.fill, self.geometry = prepared.image, prepared.fill, prepared.image.geometry

    def read(self, start: Sequence[int], shape: Sequence[int]) -> FloatImage:
        return self.image.resample(self.geometry.crop(start, shape), fill=self.fill).array


class _Looks:
    """One member's looks at one image; counts windows in `seen`."""

    def __init__(self, stage: Stage, prepared: Prepared, member: Member, measured: Measured) -> None:
        if measured.placement is None:
            raise AutolmkError(
                "a fold of a later stage has not measured where its windows lie",
                found="measured.json without a placement",
                remedy="train this fold again",
            )
        self.prepared, self.image, self.fill = prepared, prepared.image, prepared.fill
        self.member, self.plans, self.configuration = member, stage.plans, stage.configuration
        self.windows, self.placement, self.side = (
            stage.configuration.windows,
            measured.placement,
            measured.placement.side,
        )
        self.spacings = self.placement.looks(self.configuration.spacing, self.windows.rounds)
        self.holds = self.placement.holds(self.spacings[0])  # later looks lie around what the first one found
        self.shape = measured.shape(self.plans.landmarks)
        self.precision = Precision(stage.device)
        self.network = MixedPrecision(member.network, stage.device, self.precision.dtype)
        self.seen = 0
        self.row: tuple[FloatArray, FloatArray] | None = None  # places (L, P) of rows, and how far to go from them (L,)

    def settle(self, before: Prediction, *, search: bool) -> Seen:
        """What is seen after all rounds, best first."""
        points = before.candidates[:, 0]
        self.row = (points, before.reach) if len(before.reach) else None
        frame = self._frame(points, before.log_odds[:, 0])
        seen: Seen | None = None
        for spacing in self.spacings:
            middles = centres(points, frame, self.image.geometry, self.windows.groups, self.plans.landmarks)
            seen = self._surer(self._at(middles, frame, spacing), seen)
            candidates, log_odds, _ = seen
            here = log_odds[:, 0] + self.holds > 0
            points = np.where(here[:, None], candidates[:, 0], np.where(np.isfinite(points), points, frame.expected))
            frame = self._frame(points, log_odds[:, 0])
        assert seen is not None
        if not search or not self.windows.search:
            return seen
        return self._search((points, frame.expected, before.detections.as_found().best), middles, seen, frame)

    def _surer(self, seen: Seen, wider: Seen | None) -> Seen:
        """What a look saw, or where it calls a landmark elsewhere that a look at wider voxels saw, that look's."""
        if wider is None or not self.placement.spacings:
            return seen
        return _chosen((seen[1][:, 0] + self.holds <= 0) & (wider[1][:, 0] + self.holds > 0), wider, seen)

    def _frame(self, points: FloatArray, log_odds: FloatArray) -> Frame:
        """From the points that are confident, or the better half where few are."""
        known = np.isfinite(points).all(axis=1) & np.isfinite(log_odds)
        threshold = min(0.0, float(np.median(log_odds[known]))) if known.any() else 0.0
        trusted = np.where((known & (log_odds >= threshold))[:, None], points, np.nan)
        return frame_of(trusted, self.image.geometry, self.windows, self.shape)

    def _at(
        self,
        middles: FloatArray,
        frame: Frame,
        spacing: Sequence[float],
        wanted: npt.NDArray[np.bool_] | None = None,
    ) -> Seen:
        """Of the wanted landmarks (None: all) in windows at middles (L, P); NaN and -inf where there is none."""
        which = np.ones(len(middles), dtype=bool) if wanted is None else wanted
        return self._each([self._windows(middles, which, frame, spacing)], spacing)

    def _window(self, middle: FloatArray, frame: Frame, spacing: Sequence[float]) -> Geometry:
        return frame.window(middle, self.side, spacing)

    def _windows(
        self, middles: FloatArray, wanted: npt.NDArray[np.bool_], frame: Frame, spacing: Sequence[float]
    ) -> list[Row]:
        """Of the landmarks that are wanted and have a middle, of (L, P). A network that takes all landmarks in order
        gets the others' windows too, at the image's middle where they have none."""
        placed = np.asarray(np.isfinite(middles).all(axis=1))
        if self.windows.per_sample is not None:
            return [(int(i), self._window(middles[i], frame, spacing), True) for i in np.flatnonzero(wanted & placed)]
        places = np.where(placed[:, None], middles, self.image.geometry.centre)
        return [(i, self._window(place, frame, spacing), bool(wanted[i] & placed[i])) for i, place in enumerate(places)]

    def _each(self, looks: Sequence[list[Row]], spacing: Sequence[float]) -> Seen:
        """The best that the windows of all looks show, whose voxels are of `spacing` (D,) mm."""
        n, p = len(self.plans.landmarks), self.image.geometry.physical_ndim
        pools: list[list[tuple[float, FloatArray, float]]] = [[] for _ in range(n)]
        for part in self._passes(looks):
            found = self._see([w for _, w, _ in part], [i for i, _, _ in part], spacing)
            for (landmark, window, counts), places, values, widths in zip(part, *found, strict=True):
                if counts:
                    known = np.isfinite(values)
                    points, sides = window.to_physical(places[known]), voxel_side(window) * widths[known]
                    near, odds = self._in_reach(landmark, points, values[known])
                    pools[landmark] += zip(odds[near].tolist(), points[near], sides[near].tolist(), strict=True)
        candidates, log_odds = np.full((n, N_CANDIDATES, p), np.nan), np.full((n, N_CANDIDATES), -np.inf)
        spread = np.full((n, N_CANDIDATES), np.nan)
        for i, pool in enumerate(pools):
            for k, row in enumerate(sorted(pool, key=lambda row: -row[0])[:N_CANDIDATES]):
                log_odds[i, k], candidates[i, k], spread[i, k] = row
        return candidates, log_odds, spread

    def _in_reach(
        self, landmark: int, points: FloatArray, log_odds: FloatArray
    ) -> tuple[npt.NDArray[np.bool_], FloatArray]:
        """(whether points (N, P) of a window are not those of a neighbour in the landmark's row (N,); their log-odds
        (N,) if it is not there): a window cannot tell the two apart, so that its log-odds must not choose."""
        reach = np.inf if self.row is None else self.row[1][landmark]
        if not np.isfinite(reach):
            return np.ones(len(points), dtype=bool), log_odds
        near = np.linalg.norm(points - self.row[0][landmark], axis=1) <= reach  # type: ignore[index]
        share = 1 / (1 + np.exp(-np.clip(log_odds, -LARGEST, LARGEST)))
        left = 1 - share - share[~near].sum()  # below 0 where the codec's candidates do not exclude each other
        alone = np.log(share) - np.log(np.clip(left, np.exp(-LARGEST), None))
        return near, np.where((~near).any() & (left > 0), alone, log_odds)

    def _passes(self, looks: Sequence[list[Row]]) -> list[list[Row]]:
        """Windows that are seen together: a look, or some at a time of all looks where the network takes any number."""
        if self.windows.per_sample is None:
            return [look for look in looks if any(counts for _, _, counts in look)]
        rows = [row for look in looks for row in look]
        return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]

    def _see(self, windows: Sequence[Geometry], which: Sequence[int], spacing: Sequence[float]) -> Seen:
        """Window voxels (W, K, D), log-odds (W, K) and widths in voxels (W, K)."""
        self.seen += len(windows)
        data = [self._cut(window, spacing) for window in windows]
        more = self._rows(len(windows)) - len(windows)
        landmarks = self.precision.tensor(np.array([*which, *list(which[-1:]) * more])[None])
        codec = self.member.codec
        with torch.inference_mode(), evaluating([self.member]):
            output = self.network(self.precision.tensor(np.stack(data + data[-1:] * more)[None]), landmarks)
            scores = codec.scores(output, landmarks)
            require_finite(scores)
            found = codec.decode(scores)
        found_of = (x[0, : len(windows)].double().cpu().numpy() for x in (found.voxels, found.log_odds, found.spread))
        voxels, log_odds, spread = found_of
        return voxels, log_odds, spread

    def _rows(self, n: int) -> int:
        """Windows to show the network for n of them: on a GPU a power of two, filled up with the last one, as cuDNN
        tries its algorithms anew for every number."""
        any_number = self.windows.per_sample is not None and self.precision.device.type == "cuda"
        return 1 << (n - 1).bit_length() if any_number else n

    def _cut(self, window: Geometry, spacing: Sequence[float]) -> FloatImage:
        """(C, *side), as training cut it; spacing: (D,) mm of the look's voxels."""
        if tuple(spacing) == tuple(self.configuration.spacing):
            return self.image.resample(window, fill=self.fill, low_pass=self.windows.low_pass).array
        blocks = coarser(_Blocks(self.prepared), spacing, self.configuration.spacing)
        return cut(blocks, window, low_pass=self.windows.low_pass)

    def _search(self, starts: Sequence[FloatArray], middles: FloatArray, seen: Seen, frame: Frame) -> Seen:
        """For landmarks that their windows, at `middles`, call elsewhere: the windows around `starts`, too: their
        points (L, P), expected places, and where far from both, their peaks before they were drawn to the shape."""
        candidates, log_odds, spread = (a.copy() for a in seen)
        lost = ~(log_odds[:, 0] > 0)
        if self.row is not None:  # the first window held all that is in reach
            lost &= self.row[1] > 0.5 * min(np.multiply(self.side, self.spacings[0]))
        geometry, groups, names = self.image.geometry, self.windows.groups, self.plans.landmarks
        half = NEIGHBOUR * frame.scale * np.multiply(self.side, self.spacings[0])
        looks = []
        far = np.all([np.linalg.norm(starts[-1] - other, axis=1) > half.min() for other in starts[:-1]], axis=0)
        for places, which in zip(starts, (lost, lost, lost & far), strict=True):
            start = centres(places, frame, geometry, groups, names)
            for step in itertools.product((-1, 0, 1), repeat=len(self.side)):
                moved = start + self._moves(which, frame.direction @ (half * step))
                wanted = which & self._holds(moved)
                if wanted.any():
                    looks.append(self._windows(moved, wanted, frame, self.spacings[0]))
        count = np.bincount([i for look in looks for i, _, counts in look if counts], minlength=len(names))
        if not count.any():
            return seen
        around, odds, widths = self._each(looks, self.spacings[0])
        mended = np.zeros(len(names), dtype=bool)
        for i in np.flatnonzero(count):
            worth = np.where(odds[i] > 0, odds[i] + self._prior(middles[i], around[i], frame, count[i]), -np.inf)
            best = int(np.argmax(worth))
            here = log_odds[i, :1] + self._prior(middles[i], candidates[i, :1], frame, count[i])
            if worth[best] > here[0]:
                order = np.array([best, *(k for k in range(N_CANDIDATES) if k != best)])
                candidates[i], log_odds[i], spread[i] = around[i, order], odds[i, order], widths[i, order]
                mended[i] = True
        logger.debug(
            "%d landmarks were not where the stage before saw them: %d windows around, %d found",
            int(lost.sum()),
            int(count.sum()),
            int(mended.sum()),
        )
        return self._closer((candidates, log_odds, spread), mended, frame)

    def _closer(self, seen: Seen, moved: npt.NDArray[np.bool_], frame: Frame) -> Seen:
        """What the looks after the first one see of landmarks that a search at its wider voxels moved (L,)."""
        if not moved.any():
            return seen
        for spacing in dict.fromkeys(self.spacings if self.placement.spacings else ()):
            if spacing == self.spacings[0]:
                continue
            middles = centres(seen[0][:, 0], frame, self.image.geometry, self.windows.groups, self.plans.landmarks)
            finer = self._at(middles, frame, spacing, moved)
            seen = _chosen(moved & (finer[1][:, 0] > 0), finer, seen)
        return seen

    def _prior(self, middle: FloatArray, points: FloatArray, frame: Frame, n: int) -> FloatArray:
        """(K,) what the stage before says for points (K, P) of a search of n windows; middle: (P,) of the first one.
        0 without a middle."""
        if not np.isfinite(middle).all():
            return np.zeros(len(points))
        away = np.linalg.norm(points - middle, axis=1) / frame.scale
        window = self._window(middle, frame, self.spacings[0])
        outside = ~window.contains(window.to_voxels(points))
        return np.asarray(self.placement.log_tail(away) - outside * np.log(n))

    def _moves(self, lost: npt.NDArray[np.bool_], shift: FloatArray) -> FloatArray:
        """(L, P): `shift` of the lost ones; their groups' other windows move along, across the slice alone."""
        result = np.where(lost[:, None], shift, 0.0)
        for group in self.windows.groups:
            members = np.isin(self.plans.landmarks, group.landmarks)
            if (members & lost).any():
                normal = self.image.geometry.direction[:, group.axis]
                result[members & ~lost] += (shift @ normal) * normal
        return result

    def _holds(self, middles: FloatArray) -> npt.NDArray[np.bool_]:
        """(L,) whether the image holds middles (L, P); not where they are NaN."""
        return np.asarray(self.image.geometry.contains(self.image.geometry.to_voxels(middles)))


def fuse(found: Sequence[Seen], radius: float) -> Seen:
    """Fuse what several members saw into one.

    A landmark's best places are averaged, weighted by their probability, over those within `radius` mm of the one that
    has the most weight near it; log-odds and widths are averaged. Further candidates are those of that member.
    """
    if len(found) == 1:
        candidates, log_odds, spread = (a.copy() for a in found[0])
        return candidates, log_odds, spread
    best, odds, widths = (np.stack([seen[part][:, 0] for seen in found]) for part in range(3))  # (M, L, ...)
    weight = np.where(np.isfinite(odds), 1 / (1 + np.exp(-np.clip(odds, -50, 50))), 0.0)
    near = np.linalg.norm(best[:, None] - best[None], axis=3) <= radius  # (M, M, L), False for NaN
    support = (near * weight[None]).sum(axis=1)
    leader = support.argmax(axis=0)
    candidates, log_odds, spread = (np.stack([found[m][part][i] for i, m in enumerate(leader)]) for part in range(3))
    for i, m in enumerate(leader):
        members = near[m, :, i] & (weight[:, i] > 0)
        if members.any():
            candidates[i, 0] = np.average(best[members, i], axis=0, weights=weight[members, i])
            log_odds[i, 0] = odds[:, i][np.isfinite(odds[:, i])].mean()
            spread[i, 0] = widths[members, i].mean()
    return candidates, log_odds, spread


def _chosen(which: npt.NDArray[np.bool_], one: Seen, other: Seen) -> Seen:
    """`one` of the landmarks (L,) that are chosen, `other` of the rest."""
    return (
        np.where(which[:, None, None], one[0], other[0]),
        np.where(which[:, None], one[1], other[1]),
        np.where(which[:, None], one[2], other[2]),
    )


def _beside(before: Prediction, candidates: FloatArray, log_odds: FloatArray, spread: FloatArray) -> Seen:
    """Members of rows with their best candidate, and the other places that the stage before saw after it, at log-odds
    as far below it as they were then. Where nothing is within reach, the place of the stage before, hardly surer than
    "elsewhere"."""
    if not len(before.reach):
        return candidates, log_odds, spread
    for i in np.flatnonzero(np.isfinite(before.reach) & np.isfinite(before.log_odds[:, 0])):
        if not np.isfinite(log_odds[i, 0]):
            log_odds[i, 0] = min(float(before.log_odds[i, 0]), 0.0)
        others = before.candidates[i, 1:N_CANDIDATES]
        below = before.log_odds[i, 1:N_CANDIDATES] - before.log_odds[i, 0]
        candidates[i, 1:], log_odds[i, 1:], spread[i, 1:] = np.nan, -np.inf, np.nan
        candidates[i, 1 : 1 + len(others)] = others
        log_odds[i, 1 : 1 + len(others)] = log_odds[i, 0] + below
    return candidates, log_odds, spread


def _keep(before: Prediction, candidates: FloatArray, log_odds: FloatArray) -> FloatArray:
    """Where a landmark is called elsewhere (log-odds, with `holds`), the stage before says where."""
    old = before.candidates[:, 0]
    stays = ~(log_odds[:, 0] > 0) & np.isfinite(old).all(axis=1)
    result = candidates.copy()
    result[stays, 0] = old[stays]
    return result
