"""The contract of a Planner as checks, each a function that raises at the first breach."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autolmk.conformance.breach import Breach, own_random_state
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, to_json
from autolmk.fingerprint import Fingerprint, fingerprint_of
from autolmk.fingerprint.summary import CaseSummary, ChannelSummary
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status
from autolmk.methods.trainer import trainer_class
from autolmk.planning.memory import GIB, training_bytes
from autolmk.planning.planner import PRESETS, Planner, PlanRequest, draft_plans
from autolmk.plans import Configuration, Plans

PRESET, DEVICE = "XS", "cpu"
FACE = {
    "Eye_L": (12.0, -10.0, 8.0),
    "Eye_R": (-12.0, -10.0, 8.0),
    "Ear_L": (24.0, 6.0, 2.0),
    "Ear_R": (-24.0, 6.0, 2.0),
    "Nose": (0.0, -18.0, 0.0),
    "Chin": (0.0, -14.0, -18.0),
}


def example_fingerprint(ndim: int = 3) -> Fingerprint:
    """The fingerprint of eight faces, each turned and scaled a little; one chin is absent, one nose unknown; no image
    is involved.
    """
    rng = np.random.default_rng(ndim)
    shape, spacing = ((32, 80, 72), (2.0, 1.0, 1.0)) if ndim == 3 else ((80, 72), (1.0, 1.0))
    model = np.array(list(FACE.values()))[:, :ndim] if ndim == 3 else np.array(list(FACE.values()))[:, [0, 2]]
    summaries = {}
    for i in range(8):
        geometry = Geometry.from_parts(shape, spacing)
        angle = np.radians(rng.uniform(-15, 15))
        turn = np.eye(ndim)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        points = model @ turn.T * rng.uniform(0.9, 1.1) + geometry.centre + rng.normal(0, 0.5, (len(model), ndim))
        status = np.full(len(model), Status.PRESENT)
        status[5] = Status.ABSENT if i == 0 else Status.PRESENT
        status[4] = Status.UNKNOWN if i == 1 else Status.PRESENT
        samples = rng.normal(100, 20, 500).astype(np.float32)
        low, high = float(samples.min()), float(samples.max())
        channel = ChannelSummary(
            samples, low, high, (low, 100.0, high), True, ((100.0, 20.0),) * 2, np.full(len(model), 120.0)
        )
        landmarks = Landmarks(tuple(FACE), points, status)
        summaries[f"face_{i}"] = CaseSummary(f"face_{i}", geometry, landmarks, (channel, channel))
    return fingerprint_of(summaries, dataset_name="Dataset000_Faces", unit="mm", channel_names=("T1", "T2"))


def check_planner(planner: type[Planner], *, ndims: Sequence[int] = (2, 3)) -> None:
    """Run every check on a planner class, which is constructed without arguments.

    Raises AutolmkError at the first breach of the contract.
    """
    breach = Breach(getattr(planner, "__name__", str(planner)), "planner")
    if not isinstance(planner, type) or not issubclass(planner, Planner):
        raise breach("it is no planner", type(planner).__name__, "a class that derives from Planner")
    if inspect.isabstract(planner):
        raise breach("required methods are missing", ", ".join(sorted(planner.__abstractmethods__)), "plan", "write it")
    for ndim in ndims:
        with own_random_state(ndim), breach.names(f"in {ndim}D"):
            bench = _PlannerBench(breach, planner, example_fingerprint(ndim))
            for name, configuration in bench.planned.items():
                with breach.names(f"in {ndim}D, configuration {name!r}"):
                    for check in CONFIGURATION_CHECKS:
                        check(bench, configuration)
            with breach.names(f"in {ndim}D"):
                for whole in PLANNER_CHECKS:
                    whole(bench)


@dataclass
class _PlannerBench:
    breach: Breach
    planner: type[Planner]
    fingerprint: Fingerprint

    @cached_property
    def planned(self) -> dict[str, Configuration]:
        """As the preset says; made once, because planning counts memory."""
        return self.plan()

    def plan(
        self, *, spacing: tuple[float, ...] | None = None, memory_target_gb: float = PRESETS[PRESET].memory_gb
    ) -> dict[str, Configuration]:
        """What a new planner makes of the fingerprint; checked to be configurations."""
        with self.breach.during("planning"):
            found = self.planner().plan(PlanRequest(self.fingerprint, PRESET, DEVICE, memory_target_gb, spacing))
        if not isinstance(found, dict) or not found or not all(isinstance(c, Configuration) for c in found.values()):
            raise self.breach(
                "plan returns the wrong thing", type(found).__name__, "a dict of Configuration, not empty"
            )
        return found

    def plans(self, configurations: dict[str, Configuration]) -> Plans:
        """Whole plans around the configurations."""
        return draft_plans(self.fingerprint, configurations, device=DEVICE)


# -- each configuration ------------------------------------------------------------------------------------------------


def _lists_fit_the_data(bench: _PlannerBench, configuration: Configuration) -> None:
    c, ndim = configuration, bench.fingerprint.ndim
    lengths = {"spacing": c.spacing, "patch_size": c.patch_size, "sigma": c.sigma}
    lengths["architecture.output_stride"] = c.architecture.output_stride
    for name, value in lengths.items():
        if len(value) != ndim or not all(v > 0 for v in value):
            raise bench.breach(f"{name} is wrong", value, f"{ndim} positive numbers")
    if len(c.normalization) != len(bench.fingerprint.channel_names):
        raise bench.breach("normalization is wrong", len(c.normalization), "one a channel")
    if c.batch_size < 1:
        raise bench.breach("batch_size is wrong", c.batch_size, "at least 1")


def _windows_fit_the_network(bench: _PlannerBench, configuration: Configuration) -> None:
    step = np.prod(configuration.architecture.strides, axis=0)
    least = configuration.windows.least_side or configuration.patch_size
    for name, side in (("patch", configuration.patch_size), ("windows.least_side", least)):
        if len(side) != len(step) or any(n % s for n, s in zip(side, step, strict=True)):
            found = f"{name} {side}, strides {tuple(step.tolist())}"
            expected = "a whole multiple on each axis"
            raise bench.breach(f"the {name} is no multiple of the network's strides", found, expected)
    if any(a > b for a, b in zip(least, configuration.patch_size, strict=True)):
        found = f"{least}, patch {configuration.patch_size}"
        raise bench.breach("the shortest side of windows is above the longest", found, "least_side <= patch_size")


def _reasons_are_given(bench: _PlannerBench, configuration: Configuration) -> None:
    fields = {f.name for f in dataclasses.fields(Configuration)}
    strangers = sorted(key for key in configuration.why if key.partition(".")[0] not in fields)
    if strangers:
        raise bench.breach("`why` explains what is no field", ", ".join(strangers), "names of fields")
    missing = [k for k in ("spacing", "patch_size", "batch_size", "sigma") if not configuration.why.get(k)]
    if missing:
        raise bench.breach("numbers come without a reason", ", ".join(missing), "a short reason for each in `why`")


def _json_keeps_it(bench: _PlannerBench, configuration: Configuration) -> None:
    with bench.breach.during("writing it as JSON and reading it back"):
        again = from_json(Configuration, json.loads(json.dumps(to_json(configuration), allow_nan=False)))
    if again != configuration:
        differing = [
            f.name for f in dataclasses.fields(again) if getattr(again, f.name) != getattr(configuration, f.name)
        ]
        raise bench.breach("JSON does not keep it", ", ".join(differing), "plain numbers, texts and tuples")


def _trainer_fits_the_memory(bench: _PlannerBench, configuration: Configuration) -> None:
    try:
        cls = trainer_class(configuration.trainer)
    except AutolmkError as error:
        raise bench.breach("its trainer is not known", configuration.trainer, "a name that -tr takes") from error
    with bench.breach.during("building its trainer's network, codec and loss"):
        trainer = cls(bench.plans({"checked": configuration}), configuration)
        needed = training_bytes(trainer, configuration.batch_size).total / GIB
    if needed > PRESETS[PRESET].memory_gb * 1.001:
        raise bench.breach("it needs more memory than its target", f"{needed:.3f}", f"{PRESETS[PRESET].memory_gb} GiB")


# -- the planner as a whole --------------------------------------------------------------------------------------------


def _planning_is_pure(bench: _PlannerBench) -> None:
    before = to_json(bench.fingerprint)
    state = str(np.random.get_state(legacy=False))
    if bench.plan() != bench.planned:
        raise bench.breach("two plans of one fingerprint differ", "another plan", "a pure function")
    if to_json(bench.fingerprint) != before:
        raise bench.breach("planning changes the fingerprint", "another fingerprint", "a pure function")
    if str(np.random.get_state(legacy=False)) != state:
        raise bench.breach("planning draws random numbers", "another random state", "a pure function")


def _plans_can_be_read_back(bench: _PlannerBench) -> None:
    plans = bench.plans(bench.planned)
    with bench.breach.during("reading the plans back"):
        again = Plans.parse(json.loads(json.dumps(to_json(plans), allow_nan=False)))
    if again.digest() != plans.digest():
        raise bench.breach("plans change when they are written and read", again.digest(), plans.digest())


def _spacing_can_be_demanded(bench: _PlannerBench) -> None:
    demanded = tuple(1.5 * s for s in bench.fingerprint.median_spacing)
    found = [c.spacing for c in bench.plan(spacing=demanded).values()]
    if not any(np.allclose(s, demanded) for s in found):
        raise bench.breach("-overwrite_target_spacing is not followed", found, f"{demanded} in some configuration")


def _more_memory_is_no_loss(bench: _PlannerBench) -> None:
    def voxels(configurations: dict[str, Configuration]) -> float:
        return float(sum(np.prod(c.patch_size) * c.batch_size for c in configurations.values()))

    little, much = bench.planned, bench.plan(memory_target_gb=4 * PRESETS[PRESET].memory_gb)
    if voxels(much) < voxels(little):
        found = f"{voxels(little):.0f}, then {voxels(much):.0f} voxels a step"
        raise bench.breach("with four times the memory it plans less", found, "no fewer")


CONFIGURATION_CHECKS: tuple[Callable[[_PlannerBench, Configuration], None], ...] = (
    _lists_fit_the_data,
    _windows_fit_the_network,
    _reasons_are_given,
    _json_keeps_it,
    _trainer_fits_the_memory,
)
PLANNER_CHECKS: tuple[Callable[[_PlannerBench], None], ...] = (
    _planning_is_pure,
    _plans_can_be_read_back,
    _spacing_can_be_demanded,
    _more_memory_is_no_loss,
)
