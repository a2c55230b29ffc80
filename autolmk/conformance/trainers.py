"""The contract of a Trainer as checks, each a function that raises a breach; all breaches are told at once."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from autolmk.codecs import Candidates
from autolmk.conformance.bench import SAMPLED, Bench, scores_of
from autolmk.conformance.breach import Breach, Breaches, own_random_state
from autolmk.conformance.doors import DOOR_CHECKS, state_survives
from autolmk.conformance.examples import example_plans
from autolmk.conformance.outputs import overwritten
from autolmk.errors import AutolmkError
from autolmk.landmarks import Status
from autolmk.methods.trainer import Trainer, named_parameters
from autolmk.planning.memory import random_batch, training_bytes
from autolmk.plans import Plans, Windows

STEPS = 25  # in which the loss must fall
LEAST_GRADIENT = 1e-6  # of a parameter, as a share of the network's largest


def check_trainer(
    trainer: type[Trainer], *, ndims: Sequence[int] = (2, 3), options: Mapping[str, Any] | None = None
) -> None:
    """Run every check on a trainer class. options: of its Options, where the defaults will not do.

    Raises an AutolmkError that lists all breaches of the contract.
    """
    breach = Breach(getattr(trainer, "__name__", str(trainer)), "trainer")
    if not isinstance(trainer, type) or not issubclass(trainer, Trainer):
        raise breach("it is no trainer", type(trainer).__name__, "a class derived from autolmk.methods.trainer.Trainer")
    if inspect.isabstract(trainer):
        missing = ", ".join(sorted(trainer.__abstractmethods__))
        raise breach("required methods are missing", missing, "build_network, build_codec and loss", "write them")
    found = Breaches(breach)
    parameters = getattr(trainer.Options, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        with found.collected():
            raise breach("Options is no frozen dataclass", repr(trainer.Options), "@dataclass(frozen=True) above it")
    for ndim in ndims:
        for windows, where in _windows_of(trainer):
            with own_random_state(ndim), breach.names(f"in {ndim}D{where}"):
                plans = example_plans(ndim, options=options, windows=windows)
                if windows.per_sample is None or not _refuses(trainer, plans):
                    _check(trainer, plans, breach, found)
    found.tell()


def _check(trainer: type[Trainer], plans: Plans, breach: Breach, found: Breaches) -> None:
    """Every check on the trainer of these plans; none where it cannot even be set up."""
    bench = None
    with found.collected():
        bench = Bench.set_up(trainer, plans, breach)
    if bench is None:
        return
    of_kind = LANDMARK_CHECKS if bench.per_landmark else IMAGE_CHECKS
    for check in (state_survives, *TRAINER_CHECKS, *of_kind, *DOOR_CHECKS, _it_learns):  # causes before effects
        with found.collected():
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


def _options_are_strict(bench: Bench) -> None:
    plans = bench.trainer.plans
    try:
        type(bench.trainer)(plans, plans.configuration("example"), {"no_such_option": 1})
    except AutolmkError:
        return
    raise bench.breach("it takes an unknown option", "no error for no_such_option=1", "call super().__init__")


def _plans_are_followed(bench: Bench) -> None:
    plans = bench.trainer.plans
    more = dataclasses.replace(plans, landmarks=(*plans.landmarks, "Ear"), channel_names=("CT",))
    with bench.breach.during("building it for 6 landmarks and one channel"):
        trainer = type(bench.trainer)(more, more.configuration("example"), dataclasses.asdict(bench.trainer.options))
        codec, batch = trainer.build_codec(), random_batch(trainer, 1, device="cpu")
        found = codec.decode(scores_of(trainer, trainer.build_network(), codec, batch))
    expected = trainer.configuration.windows.per_sample or 6
    if found.log_odds.shape[1] != expected:
        shape = tuple(found.log_odds.shape)
        raise bench.breach("the number of landmarks is not that of the plans", shape, f"(1, {expected}, K)")


def _weights_follow_the_seed(bench: Bench) -> None:
    weights = []
    for _ in range(2):
        trainer = bench.trainer.anew()
        with own_random_state(7):
            network = trainer.build_network()
            built = {name: tuple(p.shape) for name, p in network.named_parameters()}
            with bench.breach.during("initialise"):
                trainer.initialise(network)
            weights.append(list(network.parameters()))
        if {name: tuple(p.shape) for name, p in network.named_parameters()} != built:
            raise bench.breach("initialise changes the network's parameters", "others", "their values alone changed")
    if len(weights[0]) != len(weights[1]) or not all(map(torch.equal, *weights)):
        raise bench.breach("two networks of one seed differ", "other weights", "torch's random numbers only")


def _every_parameter_learns(bench: Bench) -> None:
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


def _losses_only_read(bench: Bench) -> None:
    changed = overwritten(bench.network, bench.total)
    if changed:
        raise bench.breach(
            "a training step overwrites the network's output",
            ", ".join(changed[:5]),
            "a loss that only reads it, as other terms may read it too",
            "take operations that give a new tensor: no `x -= ...`, `x[...] = ...`, and no functions that end in _",
        )


def _points_matter(bench: Bench) -> None:
    moved = bench.batch["voxels"].clone()
    moved[0, 0] += 2.0
    if torch.equal(bench.total(), bench.total(voxels=moved)):
        raise bench.breach("a present landmark's place does not change the loss", "the same loss", "another loss")


def _unknown_is_masked(bench: Bench) -> None:
    status, voxels = bench.batch["status"], bench.batch["voxels"].clone()
    voxels[status == Status.UNKNOWN] = 3.0
    if not torch.equal(bench.total(), bench.total(voxels=voxels)):
        raise bench.breach("an unknown landmark's place changes the loss", "another loss", "unknown landmarks masked")
    bench.network.zero_grad()
    torch.autograd.backward(bench.total(status=torch.zeros_like(status)))
    if any(p.grad is not None and not torch.isfinite(p.grad).all() for p in bench.network.parameters()):
        raise bench.breach("a batch of unknown landmarks gives NaN gradients", "NaN", "zero loss, finite gradients")


def _absent_supervises(bench: Bench) -> None:
    status = bench.batch["status"].clone()
    status[status == Status.ABSENT] = Status.UNKNOWN
    if torch.equal(bench.total(), bench.total(status=status)):
        raise bench.breach(
            "an absent landmark does not change the loss",
            "the same loss as for an unknown one",
            "absent is knowledge: it supervises",
        )


def _optimizer(bench: Bench) -> torch.optim.Optimizer:
    with bench.breach.during("build_optimizer, which gets (name, parameter) pairs,"):
        return bench.trainer.build_optimizer(named_parameters(bench.network, bench.codec))


def _the_optimizer_holds_all(bench: Bench) -> None:
    optimizer, parameters = _optimizer(bench), [*bench.network.parameters(), *bench.codec.parameters()]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held != {id(p) for p in parameters if p.requires_grad}:
        raise bench.breach("the optimizer does not hold all parameters", f"{len(held)}", f"{len(parameters)}")


def _it_learns(bench: Bench) -> None:
    optimizer, first = _optimizer(bench), float(bench.total().detach())
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(bench.total())
        optimizer.step()
    last = float(bench.total().detach())
    if not last < first:
        raise bench.breach(f"{STEPS} steps on one batch do not lower the loss", f"{first:.4g}, then {last:.4g}", "less")


def _candidates_are_in_order(bench: Bench) -> None:
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


def _mirroring_swaps_pairs(bench: Bench) -> None:
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


def _rows_answer_for_their_landmark(bench: Bench) -> None:
    """Windows in another order give the same scores in that order."""
    if bench.trainer.configuration.windows.per_sample is None:
        return
    backward = {name: value.flip(1) for name, value in bench.batch.items()}
    with bench.breach.during("network and codec.scores of windows in another order"):
        scores = scores_of(bench.trainer, bench.network, bench.codec, backward)
    if not torch.allclose(scores.flip(1), bench.scores(), rtol=1e-3, atol=1e-3):
        raise bench.breach("scores depend on the order of the windows", "other scores", "a row for a row")


def _memory_can_be_planned(bench: Bench) -> None:
    for device in ("cpu", "cuda"):
        trainer = bench.trainer.anew()
        trainer.plans = dataclasses.replace(trainer.plans, device=device)
        with bench.breach.during("a step on torch's meta device, by which memory is planned,"):
            estimate = training_bytes(trainer, 2)
        if estimate.saved <= 0:
            raise bench.breach("the memory of a training step cannot be counted", estimate.saved, "bytes above 0")


TRAINER_CHECKS: tuple[Callable[[Bench], None], ...] = (
    _options_are_strict,
    _plans_are_followed,
    _weights_follow_the_seed,
    _every_parameter_learns,
    _losses_only_read,
    _points_matter,
    _unknown_is_masked,
    _absent_supervises,
    _candidates_are_in_order,
    _the_optimizer_holds_all,
    _memory_can_be_planned,
)
IMAGE_CHECKS = (_mirroring_swaps_pairs,)  # mirrored views are averaged of whole windows only
LANDMARK_CHECKS = (_rows_answer_for_their_landmark,)
