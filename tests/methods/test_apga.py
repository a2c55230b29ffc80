"""apga: the published network's numbers, a reference written from its description, gradients, and what is planned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_planner import BASE, CT, WING, a_fingerprint, at, statistics
from torch import Tensor, nn

from autolmk.codecs.heatmap import HeightCodec
from autolmk.conformance.examples import example_plans
from autolmk.data.label_maps import UNKNOWN
from autolmk.errors import AutolmkError
from autolmk.files.serialization import to_json
from autolmk.fingerprint import CoSliceGroup, Fingerprint
from autolmk.landmarks import Status
from autolmk.methods.losses import soft_dice, squared_error
from autolmk.networks.apga import APGA, LandmarkPath, build_apga, heads_of, published_architecture
from autolmk.networks.unet import Head
from autolmk.planners.apga import ApgaPlanner, label_groups, label_maps
from autolmk.planning.memory import random_batch
from autolmk.planning.planner import PRESETS, PlanRequest, draft_plans, memory_of, plan_dataset, usable_bytes
from autolmk.plans import Configuration, LabelMap, Plans, replace_configuration
from autolmk.testing import check_trainer
from autolmk.trainers.apga import ApgaTrainer

LEAST_GRADIENT = 1e-6  # of a parameter, as a share of the network's largest


def published(**changes: Any) -> APGA:
    """On the meta device: one channel, 6 landmarks, 1 label map."""
    with torch.device("meta"):
        return build_apga(published_architecture(), 1, 6, 1, 3, published=True, **changes)


def n_parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def multiply_accumulates(network: nn.Module, without: tuple[str, ...] = ()) -> float:
    """1e9 of them in convolutions and linear layers at 128 voxels a side, by hooks; modules named `without` skipped."""
    total = 0

    def count(module: Any, _: Any, output: Tensor) -> None:
        nonlocal total
        weight = module.convolution.weight if isinstance(module, Head) else module.weight
        total += output.numel() * weight[0].numel()

    kinds = (nn.Conv1d, nn.Conv3d, nn.Linear, Head)
    for name, module in network.named_modules():
        if isinstance(module, kinds) and not name.startswith(without or ("?",)):
            module.register_forward_hook(count)
    network(torch.zeros(1, 1, 128, 128, 128, device="meta"))
    return total / 1e9


# -- the published network ---------------------------------------------------------------------------------------------


def test_the_published_networks_size() -> None:
    whole, plain = published(), published(fdt=False)
    assert (n_parameters(whole), n_parameters(plain)) == (17_598_190, 17_506_001)
    sizes = [
        n_parameters(*(module[i] for name in whole.branches for module in (attention(whole, name), deep(whole, name))))
        for i in range(3)
    ]
    assert sizes == [64_911, 20_207, 7_071]
    parts = [whole.encoder, plain.branches["landmarks"], plain.branches["labels"]]
    assert [round(n_parameters(part) / 1e6, 2) for part in parts] == [12.85, 2.33, 2.32]


def attention(network: APGA, name: str) -> Any:
    return network.branches[name].attention


def deep(network: APGA, name: str) -> Any:
    return network.supervision[name]


def test_the_published_networks_shapes() -> None:
    found = published()(torch.zeros(2, 1, 128, 128, 128, device="meta"))
    sides = (128, 64, 32, 16)
    assert [tuple(x.shape) for x in found["landmarks"]] == [(2, 6, n, n, n) for n in sides]
    assert [tuple(x.shape) for x in found["labels"]] == [(2, 1, n, n, n) for n in sides]
    assert LandmarkPath(published())(torch.zeros(1, 1, 128, 128, 128, device="meta")).shape == (1, 6, 128, 128, 128)


def test_the_published_networks_operations() -> None:
    decoder = ("branches.labels.decoder", "branches.labels.head")
    assert round(multiply_accumulates(published()), 1) == 160.7
    assert round(multiply_accumulates(published(), without=decoder), 1) == 108.1  # as published: the whole FDT stays
    assert (
        round(multiply_accumulates(LandmarkPath(published())), 1) == 107.1
    )  # here the label maps' half of it goes too


def reference(w: Mapping[str, Tensor], x: Tensor) -> dict[str, list[Tensor]]:
    """The published network's forward pass in training, from its description; w: weights by our names."""

    def unit(x: Tensor, name: str, i: int, stride: int = 1) -> Tensor:
        x = F.conv3d(
            x, w[f"{name}.{i}.weight"], w.get(f"{name}.{i}.bias"), stride, w[f"{name}.{i}.weight"].shape[-1] // 2
        )
        return F.batch_norm(x, None, None, w[f"{name}.{i + 1}.weight"], w[f"{name}.{i + 1}.bias"], True, eps=1e-5)

    def double(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return unit(unit(x, name, 0, stride).relu(), name, 3).relu()

    def basic(x: Tensor, name: str, first: bool) -> Tensor:
        path = unit(unit(x, f"{name}.path", 0, 2 if first else 1).relu(), f"{name}.path", 3)
        return (path + (unit(x, f"{name}.shortcut", 0, 2) if first else x)).relu()

    def twice(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)

    def linear(x: Tensor, name: str) -> Tensor:  # a convolution of kernel 1
        return torch.einsum("oi,bi...->bo...", w[f"{name}.weight"].flatten(1), x) + w[f"{name}.bias"].view(
            1, -1, 1, 1, 1
        )

    def fdt(x: Tensor, level: int) -> tuple[list[Tensor], list[Tensor]]:
        """(gated skips, supervised outputs), one a task."""
        b, c = x.shape[:2]
        names = [f"branches.{task}.attention.{level}" for task in ("landmarks", "labels")]
        q, k, v = (
            torch.cat([linear(x, f"{name}.{kind}") for name in names], 1).view(b, 16, c // 16, *x.shape[2:])
            for kind in ("query", "key", "value")
        )
        o = torch.softmax(q * k * (c // 16) ** -0.5, 2) * v  # voxel by voxel, over the channels of a head
        gated, supervised = [], []
        for half, name, task in zip((slice(0, 8), slice(8, 16)), names, ("landmarks", "labels"), strict=True):
            hidden = linear(o[:, half].flatten(1, 2), f"{name}.voxel_gate.0").relu()
            s = linear(hidden, f"{name}.voxel_gate.2").sigmoid()
            pools = torch.stack([s.amax((2, 3, 4)), s.mean((2, 3, 4)), s.amin((2, 3, 4))], 1)
            mixed = F.conv1d(pools, w[f"{name}.pooling.weight"], w[f"{name}.pooling.bias"])[:, 0]
            first, second = f"{name}.channel_gate.0", f"{name}.channel_gate.2"
            g = F.linear(mixed, w[f"{first}.weight"], w[f"{first}.bias"]).relu()
            g = F.linear(g, w[f"{second}.weight"], w[f"{second}.bias"]).sigmoid()
            gated.append(x * (g[:, :, None, None, None] * s))
            supervised.append(linear(q[:, half].flatten(1, 2), f"supervision.{task}.{level}.convolution"))
        return gated, supervised

    c = [double(x, "encoder.stages.0", 2)]
    for stage in (1, 2, 3):
        y = c[-1]
        for block in range(3):
            y = basic(y, f"encoder.stages.{stage}.{block}", block == 0)
        c.append(y)
    skips = [fdt(c[2 - level], level) for level in range(3)]  # 16^3, 32^3, 64^3 of a window of 128^3
    result: dict[str, list[Tensor]] = {}
    for t, task in enumerate(("landmarks", "labels")):
        y = c[3]
        for level in range(3):
            y = double(torch.cat([twice(y), skips[level][0][t]], 1), f"branches.{task}.decoder.{level}")
        y = double(twice(y), f"branches.{task}.head")
        result[task] = [y, *(skips[level][1][t] for level in (2, 1, 0))]
    return result


def test_the_published_network_computes_what_its_description_says() -> None:
    torch.manual_seed(0)
    network = build_apga(published_architecture(), 1, 6, 1, 3, published=True).double()
    data = torch.randn(2, 1, 32, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        found, expected = network(data), reference(dict(network.named_parameters()), data)
    for task in ("landmarks", "labels"):
        assert torch.allclose(found[task][0], expected[task][0], rtol=1e-9, atol=1e-9)
        for one, other in zip(found[task], expected[task], strict=True):  # the heads of queries compute in float32
            assert one.shape == other.shape and torch.allclose(one.double(), other, rtol=1e-5, atol=1e-5)
        assert (found[task][0] >= 0).all()  # its last layer is a ReLU


# -- ours --------------------------------------------------------------------------------------------------------------


def example(ndim: int, **options: Any) -> ApgaTrainer:
    """On the example plans, with their two label maps."""
    plans = example_plans(ndim)
    return ApgaTrainer(plans, plans.configuration("example"), options)


def total(trainer: ApgaTrainer, network: nn.Module, codec: Any, batch: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(trainer.training_step(network, codec, batch).values())).sum()


@pytest.mark.parametrize(
    "options", [{}, {"fdt": False}, {"pseudo_label": False}, {"fdt": False, "pseudo_label": False}]
)
@pytest.mark.parametrize("ndim", [2, 3])
def test_one_step_reaches_every_parameter(ndim: int, options: dict[str, bool]) -> None:
    torch.manual_seed(1)
    trainer = example(ndim, **options)
    network, codec = trainer.build_network(), trainer.build_codec()
    torch.autograd.backward(total(trainer, network, codec, random_batch(trainer, 2, device="cpu")))
    largest = {
        name: 0.0 if p.grad is None else float(p.grad.abs().max())
        for module in (network, codec)
        for name, p in module.named_parameters()
    }
    assert min(largest.values()) > LEAST_GRADIENT * max(largest.values()), min(largest, key=lambda name: largest[name])


@pytest.mark.parametrize("ndim", [2, 3])
def test_prediction_sees_only_the_landmarks_path(ndim: int) -> None:
    torch.manual_seed(2)
    trainer = example(ndim)
    network = trainer.build_network()
    part = trainer.prediction_network(network)
    data = torch.randn(2, trainer.n_channels, *trainer.configuration.patch_size)
    assert torch.equal(part(data), network(data)["landmarks"][0])
    assert {id(p) for p in part.parameters()} < {id(p) for p in network.parameters()}
    small = example(ndim, pseudo_label=False)
    kept = small.prediction_network(small.build_network())
    assert n_parameters(part) == n_parameters(kept) < n_parameters(small.build_network())


def test_switches_leave_parts_out() -> None:
    whole, no_fdt, no_labels, neither = (
        example(3, fdt=fdt, pseudo_label=labels).build_network()
        for fdt, labels in ((True, True), (False, True), (True, False), (False, False))
    )
    assert "labels" not in no_labels.branches and not len(attention(no_fdt, "labels"))  # type: ignore[operator]
    assert n_parameters(whole) > n_parameters(no_fdt) > n_parameters(neither) < n_parameters(no_labels)
    plans = replace_configuration(example_plans(3), "example", label_maps=())
    without_maps = ApgaTrainer(plans, plans.configuration("example"))
    assert n_parameters(without_maps.build_network()) == n_parameters(no_labels)


def test_learning_label_maps_lowers_their_loss() -> None:
    torch.manual_seed(3)
    trainer = example(2)
    network, codec, batch = trainer.build_network(), trainer.build_codec(), random_batch(trainer, 2, device="cpu")
    batch["labels"] = torch.zeros_like(batch["labels"])
    batch["labels"][:, 0, 4:12, 6:18], batch["labels"][:, 1, 2:6, 2:20] = 1, 1
    batch["data"] = batch["labels"] + 0.1 * batch["data"]
    optimizer = trainer.build_optimizer([*network.parameters(), *codec.parameters()])
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        named = trainer.training_step(network, codec, batch)
        assert set(named) == {"landmarks", "supervision", "labels"}
        losses.append(float(named["labels"].detach()))
        torch.autograd.backward(torch.stack(list(named.values())).sum())
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_an_ablation_keeps_the_contract() -> None:
    check_trainer(ApgaTrainer, ndims=(2,), options={"fdt": False})


def test_parity_trains_all_but_the_biases_that_a_norm_cancels() -> None:
    torch.manual_seed(4)
    trainer = example(2, parity=True)
    network, codec, batch = trainer.build_network(), trainer.build_codec(), random_batch(trainer, 2, device="cpu")
    optimizer = trainer.build_optimizer(network.parameters())
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = total(trainer, network, codec, batch)
        torch.autograd.backward(loss)
        if not losses:
            sizes = {name: float(p.grad.abs().max()) for name, p in network.named_parameters() if p.grad is not None}
            assert set(sizes) == {name for name, _ in network.named_parameters()}
            dead = {name for name, size in sizes.items() if size <= LEAST_GRADIENT * max(sizes.values())}
            before_norms = {
                f"{name}.{i}.bias"
                for name, module in network.named_modules()
                if isinstance(module, nn.Sequential)
                for i in range(len(module) - 1)
                if isinstance(module[i], nn.Conv2d) and isinstance(module[i + 1], nn.BatchNorm2d)
            }
            assert dead <= before_norms
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_widths_must_suit_the_heads() -> None:
    assert [heads_of(n) for n in (4, 8, 16, 32, 48, 64, 128, 320)] == [2, 4, 8, 16, 16, 16, 16, 16]
    for width in (2, 7):
        with pytest.raises(ValueError, match="even, and 4 or more"):
            heads_of(width)


def test_an_output_that_no_stage_leads_to_is_refused() -> None:
    architecture = dataclasses.replace(published_architecture(2), output_stride=(3, 3))
    with pytest.raises(ValueError, match="output_stride must be"):
        build_apga(architecture, 1, 6, 1, 2)
    with pytest.raises(ValueError, match="must have 3 entries"):
        build_apga(dataclasses.replace(published_architecture(2), n_conv_per_stage_decoder=(2,)), 1, 6, 1, 2)


# -- losses and codec --------------------------------------------------------------------------------------------------


def test_dice_is_one_minus_twice_the_overlap() -> None:
    labels = torch.zeros(2, 1, 4, 6, dtype=torch.uint8)
    labels[:, :, :2] = 1
    inside = labels.double()
    assert float(soft_dice(inside, labels)) == pytest.approx(0.0)
    assert float(soft_dice(1 - inside, labels)) == pytest.approx(1 - 1 / 49)
    assert float(soft_dice(torch.full_like(inside, 0.5), labels)) == pytest.approx(1 - (24 + 1) / (24 + 24 + 1))
    coarse = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).expand(2, 1, 2, 3)
    assert float(soft_dice(coarse, labels)) == pytest.approx(0.0)  # cells of two voxels a side


def test_unknown_voxels_have_no_gradient() -> None:
    labels = torch.zeros(1, 2, 4, 6, dtype=torch.uint8)
    labels[0, 0, :, :3], labels[0, 1] = UNKNOWN, UNKNOWN
    probability = torch.rand(1, 2, 4, 6, requires_grad=True)
    torch.autograd.backward(soft_dice(probability, labels))
    assert probability.grad is not None
    assert (probability.grad[0, 0, :, :3] == 0).all() and (probability.grad[0, 1] == 0).all()
    assert (probability.grad[0, 0, :, 3:] > 0).all()


def test_squared_error_is_zero_for_its_own_gaussians_alone() -> None:
    codec = HeightCodec(3, (12, 10), (1, 1), (2.0, 1.5), height=255.0)
    voxels = torch.tensor([[[4.3, 5.1], [20.0, 3.0], [math.nan, math.nan]]], dtype=torch.float64)
    status = torch.tensor([[Status.PRESENT, Status.PRESENT, Status.ABSENT]], dtype=torch.int8)
    grid = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij"), -1).double()
    scaled = (grid - voxels[0, :, None, None]) / torch.tensor([2.0, 1.5], dtype=torch.float64)
    heatmaps = (255 * torch.exp(-scaled.square().sum(-1) / 2)).nan_to_num()[None]
    target = codec.encode(voxels, status)
    assert float(squared_error(heatmaps, target, status, 255.0)) == pytest.approx(0.0, abs=1e-9)
    assert float(squared_error(heatmaps + 2, target, status, 255.0)) == pytest.approx(4.0)
    unknown = torch.tensor([[Status.PRESENT, Status.PRESENT, Status.UNKNOWN]], dtype=torch.int8)
    heatmaps[:, 2] = 50
    assert float(squared_error(heatmaps, target, unknown, 255.0)) == pytest.approx(0.0, abs=1e-9)
    assert float(squared_error(heatmaps, target, 0 * unknown, 255.0)) == 0.0
    best = codec.decode(codec.scores(heatmaps.float()))
    assert torch.allclose(best.voxels[0, 0, 0], voxels[0, 0], atol=0.01)
    assert float(best.log_odds[0, 0, 0]) == pytest.approx(math.log(2), abs=0.1)  # even odds at half of the height


# -- plans -------------------------------------------------------------------------------------------------------------


def plan(fingerprint: Fingerprint, labels: str = "auto", **arguments: Any) -> Plans:
    arguments = {"preset": "XS", "device": "cpu", **arguments}
    planners = {"apga": ApgaPlanner({"labels": labels})}
    return plan_dataset(PlanRequest.of(fingerprint, **arguments), planners, plans_name="autolmkPlans")


MADE: dict[str, Configuration] = {}


def planned(fingerprint: Fingerprint = BASE, **arguments: Any) -> Configuration:
    """That which learns regions."""
    key = str((to_json(fingerprint), arguments))
    if key not in MADE:
        MADE[key] = plan(fingerprint, "on", **arguments).configurations["apga_labels"]
    return MADE[key]


def on_a_grid(n: int, ndim: int = 3) -> dict[str, Any]:
    """Landmarks in two far blocks, and their statistics."""
    names = [f"L{i}" for i in range(n)]
    places = [(100.0 * (i >= n // 2) + i % 2, float(i // 2 % 2), float(i // 4))[:ndim] for i in range(n)]
    return {"n_landmarks": n, "mean_shape": dict(zip(names, places, strict=True))}


SLICES = dataclasses.replace(BASE, co_slice_groups=(CoSliceGroup(0, ("L1", "L2", "L5"), "slices"),))
CAUSES: dict[str, Any] = {
    "label_maps.0.landmarks": dataclasses.replace(
        BASE,
        landmark_statistics={
            **BASE.landmark_statistics,
            "L3": dataclasses.replace(statistics(), n_present=10, n_unknown=30),
        },
    ),
    "label_maps.0.radius": a_fingerprint(spacing=(1.5, 1.5, 1.5)),
    "options.label_weight": a_fingerprint(shape=(30.0, 30.0, 30.0)),
    "architecture.n_conv_per_stage": WING,
    "patch_size": a_fingerprint(shape=(30.0, 60.0, 60.0)),
    "sigma": a_fingerprint(nearest=2.2),
    "normalization.0.scheme": CT,
}


@pytest.mark.parametrize("number", CAUSES)
def test_a_number_moves_with_its_cause(number: str) -> None:
    get: Callable[[Any], Any] = at(number) if not number.startswith("options") else lambda c: c.options["label_weight"]
    assert get(planned()) != get(planned(CAUSES[number]))


def test_groups_are_all_the_slices_and_clusters() -> None:
    assert label_groups(BASE) == {"all": BASE.landmarks}
    assert label_groups(SLICES) == {"all": BASE.landmarks, "slice 1": ("L1", "L2", "L5")}
    far = label_groups(a_fingerprint(**on_a_grid(16)))
    assert list(far) == ["all", "cluster 1", "cluster 2"]
    assert {far["cluster 1"], far["cluster 2"]} == {tuple(f"L{i}" for i in r) for r in (range(8), range(8, 16))}
    assert len(label_groups(a_fingerprint(**on_a_grid(15)))) == 1  # 8 a cluster, or none
    assert len(label_groups(a_fingerprint(**on_a_grid(200)))) == 7
    same = dataclasses.replace(BASE, co_slice_groups=(CoSliceGroup(0, BASE.landmarks, "slices"),))
    assert list(label_groups(same)) == ["all"]


def test_own_label_maps_take_the_place_of_groups() -> None:
    own = dataclasses.replace(SLICES, label_maps=39, label_values={"1": 39, "4": 20, "9": 3})
    used, why = label_maps(own)
    assert used == (LabelMap("label 1", value=1), LabelMap("label 4", value=4)) and "39 of 40 cases" in why
    few = dataclasses.replace(SLICES, label_maps=3, label_values={"1": 3})
    maps, why = label_maps(few)
    assert [m.name for m in maps] == ["all", "slice 1"]
    assert why.startswith("the label maps of 3 of 40 cases are not used, as no value occurs in 50% of the cases; all")
    assert "label maps" not in label_maps(SLICES)[1]
    c = planned(own)
    assert c.label_maps == used
    assert memory_of(BASE, c, "cpu", c.batch_size).total <= usable_bytes("cpu", PRESETS["XS"].memory_gb)


def test_regions_are_learnt_where_they_are_compared_and_off_else() -> None:
    own = dataclasses.replace(BASE, label_maps=40, label_values={"1": 40})
    automatic, compared = plan(BASE, "auto"), plan(BASE, "compare")
    for plans, names in (
        (automatic, ["apga"]),
        (plan(own, "auto"), ["apga", "apga_labels"]),
        (plan(own, "off"), ["apga"]),
        (plan(BASE, "on"), ["apga_labels"]),
        (compared, ["apga", "apga_labels"]),
    ):
        assert list(plans.configurations) == names
    both = compared.configurations
    plain, regions = both["apga"], both["apga_labels"]
    assert (plain.options["pseudo_label"], plain.label_maps) == (False, ())
    assert regions.options["pseudo_label"] and len(regions.label_maps) == 1
    assert "--set labels=compare" in automatic.configurations["apga"].why["label_maps"]
    plans = draft_plans(BASE, {"plain": plain}, device="cpu")
    assert set(ApgaTrainer(plans, plain).build_network().branches) == {"landmarks"}  # type: ignore[arg-type]
    with pytest.raises(AutolmkError, match="'auto', 'off', 'on', 'compare'"):
        ApgaPlanner({"labels": "maybe"})


def test_plans_that_say_nothing_of_regions_learn_them_as_before() -> None:
    old = dataclasses.replace(planned(), options={"label_weight": 0.3})
    network = ApgaTrainer(draft_plans(BASE, {"old": old}, device="cpu"), old).build_network()
    assert isinstance(network, APGA) and set(network.branches) == {"landmarks", "labels"}


def test_every_number_has_a_reason_and_plans_fit_their_memory() -> None:
    c = planned()
    assert {"label_maps", "label_maps.radius", "options.label_weight", "architecture.n_conv_per_stage"} <= set(c.why)
    assert memory_of(BASE, c, "cpu", c.batch_size).total <= usable_bytes("cpu", PRESETS["XS"].memory_gb)
    assert planned(WING).architecture.output_stride == (2, 2)  # of the two decoders' finest stage only one is paid


def test_residual_presets_are_as_deep_as_published() -> None:
    little, much = planned(), planned(preset="L", device="cuda")
    assert set(little.architecture.n_conv_per_stage[1:]) == {1} and set(much.architecture.n_conv_per_stage[1:]) == {3}
    assert much.architecture.residual and little.architecture.residual
