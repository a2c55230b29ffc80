"""The contract of a Trainer as checks, each a function that raises at the first breach."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autolmk.codecs import Candidates, Codec
from autolmk.codecs.balance import counts, restore_counts
from autolmk.conformance.breach import Breach, own_random_state
from autolmk.conformance.examples import example_plans
from autolmk.conformance.outputs import overwritten
from autolmk.errors import AutolmkError
from autolmk.landmarks import Status
from autolmk.methods.trainer import Trainer
from autolmk.planning.memory import random_batch, training_bytes
from autolmk.plans import Plans, Windows

STEPS = 25  # in which the loss must fall
LEAST_GRADIENT = 1e-6  # of a parameter, as a share of the network's largest
SAMPLED = ((0, 4, 3, 2), (4, 3, 1, 2))  # landmarks of the two samples where a sample has windows of some; none is idle


def check_trainer(
    trainer: type[Trainer], *, ndims: Sequence[int] = (2, 3), options: Mapping[str, Any] | None = None
) -> None:
    """Run every check on a trainer class. options: of its Options, where the defaults will not do.

    Raises AutolmkError at the first breach of the contract.
    """
    breach = Breach(getattr(trainer, "__name__", str(trainer)), "trainer")
    if not isinstance(trainer, type) or not issubclass(trainer, Trainer):
        raise breach("it is no trainer", type(trainer).__name__, "a class derived from autolmk.methods.trainer.Trainer")
    if inspect.isabstract(trainer):
        missing = ", ".join(sorted(trainer.__abstractmethods__))
        raise breach("required methods are missing", missing, "build_network, build_codec and loss", "write them")
    parameters = getattr(trainer.Options, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise breach("Options is no frozen dataclass", repr(trainer.Options), "@dataclass(frozen=True) above it")
    for ndim in ndims:
        for windows, where in _windows_of(trainer):
            with own_random_state(ndim), breach.names(f"in {ndim}D{where}"):
                plans = example_plans(ndim, options=options, windows=windows)
                if windows.per_sample is not None and _refuses(trainer, plans):
                    continue
                bench = _Bench.set_up(trainer, plans, breach)
                for check in TRAINER_CHECKS + (LANDMARK_CHECKS if bench.per_landmark else IMAGE_CHECKS):
                    check(bench)


def _windows_of(trainer: type[Trainer]) -> list[tuple[Windows, str]]:
    """(windows that a trainer must take, how messages say it)."""
    if trainer.looks_at == "image":
        return [(Windows("random"), "")]
    return [
        (Windows("landmark"), ", a window of every landmark"),
        (Windows("landmark", per_sample=len(SAMPLED[0])), f", windows of {len(SAMPLED[0])} landmarks"),
    ]


def _refuses(trainer: type[Trainer], plans: Plans) -> bool:
    """Whether a network says, by a ValueError, that it must see all landmarks; other exceptions are breaches later."""
    try:
        trainer(plans, plans.configuration("example")).build_network()
    except ValueError:
        return True
    except Exception:
        return False
    return False


@dataclass
class _Bench:
    """What every check looks at. batch: data (2, C, *patch), voxels (2, L, D), status (2, L); with windows a landmark
    data (2, W, C, *patch), W rows of voxels and status, and landmarks (2, W)."""

    breach: Breach
    trainer: Trainer
    network: nn.Module
    codec: Codec
    batch: dict[str, Tensor]

    @classmethod
    def set_up(cls, trainer_class: type[Trainer], plans: Plans, breach: Breach) -> _Bench:
        """Construct everything, checking types on the way."""
        before = torch.random.get_rng_state()
        with breach.during("constructing it"):
            trainer = trainer_class(plans, plans.configuration("example"))
        if not torch.equal(before, torch.random.get_rng_state()):
            raise breach("constructing it draws random numbers", "another random state", "a constructor that is free")
        heavy = [k for k, v in vars(trainer).items() if isinstance(v, (nn.Module, Tensor))]
        if heavy:
            raise breach("it holds weights", ", ".join(heavy), "modules built by build_network and build_codec only")
        with breach.during("build_network"):
            network = trainer.build_network()
        with breach.during("build_codec"):
            codec = trainer.build_codec()
        for what, value, kind in (("build_network", network, nn.Module), ("build_codec", codec, Codec)):
            if not isinstance(value, kind):
                raise breach(f"{what} returns the wrong thing", type(value).__name__, kind.__name__)
        return cls(breach, trainer, network, codec, _example_batch(trainer))

    @property
    def per_landmark(self) -> bool:
        """Whether each landmark has a window of its own."""
        return self.trainer.looks_at == "landmarks"

    def losses(self, **changes: Tensor) -> dict[str, Tensor]:
        """Named losses of the batch, some of it replaced; checked to be finite scalars with a gradient."""
        counted = counts(self.codec)  # so that calls differ by what is replaced alone
        with self.breach.during("a training step"):
            found = self.trainer.training_step(self.network, self.codec, {**self.batch, **changes})
        restore_counts(self.codec, counted)
        if not isinstance(found, dict) or not found:
            raise self.breach("training_step returns no losses", type(found).__name__, "a dict of named scalars")
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.ndim != 0 or not torch.isfinite(value):
                raise self.breach(f"the loss {name!r} is no finite scalar", value, "a finite tensor without axes")
        return found

    def total(self, **changes: Tensor) -> Tensor:
        """Sum of the losses."""
        return torch.stack(list(self.losses(**changes).values())).sum()

    def scores(self) -> Tensor:
        """Of the batch."""
        with self.breach.during("network and codec.scores"):
            return _scores(self.trainer, self.network, self.codec, self.batch)


def _scores(trainer: Trainer, network: nn.Module, codec: Codec, batch: Mapping[str, Tensor]) -> Tensor:
    """(2, L or W, ...), as prediction gets them."""
    which = (batch["landmarks"],) if "landmarks" in batch else ()
    part = trainer.prediction_network(network).eval()
    with torch.no_grad():
        scores = codec.scores(part(batch["data"], *which), *which)
    network.train()
    return scores


def _example_batch(trainer: Trainer) -> dict[str, Tensor]:
    """Two windows of noise, a bright blob at each point; every state, a point beyond the window, NaN coordinates.

    Where each landmark has a window of its own, its window shows its own blob."""
    patch = trainer.configuration.patch_size
    size = torch.tensor(patch, dtype=torch.float64)
    voxels = (0.2 + 0.6 * torch.rand(2, trainer.n_landmarks, len(patch), dtype=torch.float64)) * (size - 1)
    status = torch.full((2, trainer.n_landmarks), Status.PRESENT, dtype=torch.int8)
    status[0, 4], status[1, 3], status[1, 2] = Status.ABSENT, Status.UNKNOWN, Status.UNKNOWN
    voxels[0, 4], voxels[1, 3] = math.nan, math.nan
    voxels[1, 4] = size + 3
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in patch], indexing="ij"), -1)
    per_landmark = trainer.looks_at == "landmarks"
    rows = (trainer.n_landmarks,) if per_landmark else ()
    data = 0.1 * torch.randn(2, *rows, trainer.n_channels, *patch)
    for b, k in torch.argwhere(status == Status.PRESENT).tolist():
        place = (b, k) if per_landmark else (b,)
        data[place] += torch.exp(-(grid - voxels[b, k]).square().sum(-1) / 8).float()
    batch = {"data": data, "voxels": voxels, "status": status}
    if not per_landmark:
        return random_batch(trainer, 2, device="cpu") | batch
    order = range(trainer.n_landmarks)
    which = torch.tensor((order, order) if trainer.configuration.windows.per_sample is None else SAMPLED)
    return {name: value[[[0], [1]], which] for name, value in batch.items()} | {"landmarks": which}


def _options_are_strict(bench: _Bench) -> None:
    plans = bench.trainer.plans
    try:
        type(bench.trainer)(plans, plans.configuration("example"), {"no_such_option": 1})
    except AutolmkError:
        return
    raise bench.breach("it takes an unknown option", "no error for no_such_option=1", "call super().__init__")


def _plans_are_followed(bench: _Bench) -> None:
    plans = bench.trainer.plans
    more = dataclasses.replace(plans, landmarks=(*plans.landmarks, "Ear"), channel_names=("CT",))
    with bench.breach.during("building it for 6 landmarks and one channel"):
        trainer = type(bench.trainer)(more, more.configuration("example"), dataclasses.asdict(bench.trainer.options))
        codec, batch = trainer.build_codec(), random_batch(trainer, 1, device="cpu")
        found = codec.decode(_scores(trainer, trainer.build_network(), codec, batch))
    expected = trainer.configuration.windows.per_sample or 6
    if found.log_odds.shape[1] != expected:
        shape = tuple(found.log_odds.shape)
        raise bench.breach("the number of landmarks is not that of the plans", shape, f"(1, {expected}, K)")


def _weights_follow_the_seed(bench: _Bench) -> None:
    weights = []
    for _ in range(2):
        with own_random_state(7):
            weights.append(list(bench.trainer.build_network().parameters()))
    if len(weights[0]) != len(weights[1]) or not all(map(torch.equal, *weights)):
        raise bench.breach("two networks of one seed differ", "other weights", "torch's random numbers only")


def _every_parameter_learns(bench: _Bench) -> None:
    parameters = [*bench.network.named_parameters(prefix="network"), *bench.codec.named_parameters(prefix="codec")]
    bench.network.zero_grad()
    bench.codec.zero_grad()
    with bench.breach.during("the backward pass"):
        torch.autograd.backward(bench.total())
    idle = [name for name, p in parameters if p.requires_grad and p.grad is None]
    if idle:
        raise bench.breach("parameters get no gradient", ", ".join(idle[:5]), "no unused layers", "remove them")
    gradients = {name: p.grad for name, p in parameters if p.grad is not None}
    wrong = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    if wrong:
        raise bench.breach("gradients are not finite", ", ".join(wrong[:5]), "finite gradients")
    sizes = {name: float(gradient.abs().max()) for name, gradient in gradients.items()}
    dead = [name for name, size in sizes.items() if size <= LEAST_GRADIENT * max(sizes.values())]
    if dead:
        raise bench.breach(
            "parameters change nothing",
            ", ".join(dead[:5]),
            f"gradients above {LEAST_GRADIENT:g} of the largest",
            "remove them: a bias before a normalisation, a head that the loss does not see",
        )


def _losses_only_read(bench: _Bench) -> None:
    changed = overwritten(bench.network, bench.total)
    if changed:
        raise bench.breach(
            "a training step overwrites the network's output",
            ", ".join(changed[:5]),
            "a loss that only reads it, as other terms may read it too",
            "take operations that give a new tensor: no `x -= ...`, `x[...] = ...`, and no functions that end in _",
        )


def _points_matter(bench: _Bench) -> None:
    moved = bench.batch["voxels"].clone()
    moved[0, 0] += 2.0
    if torch.equal(bench.total(), bench.total(voxels=moved)):
        raise bench.breach("a present landmark's place does not change the loss", "the same loss", "another loss")


def _unknown_is_masked(bench: _Bench) -> None:
    status, voxels = bench.batch["status"], bench.batch["voxels"].clone()
    voxels[status == Status.UNKNOWN] = 3.0
    if not torch.equal(bench.total(), bench.total(voxels=voxels)):
        raise bench.breach("an unknown landmark's place changes the loss", "another loss", "unknown landmarks masked")
    bench.network.zero_grad()
    torch.autograd.backward(bench.total(status=torch.zeros_like(status)))
    if any(p.grad is not None and not torch.isfinite(p.grad).all() for p in bench.network.parameters()):
        raise bench.breach("a batch of unknown landmarks gives NaN gradients", "NaN", "zero loss, finite gradients")


def _absent_supervises(bench: _Bench) -> None:
    status = bench.batch["status"].clone()
    status[status == Status.ABSENT] = Status.UNKNOWN
    if torch.equal(bench.total(), bench.total(status=status)):
        raise bench.breach(
            "an absent landmark does not change the loss",
            "the same loss as for an unknown one",
            "absent is knowledge: it supervises",
        )


def _it_learns(bench: _Bench) -> None:
    parameters = [*bench.network.parameters(), *bench.codec.parameters()]
    with bench.breach.during("build_optimizer"):
        optimizer = bench.trainer.build_optimizer(parameters)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held != {id(p) for p in parameters if p.requires_grad}:
        raise bench.breach("the optimizer does not hold all parameters", f"{len(held)}", f"{len(parameters)}")
    first = float(bench.total().detach())
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(bench.total())
        optimizer.step()
    last = float(bench.total().detach())
    if not last < first:
        raise bench.breach(f"{STEPS} steps on one batch do not lower the loss", f"{first:.4g}, then {last:.4g}", "less")


def _candidates_are_in_order(bench: _Bench) -> None:
    scores = bench.scores()
    shape = tuple(bench.batch["status"].shape)
    if scores.dtype != torch.float32 or tuple(scores.shape[:2]) != shape:
        found = f"{scores.dtype} {tuple(scores.shape)}"
        raise bench.breach("scores have another form", found, f"float32 {shape} and more axes")
    with bench.breach.during("codec.decode"):
        found_all = bench.codec.decode(scores)
    if not isinstance(found_all, Candidates):
        raise bench.breach("decode returns the wrong thing", type(found_all).__name__, "Candidates")
    voxels, log_odds = found_all.voxels, found_all.log_odds
    d = len(bench.trainer.configuration.patch_size)
    if voxels.dtype != torch.float64 or tuple(voxels.shape) != (*log_odds.shape, d) or log_odds.shape[:2] != shape:
        found = f"{voxels.dtype} {tuple(voxels.shape)}, log-odds {tuple(log_odds.shape)}"
        raise bench.breach("candidates have another form", found, f"float64 {shape} + (K, {d}) and {shape} + (K,)")
    if not (log_odds[..., :-1] >= log_odds[..., 1:]).all():
        raise bench.breach("candidates are not sorted", log_odds[0, 0].tolist(), "log-odds best first, -inf for none")
    if not torch.equal(voxels.isnan().any(-1), log_odds.isneginf()):
        raise bench.breach("missing candidates are not marked", "NaN and -inf disagree", "NaN voxels where -inf")


def _mirroring_swaps_pairs(bench: _Bench) -> None:
    """A window and its mirror image hold the same candidates, at mirrored places, under the partner's name."""
    scores, partner = bench.scores(), bench.trainer.plans.pair_indices()
    direct = bench.codec.decode(scores)
    for axis, n in enumerate(bench.trainer.configuration.patch_size):
        with bench.breach.during("codec.mirror"):
            mirrored = bench.codec.mirror(scores, axis, partner)
            again = bench.codec.mirror(mirrored, axis, partner)
        if not torch.allclose(again, scores):
            raise bench.breach(f"mirroring axis {axis} twice changes the scores", "other scores", "the same scores")
        found = bench.codec.decode(mirrored)
        there = found.voxels[:, list(partner), 0].clone()
        there[..., axis] = n - 1 - there[..., axis]
        apart = (there - direct.voxels[:, :, 0]).abs().nan_to_num().max()
        if apart > 0.05:
            raise bench.breach(
                f"mirroring array axis {axis} moves candidates",
                f"{float(apart):.2f} voxels apart",
                "the partner's channel, and voxel n - 1 - v",
            )


def _rows_answer_for_their_landmark(bench: _Bench) -> None:
    """Windows in another order give the same scores in that order."""
    if bench.trainer.configuration.windows.per_sample is None:
        return
    backward = {name: value.flip(1) for name, value in bench.batch.items()}
    with bench.breach.during("network and codec.scores of windows in another order"):
        scores = _scores(bench.trainer, bench.network, bench.codec, backward)
    if not torch.allclose(scores.flip(1), bench.scores(), rtol=1e-3, atol=1e-3):
        raise bench.breach("scores depend on the order of the windows", "other scores", "a row for a row")


def _memory_can_be_planned(bench: _Bench) -> None:
    for device in ("cpu", "cuda"):
        trainer = copy.copy(bench.trainer)
        trainer.plans = dataclasses.replace(trainer.plans, device=device)
        with bench.breach.during("a step on torch's meta device, by which memory is planned,"):
            estimate = training_bytes(trainer, 2)
        if estimate.saved <= 0:
            raise bench.breach("the memory of a training step cannot be counted", estimate.saved, "bytes above 0")


def _augmentation_keeps_shape(bench: _Bench) -> None:
    data = bench.batch["data"][(0, 0) if bench.per_landmark else 0].numpy()
    with bench.breach.during("build_augmentation"):
        changed = bench.trainer.build_augmentation()(np.random.default_rng(0), data)
    if changed.shape != data.shape or changed.dtype != np.float32:
        raise bench.breach(
            "the augmentation changes the form", f"{changed.dtype} {changed.shape}", f"float32 {data.shape}"
        )


TRAINER_CHECKS: tuple[Callable[[_Bench], None], ...] = (
    _options_are_strict,
    _plans_are_followed,
    _weights_follow_the_seed,
    _every_parameter_learns,
    _losses_only_read,
    _points_matter,
    _unknown_is_masked,
    _absent_supervises,
    _candidates_are_in_order,
    _memory_can_be_planned,
    _augmentation_keeps_shape,
    _it_learns,
)
IMAGE_CHECKS = (_mirroring_swaps_pairs,)  # mirrored views are averaged of whole windows only
LANDMARK_CHECKS = (_rows_answer_for_their_landmark,)
