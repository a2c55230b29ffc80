"""autolmk: all commands by task; `autolmk train 1 0` is the same as `autolmk_train 1 0`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from autolmk import __version__
from autolmk.cli.common import OK, USER, parser, run
from autolmk.escaping import visible
from autolmk.files.serialization import near

PREFIX = "autolmk_"
MODULES = {
    "import": "import_",
    "recipe": "public_recipe",
}  # where a command's module cannot be called as the command is
TASKS: dict[str, dict[str, str]] = {
    "everything at once": {
        "run": "from a raw dataset to a chosen model, predictions and a report",
        "demo": "plan, train, predict and evaluate on a phantom",
    },
    "prepare data": {
        "import": "import a dataset of another program",
        "check": "list all faults of a dataset",
        "recipe": "make a raw dataset of a public one",
    },
    "plan": {
        "plan_and_preprocess": "fingerprint, plans and preprocessing in one",
        "extract_fingerprint": "measure a dataset, for planning",
        "plan_experiment": "derive from the fingerprint how to train",
        "preprocess": "store the images as training reads them",
    },
    "train": {
        "train": "train one fold, or go on with it",
        "find_best_configuration": "compare what was trained, and pack the best of it into one model",
        "accumulate_crossval_results": "put the held-out predictions of a model's folds into one place",
    },
    "predict": {
        "predict": "find the landmarks of new images",
        "ensemble": "combine what several models predicted",
        "apply_postprocessing": "finish predictions as a packed model does",
        "convert": "write points in a format of another program",
        "bids": "predict the images of a BIDS tree",
    },
    "evaluate": {
        "evaluate": "compare predictions with annotations",
        "report": "show a dataset's results in one HTML file",
    },
    "give models away": {
        "export": "write a trained model as one file",
        "export_onnx": "write a trained model for onnxruntime",
        "install": "put an exported model into the results folder",
        "models": "list exported or installed models",
        "cite": "say how to cite a model",
    },
}
ALSO: dict[str, str] = {
    "export_model_to_zip": "export",
    "install_pretrained_model_from_zip": "install",
    "predict_from_modelfolder": "predict",
}  # second names of commands, such as nnU-Net's -> the command
COMMANDS = {name: does for commands in TASKS.values() for name, does in commands.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is the command's, 2 where there is no such command."""
    word, *arguments = (sys.argv[1:] if argv is None else list(argv)) or ["help"]
    if word.lstrip("-") in ("h", "help"):
        if not arguments:
            return _said(overview())
        word, arguments = arguments[0], ["--help"]
    if word.lstrip("-") == "version":
        return _said(f"autolmk {__version__}\n")
    name = word.replace("-", "_").removeprefix(PREFIX)
    if name not in COMMANDS and name not in ALSO:
        print(_unknown(word, name), file=sys.stderr)
        return USER
    sys.argv = [PREFIX + name, *arguments]  # what the command records, and how its help calls it
    return int(importlib.import_module(f"autolmk.cli.{module_of(name)}").main(arguments))


def module_of(name: str) -> str:
    """The module in autolmk.cli of a command, or of a second name of one."""
    known = ALSO.get(name, name)
    return MODULES.get(known, known)


def overview() -> str:
    """All commands by task, a line each."""
    width = max(map(len, COMMANDS))
    lines = ["usage: autolmk COMMAND ...", ""]
    lines += ["Find anatomical landmarks in medical images, in 2D and 3D, without tuning."]
    for task, commands in TASKS.items():
        lines += ["", f"{task}:", *(f"  {name:{width}}  {does}" for name, does in commands.items())]
    lines += [
        "",
        "autolmk COMMAND --help shows a command's options. Each command can also be called autolmk_COMMAND.",
        "",
        "examples:",
        "  autolmk check 1",
        "  autolmk train 1 0",
        "  autolmk predict 1 -i images -o predictions",
    ]
    return "\n".join(lines) + "\n"


def _said(text: str) -> int:
    """Print a text, as a command does; the exit code."""
    return run(lambda _: print(text, end="") or OK, parser("Say one thing."), [])


def _unknown(word: str, name: str) -> str:
    """The error for a word that is no command."""
    if word.startswith("-"):
        problem = f"{visible(word)} comes before any command"
        return f"error: {problem}\n  expected: autolmk COMMAND, and options after it\n  what to do: see autolmk --help"
    beginning = [f"{known!r}" for known in COMMANDS if name and known.startswith(name)]
    meant = f"; did you mean {' or '.join(beginning)}?" if beginning else near(name, COMMANDS)
    return f"error: there is no command {visible(word)!r}{meant}\n  what to do: see autolmk --help for all commands"


if __name__ == "__main__":
    sys.exit(main())
