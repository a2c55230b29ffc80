"""The arguments of autolmk_train."""

from __future__ import annotations

from autolmk.cli.arguments import Parser, add_dataset, add_device, add_folders, add_plans, option, parser
from autolmk.cli.fine_tuning import add_fine_tuning
from autolmk.paths import DEFAULT_PLANS_NAME


def train_parser() -> Parser:
    """All that the command can be told."""
    result = parser(
        "Train one fold. The same command goes on where it was broken off. A file called `stop` in the fold's folder "
        "makes it save and stop; a file called `finish` ends training early.",
        usage="autolmk_train DATASET [CONFIGURATION] FOLD [options]",
        examples=(
            "autolmk_train 1 0",
            "autolmk_train 1 all --max-time 20m       # on every training case, with none held out",
            "autolmk_train 1 heatmap 0 -device cuda",
            "autolmk_train -d Dataset001_Name -c heatmap -f 0 --set schedule.learning_rate=1e-4",
        ),
    )
    words = "number or name of the dataset, then the fold: 0, 1, ... or all; between them the configuration, or with -c"
    add_dataset(result, then="[CONFIGURATION] FOLD", kind=words)
    _add_what(result)
    _add_how(result)
    _add_machine(result)
    _add_validation(result)
    add_folders(result)
    return result


def _add_what(result: Parser) -> None:
    result.under("what to train")
    option(
        result, "-c", "--configuration", also=("--configurations",), metavar="NAME",
        help="name of a configuration; default: the first method of the plans",
    )  # fmt: skip
    option(result, "-f", "--fold", also=("--folds",), metavar="FOLD", help="the fold, instead of as the last word")
    add_plans(result, dest="p", default=DEFAULT_PLANS_NAME)
    option(
        result, "-tr", "--trainer", also=("--trainers",), dest="tr", metavar="TRAINER",
        help="a trainer instead of the one that was planned: a name, file.py:Class or module:Class",
    )  # fmt: skip
    option(result, "--trust-code", action="store_true", help="run trainers outside autolmk that the plans name")


def _add_how(result: Parser) -> None:
    result.under("how to train")
    option(result, "--epochs", type=int, metavar="N", help="length of training; if given alone, no time limit holds")
    option(result, "--max-time", metavar="TIME", help="such as 90s, 20m, 3h or 1h30m, summed over all resumes")
    option(
        result, "--seed", type=int, metavar="N",
        help="seed of weights, windows and augmentation; default: 0, or as the fold was begun",
    )  # fmt: skip
    option(
        result, "--set", action="append", metavar="KEY=VALUE",
        help="an option of the trainer, or a value of the configuration such as schedule.learning_rate=1e-4; may be "
        "repeated",
    )  # fmt: skip
    add_fine_tuning(result)
    option(
        result, "--logger", action="append", metavar="NAME", help="tensorboard, mlflow or wandb; may be repeated"
    )  # fmt: skip
    option(result, "--c", action="store_true", help="accepted because nnU-Net has it: training always goes on")
    option(
        result, "--npz", action="store_true", help="accepted because nnU-Net has it: held-out results are always kept"
    )


def _add_machine(result: Parser) -> None:
    result.under("machine")
    add_device(result)
    option(
        result, "-num_gpus", type=int, default=1, metavar="N",
        help="number of GPUs of this machine that share each batch, which stays as large as planned",
    )  # fmt: skip
    option(
        result, "--workers", also=("-np", "--num_processes"), type=int, metavar="N",
        help="number of processes that load, for each GPU; 0 loads in the training process; default: half of its "
        "cores, at most 12",
    )  # fmt: skip
    option(
        result, "--threads", type=int, metavar="N",
        help="threads of the training process; default: the cores that all workers but one leave",
    )  # fmt: skip
    option(result, "--no-compile", action="store_true", help="do not try torch.compile, which is used with CUDA")


def _add_validation(result: Parser) -> None:
    result.under("validation alone")
    option(result, "--val", action="store_true", help="do not train; validate checkpoint_final")
    option(result, "--val_best", action="store_true", help="do not train; validate checkpoint_best")
