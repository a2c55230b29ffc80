"""The fused spatial cross-entropy against a dense reference written from its definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from autolmk.codecs import HeatmapCodec
from autolmk.conformance.examples import example_plans
from autolmk.conformance.outputs import tensors_of
from autolmk.landmarks import Status
from autolmk.methods.losses import RADIUS, spatial_cross_entropy
from autolmk.methods.registry import TRAINERS
from autolmk.methods.trainer import trainer_class
from autolmk.planning.memory import random_batch
from autolmk.plans import SliceGroup, Windows

PRESENT, ABSENT, UNKNOWN = Status.PRESENT, Status.ABSENT, Status.UNKNOWN


def dense_reference(
    logits: Tensor, elsewhere: Tensor, centres: Tensor, sigma: tuple[float, ...], status: Tensor
) -> Tensor:
    """Cell by cell, with Python loops over windows and landmarks."""
    shape = logits.shape[2:]
    means: dict[bool, list[Tensor]] = {True: [], False: []}
    for b, k in itertools.product(*map(range, logits.shape[:2])):
        if status[b, k] == UNKNOWN:
            continue
        target = torch.zeros(shape, dtype=torch.float64)
        holds = False
        if status[b, k] == PRESENT:
            target += 1
            for axis, (s, n) in enumerate(zip(sigma, shape, strict=True)):
                c = float(centres[b, k, axis])
                reach = math.ceil(RADIUS * s)
                around = {round(c) + i: 0.0 for i in range(-reach, reach + 1)}
                for cell in around:
                    around[cell] = math.exp(-((cell - c) ** 2) / (2 * s * s))
                total = sum(around.values())
                line = torch.tensor([around.get(i, 0.0) / total for i in range(n)], dtype=torch.float64)
                target *= line.view([-1 if a == axis else 1 for a in range(len(shape))])
            holds = all(-0.5 <= c <= n - 0.5 for c, n in zip(centres[b, k].tolist(), shape, strict=True))
        everything = torch.cat([logits[b, k].double().flatten(), elsewhere[k].double()[None]])
        full = torch.cat([target.flatten(), (1 - target.sum())[None]])
        means[holds].append(-(full * everything.log_softmax(0)).sum())
    return sum((torch.stack(v).mean() for v in means.values() if v), torch.zeros((), dtype=torch.float64))


def scene(ndim: int, dtype: torch.dtype = torch.float64) -> tuple[HeatmapCodec, Tensor, Tensor, Tensor]:
    """Anisotropic windows, strides and sigmas; points inside, at a border, outside, far outside, absent, unknown."""
    generator = torch.Generator().manual_seed(5)
    patch, stride, sigma = (12, 10, 8)[-ndim:], (2, 1, 2)[-ndim:], (2.0, 0.9, 1.6)[-ndim:]
    codec = HeatmapCodec(6, patch, stride, sigma).to(dtype)
    with torch.no_grad():
        codec.elsewhere += torch.randn(6, generator=generator, dtype=dtype)
    logits = (3 * torch.randn(2, 6, *codec.cells, generator=generator, dtype=torch.float64)).to(dtype)
    size = torch.tensor(patch, dtype=torch.float64)
    voxels = torch.rand(2, 6, ndim, generator=generator, dtype=torch.float64) * (size - 1)
    voxels[0, 0], voxels[0, 1], voxels[1, 1] = -0.3, size + 0.7, 1e9
    voxels[0, 2] = voxels[1, 3] = math.nan
    status = torch.full((2, 6), PRESENT, dtype=torch.int8)
    status[0, 2], status[1, 3], status[1, 4] = ABSENT, UNKNOWN, UNKNOWN
    return codec, logits, voxels, status


@pytest.mark.parametrize("ndim", [2, 3])
def test_equals_dense_reference_with_its_gradients(ndim: int) -> None:
    codec, logits, voxels, status = scene(ndim)
    results = []
    for fused in (True, False):
        z, e = logits.clone().requires_grad_(), codec.elsewhere.detach().clone().requires_grad_()
        target = codec.encode(voxels, status)
        if fused:
            loss = spatial_cross_entropy(z, type(target)(target.centres, target.sigma, e), status)
        else:
            loss = dense_reference(z, e, target.centres, target.sigma, status)
        loss.backward()
        results.append((loss.detach(), z.grad, e.grad))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradcheck(ndim: int) -> None:
    codec, logits, voxels, status = scene(ndim)
    target = codec.encode(voxels, status)

    def loss(z: Tensor, e: Tensor) -> Tensor:
        return 2.5 * spatial_cross_entropy(z, type(target)(target.centres, target.sigma, e), status)

    z = logits[:, :, ..., :4].contiguous().requires_grad_()  # points beyond the narrower window are part of the test
    assert torch.autograd.gradcheck(loss, (z, codec.elsewhere.detach().clone().requires_grad_()))


def test_logits_are_only_read_whatever_else_needs_their_values() -> None:
    codec, logits, voxels, status = scene(3)
    gradients = []
    for first in (True, False):  # a term that saves the logits for its own gradient, before or after the loss
        z = (2 * logits.clone().requires_grad_()).contiguous()
        z.retain_grad()
        terms = [lambda z: spatial_cross_entropy(z, codec.encode(voxels, status), status), lambda z: z.exp().mean()]
        before = z.detach().clone()
        sum(term(z) for term in (terms if first else terms[::-1])).backward()
        torch.testing.assert_close(z.detach(), before, rtol=0, atol=0)
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_what_is_done_to_the_logits_afterwards_changes_no_gradient() -> None:
    codec, logits, voxels, status = scene(2)
    gradients = []
    for spoiled in (True, False):
        leaf = logits.clone().requires_grad_()
        z = 1.0 * leaf
        loss = spatial_cross_entropy(z, codec.encode(voxels, status), status)
        if spoiled:
            z.zero_()
        loss.backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_second_derivative_is_refused() -> None:
    codec, logits, voxels, status = scene(2)
    z = logits.clone().requires_grad_()
    loss = spatial_cross_entropy(z, codec.encode(voxels, status), status)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(loss + z.square().sum(), z, create_graph=True)


def test_the_former_option_to_overwrite_is_taken_without_effect() -> None:
    codec, logits, voxels, status = scene(2)
    z = 1.0 * logits.clone().requires_grad_()
    with pytest.warns(DeprecationWarning, match="in_place has no effect"):
        spatial_cross_entropy(z, codec.encode(voxels, status), status, in_place=True).backward()
    torch.testing.assert_close(z.detach(), logits, rtol=0, atol=0)


# -- a term on top of what shipped trainers lose ----------------------------------------------------------------------

GROUPS = tuple(SliceGroup(axis, names) for axis, names in ((0, ("Eye_L", "Eye_R")), (1, ("Nose", "Chin", "Mole"))))
VARIANTS = [
    *((name, {}) for name in TRAINERS),
    ("apga", {"parity": True}),
    ("fine", {"correlated": True}),
    ("fine", {"correlated": True, "slice_weight": 0.0}),
    ("global_cells", {"losses": "published"}),
    ("coordinates", {"presence_weight": 0.0}),
]


def gradient_with_a_term(name: str, options: dict[str, Any], order: str) -> Tensor:
    """(parameters of network and codec,), by the trainer's loss and a term on the same output; order: when the term is
    computed, or `copy`, where the loss gets a copy."""
    cls = trainer_class(name)

    class Plus(cls):  # type: ignore[valid-type, misc]
        def loss(self, output: Any, target: Any, status: Tensor) -> Any:
            def term() -> Tensor:
                return torch.stack([t.square().mean() + t.sigmoid().mean() for _, t in tensors_of(output)]).sum()

            early = term() if order == "before" else None
            copied = tree_map(torch.clone, output) if order == "copy" else output
            found = super().loss(copied, target, status)
            extra = term() if early is None else early
            return {**found, "extra": extra} if isinstance(found, dict) else found + extra

    windows = Windows("landmark", groups=GROUPS) if cls.looks_at == "landmarks" else None
    plans = example_plans(2, options=options, windows=windows)
    trainer = Plus(plans, plans.configuration("example"))
    torch.manual_seed(3)
    network, codec, batch = trainer.build_network(), trainer.build_codec(), random_batch(trainer, 2, device="cpu")
    batch["status"][0, 4], batch["status"][1, 3] = ABSENT, UNKNOWN
    torch.stack(list(trainer.training_step(network, codec, batch).values())).sum().backward()
    found = [p.grad.flatten() for p in (*network.parameters(), *codec.parameters()) if p.grad is not None]
    assert len(found) > 5
    return torch.cat(found)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_term_on_top_of_a_shipped_loss_gives_the_gradient_of_the_sum(name: str, options: dict[str, Any]) -> None:
    expected = gradient_with_a_term(name, options, "copy")
    for order in ("before", "after"):
        ours = gradient_with_a_term(name, options, order)
        assert float((ours - expected).norm()) <= 1e-5 * float(expected.norm())


def test_unknown_is_masked_and_nothing_known_is_zero() -> None:
    codec, logits, voxels, status = scene(3)
    z = logits.clone().requires_grad_()
    spatial_cross_entropy(z, codec.encode(voxels, status), status).backward()
    assert z.grad is not None
    assert not z.grad[status == UNKNOWN].any()
    assert z.grad[status != UNKNOWN].flatten(1).any(1).all()
    z = logits.clone().requires_grad_()
    loss = spatial_cross_entropy(z, codec.encode(voxels, status), torch.zeros_like(status))
    loss.backward()
    assert float(loss.detach()) == 0 and not z.grad.any()


def test_absent_pulls_everything_to_elsewhere() -> None:
    codec, logits, voxels, _ = scene(2)
    status = torch.full((2, 6), ABSENT, dtype=torch.int8)
    z = logits.clone().requires_grad_()
    spatial_cross_entropy(z, codec.encode(voxels, status), status).backward()
    assert z.grad is not None and codec.elsewhere.grad is not None
    assert (z.grad >= 0).all() and (codec.elsewhere.grad < 0).all()


def test_float32_and_bfloat16_logits_stay_close_to_float64() -> None:
    exact = None
    for dtype, tolerance in ((torch.float64, 0.0), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        codec, logits, voxels, status = scene(3, torch.float64)
        z = logits.to(dtype).requires_grad_()
        loss = spatial_cross_entropy(z, codec.encode(voxels, status), status)
        loss.backward()
        exact = loss.detach() if exact is None else exact
        assert abs(float(loss.detach()) - float(exact)) <= tolerance * float(exact)
        assert z.grad is not None and z.grad.dtype == dtype


def test_large_logits_do_not_overflow() -> None:
    codec, logits, voxels, status = scene(2, torch.float32)
    z = (logits * 1e4).requires_grad_()
    loss = spatial_cross_entropy(z, codec.encode(voxels, status), status)
    loss.backward()
    assert torch.isfinite(loss) and z.grad is not None and torch.isfinite(z.grad).all()


def test_many_chunks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, logits, voxels, status = scene(3)
    losses = []
    for chunk in (1, 10**9):
        monkeypatch.setattr("autolmk.methods.losses.CHUNK", chunk)
        losses.append(spatial_cross_entropy(logits, codec.encode(voxels, status), status))
    torch.testing.assert_close(*losses)


def test_runs_on_the_meta_device() -> None:
    codec, logits, voxels, status = scene(3, torch.float32)
    codec, z = codec.to("meta"), logits.to("meta").requires_grad_()
    loss = spatial_cross_entropy(z, codec.encode(voxels.to("meta"), status.to("meta")), status.to("meta"))
    loss.backward()
    assert z.grad is not None and z.grad.shape == logits.shape
