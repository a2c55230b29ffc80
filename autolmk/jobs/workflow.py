"""The steps of autolmk_run, from a raw dataset to a report, as jobs: each is a command that a user could type."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autolmk.data import splits
from autolmk.data.store import Store
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json
from autolmk.jobs.job import Job
from autolmk.jobs.run_record import FILE_NAME, Record, Wanted, stamp
from autolmk.methods.registry import is_foreign, label, require_asked
from autolmk.methods.sources import has_checkpoints
from autolmk.paths import Folders, model_folder
from autolmk.planning.method_order import methods, repeated
from autolmk.plans import Plans

ALL: Final = "all"  # the fold that holds nothing out
LEFT_OUT = 3  # exit code where single cases failed
BEST, RUN, PREDICTIONS, REPORT = "best", "run", Path("predictions/imagesTs"), "report.html"
RECIPE, INFORMATION = "recipe.json", "inference_information.json"  # of the chosen model
FINISHED = "checkpoint_final.safetensors"  # of a fold, as `checkpoint.checkpoint_file` names it; that imports torch
FINGERPRINT = "dataset_fingerprint.json"
RAW = ("dataset.json", "imagesTr", "landmarksTr", "labelsTr")


@dataclass(frozen=True)
class Request:
    """The user's request, None where it is left to autolmk. dataset: its full name. max_seconds: wall time of the whole
    run. trust_code: trainers outside autolmk that the plans name may run. keep_all: none is given up.
    """

    dataset: str
    folders: Folders
    plans_name: str
    output: Path | None = None
    device: str = "auto"
    configurations: tuple[str, ...] | None = None
    folds: tuple[str, ...] | None = None
    planner: tuple[str, ...] | None = None
    preset: str | None = None
    max_seconds: float | None = None
    epochs: int | None = None
    seed: int | None = None
    trust_code: bool = False
    keep_all: bool = False

    @property
    def raw(self) -> Path:
        """The folder of the raw dataset."""
        return self.folders.raw / self.dataset

    @property
    def preprocessed(self) -> Path:
        """The folder of plans, splits and preprocessed cases."""
        return self.folders.preprocessed / self.dataset

    @property
    def results(self) -> Path:
        """The folder of models, predictions and the report."""
        return self.folders.results / self.dataset

    @property
    def plans_file(self) -> Path:
        """The file of the plans, which is there once the dataset is planned."""
        return self.preprocessed / f"{self.plans_name}.json"

    @property
    def record_file(self) -> Path:
        """The file of the run's record, see `run_record`."""
        return self.results / RUN / FILE_NAME

    @property
    def predictions(self) -> Path:
        """The folder of the test cases' predictions."""
        return self.output or self.results / PREDICTIONS

    def log(self, name: str) -> Path:
        """The log file of a job."""
        return self.results / RUN / "logs" / f"{name}.log"

    def places(self) -> tuple[str, ...]:
        """The three folders, as arguments."""
        named = (("--raw", self.folders.raw), ("--preprocessed", self.folders.preprocessed))
        return tuple(str(part) for name, f in (*named, ("--results", self.folders.results)) for part in (name, f.path))

    def job(self, name: str, *command: str, **settings: object) -> Job:
        """A job whose command gets the three folders too."""
        job = Job(name, (*command, *self.places()), self.log(name.replace(" ", "_")))
        return dataclasses.replace(job, **settings)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Step:
    """A step after training, or before it. job: None where there is nothing to do, and `absent` says why. inputs: files
    and folders that it works from."""

    name: str
    job: Job | None
    inputs: tuple[Path, ...] = ()
    absent: str = ""

    def stamp(self) -> str:
        """Digest of what the step is made from."""
        return stamp(self.inputs, () if self.job is None or self.name == "prepare" else self.job.command)

    def done(self, record: Record | None) -> bool:
        """Whether its outputs are there, made from what is there now."""
        if self.job is None:
            return True
        return record is not None and record.done.get(self.name) == self.stamp() and self.job.done


# -- before training --------------------------------------------------------------------------------------------------


def prepare(request: Request, plans: Plans | None) -> Step:
    """Check, fingerprint, plan, preprocess; with plans at hand, which are kept, only what is missing or changed is
    preprocessed."""
    chosen = () if request.configurations is None else ("-c", *request.configurations)
    if plans is None:
        options = [*(("-pl", *request.planner) if request.planner else ()), *chosen]
        options += ["--preset", request.preset] if request.preset else []
        command = ("plan_and_preprocess", "-d", request.dataset, "-overwrite_plans_name", request.plans_name, *options)
        job = request.job("prepare", *command, takes=("device",), outputs=(request.plans_file,))
    else:
        names = plans.with_stages(chosen_configurations(plans, request.configurations))
        stores = [request.preprocessed / plans.configuration(name).data_identifier for name in names]
        command = ("preprocess", "-d", request.dataset, "-plans_name", request.plans_name, *chosen)
        job = request.job("prepare", *command, outputs=(request.plans_file, *dict.fromkeys(stores)))
    files = tuple(request.raw / name for name in RAW)
    return Step("prepare", dataclasses.replace(job, accepted=(0, LEFT_OUT)), (*files, *job.outputs))


def load_plans(request: Request) -> Plans | None:
    """None before planning. AutolmkError where they are not those that -pl and --preset ask for."""
    if not request.plans_file.is_file():
        return None
    plans = Plans.load(request.plans_file)
    differing = []
    if request.preset is not None and request.preset != plans.preset:
        differing.append(f"preset {plans.preset}, asked for is {request.preset}")
    lacking = [label(p) for p in request.planner or () if label(p) not in map(label, plans.planner.split(","))]
    if lacking:
        differing.append(f"planners {plans.planner}, asked for is {', '.join(lacking)}")
    if differing:
        raise AutolmkError(
            "the dataset is planned already, otherwise than is asked for",
            file=request.plans_file,
            found="; ".join(differing),
            remedy="leave -pl and --preset out to use these plans, or give the new ones a name of their own with -p",
        )
    return plans


def with_trust(request: Request, plans: Plans) -> Request:
    """The request, whose jobs may run the trainers outside autolmk that the plans name. AutolmkError where the user
    neither allows it nor named a class of the same file or module with -pl."""
    names = plans.with_stages(chosen_configurations(plans, request.configurations))
    trainers = [plans.configuration(name).trainer for name in names]
    require_asked(trainers, request.plans_file, trust_code=request.trust_code, named=request.planner or ())
    return dataclasses.replace(request, trust_code=any(map(is_foreign, trainers)))


def chosen_configurations(plans: Plans, given: Sequence[str] | None) -> tuple[str, ...]:
    """The configurations to train: by default every method, in the order of the plans: the configurations that no other
    one builds on, without those that repeat another one (older plans: with them).
    """
    if given is not None:
        for name in given:
            plans.configuration(name)
        return tuple(dict.fromkeys(given))
    again = repeated(plans.configurations) if "order.1" in plans.why else {}
    return tuple(name for name in methods(plans.configurations) if name not in again)


def wanted(request: Request, plans: Plans, *, keep: bool = True) -> Wanted:
    """The request, with the configurations and folds that it means. AutolmkError where there are no such, or where they
    cannot be compared. keep: write splits_final.json where it is missing."""
    configurations = chosen_configurations(plans, request.configurations)
    store = Store(request.preprocessed / plans.configuration(configurations[0]).data_identifier)
    folds = (ALL,) if request.folds == (ALL,) else _chosen_folds(request, store, keep=keep)
    return _comparable(request, configurations, folds)


def known_before(request: Request, plans: Plans | None) -> Wanted | None:
    """`wanted` as far as it is known before the dataset is prepared, without writing anything."""
    if plans is not None:
        configurations = chosen_configurations(plans, request.configurations)
        if Store(request.preprocessed / plans.configuration(configurations[0]).data_identifier).cases():
            return wanted(request, plans, keep=False)
    elif request.configurations is not None:
        configurations = request.configurations
    else:
        return None
    folds = request.folds or _folds_to_come(request)
    return None if folds is None else _comparable(request, configurations, folds)


def _folds_to_come(request: Request) -> tuple[str, ...] | None:
    """Of a dataset whose cases are not preprocessed yet: as many as the split has, or will have by the fingerprint."""
    split, fingerprint = request.preprocessed / splits.FILE_NAME, request.preprocessed / FINGERPRINT
    if split.is_file():
        found = read_json(split, remedy=splits.REMEDY)
        return tuple(map(str, range(len(found)))) if isinstance(found, list) else None
    if not fingerprint.is_file():
        return None
    from autolmk.fingerprint import Fingerprint

    return tuple(map(str, range(min(splits.N_FOLDS, Fingerprint.load(fingerprint).n_subjects))))


def as_earlier(request: Request, earlier: Record | None) -> Request:
    """Fill in what is not asked for now as an earlier call of the run had it; to show, not to train."""
    if earlier is None:
        return request
    before = earlier.wanted
    given = ("configurations", "folds", "epochs", "seed", "planner", "preset", "max_seconds")
    length = request.epochs is not None or request.max_seconds is not None
    changes = {
        key: getattr(before, key)
        for key in given
        if getattr(request, key) is None and not (length and key in ("epochs", "max_seconds"))
    }
    return dataclasses.replace(request, **changes)


def _comparable(request: Request, configurations: tuple[str, ...], folds: tuple[str, ...]) -> Wanted:
    if ALL in folds and (len(folds) > 1 or len(configurations) > 1):
        raise AutolmkError(
            "fold `all` holds no case out, so nothing can be compared with what it trains",
            found=f"configurations {', '.join(configurations)}, folds {', '.join(folds)}",
            expected="numbered folds, or one configuration with fold `all` alone",
            remedy="choose with -c and -f",
        )
    return Wanted(
        configurations, folds, request.max_seconds, request.epochs, request.seed, request.planner, request.preset
    )


def _chosen_folds(request: Request, store: Store, *, keep: bool) -> tuple[str, ...]:
    """Of the splits, which are made where they are missing and checked where they are not."""
    stored = {name: store.load(name) for name in store.cases()}
    subjects = {name: case.subject for name, case in stored.items()}
    presence = {
        name: {mark for mark, there in zip(case.landmarks.names, case.landmarks.present, strict=True) if there}
        for name, case in stored.items()
    }
    file = request.preprocessed / splits.FILE_NAME
    if keep or file.exists():
        found = splits.load_or_make_splits(file, subjects, presence)
    else:
        found = splits.make_splits(subjects, presence)
    if request.folds is None:
        return tuple(map(str, range(len(found))))
    for fold in request.folds:
        splits.fold(found, ALL if fold == ALL else int(fold))
    return tuple(dict.fromkeys(request.folds))


# -- training ---------------------------------------------------------------------------------------------------------


def fold_folder(request: Request, plans: Plans, configuration: str, fold: str) -> Path:
    """The folder into which a training goes."""
    trainer = label(plans.configuration(configuration).trainer)
    results = request.folders.results.path
    return model_folder(results, request.dataset, trainer, request.plans_name, configuration) / f"fold_{fold}"


def anything_trained(request: Request, plans: Plans) -> bool:
    """Whether any configuration of these plans was trained."""
    return any(has_checkpoints(fold_folder(request, plans, name, "0").parent) for name in plans.configurations)


def trainings(request: Request, plans: Plans | None, record: Record) -> list[Job]:
    """One a configuration and fold, without those that were given up. plans: None before planning, when nothing is
    trained."""
    return [training(request, plans, record, *each) for each in record.kept().trainings()]


def training(request: Request, plans: Plans | None, record: Record, configuration: str, fold: str) -> Job:
    """The job that trains one configuration and fold, as long as is decided, or else as was to be expected."""
    folder = None if plans is None else fold_folder(request, plans, configuration, fold)
    seconds = record.expected.get(configuration)
    length: list[str] = []
    if record.shares is not None:
        seconds = record.lengths.get(fold, record.shares.training)
        length += ["--max-time", f"{seconds:.0f}s"]
    for name, value in (("--epochs", request.epochs), ("--seed", request.seed)):
        length += [] if value is None else [name, str(value)]
    length += ["--trust-code"] if request.trust_code else []
    return request.job(
        f"{configuration} fold {fold}", "train", request.dataset, configuration, fold, "-p", request.plans_name,
        *length, takes=("device", "threads"), folder=folder, seconds=seconds,
        outputs=() if folder is None else (folder / FINISHED,),
    )  # fmt: skip


def finished_folds(request: Request, plans: Plans, record: Record) -> list[str]:
    """The folds on which every configuration that is left was trained."""
    kept = record.kept()
    return [
        fold
        for fold in kept.folds
        if all(training(request, plans, record, name, fold).done for name in kept.configurations)
    ]


def planned_seconds(plans: Plans, configuration: str) -> float | None:
    """The planned seconds of one training, all stages, where the plans say it as a time."""
    each = [plans.configuration(stage).schedule.max_seconds for stage in plans.chain(configuration)]
    return None if None in each else sum(s for s in each if s is not None)


# -- after training ---------------------------------------------------------------------------------------------------


def after_training(request: Request, plans: Plans | None, asked: Wanted) -> list[Step]:
    """find_best, predict, evaluate, report, in this order; steps that do not apply say why. plans: None where there are
    none yet."""
    each = [] if plans is None else [fold_folder(request, plans, name, fold) for name, fold in asked.trainings()]
    finals = tuple(folder / FINISHED for folder in each)
    images, truth = request.raw / "imagesTs", request.raw / "landmarksTs"
    if asked.folds == (ALL,):
        unchosen = "fold `all` holds no case out"
        find_best, report = (Step(name, None, absent=unchosen) for name in ("find_best", "report"))
        model = ("-d", request.dataset, "-c", asked.configurations[0], "-p", request.plans_name, "-f", ALL)
        predict = _predict(request, images, model, finals)
    else:
        find_best, report = _find_best(request, asked, finals), _report(request)
        best = request.results / BEST
        predict = _predict(request, images, ("-m", str(best)), (best / RECIPE, best / INFORMATION))
    evaluate = _evaluate(request, truth)
    if not _has_files(images):
        predict = Step("predict", None, absent=f"there are no images in {images}")
    if predict.job is None or not _has_files(truth):
        evaluate = Step("evaluate", None, absent=f"there are no annotated test cases in {truth}")
    return [find_best, predict, evaluate, report]


def _find_best(request: Request, asked: Wanted, finals: tuple[Path, ...]) -> Step:
    command = ("find_best_configuration", request.dataset, "-c", *asked.configurations, "-f", *asked.folds)
    outputs = tuple(request.results / BEST / name for name in (RECIPE, INFORMATION))
    job = request.job("find_best", *command, "-p", request.plans_name, outputs=outputs)
    return Step("find_best", job, (*finals, request.raw / "dataset.json"))


def _predict(request: Request, images: Path, model: tuple[str, ...], inputs: tuple[Path, ...]) -> Step:
    model = (*model, "--trust-code") if request.trust_code else model
    job = request.job(
        "predict", "predict", "-i", str(images), "-o", str(request.predictions), *model,
        takes=("device",), accepted=(0, LEFT_OUT), outputs=(request.predictions / "landmarks.csv",),
    )  # fmt: skip
    return Step("predict", job, (images, *inputs))


def _evaluate(request: Request, truth: Path) -> Step:
    predictions = request.predictions
    command = ("evaluate", "-i", str(predictions), "-d", request.dataset)
    job = request.job("evaluate", *command, outputs=(predictions / "evaluation" / "summary.json",))
    return Step("evaluate", job, (truth, predictions / "landmarks.csv"))


def _report(request: Request) -> Step:
    job = request.job("report", "report", request.dataset, outputs=(request.results / REPORT,))
    inputs = (request.results / BEST / INFORMATION, request.predictions / "evaluation" / "summary.json")
    return Step("report", job, inputs)


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())
