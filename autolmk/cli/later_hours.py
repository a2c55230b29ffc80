"""The time that the steps beside training take: estimated from one case and a few made-up ones, and later from what
trained folds took.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from autolmk.errors import AutolmkError

if TYPE_CHECKING:
    from pathlib import Path

    from autolmk.dataset import Case, Dataset
    from autolmk.image import Image
    from autolmk.jobs.choosing_time import ChoosingPace
    from autolmk.jobs.run_record import Record, Wanted
    from autolmk.jobs.workflow import Request
    from autolmk.plans import Configuration, Plans

LONG_LOOK = 10.0  # s: not worth a second one
START = 6.0  # s that a step takes to start, to import and to load
LATER_LOOKS = 2.0  # times a first look that a later stage takes, until it was measured
A_CASE = 0.05  # s of evaluation and of the report, for each test case and held-out case
MOST_MEMBERS = 3  # configurations of an ensemble
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """The times that were measured before training. prepare: s of preparing the dataset. cases: configuration -> (s to
    read and prepare a case, s of one network's first look at it). choosing: None where it could not be measured.
    """

    prepare: float | None = None
    cases: dict[str, tuple[float, float]] = field(default_factory=dict)
    n_cases: int = 0
    n_tests: int = 0
    choosing: ChoosingPace | None = None


def measured_pace(request: Request, plans: Plans, asked: Wanted) -> Pace:
    """Measure how long steps take: prepare and predict one training case, and choose among made-up ones. What cannot be
    measured now is left out."""
    from autolmk.dataset import Dataset
    from autolmk.jobs.choosing_time import choosing_pace
    from autolmk.parallel import map_cases, processors

    names = asked.configurations
    try:
        dataset = Dataset.open(request.raw)
        cases, tests = dataset.cases("Tr"), dataset.cases("Ts") if (request.raw / "imagesTs").is_dir() else []
        case = cases[len(cases) // 2]
        stages = {plans.configuration(name).data_identifier: name for name in plans.with_stages(names)}
        each = [seconds_of_case(dataset, case, plans, name, looked_at=False)[0] for name in stages.values()]
    except (AutolmkError, IndexError) as error:
        logger.info("how long preparation takes is not known: %s", error)
        return Pace()
    prepare = START + sum(each) * len(cases) / min(len(cases), processors())
    looks = dict(map_cases(partial(seconds_of_case, dataset, case, plans), {n: n for n in names}, workers=1))
    known = {name: value for name, value in looks.items() if not isinstance(value, AutolmkError)}
    return Pace(prepare, known, len(cases), len(tests), choosing_pace(plans) if len(cases) > 1 else None)


def seconds_of_case(
    dataset: Dataset, case: Case, plans: Plans, name: str, *, looked_at: bool = True
) -> tuple[float, float]:
    """The seconds that it takes to read and preprocess a case for all stages, and to predict it with one network of the
    first stage.
    """
    from autolmk.data.preprocessing import preprocess_image

    read = look = 0.0
    for stage in plans.chain(name) if looked_at else (name,):
        configuration = plans.configuration(stage)
        start = time.monotonic()
        image, fill = preprocess_image(dataset.read_image(case), configuration)
        read += time.monotonic() - start
        if looked_at and configuration.previous_stage is None:
            look += _seconds_of_look(image, fill, plans, configuration)
    return read, look


def _seconds_of_look(image: Image, fill: Sequence[float], plans: Plans, configuration: Configuration) -> float:
    """Seconds to predict a whole image with an untrained network, on the device of the plans where it is there."""
    import torch

    from autolmk.methods.trainer import build, trainer_class
    from autolmk.networks.precision import Precision
    from autolmk.prediction.first_look import look_first
    from autolmk.prediction.stage import Member, Prepared, Stage, evaluating

    device = torch.device(plans.device if plans.device != "cuda" or torch.cuda.is_available() else "cpu")
    trainer = trainer_class(configuration.trainer)(plans, configuration)
    network, codec = build(trainer)
    part = Precision(device).place(trainer.prediction_network(network))
    member = Member(part, codec.eval().to(device))
    stage = Stage(plans, configuration, (member,), (), device)
    times: list[float] = []
    while not times or (len(times) < 2 and times[0] < LONG_LOOK):  # the first one sets up much
        start = time.monotonic()
        with evaluating([member]), torch.inference_mode():
            look_first(stage, Prepared(image, tuple(fill)))
        times.append(time.monotonic() - start)
    return min(times)


def seconds_of_steps(
    request: Request, plans: Plans, record: Record, pace: Pace, members: Sequence[str] | None = None
) -> dict[str, float]:
    """The seconds, about, that each step after training takes that applies, as far as is known. members: of the chosen
    predictor; else the configurations that take longest.
    """
    from autolmk.jobs.workflow import after_training

    asked = record.kept()
    applying = {step.name for step in after_training(request, plans, asked) if step.job is not None}
    found: dict[str, float] = {}
    if pace.choosing is not None and pace.n_cases:
        cases = pace.n_cases * min(1.0, len(asked.folds) / max(len(asked.folds), _folds_of_split(request)))
        found["find_best"] = START + pace.choosing.seconds(round(cases), len(asked.folds), len(asked.configurations))
    looks = _looks(request, plans, record, pace)
    each = {n: pace.cases[n][0] + len(asked.folds) * looks[n] for n in asked.configurations if n in looks}
    if each:
        dearest = sorted(each.values(), reverse=True)[: 1 if asked.folds == ("all",) else MOST_MEMBERS]
        chosen = dearest if members is None else [each[n] for n in members if n in each]
        found["predict"] = START + pace.n_tests * sum(chosen)
    found |= {"evaluate": START + A_CASE * pace.n_tests, "report": START + A_CASE * (pace.n_tests + pace.n_cases)}
    return {step: seconds for step, seconds in found.items() if step in applying}


def _folds_of_split(request: Request) -> int:
    from autolmk.data import splits
    from autolmk.files.serialization import read_json

    file = request.preprocessed / splits.FILE_NAME
    return len(read_json(file, remedy=splits.REMEDY)) if file.is_file() else splits.N_FOLDS


def _looks(request: Request, plans: Plans, record: Record, pace: Pace) -> dict[str, float]:
    """Configuration -> s that one fold's network, all its stages, looks at a case: as trained folds looked at what they
    held out. Prediction has all processors: so it is as much faster as first looks are."""
    from autolmk.jobs.workflow import fold_folder

    names = [name for name in record.wanted.configurations if name in pace.cases]  # those given up tell too
    validated = {
        name: _validated([fold_folder(request, plans, name, fold) for fold in record.wanted.folds]) for name in names
    }
    single = [(validated[name], pace.cases[name][1]) for name in names if len(plans.chain(name)) == 1]
    ratios = [last / first for last, first in single if last is not None and first > 0]
    faster = max(1.0, statistics.median(ratios)) if ratios else 1.0
    result = {}
    for name in names:
        first, last = pace.cases[name][1], validated[name]
        stages = len(plans.chain(name)) - 1
        later = stages * LATER_LOOKS * first if last is None else last / faster
        result[name] = first + later if stages else first if last is None else max(first, last / faster)
    return result


def _validated(folders: Sequence[Path]) -> float | None:
    """s a case that the last stage took in the final validations; None before any."""
    from autolmk.fold.log import read_log

    found = []
    for folder in folders:
        entries = read_log(folder)
        last = [e for e in entries if e.get("kind") == "validation" and e.get("cases")]
        if last and entries[-1].get("kind") == "end":
            found.append(float(last[-1]["seconds"]) / last[-1]["cases"])
    return statistics.mean(found) if found else None


def complete(found: Mapping[str, float], applying: Sequence[str], max_seconds: float) -> dict[str, float]:
    """`found`, with a share of the run's time for steps of `applying` that nothing is known of."""
    from autolmk.jobs.time_shares import unmeasured

    return {**{step: s for step, s in unmeasured(max_seconds).items() if step in applying}, **found}
