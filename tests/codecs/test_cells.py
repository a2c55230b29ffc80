"""The cell codec and its networks: sizes as published, perfect outputs, votes, mirroring, order of axes, losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from autolmk.codecs import CellCodec, HeatmapCodec, HeldOut
from autolmk.codecs.cells import RULES, UNMEASURED, Voting, displacement, log_displacement, measure_voting
from autolmk.conformance import example_plans
from autolmk.errors import AutolmkError
from autolmk.landmarks import Status
from autolmk.methods.trainer import Trainer
from autolmk.networks.cells import GlobalCells, LocalCells
from autolmk.plans import Architecture, Windows
from autolmk.trainers.global_to_local import CellOptions, GlobalTrainer, LocalTrainer, cell_losses


def published(ndim: int, pooled: int) -> Architecture:
    """The global network, whose first `pooled` of 4 stages halve."""
    return Architecture(
        features_per_stage=(16, 32, 64, 128, 256),
        kernel_sizes=((7,) * ndim, *((3,) * ndim,) * 4),
        strides=((2,) * ndim, *((2 if i < pooled else 1,) * ndim for i in range(4))),
        n_conv_per_stage=(1, 3, 4, 6, 3),
        n_conv_per_stage_decoder=(),
        output_stride=(2 ** (pooled + 1),) * ndim,
    )


def published_local(ndim: int) -> Architecture:
    return Architecture((32, 64), ((3,) * ndim,) * 2, ((1,) * ndim, (2,) * ndim), (4, 2), (), output_stride=(2,) * ndim)


def count(network: nn.Module) -> float:
    """Million parameters."""
    return sum(p.numel() for p in network.parameters()) / 1e6


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ndim", "pooled", "n_landmarks", "millions", "side", "cells"),
    [(2, 4, 19, 5.602, 992, 31), (3, 2, 8, 16.133, 72, 9)],
)
def test_the_global_network_is_as_large_as_published(
    ndim: int, pooled: int, n_landmarks: int, millions: float, side: int, cells: int
) -> None:
    with torch.device("meta"):
        network = GlobalCells(published(ndim, pooled), 1, n_landmarks, ndim, norm="published")
        output = network(torch.zeros(1, 1, *(side,) * ndim))
    assert round(count(network), 3) == millions
    assert output.shape == (1, n_landmarks, 1 + ndim, *(cells,) * ndim)


@pytest.mark.parametrize(("ndim", "millions"), [(2, 0.101), (3, 0.267)])
def test_local_networks_are_as_large_as_published(ndim: int, millions: float) -> None:
    with torch.device("meta"):
        network = LocalCells(published_local(ndim), 1, 5, ndim, norm="published")
        output = network(torch.zeros(2, 5, 1, *(16,) * ndim), torch.zeros(2, 5))
    assert round(count(network) / 5, 3) == millions
    assert output.shape == (2, 5, 1 + ndim, *(8,) * ndim)


@pytest.mark.parametrize("ndim", [2, 3])
def test_each_landmark_has_a_local_network_of_its_own(ndim: int) -> None:
    """What one window shows changes that landmark's answer alone."""
    torch.manual_seed(0)
    network = LocalCells(published_local(ndim), 2, 3, ndim).eval()
    data, which = torch.randn(1, 3, 2, *(16,) * ndim), torch.arange(3)[None]
    before = network(data, which)
    data[:, 1] += 1.0 * torch.randn(2, *(16,) * ndim)
    changed = (network(data, which) - before).flatten(2).abs().amax(2)[0]
    assert changed[1] > 1e-4 and changed[[0, 2]].max() < 1e-6
    assert not torch.equal(before[:, 0], before[:, 2])


def test_a_local_network_needs_every_landmarks_window() -> None:
    with pytest.raises(ValueError, match="each of 3 landmarks needs its window"):
        LocalCells(published_local(2), 1, 3, 2)(torch.zeros(1, 2, 1, 16, 16), torch.zeros(1, 2))


@pytest.mark.parametrize("norm", ["group", "published"])
def test_only_the_heads_have_biases_by_default(norm: Any) -> None:
    network = GlobalCells(published(3, 2), 1, 2, 3, norm=norm)
    biased = {n.split(".")[0] for n, m in network.named_modules() if isinstance(m, nn.Conv3d) and m.bias is not None}
    assert biased == ({"heads"} if norm == "group" else {"heads", "trunk"})


def test_heads_compute_in_float32_under_autocast() -> None:
    network = GlobalCells(published(2, 2), 1, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(torch.randn(1, 1, 64, 64))
    assert output.dtype == torch.float32
    assert not torch.equal(output, output.bfloat16().float())


def test_cells_start_at_the_prior_of_one_in_a_window() -> None:
    torch.manual_seed(0)
    network = GlobalCells(published(2, 4), 1, 2, 2, prior=-math.log(100))
    output = network(torch.randn(1, 1, 320, 320)).detach()
    assert float(output[:, :, 0].sigmoid().sum(dim=(2, 3)).mean()) == pytest.approx(1.0, rel=0.6)
    assert float(output[:, :, 1:].abs().mean()) < 0.3


def test_stages_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="must have 5 entries"):
        dataclasses.replace(published(2, 4), strides=((2, 2),))


# -- codec -------------------------------------------------------------------------------------------------------------


def perfect_output(codec: CellCodec, voxels: Tensor, height: float = 12.0) -> Tensor:
    """(B, L, 1 + D, *O): sure of the cell that holds the point, sure of no other, displacements exact everywhere."""
    status = torch.full(voxels.shape[:2], Status.PRESENT, dtype=torch.int8)
    target = codec.encode(voxels, status)
    shape = (*voxels.shape[:2], *codec.shape)
    logits = torch.full((*voxels.shape[:2], codec.n_cells), -height, dtype=torch.float64)
    held = target.cells >= 0
    logits[held] = logits[held].scatter(1, target.cells[held][:, None], height)
    parts = [logits.view(shape)]
    for axis, along in enumerate(target.displacements):
        parts.append(
            along.view(*voxels.shape[:2], *(-1 if a == axis else 1 for a in range(len(codec.shape)))).expand(shape)
        )
    return torch.stack(parts, 2).float()


@st.composite
def codecs_with_points(draw: Any) -> tuple[CellCodec, Tensor]:
    ndim = draw(st.integers(2, 3))
    size = draw(st.sampled_from([(2,) * ndim, (8,) * ndim, (32,) * ndim, (1, 2, 4)[:ndim]]))
    patch = [s * draw(st.integers(3, 9)) for s in size]
    point = [draw(st.one_of(st.floats(-0.5, n - 0.51), st.sampled_from([-0.5, 0.0, n - 1.0]))) for n in patch]
    rule: Voting = draw(st.sampled_from(sorted(RULES)))
    return CellCodec(patch, size, voting=rule), torch.tensor(point, dtype=torch.float64).view(1, 1, ndim)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(codecs_with_points())
def test_perfect_outputs_decode_within_a_hundredth_of_a_voxel_by_every_rule(given_: tuple[CellCodec, Tensor]) -> None:
    codec, voxels = given_
    found = codec.decode(codec.scores(perfect_output(codec, voxels)))
    assert found.voxels.dtype == torch.float64
    assert float((found.voxels[:, :, 0] - voxels).abs().max()) < 0.01
    assert float(found.log_odds[0, 0, 0]) == pytest.approx(12.0, abs=0.1)
    assert float(found.spread[0, 0, 0]) < 0.01


@settings(deadline=None, derandomize=True)
@given(st.floats(-1000, 1000))
def test_logarithmic_displacements_are_undone(d: float) -> None:
    value = torch.tensor(d, dtype=torch.float64)
    assert float(displacement(log_displacement(value))) == pytest.approx(d, abs=1e-9)
    assert float(log_displacement(torch.tensor(9.0))) == pytest.approx(1.0)


def test_targets_are_in_the_order_of_the_images_axes() -> None:
    """A bright voxel, a cell that holds it, displacements that point to it: all (row, column)."""
    image = torch.zeros(1, 1, 48, 64)
    image[0, 0, 21, 50] = 1.0
    codec = CellCodec((48, 64), (8, 8))
    bright = (image == 1).nonzero()[:, 2:].double()[None]
    target = codec.encode(bright, torch.ones(1, 1, dtype=torch.int8))
    pooled = nn.functional.max_pool2d(image, 8)
    assert int(target.cells) == int(pooled.flatten().argmax()) == 2 * 8 + 6
    assert float(displacement(target.displacements[0])[0, 0, 0]) == pytest.approx(21 - 3.5)
    assert float(displacement(target.displacements[1])[0, 0, 0]) == pytest.approx(50 - 3.5)
    found = codec.decode(perfect_output(codec, bright)).voxels[0, 0, 0]
    assert found.tolist() == pytest.approx([21, 50], abs=0.01)


def test_a_point_beyond_the_window_has_displacements_and_no_cell() -> None:
    codec = CellCodec((16, 16), (4, 4))
    voxels = torch.tensor([[[20.0, 3.0], [math.nan, math.nan]]], dtype=torch.float64)
    target = codec.encode(voxels, torch.tensor([[Status.PRESENT, Status.ABSENT]], dtype=torch.int8))
    assert target.cells.tolist() == [[-1, -1]]
    assert float(displacement(target.displacements[0])[0, 0, 3]) == pytest.approx(20 - 13.5)
    assert all(along.isfinite().all() for along in target.displacements)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirrored_views_agree(axis: int) -> None:
    generator = torch.Generator().manual_seed(3)
    codec = CellCodec((12, 16, 20), (2, 4, 4))
    size, partner = torch.tensor([12, 16, 20], dtype=torch.float64), (1, 0, 2)
    voxels = torch.rand(1, 3, 3, generator=generator, dtype=torch.float64) * (size - 1)
    seen = voxels[:, list(partner)].clone()  # in the reversed window the left one looks like the right one
    seen[..., axis] = size[axis] - 1 - seen[..., axis]
    direct = codec.scores(perfect_output(codec, voxels))
    mirrored = codec.mirror(codec.scores(perfect_output(codec, seen)), axis, partner)
    torch.testing.assert_close(mirrored, direct, rtol=0, atol=1e-5)


def timid(codec: CellCodec, voxels: Tensor, background: float) -> Tensor:
    """Displacements fall short by a tenth of their logarithm; `background`: every other cell's probability."""
    output = perfect_output(codec, voxels, 4.0)
    output[:, :, 1:] *= 0.9
    output[:, :, 0] = output[:, :, 0].clamp(min=math.log(background / (1 - background)))
    return output


def test_the_papers_vote_drowns_in_background_and_sharper_ones_do_not() -> None:
    generator = torch.Generator().manual_seed(1)
    voxels = 10 + 100 * torch.rand(1, 60, 3, generator=generator, dtype=torch.float64)
    codec = CellCodec((120, 120, 120), (8, 8, 8))
    errors = measure_voting(codec, [held_out(codec, timid(codec, voxels, 1e-3), voxels)])
    assert list(errors) == list(RULES)
    assert errors["mean"] > 2 * errors["power_4"] and errors["mean"] > 2 * errors["around_1"]


def held_out(codec: CellCodec, output: Tensor, voxels: Tensor, status: Tensor | None = None) -> HeldOut:
    known = torch.ones(voxels.shape[:2], dtype=torch.int8) if status is None else status
    return HeldOut(codec.scores(output), voxels, known)


def test_the_rule_is_that_of_the_smallest_error_on_held_out_windows() -> None:
    codec = CellCodec((64, 64), (8, 8))
    assert codec.voting == UNMEASURED
    voxels = 64 * torch.rand(4, 10, 2, dtype=torch.float64) - 0.5
    sure = perfect_output(codec, voxels)
    sure[:, :, 1:] += 0.05 * torch.randn(sure[:, :, 1:].shape)
    sure[:, :, 0] = 0.0  # every cell is as sure as any other: then the mean of all of them is the best
    found = codec.measure([held_out(codec, sure, voxels)])
    assert found["voting"] in ("mean", "power_2", "power_4")  # the same thing here
    errors = found["voting_errors"]
    assert found["voting"] == min(errors, key=errors.get) and set(errors) == set(RULES)
    codec.adopt(found)
    assert codec.voting == found["voting"]


def test_folds_vote_by_the_rule_that_suits_all_their_held_out_windows() -> None:
    """The first fold's choice, by a hair on its few windows, is the worst rule elsewhere."""
    first = dict.fromkeys(RULES, 1.0) | {"best": 0.99}
    others = dict.fromkeys(RULES, 1.0) | {"best": 1.6, "around_2": 0.8}
    measured = [{"voting": "best", "voting_errors": first}] + [{"voting": "around_2", "voting_errors": others}] * 2
    assert CellCodec.pooled(measured)["voting"] == "around_2"
    assert CellCodec.pooled([{}, measured[0]])["voting"] == "best"  # fold `all` measured nothing
    assert CellCodec.pooled([{}, {}]) == {} == CellCodec.pooled([])
    assert CellCodec.pooled([{"voting": "mean"}]) == {"voting": "mean"}  # a single fold decodes as ever
    assert HeatmapCodec.pooled([{"anything": 1}, {}]) == {"anything": 1}
    for broken in ({"voting": "best"}, {"voting_errors": {"best": "near"}}):
        with pytest.raises(AutolmkError, match="damaged"):
            CellCodec.pooled([broken, measured[0]])


def test_only_present_landmarks_inside_the_window_measure() -> None:
    codec = CellCodec((64, 64), (8, 8))
    voxels = torch.tensor([[[20.0, 30.0], [90.0, 3.0], [5.0, 5.0]]], dtype=torch.float64)
    status = torch.tensor([[Status.PRESENT, Status.PRESENT, Status.UNKNOWN]], dtype=torch.int8)
    output = perfect_output(codec, voxels)
    output[:, 1:] = 0.0
    assert max(measure_voting(codec, [held_out(codec, output, voxels, status)]).values()) < 0.01
    assert codec.measure([held_out(codec, output, voxels, torch.zeros_like(status))]) == {}
    codec.adopt({})
    assert codec.voting == UNMEASURED


def test_a_rule_that_was_chosen_is_neither_measured_nor_replaced() -> None:
    def never() -> Iterator[HeldOut]:
        raise AssertionError("windows were looked at")
        yield

    codec = CellCodec((64, 64), (8, 8), voting="mean")
    assert codec.measure(never()) == {}
    codec.adopt({"voting": "best"})
    assert codec.voting == "mean"


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(AutolmkError, match="not known"):
        CellCodec((64, 64), (8, 8)).adopt({"voting": "median"})


def test_candidates_are_places_of_distinct_cells_best_first() -> None:
    codec = CellCodec((80, 80), (8, 8), voting="mean", n_candidates=4)
    places = torch.tensor([[12.0, 13.0], [61.0, 20.0], [30.0, 70.0]], dtype=torch.float64)
    outputs = [perfect_output(codec, p.view(1, 1, 2)) for p in places]
    nearest = torch.stack([o[:, :, 1:].square().sum(2) for o in outputs]).argmin(0)[:, :, None]
    output = torch.where(nearest == 0, outputs[0], torch.where(nearest == 1, outputs[1], outputs[2]))
    for place, height in zip(outputs, (1.0, 5.0, 3.0), strict=True):
        output[:, :, 0] = torch.where(place[:, :, 0] > 0, height, output[:, :, 0])
    found = codec.decode(codec.scores(output))
    assert found.voxels.shape == (1, 1, 4, 2)
    assert found.log_odds[0, 0, :3].tolist() == pytest.approx([5, 3, 1], abs=0.05)
    torch.testing.assert_close(found.voxels[0, 0, 1:3], places[[2, 0]], rtol=0, atol=0.05)
    assert torch.equal(found.log_odds.isneginf(), found.voxels.isnan().any(-1))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_log_odds_are_those_of_the_best_cell_and_its_neighbours(share: float) -> None:
    codec = CellCodec((40, 40), (8, 8))
    output = torch.full((1, 1, 3, 5, 5), -20.0)
    output[0, 0, 0, 2, 2] = math.log(share / (1 - share))
    alone = codec.decode(output).log_odds[0, 0, 0]
    assert float(alone) == pytest.approx(math.log(share / (1 - share)), abs=1e-6)
    output[0, 0, 0, 2, 3] = -0.1
    both = codec.decode(output).log_odds[0, 0, 0]
    assert float(both) > max(float(alone), -0.1)
    output[0, 0, 0, 0, 0] = -0.2  # too far away to speak for the same place
    assert torch.equal(codec.decode(output).log_odds[0, 0, 0], both)
    output[0, 0, 0] = 1000.0
    assert codec.decode(output).log_odds.isfinite().all()


def test_windows_of_no_whole_number_of_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="whole cells"):
        CellCodec((20, 16), (8, 8))


# -- losses and trainers -----------------------------------------------------------------------------------------------


def dense_losses(
    codec: CellCodec, output: Tensor, voxels: Tensor, status: Tensor, weight: float
) -> tuple[float, float]:
    """By the formulas, cell for cell."""
    displacements, entropies = [], []
    for b, k in [(b, k) for b in range(len(status)) for k in range(status.shape[1])]:
        state = int(status[b, k])
        for cell in torch.cartesian_prod(*[torch.arange(n) for n in codec.shape]).tolist():
            size = torch.tensor(codec.cell_size)
            low = torch.tensor(cell) * size - 0.5
            holds = state == Status.PRESENT and bool(((voxels[b, k] >= low) & (voxels[b, k] < low + size)).all())
            c = output[(b, k, 0, *cell)].sigmoid()
            if state != Status.UNKNOWN:
                entropies.append(-torch.log(c if holds else 1 - c))
            if state == Status.PRESENT:
                d = voxels[b, k] - (low + size / 2)
                wanted = d.sign() * torch.log10(d.abs() + 1)
                displacements += [(output[(b, k, 1 + a, *cell)] - wanted[a]).abs() for a in range(len(cell))]
    return float(torch.stack(displacements).mean()), weight * float(torch.stack(entropies).mean())


def test_windows_that_do_not_hold_a_landmark_tell_no_displacement_to_it() -> None:
    """Of `near` losses; as published, they do."""
    codec = CellCodec((16, 16), (4, 4))
    status = torch.full((1, 2), Status.PRESENT, dtype=torch.int8)
    inside = torch.tensor([[[3.0, 5.0], [3.0, 5.0]]], dtype=torch.float64)
    outside = torch.tensor([[[3.0, 5.0], [30.0, 5.0]]], dtype=torch.float64)
    output = torch.zeros(1, 2, 3, 4, 4)
    of = {
        losses: [
            float(cell_losses(output, codec.encode(voxels, status), status, CellOptions(losses=losses))["displacement"])
            for voxels in (inside, outside)
        ]
        for losses in ("near", "published")
    }
    assert of["near"][0] == pytest.approx(of["near"][1]) and of["published"][1] > 1.1 * of["published"][0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_losses_are_their_formulas(ndim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    codec = CellCodec((12, 8, 16)[-ndim:], (4, 4, 4)[-ndim:])
    voxels = 10 * torch.rand(2, 3, ndim, generator=generator, dtype=torch.float64)
    status = torch.tensor([[1, 1, 0], [1, 2, 1]], dtype=torch.int8)
    assert {Status.UNKNOWN, Status.PRESENT, Status.ABSENT} == {0, 1, 2}
    voxels[1, 1], voxels[0, 0, 0] = math.nan, 40.0
    output = torch.randn(2, 3, 1 + ndim, *codec.shape, generator=generator, dtype=torch.float64)
    found = cell_losses(output, codec.encode(voxels, status), status, CellOptions(losses="published", alpha=3.0))
    wanted = dense_losses(codec, output, voxels, status, 3.0)
    assert (float(found["displacement"]), float(found["class"])) == pytest.approx(wanted)


def test_near_cells_weigh_more() -> None:
    """Of 3 cells in a row the landmark lies in the middle of the first; each is off by another amount."""
    codec = CellCodec((12, 4), (4, 4))
    status = torch.ones(1, 1, dtype=torch.int8)
    target = codec.encode(torch.tensor([[[1.5, 1.5]]], dtype=torch.float64), status)
    output = torch.zeros(1, 1, 3, 3, 1, dtype=torch.float64)
    for axis, along in enumerate(target.displacements):
        output[0, 0, 1 + axis] += along[0, 0].view(-1, 1) if axis == 0 else along[0, 0].view(1, -1)
    output[0, 0, 1, :, 0] += torch.tensor([0.3, -0.6, 0.9], dtype=torch.float64)
    found = cell_losses(output, target, status, CellOptions())["displacement"]
    weights = (1, 1 / 4, 1 / 9)  # (1 + r)^-2
    wanted = sum(w * e for w, e in zip(weights, (0.3, 0.6, 0.9), strict=True)) / sum(weights) / 2
    assert float(found) == pytest.approx(wanted)
    plain = cell_losses(output, target, status, CellOptions(losses="published"))["displacement"]
    assert float(plain) == pytest.approx(0.3)


def test_exclusive_classes_are_one_choice_among_the_cells_and_elsewhere() -> None:
    """Of landmarks whose windows are all of one kind there is nothing to weigh."""
    codec = CellCodec((8, 8), (4, 4))
    status = torch.tensor([[1, 1, 1, Status.ABSENT, Status.UNKNOWN]], dtype=torch.int8)
    voxels = torch.tensor([[[3.0, 3.0], [7.0, 0.0], [90.0, 0.0], [math.nan] * 2, [math.nan] * 2]], dtype=torch.float64)
    output = torch.randn(1, 5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = cell_losses(output, codec.encode(voxels, status), status, CellOptions(class_weight=0.5))["class"]
    choice = torch.cat([output[0, :, 0].flatten(1), torch.zeros(5, 1)], 1).log_softmax(1)
    assert float(found) == pytest.approx(
        -0.5 * float(choice[0, 0] + choice[1, 2] + choice[2, 4] + choice[3, 4]) / 4, rel=1e-5
    )


def test_log_odds_of_exclusive_classes_are_against_elsewhere() -> None:
    logits = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.cat([logits[:, :, None], torch.zeros(1, 1, 2, 4, 4, dtype=torch.float64)], 2)
    found = CellCodec((16, 16), (4, 4), n_candidates=1).decode(scores)
    sums = {
        (y, x): float(logits[0, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].exp().sum().log())
        for y in range(4)
        for x in range(4)
        if logits[0, 0, y, x] == logits[0, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max()
    }
    assert float(found.log_odds) == pytest.approx(max(sums.values()))
    shifted = torch.cat([logits[:, :, None] - 900, torch.zeros(1, 1, 2, 4, 4, dtype=torch.float64)], 2)
    assert float(CellCodec((16, 16), (4, 4), n_candidates=1).decode(shifted).log_odds) == pytest.approx(
        max(sums.values()) - 900
    )


def trainers(ndim: int) -> list[Trainer]:
    first = example_plans(ndim)
    last = example_plans(ndim, windows=Windows("landmark"))
    return [
        GlobalTrainer(first, first.configuration("example")),
        LocalTrainer(last, last.configuration("example")),
    ]


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_parameter_gets_a_gradient(ndim: int) -> None:
    for trainer in trainers(ndim):
        torch.manual_seed(0)
        patch, n = trainer.configuration.patch_size, trainer.n_landmarks
        rows = (2, n) if trainer.looks_at == "landmarks" else (2,)
        batch = {
            "data": torch.randn(*rows, trainer.n_channels, *patch),
            "voxels": torch.rand(2, n, ndim, dtype=torch.float64) * (torch.tensor(patch) - 1),
            "status": torch.ones(2, n, dtype=torch.int8),
        }
        if trainer.looks_at == "landmarks":
            batch["landmarks"] = torch.arange(n).expand(2, n)
        network = trainer.build_network()
        torch.stack(list(trainer.training_step(network, trainer.build_codec(), batch).values())).sum().backward()
        largest = {name: float(p.grad.abs().max()) for name, p in network.named_parameters() if p.grad is not None}
        assert len(largest) == len(list(network.parameters()))
        assert [name for name, size in largest.items() if size <= 1e-6 * max(largest.values())] == []


def test_local_networks_refuse_windows_of_some_landmarks() -> None:
    plans = example_plans(2, windows=Windows("landmark", per_sample=2))
    with pytest.raises(ValueError, match="per_sample must be null"):
        LocalTrainer(plans, plans.configuration("example")).build_network()


@pytest.mark.parametrize(
    "options", [{"voting": "median"}, {"norm": "batch"}, {"class_weight": 0.0}, {"losses": "both"}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    plans = example_plans(2)
    with pytest.raises(AutolmkError, match=r"options"):
        GlobalTrainer(plans, plans.configuration("example"), options)
