"""autolmk_train: train one fold of one configuration of one dataset."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autolmk.cli import several_gpus
from autolmk.cli.common import OK, folders_from, run
from autolmk.cli.common import setting as parsed_setting
from autolmk.cli.duration import seconds_of
from autolmk.cli.fine_tuning import rates_from
from autolmk.cli.raw_changes import raw_cases, require_unchanged
from autolmk.cli.train_arguments import train_parser as _parser
from autolmk.errors import AutolmkError, some
from autolmk.parallel import processors
from autolmk.paths import Folders, dataset_name, model_folder, plans_file
from autolmk.progress_bars import tracked

if TYPE_CHECKING:
    from autolmk.data.store import Store
    from autolmk.methods.trainer import Trainer
    from autolmk.plans import Plans
    from autolmk.training.work import StageWork

MAX_WORKERS = 12
COPIED = ("dataset.json", "dataset_fingerprint.json")
logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `autolmk_train`; return its exit code."""
    return run(partial(_main, sys.argv[1:] if argv is None else list(argv)), _parser(), argv)


def _main(words: Sequence[str], args: argparse.Namespace) -> int:
    from autolmk.bundles.in_place import weights_of

    _check_numbers(args)
    several_gpus.check_number(args)
    if args.num_gpus > 1 and not several_gpus.is_rank():
        return several_gpus.launch(words, args.num_gpus)
    with several_gpus.joined(args), weights_of(args.pretrained_weights) as args.pretrained_weights:
        return _train(args)


def _train(args: argparse.Namespace) -> int:
    from autolmk.bundles.starting import checkpoint_in

    folders, (configuration_name, fold) = folders_from(args), _where(args)
    max_seconds = None if args.max_time is None else seconds_of(args.max_time)
    dataset = dataset_name(args.dataset, folders)
    plans, name = _plans(folders, dataset, args.p, configuration_name, args.tr)
    _require_asked(plans, name, args, folders.preprocessed / dataset / f"{args.p}.json")
    workers = _set_up_threads(args.workers, args.threads)
    trainer = _trainer(plans, name, args.tr, args.set or [])
    trainers = {stage: _trainer(plans, stage, None, []) for stage in plans.chain(name)[:-1]} | {name: trainer}
    stages, subjects, train_cases, val_cases = _cases(folders, dataset, trainers, fold)
    from autolmk import ranks
    from autolmk.methods import registry
    from autolmk.training.sharing import require_shares
    from autolmk.training.stages import hold_out

    specification = trainer.configuration.trainer
    args.pretrained_weights = checkpoint_in(args.pretrained_weights, name, specification)
    model = model_folder(folders.results.path, dataset, registry.label(specification), args.p, name)
    folder = model / f"fold_{fold}"
    if args.val or args.val_best:
        return _validate(stages, val_cases, folder, args)
    _check_environment(args, trainers.values())
    require_shares([t.configuration for t in trainers.values()], ranks.size())
    if len(stages) > 1:
        hold_out(train_cases, subjects)
    if ranks.first():
        _begin_model_folder(
            model, folders.preprocessed / dataset, args.p, plans, [t.configuration.trainer for t in trainers.values()]
        )
    from autolmk.fold.log import build_loggers
    from autolmk.training.stages import train_stages

    finished = train_stages(
        stages,
        train_cases,
        val_cases,
        folder,
        subjects=subjects,
        device=args.device,
        seed=args.seed,
        workers=workers,
        epochs=args.epochs,
        max_seconds=max_seconds,
        pretrained=args.pretrained_weights,
        rates=rates_from(args),
        compile=not args.no_compile,
        loggers=partial(build_loggers, args.logger or []),
    )
    if ranks.first():
        print(f"{'finished' if finished else 'stopped, to be continued'}: {folders.results.describe(folder)}")
    return OK


# -- arguments --------------------------------------------------------------------------------------------------------


def _check_numbers(args: argparse.Namespace) -> None:
    bounds = {"epochs": 1, "workers": 0, "threads": 1}
    for name, least in bounds.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise AutolmkError(f"--{name} must be {least} or more", found=value, remedy="correct it, or leave it out")


def _check_environment(args: argparse.Namespace, trainers: Iterable[Trainer]) -> None:
    """Refuse, before anything is written, what this machine cannot do."""
    from autolmk.fold import checkpoint
    from autolmk.fold.log import check_loggers
    from autolmk.methods.trainer import build
    from autolmk.networks.precision import choose_device
    from autolmk.training.layer_rates import layers_of, require_known

    choose_device(args.device)
    check_loggers(args.logger or [])
    if args.pretrained_weights is not None:
        checkpoint.read_record(args.pretrained_weights)
    require_known([layers_of(*build(trainer)) for trainer in trainers], rates_from(args))


def _where(args: argparse.Namespace) -> tuple[str | None, int | str]:
    """(configuration or None, fold) from the words after the dataset, -c and -f."""
    words = list(args.where)
    fold = args.fold if args.fold is not None or not words else words.pop()
    if len(words) > 1 or (words and args.configuration not in (None, words[0])):
        raise AutolmkError(
            "it is not clear what to train",
            found=" ".join([args.dataset, *args.where]) + (f" -c {args.configuration}" if args.configuration else ""),
            expected="autolmk_train DATASET FOLD, or autolmk_train DATASET CONFIGURATION FOLD",
            remedy="name the configuration once, and the fold last",
        )
    if fold is None or (fold != "all" and not fold.isdecimal()):
        raise AutolmkError(
            "no fold is named" if fold is None else f"there is no fold {fold!r}",
            expected="0, 1, ... or all, as the last word",
            remedy="give the fold as the last word, or with -f",
        )
    return (words[0] if words else args.configuration), fold if fold == "all" else int(fold)


def _plans(
    folders: Folders, dataset: str, plans_name: str, configuration: str | None, trainer: str | None
) -> tuple[Plans, str]:
    from autolmk.planning.method_order import methods
    from autolmk.plans import Plans

    plans = Plans.load(plans_file(folders, dataset, plans_name))
    if configuration is None:
        known = methods(plans.configurations) or ("",)
        configuration = known[0] if trainer is None else _made_for(plans, known, trainer)
        others = [name for name in known if name != configuration]
        if trainer is not None and others:
            logger.info("training %s by %s, not %s, which -c names", configuration, trainer, some(others))
        elif others:
            why = plans.why.get("order.1", "the first of these plans")
            logger.info("training %s (%s), not %s", configuration, why.removeprefix(f"{configuration}: "), some(others))
    plans.configuration(configuration)
    return plans, configuration


def _made_for(plans: Plans, known: Sequence[str], specification: str) -> str:
    """The method, one of `known`, that the user's trainer is for: the first one whose planned trainer, a shipped one,
    it extends; else the first one of one stage, or the first."""
    from autolmk.methods import registry
    from autolmk.methods.trainer import trainer_class

    given = trainer_class(registry.absolute(specification))
    for name in known:
        planned = plans.configuration(name).trainer
        if not registry.is_foreign(planned) and issubclass(given, trainer_class(planned)):
            return name
    return next((name for name in known if len(plans.chain(name)) == 1), known[0])


def _require_asked(plans: Plans, name: str, args: argparse.Namespace, file: Path) -> None:
    """AutolmkError where the plans name code that the user neither named with -tr nor trusts."""
    from autolmk.methods.registry import require_asked

    *earlier, last = [plans.configuration(stage).trainer for stage in plans.chain(name)]
    given = [] if args.tr is None else [args.tr]
    require_asked(
        [*earlier, *(given or [last])], file, trust_code=args.trust_code, named=given, option=None if earlier else "-tr"
    )


def _set_up_threads(workers: int | None, threads: int | None) -> int:
    """Share the cores between this process and the workers, and keep freed memory for the next step; gives the number
    of workers."""
    import torch

    from autolmk.networks.freed_memory import keep_freed_memory

    keep_freed_memory()
    cores = max(1, processors() // several_gpus.local_processes())
    if workers is None:
        workers = min(MAX_WORKERS, max(1, cores // 2))
    torch.set_num_threads(threads or max(1, cores - max(0, workers - 1)))  # a single worker hardly keeps a core busy
    return workers


def _trainer(plans: Plans, name: str, specification: str | None, settings: Sequence[str]) -> Trainer:
    """The trainer of a configuration, with -tr and --set applied."""
    from autolmk.files.serialization import from_json, to_json
    from autolmk.methods import registry
    from autolmk.methods.trainer import trainer_class
    from autolmk.plans import Configuration

    value = to_json(plans.configuration(name))
    for setting in settings:
        _apply(value, setting)
    if specification is not None:
        value["trainer"] = registry.absolute(specification)
    configuration = from_json(Configuration, value, path="--set")
    return trainer_class(configuration.trainer)(plans, configuration)


def _apply(configuration: dict[str, Any], setting: str) -> None:
    """KEY=VALUE: KEY is a path into the configuration, or, where it has no such key, an option of the trainer."""
    from autolmk.files.serialization import near

    key, value = parsed_setting(setting)
    *path, last = key.split(".")
    if not path and last not in configuration:
        path = ["options"]
    place: Any = configuration
    for part in path:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or (last not in place and place is not configuration["options"]):
        known = place if isinstance(place, dict) else configuration
        raise AutolmkError(
            f"--set: the configuration has no {key!r}{near(last, known)}",
            expected=f"one of {', '.join(known)}",
            remedy="correct the key; the plans hold all that can be set",
        )
    if place is configuration and last in ("trainer", "data_identifier"):
        raise AutolmkError(f"--set cannot change {last!r}", remedy="-tr names another trainer")
    place[last] = value


# -- data and folders -------------------------------------------------------------------------------------------------


def _cases(
    folders: Folders, dataset: str, trainers: Mapping[str, Trainer], fold: int | str
) -> tuple[list[StageWork], dict[str, str], list[str], list[str]]:
    """(stages with their preprocessed cases, subject of each case, training cases, held-out cases)."""
    from autolmk import ranks
    from autolmk.data import splits
    from autolmk.data.store import Store
    from autolmk.training.work import StageWork

    folder = folders.preprocessed / dataset
    raw = raw_cases(folders, dataset)
    subjects: dict[str, str] = {}
    presence: dict[str, set[str]] = {}
    stages: list[StageWork] = []
    checked: set[Path] = set()
    for name, trainer in trainers.items():
        store = Store(folder / trainer.configuration.data_identifier)
        stages.append(StageWork(name, trainer, store))
        if store.folder not in checked:
            found = _verified(store, folders, dataset, trainer)
            require_unchanged(raw, store, dataset)
            subjects, presence = found if not checked else _shared(subjects, presence, found[0])
            checked.add(store.folder)
    if fold == "all":
        return stages, subjects, sorted(subjects), []
    with ranks.first_before_others():
        found_splits = splits.load_or_make_splits(folder / splits.FILE_NAME, subjects, presence)
    return stages, subjects, *splits.fold(found_splits, int(fold))


def _verified(
    store: Store, folders: Folders, dataset: str, trainer: Trainer
) -> tuple[dict[str, str], dict[str, set[str]]]:
    """(subject, landmarks that are present) of each preprocessed case, all of them whole and of these plans."""
    from autolmk import ranks
    from autolmk.data.loading import check_stored

    names = store.cases()
    if not names:
        raise AutolmkError(
            f"{dataset} is not preprocessed",
            file=store.folder,
            found=f"no case; preprocessed data is looked for in {folders.preprocessed}",
            remedy=f"run autolmk_plan_and_preprocess -d {dataset}",
        )
    check_stored(store, names, trainer.plans, trainer.configuration)
    subjects: dict[str, str] = {}
    presence: dict[str, set[str]] = {}
    for name in tracked(names, "checking the preprocessed cases"):
        stored = store.verify(name) if ranks.first() else store.load(name)
        subjects[name] = stored.subject
        marks = stored.landmarks
        presence[name] = {mark for mark, present in zip(marks.names, marks.present, strict=True) if present}
    return subjects, presence


def _shared(
    subjects: dict[str, str], presence: dict[str, set[str]], other: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, set[str]]]:
    """The cases that are preprocessed for every stage. AutolmkError where some are missing in one of them."""
    missing = sorted(set(subjects) ^ set(other))
    if missing:
        raise AutolmkError(
            "some cases are not preprocessed for every stage of this configuration",
            found=", ".join(missing),
            remedy="run autolmk_preprocess again, for all configurations",
        )
    return subjects, presence


def _begin_model_folder(
    model: Path, preprocessed: Path, plans_name: str, plans: Plans, specifications: Iterable[str]
) -> None:
    """Verbatim dataset.json, fingerprint and plans, which all folds share, and the sources of a user's trainers."""
    from autolmk.methods import sources
    from autolmk.plans import Plans

    kept = model / "plans.json"
    if kept.is_file() and sources.has_checkpoints(model) and Plans.load(kept).digest() != plans.digest():
        raise AutolmkError(
            "the plans changed since this model folder was begun; its folds would not belong together",
            file=kept,
            expected=f"the same plans as {preprocessed / plans_name}.json",
            remedy="give new plans a name of their own when planning (and -p here), or remove the model folder",
        )
    sources.keep_sources(specifications, model)
    for name in COPIED:
        if (preprocessed / name).is_file():
            _copy(preprocessed / name, model / name)
    _copy(preprocessed / f"{plans_name}.json", kept)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, unless it is there already: other folds of the model may be in training. AutolmkError where the
    source is damaged."""
    from autolmk.files.serialization import read_json, write_bytes

    read_json(source, remedy="run autolmk_plan_and_preprocess again")
    content = source.read_bytes()
    if not target.is_file() or target.is_symlink() or target.read_bytes() != content:
        write_bytes(target, content)


def _validate(stages: Sequence[StageWork], val_cases: list[str], folder: Path, args: argparse.Namespace) -> int:
    from autolmk.training.stages import validate_stages
    from autolmk.training.validation import sentence

    name, target = ("best", "validation_best") if args.val_best else ("final", "validation")
    from autolmk import ranks

    numbers = validate_stages(stages, val_cases, folder, name, folder / target, device=args.device)
    unit, place = stages[-1].trainer.plans.unit, folders_from(args).results.describe(folder / target)
    if ranks.first():
        print(f"{sentence(numbers, unit)}: {place}")
    return OK
