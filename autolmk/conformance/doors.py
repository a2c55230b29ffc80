"""The contract of what a trainer may change: rate, augmentation, case weights, metrics, events, its own state."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autolmk.codecs import Codec
from autolmk.codecs.balance import counts, restore_counts
from autolmk.conformance.bench import Bench
from autolmk.conformance.breach import own_random_state
from autolmk.data.training_sample import augmented
from autolmk.detections import Detections
from autolmk.fold import checkpoint
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.methods.progress import EVENTS, Event, HeldOutCase, Progress, TrainingCase
from autolmk.methods.trainer import Trainer, named_parameters

SHARES = tuple(i / 20 for i in range(21))
STEPS = 1000  # of the run whose learning rates are looked at
SHIPPED = ("mre", "median", "sdr_2", "sdr_2.5", "sdr_3", "sdr_4", "cases", "points", "seconds")


def at(share: float) -> Progress:
    """The progress after a share of a run of `STEPS` steps and ten epochs."""
    return Progress(share, round(share * STEPS), STEPS, int(10 * share))


def _the_rate_is_a_factor(bench: Bench) -> None:
    with bench.breach.during("learning_rate"):
        rates = [bench.trainer.learning_rate(at(share)) for share in SHARES]
        again = [bench.trainer.learning_rate(at(share)) for share in SHARES]
    bad = [rate for rate in rates if not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0]
    if bad or not any(rates):
        found = repr(bad[0]) if bad else "0 throughout"
        raise bench.breach("learning_rate is no factor of the rate", found, "a finite number of 0 or more")
    if rates != again:
        raise bench.breach("learning_rate changes from call to call", "another number", "a function of progress")


def _losses_stay_finite(bench: Bench) -> None:
    try:
        for share in (0.0, 0.5, 1.0):
            bench.trainer.progress = at(share)
            bench.losses()
    finally:
        bench.trainer.progress = Progress()


def _augmentation_keeps_the_form(bench: Bench) -> None:
    data = bench.batch["data"][(0, 0) if bench.per_landmark else 0].numpy()
    found = []
    for seed in (1, 2):
        np.random.seed(seed)  # which must not matter
        with bench.breach.during("build_augmentation"):
            found.append(bench.trainer.build_augmentation()(np.random.default_rng(0), data.copy()))
    changed = found[0]
    if changed.shape != data.shape or changed.dtype != np.float32:
        raise bench.breach(
            "the augmentation changes the form", f"{changed.dtype} {changed.shape}", f"float32 {data.shape}"
        )
    if not np.array_equal(found[0], found[1]):
        raise bench.breach("the augmentation is no function of its rng", "other intensities", "numbers of `rng` alone")


def _samples_agree_after_augment(bench: Bench) -> None:
    found = []
    for seed in (1, 2):
        np.random.seed(seed)
        with bench.breach.during("augment"), own_random_state(seed):
            found.append(_augmented(bench, np.random.default_rng(0)))
    for name in ("data", "voxels", "status"):
        if not np.array_equal(found[0][name], found[1][name], equal_nan=True):
            raise bench.breach("augment is no function of its rng", f"other {name}", "random numbers of `rng` alone")


def _augmented(bench: Bench, rng: np.random.Generator) -> dict[str, Any]:
    """The batch's first sample after `augment`, as the loader would have it. AutolmkError as of `augmented`."""
    configuration = bench.trainer.configuration
    grid = Geometry.from_parts(configuration.patch_size, configuration.spacing)
    sample: Any = {name: value[0].numpy().copy() for name, value in bench.batch.items()}
    grids = [grid] * (len(sample["data"]) if bench.per_landmark else 1)
    sample.pop("landmarks" if not bench.per_landmark else "labels", None)
    return {**augmented(sample, bench.trainer.augment, rng, grids, "example", 500)}


def _cases_have_weights(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    for seen in (0, 20):
        cases = {
            f"case_{i}": TrainingCase(_marks(bench, rng, i), f"subject_{i % 3}", seen, i + 0.5 if seen else None)
            for i in range(4)
        }
        with bench.breach.during("case_weights"):
            answers = [bench.trainer.case_weights(dict(cases)) for _ in range(2)]
        weights = answers[0]
        if weights is None:
            continue
        if set(weights) != set(cases):
            raise bench.breach("case_weights names other cases", ", ".join(weights), "a number for each case")
        values = list(weights.values())
        if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
            raise bench.breach("case_weights are no weights", values, "finite numbers of 0 or more, not all 0")
        if answers[1] != weights:
            raise bench.breach("case_weights change from call to call", answers[1], "a function of the cases")


def _marks(bench: Bench, rng: np.random.Generator, i: int) -> Landmarks:
    """Of example case i; of the last, nothing is known."""
    names, ndim = bench.trainer.plans.landmarks, bench.trainer.plans.ndim
    status = np.full(len(names), Status.PRESENT if i < 3 else Status.UNKNOWN, dtype=np.int8)
    if i == 1:
        status[-1] = Status.ABSENT
    return Landmarks(names, rng.uniform(0, 50, (len(names), ndim)), status)


def _held_out(bench: Bench) -> dict[str, HeldOutCase]:
    """Four cases, found with errors of a few mm; of one nothing is known, and of one a landmark was not found."""
    rng, cases = np.random.default_rng(1), {}
    for i in range(4):
        truth = _marks(bench, rng, i)
        n, p = truth.points.shape
        candidates = np.where(truth.present[:, None], truth.points, 0.0)[:, None] + rng.normal(0, 2, (n, 2, p))
        log_odds = np.tile([3.0, -1.0], (n, 1))
        if i == 2:
            candidates[0], log_odds[0] = np.nan, -np.inf
        found = Detections(
            truth.names, candidates, log_odds, np.ones(n), np.full(n, 0.9), Geometry.from_parts((64,) * p, (1.0,) * p)
        )
        errors = np.linalg.norm(candidates[:, 0] - truth.points, axis=1)
        cases[f"case_{i}"] = HeldOutCase(truth, found, np.where(truth.present, np.nan_to_num(errors, nan=99.0), np.nan))
    return cases


def _validations_have_metrics(bench: Bench) -> None:
    with bench.breach.during("metrics"):
        own = dict(bench.trainer.metrics(_held_out(bench)))
        nothing = dict(bench.trainer.metrics({"case_3": _held_out(bench)["case_3"]}))  # no point is known there
    for found in (own, nothing):
        bad = [name for name, value in found.items() if value is not None and not isinstance(value, (int, float))]
        if bad:
            raise bench.breach(f"the metric {bad[0]!r} is no number", repr(found[bad[0]]), "a number, or None")
    taken = sorted(set(own) & set(SHIPPED))
    if taken:
        raise bench.breach("metrics have names that are taken", ", ".join(taken), "names of their own")
    if bench.trainer.best_by not in (*SHIPPED, *own):
        expected = f"one of {', '.join((*SHIPPED, *own))}"
        raise bench.breach("best_by names no metric", bench.trainer.best_by, expected)
    if bench.trainer.best_is not in ("lowest", "highest"):
        raise bench.breach("best_is is neither of two words", bench.trainer.best_is, "lowest or highest")


def _stopping_is_decided(bench: Bench) -> None:
    with bench.breach.during("metrics"):
        numbers = {**dict.fromkeys(SHIPPED, 1.0), **bench.trainer.metrics(_held_out(bench))}
    told = [{**numbers, "share": share, "iteration": round(share * STEPS)} for share in SHARES[1:]]
    for n in (1, 2, len(told)):
        with bench.breach.during("stop_early"):
            found = [bench.trainer.stop_early(told[:n]) for _ in range(2)]
        if not isinstance(found[0], (bool, np.bool_)) or found[0] != found[1]:
            raise bench.breach("stop_early decides nothing", found, "the same True or False for the same validations")


def _events_change_nothing(bench: Bench) -> None:
    before = [p.detach().clone() for p in bench.network.parameters()]
    trainer = bench.trainer.anew()
    trainer.initialise(copy.deepcopy(bench.network))
    with bench.breach.during("on_event"):
        for kind in EVENTS:
            numbers = {"loss": 1.0} if kind == "epoch_completed" else dict.fromkeys(SHIPPED, 1.0)
            trainer.on_event(Event(kind, at(0.5), numbers if kind.startswith(("epoch", "validation")) else {}))
    if not all(map(torch.equal, before, bench.network.parameters())):
        raise bench.breach("on_event changes the network", "other weights", "events that are only heard")


def state_survives(bench: Bench) -> None:
    """Two steps, a checkpoint, and a third step: of the trainer itself, and of one that goes on from the checkpoint."""
    trainer, network, codec = _begun(bench)
    with bench.breach.during("three training steps"):
        for i in range(2):
            _step(bench, trainer, network, codec, i)
    tensors: dict[str, Tensor] = {}
    try:
        packed = json.loads(json.dumps(checkpoint.pack(dict(trainer.state_dict()), "trainer", tensors)))
    except TypeError as error:
        expected = "dictionaries, lists and tuples of tensors, numbers, texts and None"
        raise bench.breach("state_dict returns what a checkpoint cannot hold", error, expected) from None
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    if packed and type(trainer).load_state_dict is Trainer.load_state_dict:
        raise bench.breach("state_dict has no counterpart", "no load_state_dict", "both, or none", "write it")
    again, other, theirs = _begun(bench)
    other.load_state_dict(network.state_dict())
    theirs.load_state_dict(codec.state_dict())
    restore_counts(theirs, counts(codec))
    if packed:
        with bench.breach.during("load_state_dict"):
            again.load_state_dict(checkpoint.unpack(packed, {name: tensor.clone() for name, tensor in kept.items()}))
    with bench.breach.during("a training step after load_state_dict"):
        losses = [_step(bench, trainer, network, codec, 2), _step(bench, again, other, theirs, 2)]
        rates = [one.learning_rate(at(0.5)) for one in (trainer, again)]
    if losses[0] != losses[1] or rates[0] != rates[1]:
        raise bench.breach(
            "a run that is resumed goes on otherwise than an unbroken one",
            f"losses {losses[1]} instead of {losses[0]}, learning rate {rates[1]} instead of {rates[0]}",
            "the same numbers",
            "return from state_dict all that later steps depend on, and take it over in load_state_dict",
        )


def _begun(bench: Bench) -> tuple[Trainer, nn.Module, Codec]:
    """A trainer of the same kind at a run's beginning."""
    trainer = bench.trainer.anew()
    with own_random_state(11):
        network, codec = trainer.build_network(), trainer.build_codec()
        trainer.initialise(network)
    return trainer, network, codec


def _step(bench: Bench, trainer: Trainer, network: nn.Module, codec: Codec, i: int) -> dict[str, float]:
    """Step i of gradient descent, with the events after it; gives its losses."""
    trainer.progress = at(0.1 * (i + 1))
    with own_random_state(i):
        losses = trainer.training_step(network, codec, bench.batch)
        parameters = [parameter for _, parameter in named_parameters(network, codec)]
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(1e-4 * gradient)
        trainer.on_event(Event("iteration_completed", trainer.progress))
        trainer.on_event(Event("epoch_completed", trainer.progress, values))
    return values


DOOR_CHECKS: tuple[Callable[[Bench], None], ...] = (
    _the_rate_is_a_factor,
    _losses_stay_finite,
    _augmentation_keeps_the_form,
    _samples_agree_after_augment,
    _cases_have_weights,
    _validations_have_metrics,
    _stopping_is_decided,
    _events_change_nothing,
)
