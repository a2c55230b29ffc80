"""Fine stage of coarse_to_fine: networks side by side, windows of a slice group seen together, key slices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from predictions import a_prediction
from torch import Tensor, nn

from autolmk.codecs import HeatmapCodec
from autolmk.codecs.slices import Group, SliceCodec
from autolmk.conformance import check_trainer, example_plans
from autolmk.data.stage_windows import Placement
from autolmk.errors import AutolmkError
from autolmk.fold.measured import Measured
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.methods.losses import spatial_cross_entropy
from autolmk.methods.trainer import build
from autolmk.networks.grouped import GroupedUNet
from autolmk.networks.slice_fusion import AxisAttention, KeySlice
from autolmk.networks.windows import CorrelatedUNets, OwnUNets, across
from autolmk.planning.memory import training_bytes
from autolmk.plans import Architecture, Plans, SliceGroup, Windows
from autolmk.prediction.second_look import look_again
from autolmk.prediction.stage import Member, Prepared, Stage
from autolmk.trainers.coarse_to_fine import FineTrainer

SOLID = Architecture(
    features_per_stage=(4, 6, 8),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    n_conv_per_stage=(1, 2, 1),
    n_conv_per_stage_decoder=(2, 1),
    output_stride=(1, 1, 1),
)
FLAT = Architecture(
    features_per_stage=(4, 6, 8),
    kernel_sizes=((3, 3),) * 3,
    strides=((1, 1), (2, 2), (2, 2)),
    n_conv_per_stage=(1, 2, 1),
    n_conv_per_stage_decoder=(1,),
    output_stride=(2, 2),
)
SIDES = {3: (8, 16, 16), 2: (16, 24)}
ARCHITECTURES = {2: FLAT, 3: SOLID}
GROUPS: dict[int, list[Group]] = {
    3: [(1, (0, 2)), (0, (2, 3))],
    2: [(0, (0, 2)), (1, (2, 3))],
}  # 1 is in none, 2 in two
N = 4


def a_batch(ndim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(2, N, 2, *SIDES[ndim]), torch.arange(N).expand(2, N)


def correlated(ndim: int, *, shared: bool = False, key_slices: bool = True) -> CorrelatedUNets:
    return CorrelatedUNets(ARCHITECTURES[ndim], 2, N, ndim, GROUPS[ndim], shared=shared, key_slices=key_slices)


def heatmaps_of(output: Any) -> Tensor:
    return output["heatmaps"] if isinstance(output, dict) else output  # type: ignore[no-any-return]


def influence(network: nn.Module, ndim: int) -> list[list[bool]]:
    """[i][j]: whether landmark i's heatmap changes with window j."""
    data, which = a_batch(ndim)
    with torch.no_grad():
        before = heatmaps_of(network(data, which))
        columns = []
        for j in range(N):
            changed = data.clone()
            changed[:, j] += torch.randn(data[:, j].shape)
            columns.append([not torch.allclose(x, y, atol=1e-5) for x, y in zip(
                heatmaps_of(network(changed, which)).unbind(1), before.unbind(1), strict=True)])  # fmt: skip
    return [list(row) for row in zip(*columns, strict=True)]


# -- networks side by side --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_each_landmark_has_a_network_of_its_own(ndim: int) -> None:
    torch.manual_seed(0)
    network = OwnUNets(ARCHITECTURES[ndim], 2, N, ndim)
    data, which = a_batch(ndim)
    output = network(data, which)
    stride = ARCHITECTURES[ndim].output_stride
    assert output.shape == (2, N, *(n // s for n, s in zip(SIDES[ndim], stride, strict=True)))
    assert influence(network, ndim) == [[i == j for j in range(N)] for i in range(N)]
    small = OwnUNets(ARCHITECTURES[ndim], 2, 1, ndim)
    for i in range(N):
        take(network, small, i)
        torch.testing.assert_close(small(data[:, i : i + 1], which[:, :1]), output[:, i : i + 1], rtol=1e-4, atol=1e-4)


def take(network: nn.Module, small: nn.Module, i: int) -> None:
    """Copy the weights of the i-th of N networks."""
    with torch.no_grad():
        for part, whole in zip(small.parameters(), network.parameters(), strict=True):
            part.copy_(whole.view(N, *part.shape)[i])


def test_networks_side_by_side_are_one_module_whatever_their_number() -> None:
    few, many = (OwnUNets(FLAT, 1, n, 2) for n in (2, 9))
    names = [[name for name, _ in network.named_modules()] for network in (few, many)]
    assert names[0] == names[1]
    assert sum(p.numel() for p in many.parameters()) * 2 == sum(p.numel() for p in few.parameters()) * 9


def test_only_the_head_has_a_bias() -> None:
    unet = GroupedUNet(SOLID, 2, 3, 3)
    assert [name for name, _ in unet.named_parameters() if name.endswith("bias") and ".1." not in name] == []
    assert OwnUNets(SOLID, 2, 3, 3).head.convolution.bias is not None


def test_residual_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"residual must be false"):
        OwnUNets(dataclasses.replace(FLAT, residual=True), 1, 2, 2)


# -- windows of a group, seen together --------------------------------------------------------------------------------


@pytest.mark.parametrize("key_slices", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("ndim", [2, 3])
def test_windows_of_a_group_tell_each_other(ndim: int, shared: bool, key_slices: bool) -> None:
    torch.manual_seed(1)
    network = correlated(ndim, shared=shared, key_slices=key_slices)
    told = influence(network, ndim)
    assert told[0] == [True, False, True, False]
    assert told[1] == [False, True, False, False]  # of no group: independent
    assert told[2] == [True, False, True, True]
    assert all(told[3][i] for i in (2, 3)) and not told[3][1]


@pytest.mark.parametrize("ndim", [2, 3])
def test_key_slices_have_a_logit_for_each_voxel_along_the_axis(ndim: int) -> None:
    data, which = a_batch(ndim)
    output = correlated(ndim)(data, which)
    assert isinstance(output, dict)
    assert [tuple(s.shape) for s in output["slices"]] == [(2, SIDES[ndim][axis]) for axis, _ in GROUPS[ndim]]
    strided = KeySlice(0, (4, 8), (2, 2))  # the first stage halves, too
    assert strided(torch.randn(2, 8, 6, 5)).shape == (2, 24)


def test_axis_attention_is_the_published_formula() -> None:
    torch.manual_seed(0)
    attention, x = AxisAttention(1, 8), torch.randn(2, 8, 3, 5, 4)
    highest, mean = x.amax((2, 4)), x.mean((2, 4))  # (B, F, A)
    channel = torch.sigmoid(attention.channel(highest) + attention.channel(mean))
    spatial = torch.sigmoid(attention.spatial(torch.stack((highest.amax(1), mean.mean(1)), 1)))
    assert channel.shape == (2, 8, 5) and spatial.shape == (2, 1, 5)
    expected = x * channel[:, :, None, :, None] * spatial[:, :, None, :, None]
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_slice_and_heatmap_are_fused_to_the_exact_point(stride: int) -> None:
    """A heatmap that knows nothing along axis 0, and the slice that does: their sum decodes to the point."""
    point, sigma = torch.tensor([9.3, 13.6]), (2.0 * stride, 2.5 * stride)
    point = point * stride
    codec = HeatmapCodec(1, (24 * stride, 24 * stride), (stride, stride), sigma)
    cells = stride * torch.arange(24.0) + (stride - 1) / 2
    plane = -((cells - point[1]) ** 2) / (2 * sigma[1] ** 2)
    slices = -((torch.arange(24.0 * stride) - point[0]) ** 2) / (2 * sigma[0] ** 2)
    logits = plane.expand(1, 1, 24, 24) + across(slices[None], 0, 4, stride)
    found = codec.decode(codec.scores(logits))
    torch.testing.assert_close(found.voxels[0, 0, 0], point.double(), rtol=0, atol=0.01)


def test_the_network_adds_the_slice_along_its_axis_for_the_landmarks_of_the_group() -> None:
    torch.manual_seed(0)
    network, (data, which) = correlated(2), a_batch(2)
    with torch.no_grad():
        whole = network(data, which)
        heads = []
        network.head.register_forward_hook(lambda module, inputs, output: heads.append(output.clone()))
        network(data, which)
    assert isinstance(whole, dict)
    first, second = (s.view(2, -1, 2).mean(2) for s in whole["slices"])  # cells of two voxels
    added = whole["heatmaps"] - heads[0]
    zero = torch.zeros_like(added[:, 0])
    along_0, along_1 = first[:, :, None].expand_as(zero), second[:, None].expand_as(zero)
    expected = torch.stack((along_0, zero, along_0 + along_1, along_1), 1)
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-5)


# -- the slices' codec ------------------------------------------------------------------------------------------------


def test_a_groups_slice_is_the_mean_place_of_its_present_landmarks() -> None:
    heatmaps = HeatmapCodec(3, (16, 24), (2, 2), (2.0, 3.0))
    codec = SliceCodec(heatmaps, [(0, (0, 2)), (1, (0, 1, 2))], (16, 24), (2.0, 3.0))
    nan = math.nan
    voxels = torch.tensor([[[4.0, 7.0], [9.0, 8.0], [5.0, 30.0]], [[nan] * 2, [nan] * 2, [nan] * 2], [[nan] * 2] * 3])
    present, absent, unknown = int(Status.PRESENT), int(Status.ABSENT), int(Status.UNKNOWN)
    status = torch.tensor([[present, unknown, present], [absent, unknown, absent], [unknown, absent, unknown]]).to(
        torch.int8
    )
    target = codec.encode(voxels, status)
    assert target.slices[0].centres[0].flatten().tolist() == [4.5] and target.slices[1].centres[
        0
    ].flatten().tolist() == [18.5]
    assert [s[:, 0].tolist() for s in target.status] == [[present, absent, unknown], [present, absent, absent]]
    assert [s.sigma for s in target.slices] == [(2.0,), (3.0,)]
    torch.testing.assert_close(codec.elsewhere.detach(), torch.tensor([16.0, 24.0]).log())
    for logits, of_group, state in zip(
        (torch.zeros(3, 16), torch.zeros(3, 24)), target.slices, target.status, strict=True
    ):
        assert torch.isfinite(spatial_cross_entropy(logits[:, None], of_group, state))


def test_a_slice_outside_the_windows_is_elsewhere() -> None:
    heatmaps = HeatmapCodec(2, (16, 16), (1, 1), (2.0, 2.0))
    codec = SliceCodec(heatmaps, [(0, (0, 1))], (16, 16), (2.0, 2.0))
    status = torch.ones(1, 2, dtype=torch.int8)
    target = codec.encode(torch.tensor([[[40.0, 3.0], [40.0, 5.0]]]), status)
    spatial_cross_entropy(torch.zeros(1, 1, 16), target.slices[0], target.status[0]).backward()  # type: ignore[no-untyped-call]
    assert codec.elsewhere.grad is not None and float(codec.elsewhere.grad[0]) < -0.4


# -- the trainer ------------------------------------------------------------------------------------------------------


def fine_plans(ndim: int, per_sample: int | None = None, **options: Any) -> Plans:
    plans = example_plans(ndim)
    coarse = plans.configurations["example"]
    groups = (SliceGroup(ndim - 2, ("Eye_L", "Nose", "Chin")), SliceGroup(ndim - 1, ("Nose", "Mole")))
    windows = Windows("landmark", per_sample=per_sample, groups=groups)
    fine = dataclasses.replace(coarse, windows=windows, previous_stage="coarse", options=options)
    return dataclasses.replace(plans, configurations={"example": fine, "coarse": coarse})


def a_trainer(ndim: int, per_sample: int | None = None, **options: Any) -> FineTrainer:
    plans = fine_plans(ndim, per_sample, **options)
    return FineTrainer(plans, plans.configuration("example"))


def noise(trainer: FineTrainer) -> dict[str, Tensor]:
    patch = trainer.configuration.patch_size
    present, absent, unknown = int(Status.PRESENT), int(Status.ABSENT), int(Status.UNKNOWN)
    status = [[present] * 5, [present, unknown, absent, present, absent]]
    return {
        "data": torch.randn(2, 5, 2, *patch),
        "voxels": torch.rand(2, 5, len(patch), dtype=torch.float64) * (torch.tensor(patch) - 1),
        "status": torch.tensor(status, dtype=torch.int8),
        "landmarks": torch.arange(5).expand(2, 5),
    }


KINDS: list[dict[str, Any]] = [
    {},
    {"weights": "own"},
    {"correlated": True},
    {"weights": "own", "correlated": True},
    {"weights": "own", "correlated": True, "slice_weight": 0.0},
]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("options", KINDS, ids=lambda o: "-".join(map(str, o.values())) or "shared")
def test_every_parameter_learns(options: Mapping[str, Any], ndim: int) -> None:
    torch.manual_seed(0)
    trainer = a_trainer(ndim, **options)
    network, codec = build(trainer)
    batch = noise(trainer)
    losses = trainer.training_step(network, codec, batch)
    assert set(losses) == (
        {"heatmap", "slice"} if options.get("correlated") and "slice_weight" not in options else {"loss"}
    )
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    parameters = dict([*network.named_parameters(), *codec.named_parameters()])
    largest = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in parameters.items()}
    assert min(largest.values()) > 1e-6 * max(largest.values()), min(largest, key=largest.__getitem__)
    assert training_bytes(trainer, 2).saved > 0
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = network(batch["data"], batch["landmarks"])
    assert heatmaps_of(output).dtype == torch.float32
    scores = codec.scores(output, batch["landmarks"])
    assert codec.decode(scores).voxels.shape == (2, 5, 3, ndim)


def test_correlated_networks_look_again() -> None:
    torch.manual_seed(0)
    trainer = a_trainer(2, correlated=True)
    plans, patch = trainer.plans, trainer.configuration.patch_size
    geometry = Geometry.from_parts((40, 50), trainer.configuration.spacing)
    image = Image(np.random.default_rng(0).normal(size=(2, 40, 50)).astype(np.float32), geometry)
    points = geometry.to_physical(np.random.default_rng(1).uniform(8, 32, (5, 2)))
    points[4] = np.nan  # the stage before has not found it
    status = np.array([Status.PRESENT] * 4 + [Status.UNKNOWN], dtype=np.int8)
    odds = np.where(np.isfinite(points[:, :1]), 3.0, -np.inf)
    before = a_prediction(Landmarks(plans.landmarks, points, status), points[:, None], odds)
    member, measured = Member(*build(trainer)), Measured(placement=Placement(patch, 2.0))
    stage = Stage(plans, trainer.configuration, (member,), (measured,))
    found = look_again(stage, Prepared(image, (0.0, 0.0)), before)
    assert np.isfinite(found.candidates[:4, 0]).all() and np.isfinite(found.log_odds[:4, 0]).all()
    assert found.looks > 5


def test_own_networks_keep_the_contract_of_a_trainer() -> None:
    check_trainer(FineTrainer, ndims=(2,), options={"weights": "own"})


def test_unknown_landmarks_move_no_slice() -> None:
    torch.manual_seed(0)
    trainer = a_trainer(2, correlated=True)
    network, codec = build(trainer)
    batch = noise(trainer)
    before = trainer.training_step(network, codec, batch)
    moved = torch.where((batch["status"] == Status.PRESENT)[..., None], batch["voxels"], math.nan)
    after = trainer.training_step(network, codec, {**batch, "voxels": moved})
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "per_sample", "groups", "message"),
    [
        ({"weights": "own"}, 2, True, "windows of all landmarks"),
        ({"correlated": True}, 2, True, "windows of all landmarks"),
        ({"correlated": True}, None, False, r"needs windows\.groups"),
        ({"slice_weight": -1.0}, None, True, "slice_weight must be 0 or more"),
    ],
)
def test_plans_that_do_not_fit_are_refused(
    options: dict[str, Any], per_sample: int | None, groups: bool, message: str
) -> None:
    with pytest.raises(AutolmkError, match=message):
        plans = fine_plans(2, per_sample, **options)
        c = plans.configuration("example")
        windows = c.windows if groups else dataclasses.replace(c.windows, groups=())
        build(FineTrainer(plans, dataclasses.replace(c, windows=windows)))


def test_a_group_of_unknown_names_is_refused() -> None:
    plans = fine_plans(2, correlated=True)
    c = plans.configuration("example")
    windows = dataclasses.replace(c.windows, groups=(SliceGroup(0, ("Eye_L", "Hoof")),))
    with pytest.raises(AutolmkError, match="Hoof"):
        build(FineTrainer(plans, dataclasses.replace(c, windows=windows)))


# -- what it is for ---------------------------------------------------------------------------------------------------

SIDE = 16


def ambiguous(generator: torch.Generator) -> dict[str, Tensor]:
    """A blob and a line along axis 0, marked in one row of pixels: which one, only the blob's window tells."""
    b, i = 8, torch.arange(SIDE, dtype=torch.float64)
    voxels = 3 + 10 * torch.rand(b, 2, 2, generator=generator, dtype=torch.float64)
    voxels[:, 1, 0] = voxels[:, 0, 0]
    row, column = ((i - voxels[..., axis, None]) ** 2 for axis in (0, 1))
    blob = torch.exp(-(row[:, 0, :, None] + column[:, 0, None]) / 4)
    line = torch.exp(-column[:, 1, None] / 4).expand(b, SIDE, SIDE)
    data = torch.stack((blob, line), 1)[:, :, None].float()
    return {
        "data": data + 0.1 * torch.randn(data.shape, generator=generator),
        "voxels": voxels,
        "status": torch.ones(b, 2, dtype=torch.int8),
        "landmarks": torch.arange(2).expand(b, 2),
    }


@pytest.mark.parametrize("together", [False, True])
def test_what_is_ambiguous_in_its_own_window_is_found_together(together: bool) -> None:
    plans = fine_plans(2, weights="own", correlated=together)
    c = plans.configuration("example")
    c = dataclasses.replace(
        c,
        patch_size=(SIDE, SIDE),
        spacing=(1.0, 1.0),
        sigma=(1.5, 1.5),
        normalization=c.normalization[:1],
        architecture=dataclasses.replace(
            FLAT, features_per_stage=(6, 12, 24), n_conv_per_stage_decoder=(1, 1), output_stride=(1, 1)
        ),
        windows=Windows("landmark", groups=(SliceGroup(0, ("Blob", "Line")),)),
    )
    plans = dataclasses.replace(plans, landmarks=("Blob", "Line"), pairs=(), sometimes_absent=(), channel_names=("x",))
    trainer = FineTrainer(plans, c)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network, codec = build(trainer)
    optimizer = torch.optim.AdamW([*network.parameters(), *codec.parameters()], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        batch = ambiguous(generator)
        torch.autograd.backward(torch.stack(list(trainer.training_step(network, codec, batch).values())).sum())
        optimizer.step()
    batch = ambiguous(generator)
    with torch.no_grad():
        scores = codec.scores(network(batch["data"], batch["landmarks"]), batch["landmarks"])
    along_line = (codec.decode(scores).voxels[:, 1, 0] - batch["voxels"][:, 1])[:, 0].abs().median()
    assert float(along_line) < 0.6 if together else float(along_line) > 1.5
