"""The first look: windows over a whole preprocessed image, decoded to candidates, assigned and concluded.

The only such decoder: validation during training and autolmk_predict share it. Windows are looked at one at a time and
only their candidates are kept, so that memory grows neither with the image nor, beyond one window's output, with the
number of landmarks. Candidates of different windows are ranked by log-odds (peak against the learned "elsewhere"),
which, unlike softmax height, compare across windows.

Shapes: B batch, C channels, L landmarks, K candidates, D image axes, P physical axes, *S spatial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autolmk.codecs import Codec
from autolmk.codecs.constants import constant
from autolmk.geometry import FloatArray
from autolmk.networks.precision import MixedPrecision, Precision
from autolmk.prediction.candidates import Pool, Ranked, cover, tile_starts
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.stage import Prepared, Stage, evaluating, require_finite, voxel_side

BORDER = 0.25  # centrality under which a landmark is looked at again in a centred window
ROUNDS = 2  # of second looks
N_CANDIDATES = 5  # a landmark, after merging


def look_first(stage: Stage, prepared: Prepared) -> Prediction:
    """Landmarks of a preprocessed image, in the physical space of its geometry, which preprocessing keeps.

    AutolmkError where a network's output is not finite.
    """
    geometry, windows = prepared.image.geometry, Look(stage, prepared)
    starts = tile_starts(geometry.shape, stage.configuration.patch_size, stage.step)
    pool = Pool(len(stage.plans.landmarks), geometry.shape, stage.configuration.patch_size)
    for start in starts:
        pool.add(*windows.decode(start), start)
    ranked, seen = _centred(pool, windows, starts)
    places, widths = geometry.to_physical(ranked.voxels), ranked.spread * voxel_side(geometry)
    return stage.conclude(stage.assign(places, ranked.log_odds, widths, geometry), seen, geometry)


@dataclass(frozen=True)
class View:
    """One view of a window. axis: array axis of test-time mirroring, None for none; partner: (L,) mirror partners."""

    axis: int | None
    partner: tuple[int, ...]


class Look:
    """Windows of one image, seen through all members and views; holds one window's scores at a time."""

    def __init__(self, stage: Stage, prepared: Prepared) -> None:
        self.stage, self.image, self.fill, self.members = stage, prepared.image, prepared.fill, stage.members
        self.precision = Precision(stage.device)
        self.networks = [MixedPrecision(m.network, stage.device, self.precision.dtype) for m in self.members]
        self.patch = stage.configuration.patch_size
        untrained = np.stack([np.isin(stage.plans.landmarks, m.untrained) for m in self.members])
        self.untrained = [np.flatnonzero(row).tolist() for row in untrained]
        self.counts = (~untrained).sum(axis=0).clip(1).tolist()
        partner = stage.plans.pair_indices()
        physical = stage.configuration.augmentation.mirror_axis
        self.views = [View(None, partner)]
        axis = None if physical is None else prepared.array_axis(physical)
        if stage.mirror and axis is not None:
            self.views.insert(0, View(axis, partner))

    def scores(self, start: Sequence[int]) -> Tensor:
        """The scores (1, L, *output) of the window whose first voxel is `start`, averaged over members and views."""
        geometry = self.image.geometry.crop(start, self.patch)
        data = self.precision.tensor(self.image.resample(geometry, fill=self.fill).array[None])
        total: Tensor | None = None
        for network, member, untrained in zip(self.networks, self.members, self.untrained, strict=True):
            for view in self.views:
                scores = _view(network, member.codec, data, view)
                if untrained:
                    scores.index_fill_(1, constant(untrained, scores.device, torch.int64), 0.0)
                total = scores if total is None else total.add_(scores)
                del scores
        if total is None:
            raise ValueError("prediction needs at least one member")
        if len(self.members) * len(self.views) == 1:
            return total
        counts = constant(self.counts, total.device, total.dtype) * len(self.views)
        return total.div_(counts.view(1, -1, *[1] * (total.ndim - 2)))

    def decode(self, start: Sequence[int]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Window voxels (L, K, D), log-odds (L, K) and widths in voxels (L, K) of the window at `start`."""
        with torch.inference_mode(), evaluating(self.members):
            scores = self.scores(start)
            require_finite(scores)
            found = self.members[0].codec.decode(scores)
        log_odds = found.log_odds[0].double().cpu().numpy()
        log_odds[self.stage.unknown] = -np.inf
        return found.voxels[0].double().cpu().numpy(), log_odds, found.spread[0].double().cpu().numpy()


def _view(network: nn.Module, codec: Codec, data: Tensor, view: View) -> Tensor:
    """Scores of one network for a window (1, C, *S), seen directly or mirrored."""
    if view.axis is None:
        return codec.scores(network(data))
    scores = codec.scores(network(data.flip(2 + view.axis)))
    if scores.device.type == "cuda":
        return codec.mirror(scores, view.axis, view.partner)
    for i, p in enumerate(view.partner):  # a pair at a time and in place: no second copy of a window's scores
        if i <= p:
            both = [i] if i == p else [i, p]
            scores[:, both] = codec.mirror(scores[:, both], view.axis, range(len(both))[::-1])
    return scores


def _centred(pool: Pool, windows: Look, starts: Sequence[tuple[int, ...]]) -> tuple[Ranked, int]:
    """(candidates, windows seen) after centred windows for landmarks that tiles at `starts` show near their border."""
    geometry, patch, radius = windows.image.geometry, windows.patch, windows.stage.merge_radius
    ranked, seen = pool.ranked(N_CANDIDATES, geometry.spacing, radius), set(starts)
    for _ in range(ROUNDS if len(starts) > 1 else 0):
        doubtful = np.flatnonzero((ranked.centrality[:, 0] < BORDER) & np.isfinite(ranked.log_odds[:, 0]))
        new = [s for s in cover(ranked.voxels[doubtful, 0], geometry.shape, patch, BORDER) if s not in seen]
        for start in new:
            pool.add(*windows.decode(start), start)
        seen.update(new)
        for landmark in doubtful:  # what a more central window does not confirm, was seen badly
            pool.drop(int(landmark), ranked.voxels[landmark, 0], geometry.spacing, radius, BORDER)
        ranked = pool.ranked(N_CANDIDATES, geometry.spacing, radius)
        if not len(doubtful):
            break
    return ranked, len(seen)
