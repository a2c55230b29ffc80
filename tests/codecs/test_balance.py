"""Log-odds of 0 are even odds at any prevalence, number of landmarks and batch size, for every codec and its loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autolmk.codecs import CellCodec, Codec, CoordinateCodec, HeatmapCodec, SliceCodec
from autolmk.codecs.balance import Shares, counts, restore_counts
from autolmk.codecs.heatmap import HeightCodec
from autolmk.conformance.examples import example_plans
from autolmk.landmarks import Status
from autolmk.methods.losses import balanced, sampled_gaussian, spatial_cross_entropy, squared_error, weighted
from autolmk.trainers.apga import HEIGHT
from autolmk.trainers.coarse_to_fine import CoordinateTrainer
from autolmk.trainers.global_to_local import CellOptions, cell_losses

PRESENT, ABSENT, UNKNOWN = Status.PRESENT, Status.ABSENT, Status.UNKNOWN
PREVALENCE = (0.05, 0.2, 0.5, 0.8)
SIDE, PLACE = (12, 12), 5.0  # voxels


class Toy:
    """A network that sees nothing: whatever the window, it knows where the landmark would be, and says by one number a
    landmark, `bias`, whether it is there."""

    def __init__(self, n: int) -> None:
        self.bias = nn.Parameter(torch.zeros(n, dtype=torch.float64))
        self.codec: Codec = self.build(n)

    def build(self, n: int) -> Codec:
        raise NotImplementedError

    def output(self, rows: int) -> Any:
        raise NotImplementedError

    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        return spatial_cross_entropy(output, target, status)

    def log_odds(self) -> Tensor:
        """(L,) of the best candidates, as prediction reads them."""
        with torch.no_grad():
            return self.codec.decode(self.codec.scores(self.output(1))).log_odds[0, :, 0]


class Heatmap(Toy):
    def build(self, n: int) -> Codec:
        return HeatmapCodec(n, SIDE, (1, 1), (1.5, 1.5)).double()

    def gaussian(self) -> Tensor:
        codec = self.codec.heatmaps if isinstance(self.codec, SliceCodec) else self.codec
        centre = torch.full((1, 1, 2), PLACE, dtype=torch.float64)
        cells, mass = sampled_gaussian(centre, codec.sigma, torch.Size(codec.cells), torch.ones(1, 1).bool())
        flat = torch.full((math.prod(codec.cells),), 1e-9, dtype=torch.float64).index_add(0, cells[0, 0], mass[0, 0])
        return flat.view(codec.cells)

    def output(self, rows: int) -> Any:
        logits = self.gaussian().log() + self.codec.elsewhere.detach()[:, None, None] + self.bias[:, None, None]
        return logits.expand(rows, *logits.shape)


class Fine(Heatmap):
    """With key slices: of one group that all landmarks belong to."""

    def build(self, n: int) -> Codec:
        self.slice = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        heatmaps = HeatmapCodec(n, SIDE, (1, 1), (1.5, 1.5))
        return SliceCodec(heatmaps, [(0, tuple(range(n)))], SIDE, (1.5, 1.5)).double()

    def output(self, rows: int) -> Any:
        logits = (
            self.gaussian().log() + self.codec.heatmaps.elsewhere.detach()[:, None, None] + self.bias[:, None, None]
        )
        return {"heatmaps": logits.expand(rows, *logits.shape), "slices": [self.slice.expand(rows, SIDE[0])]}

    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        of_slice = spatial_cross_entropy(output["slices"][0][:, None], target.slices[0], target.status[0])
        return spatial_cross_entropy(output["heatmaps"], target.heatmaps, status) + of_slice


class Height(Heatmap):
    """Published heatmaps: `bias` is the logarithm of how much of the height is reached."""

    def build(self, n: int) -> Codec:
        return HeightCodec(n, SIDE, (1, 1), (1.5, 1.5), height=HEIGHT).double()

    def output(self, rows: int) -> Any:
        gaussian = self.gaussian()
        shape = HEIGHT * gaussian / gaussian.max() * torch.exp(self.bias - math.log(2))[:, None, None]
        return shape.expand(rows, *shape.shape)

    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        return squared_error(output, target, status, HEIGHT) / 1000


class Cells(Toy):
    options = CellOptions(class_weight=1.0)

    def build(self, n: int) -> Codec:
        return CellCodec(SIDE, (4, 4), exclusive=self.options.losses == "near").double()

    def output(self, rows: int) -> Any:
        logits = torch.full((len(self.bias), 3, 3), -40.0, dtype=torch.float64)
        logits = logits.index_put((torch.arange(len(self.bias)), *torch.ones(2, len(self.bias)).long()), self.bias)
        whole = torch.cat([logits[:, None], torch.zeros(len(self.bias), 2, 3, 3, dtype=torch.float64)], 1)
        return whole.expand(rows, *whole.shape)

    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        return cell_losses(output, target, status, self.options)["class"]


class PublishedCells(Cells):
    options = CellOptions(class_weight=1.0, losses="published")


class Coordinates(Toy):
    def build(self, n: int) -> Codec:
        plans = example_plans(2)
        c = dataclasses.replace(plans.configuration("example"), patch_size=SIDE)
        self.trainer = CoordinateTrainer(plans, c, {"presence_weight": 1.0})
        return CoordinateCodec(SIDE)

    def output(self, rows: int) -> Any:
        n = len(self.bias)
        return torch.cat([torch.zeros(n, 2, dtype=torch.float64), self.bias[:, None]], 1).expand(rows, n, 3)

    def loss(self, output: Any, target: Any, status: Tensor) -> Tensor:
        return self.trainer.loss(output, target, status)["presence"]


TOYS = {toy.__name__: toy for toy in (Heatmap, Fine, Height, Cells, PublishedCells, Coordinates)}


def trained(toy: Toy, prevalence: np.ndarray, batch: int, *, counted: bool = True) -> Tensor:
    """(L,) log-odds after training on windows that hold each landmark as often as `prevalence` (L,) says, evenly spread
    (a golden-ratio sequence, of another phase for each landmark)."""
    optimizer = torch.optim.Adam([toy.bias], lr=0.1)
    voxels = torch.full((batch, len(prevalence), 2), PLACE, dtype=torch.float64)
    steps = 400 if batch == 1 else 150
    phase = np.arange(len(prevalence)) * math.sqrt(2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        window = step * batch + np.arange(batch)[:, None]
        held = torch.as_tensor((window * (math.sqrt(5) - 1) / 2 + phase) % 1 < prevalence)
        status = torch.where(held, int(PRESENT), int(ABSENT)).to(torch.int8)
        optimizer.zero_grad()
        target = toy.codec.encode(voxels, status)
        toy.loss(toy.output(batch), target if counted else dataclasses.replace(target, share=None), status).backward()
        optimizer.step()
    return toy.log_odds()


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", TOYS)
def test_what_no_image_tells_has_log_odds_of_0_at_any_prevalence(name: str, batch: int) -> None:
    """Within 0.2, at 5, 20, 50 and 80 %; of 45 landmarks each in its turn, and of a single rare one."""
    for shares in (np.resize(PREVALENCE, 45), np.array([0.05])):
        found = trained(TOYS[name](len(shares)), shares, batch)
        assert float(found.abs().max()) < 0.2, found


def test_a_batch_s_own_counts_cannot_tell() -> None:
    """Why windows are counted over the whole of training: one landmark among 45 that every second window lacks comes
    out at -log 44 by the batch's own counts, and at 0 by training's."""
    prevalence = np.array([0.5] + [1.0] * 44)
    found = [float(trained(Heatmap(45), prevalence, 1, counted=counted)[0]) for counted in (False, True)]
    assert found[0] < -3.0 and abs(found[1]) < 0.2


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.5, 0.8, 0.99])
def test_weights_and_offset_are_least_at_even_odds_and_weights_average_1(share: float) -> None:
    holding, status = torch.tensor([[True], [False]]), torch.tensor([[PRESENT], [ABSENT]], dtype=torch.int8)
    weight, offset = balanced(holding, status, torch.full((2, 1), share, dtype=torch.float64))
    one, other = (2 * float(w) for w in weight)  # of two known rows each weighs half
    assert share * one + (1 - share) * other == pytest.approx(1)
    assert max(one, other) < 2 + 1e-9  # at 1 % too: no single window decides a step
    p = 1 / (1 + math.exp(-float(offset[0])))
    assert share * one * (1 - p) == pytest.approx((1 - share) * other * p)  # pulls up and down at log-odds of 0


def test_unknown_rows_weigh_nothing_whatever_they_hold() -> None:
    status = torch.tensor([[PRESENT, UNKNOWN]], dtype=torch.int8)
    for share in (None, torch.full((1, 2), 0.3, dtype=torch.float64)):
        weight, _ = balanced(torch.tensor([[True, False]]), status, share)
        assert weight[0, 1] == 0 and float(weighted(torch.tensor([[2.0, math.nan]]), weight)) == pytest.approx(
            2 * float(weight[0, 0])
        )


# -- counting ----------------------------------------------------------------------------------------------------------


def windows(*rows: list[int]) -> tuple[Tensor, Tensor]:
    """voxels and status of rows of landmarks: 1 in the window, 2 absent, 0 unknown, 3 present beyond the window."""
    code = torch.tensor(rows)
    voxels = torch.full((*code.shape, 2), 3.0).masked_fill((code == 3)[..., None], 40.0)
    return voxels.masked_fill((code == 2)[..., None], math.nan), code.where(code < 3, torch.tensor(1)).to(torch.int8)


def test_shares_are_those_of_the_windows_so_far() -> None:
    shares = Shares()
    first = shares(*windows([1, 2, 0, 1], [1, 1, 0, 3]), SIDE)
    assert first.tolist() == [[0.5, 0.5, 0.5, 0.5]] * 2  # always held, half, never known, half
    assert shares.held.tolist() == [2, 1, 0, 1] and shares.known.tolist() == [2, 2, 0, 2]
    second = shares(*windows([2, 2, 1, 1]), SIDE)
    assert second[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.5, 2 / 3])
    shares.eval()
    again = shares(*windows([1, 1, 1, 1]), SIDE)
    assert torch.equal(again, second) and shares.known.tolist() == [3, 3, 1, 3]  # prediction counts nothing


def test_windows_of_some_landmarks_count_for_these() -> None:
    shares = Shares(3)
    rows = torch.tensor([[2, 0, 2], [0, 0, 2]])
    found = shares(*windows([1, 1, 2], [2, 1, 2]), SIDE, rows)
    assert shares.held.tolist() == [2, 0, 1] and shares.known.tolist() == [3, 0, 3]
    assert found.flatten().tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3, 2 / 3, 1 / 3])


def test_shares_stay_within_bounds() -> None:
    shares = Shares(1)
    for code in [1] * 400 + [2]:
        found = shares(*windows([code]), SIDE)
    assert float(found) == pytest.approx(0.99)


def test_counts_come_back_and_are_no_weights() -> None:
    codec, other = (Fine(4).codec.train() for _ in range(2))
    codec.encode(*windows([1, 2, 0, 3], [1, 1, 0, 2]))
    assert set(counts(codec)) == {"heatmaps.shares", "shares.0"} and not any(
        "shares" in name for name in codec.state_dict()
    )
    restore_counts(other, counts(codec))
    assert counts(other) == counts(codec)
    with pytest.raises(ValueError, match="4 landmarks instead of 3"):
        restore_counts(HeatmapCodec(3, SIDE, (1, 1), (1.5, 1.5)), {"shares": counts(codec)["heatmaps.shares"]})
