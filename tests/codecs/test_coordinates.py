"""Coordinate regression: codec, loss, and the residual network that gives coordinates."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from autolmk.codecs.coordinates import CoordinateCodec
from autolmk.conformance import example_plans
from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.landmarks import Status
from autolmk.networks.resnet import ResNet
from autolmk.plans import Architecture
from autolmk.prediction.crops import heatmap_crops
from autolmk.prediction.first_look import Look, look_first
from autolmk.prediction.stage import Member, Prepared, Stage
from autolmk.trainers.coarse_to_fine import CoordinateTrainer


def a_trainer(ndim: int = 2, **options: Any) -> CoordinateTrainer:
    plans = example_plans(ndim, options=options)
    return CoordinateTrainer(plans, plans.configuration("example"))


@st.composite
def windows_with_points(draw: Any) -> tuple[tuple[int, ...], Tensor]:
    patch = tuple(draw(st.lists(st.integers(3, 200), min_size=2, max_size=3)))
    point = [draw(st.one_of(st.floats(-0.5, n - 0.5), st.sampled_from([-0.5, 0.0, n - 1.0, n - 0.5]))) for n in patch]
    return patch, torch.tensor(point, dtype=torch.float64).view(1, 1, -1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(windows_with_points())
def test_perfect_outputs_decode_to_the_point(given_: tuple[tuple[int, ...], Tensor]) -> None:
    patch, voxels = given_
    codec = CoordinateCodec(patch)
    places = codec.encode(voxels, torch.ones(1, 1, dtype=torch.int8)).places
    assert float(places.abs().max()) <= 1 + 1e-12
    found = codec.decode(codec.scores(torch.cat((places.float(), torch.full((1, 1, 1), 3.0)), 2)))
    assert found.voxels.shape == (1, 1, 1, len(patch)) and found.voxels.dtype == torch.float64
    assert float((found.voxels[:, :, 0] - voxels).abs().max()) < 1e-4
    assert found.log_odds.tolist() == [[[3.0]]]


def test_coordinates_are_minus_one_and_one_at_the_borders_and_zero_in_the_middle() -> None:
    voxels = torch.tensor([[[-0.5, 9.5], [3.5, 4.5], [7.5, -0.5]]])
    places = CoordinateCodec((8, 10)).encode(voxels, torch.ones(1, 3, dtype=torch.int8)).places
    torch.testing.assert_close(places, torch.tensor([[[-1.0, 1.0], [0.0, 0.0], [1.0, -1.0]]], dtype=torch.float64))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirrored_views_agree(axis: int) -> None:
    codec, partner, size = CoordinateCodec((12, 16, 20)), (1, 0, 2), (12, 16, 20)
    voxels = torch.rand(2, 3, 3, dtype=torch.float64) * torch.tensor(size)
    presence = torch.randn(2, 3, 1)
    status = torch.ones(2, 3, dtype=torch.int8)
    seen = voxels[:, list(partner)].clone()  # in the reversed window the left one looks like the right one
    seen[..., axis] = size[axis] - 1 - seen[..., axis]
    direct = torch.cat((codec.encode(voxels, status).places.float(), presence), 2)
    mirrored = torch.cat((codec.encode(seen, status).places.float(), presence[:, list(partner)]), 2)
    torch.testing.assert_close(codec.mirror(mirrored, axis, partner), direct)
    torch.testing.assert_close(codec.mirror(codec.mirror(direct, axis, partner), axis, partner), direct)


def test_an_image_is_predicted_but_there_are_no_heatmap_crops_of_it() -> None:
    trainer = a_trainer(2)
    c, plans = trainer.configuration, trainer.plans
    image = Image(np.zeros((2, *c.patch_size), dtype=np.float32), Geometry.from_parts(c.patch_size, c.spacing))
    stage = Stage(plans, c, (Member(trainer.build_network(), trainer.build_codec()),), ())
    found = look_first(stage, Prepared(image, (0.0, 0.0)))
    assert np.isfinite(found.candidates[:, 0]).all() and np.isnan(found.candidates[:, 1:]).all()
    look = Look(stage, Prepared(image, (0.0, 0.0)))
    with pytest.raises(AutolmkError, match="no heatmaps") as raised:
        list(heatmap_crops(look, found, [2.0, 2.0]))
    assert raised.value.remedy and "--save_heatmap_crops" in raised.value.remedy


def test_the_loss_is_smooth_l1_of_present_landmarks_in_the_window_and_balanced_presence() -> None:
    trainer = a_trainer(beta=2.0, presence_weight=0.5)
    codec, patch = trainer.build_codec(), torch.tensor((16.0, 24.0))
    voxels = torch.tensor([[[4.0, 5.0], [6.0, 7.0], [math.nan] * 2, [math.nan] * 2, [20.0, 3.0]]])
    status = torch.tensor([[Status.PRESENT, Status.PRESENT, Status.ABSENT, Status.UNKNOWN, Status.PRESENT]]).to(
        torch.int8
    )
    target = codec.encode(voxels, status)
    off = torch.zeros(1, 5, 2)
    off[0, 0] = torch.tensor((1.0, -8.0))  # voxels: one error below beta, one above
    output = torch.zeros(1, 5, 3)
    output[..., :2] = (target.places + 2 * off / patch).nan_to_num().float()
    output[..., 2] = torch.tensor([1.0, -1.0, 2.0, 9.0, 0.5])
    output.requires_grad_()
    losses = trainer.loss(output, target, status)
    place = ((2 / 16) * 1.0**2 / (2 * 2.0) + (2 / 24) * (8.0 - 2.0 / 2)) / 2 / 2  # two axes, two landmarks
    assert float(losses["place"].detach()) == pytest.approx(place, rel=1e-5)

    def soft(x: float) -> float:
        return math.log1p(math.exp(x))

    presence = (soft(-1.0) + soft(1.0) + soft(2.0) + soft(0.5)) / 4  # each landmark's windows are of one kind
    assert float(losses["presence"].detach()) == pytest.approx(0.5 * presence, rel=1e-5)
    torch.autograd.backward(losses["place"] + losses["presence"])
    assert output.grad is not None and output.grad.isfinite().all()
    assert not output.grad[0, 3].any() and not output.grad[0, 2, :2].any() and not output.grad[0, 4, :2].any()


def test_nothing_known_is_no_loss() -> None:
    trainer = a_trainer()
    status = torch.zeros(2, 5, dtype=torch.int8)
    output = torch.randn(2, 5, 3, requires_grad=True)
    losses = trainer.loss(output, trainer.build_codec().encode(torch.full((2, 5, 2), math.nan), status), status)
    assert [float(value.detach()) for value in losses.values()] == [0.0, 0.0]


@pytest.mark.parametrize(("options", "message"), [({"beta": 0.0}, "above 0"), ({"presence_weight": -1.0}, "above 0")])
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(Exception, match="Options") as raised:
        a_trainer(**options)
    assert message in str(raised.value)


# -- the network ------------------------------------------------------------------------------------------------------


def resnet34(ndim: int) -> Architecture:
    return Architecture(
        features_per_stage=(64, 64, 128, 256, 512),
        kernel_sizes=((7,) * ndim, *((3,) * ndim,) * 4),
        strides=((2,) * ndim,) * 5,
        n_conv_per_stage=(1, 3, 4, 6, 3),
        n_conv_per_stage_decoder=(),
        output_stride=(1,) * ndim,
    )


def test_resnet34_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = ResNet(resnet34(2), n_channels=3, n_outputs=1000, ndim=2)
        output = network(torch.zeros(1, 3, 224, 224))
    assert sum(p.numel() for p in network.parameters()) == 21_797_672
    assert output.shape == (1, 1000)


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_parameter_learns_in_float32_and_under_autocast(ndim: int) -> None:
    torch.manual_seed(0)
    a = dataclasses.replace(
        resnet34(ndim), features_per_stage=(4, 4, 8, 8, 8), strides=((2,) * ndim, *((2,) * ndim, (1,) * ndim) * 2)
    )
    network = ResNet(a, 2, 6, ndim)
    data = torch.randn(2, 2, *(32, 16, 24)[-ndim:])
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = network(data)
        assert output.shape == (2, 6) and output.dtype == torch.float32
        output.square().sum().backward()
        largest = {name: float(p.grad.abs().max()) for name, p in network.named_parameters() if p.grad is not None}
        assert len(largest) == len(list(network.parameters()))
        assert min(largest.values()) > 1e-6 * max(largest.values()), min(largest, key=largest.__getitem__)


def test_the_first_outputs_are_near_the_middle_of_the_window() -> None:
    torch.manual_seed(0)
    trainer = a_trainer(3)
    network, codec = trainer.build_network(), trainer.build_codec()
    found = codec.decode(codec.scores(network(torch.randn(2, 2, 12, 16, 24))))
    middle = (torch.tensor([12.0, 16.0, 24.0]).double() - 1) / 2
    assert float((found.voxels - middle).abs().max()) < 1.0


def test_a_plain_stage_alone_is_refused() -> None:
    one = {key: getattr(resnet34(2), key)[:1] for key in ("features_per_stage", "kernel_sizes", "strides")}
    with pytest.raises(AutolmkError, match="2 stages at least"):
        ResNet(dataclasses.replace(resnet34(2), **one, n_conv_per_stage=(1,)), 1, 3, 2)


@pytest.mark.parametrize(
    "changes", [{"strides": ((2, 2),) * 4}, {"n_conv_per_stage": (1, 3)}, {"features_per_stage": (64,)}]
)
def test_lists_that_disagree_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must have \d entries"):
        dataclasses.replace(resnet34(2), **changes)
