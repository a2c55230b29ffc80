"""The way arguments are written: one dash or two, `-` or `_`, a dataset in either place; groups and examples
in help.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from autolmk.errors import AutolmkError
from autolmk.files.serialization import near

LARGEST = 2**31  # whole numbers of arguments are smaller
EMPTY = re.compile(r"--?[\w-]+=")  # an option with nothing behind it
EXAMPLES = "examples:\n"
HELP_COLUMN = 30
WORKS_ON = "what to work on"
EVERY_COMMAND = "every command"
FOLDERS = "folders"
GOES_ON = "--c"  # of nnU-Net: to go on; so it never stands for -c, a configuration
ELSEWHERE = {  # options of nnU-Net that have no counterpart, and what to do instead; keys as of `_key`
    "c": "nothing is needed to go on: the same command goes on where it was broken off (-c names a configuration)",
    "clean": "nothing is left to clean: what changed is computed again by itself",
    "disable-checkpointing": "checkpoints are always written, as without them training could not go on",
    "djfile": "name the dataset with -d",
    "fpe": "there is one fingerprint extractor",
    "no-overwrite": "give another folder with -o",
    "np": "this command works in one process",
    "num-processes": "this command works in one process",
    "num-parts": "put the images into several folders, and predict each with a command of its own",
    "part-id": "put the images into several folders, and predict each with a command of its own",
    "pfile": "name the dataset with -d",
    "plans-json": "a packed model, named with -r, holds its plans",
    "dataset-json": "a packed model, named with -r, holds its dataset.json",
    "pp-pkl-file": "name the packed model with -r",
    "preprocessor-name": "there is one preprocessor",
    "prev-stage-predictions": "earlier stages of a method are run by themselves",
    "save-npz": "the candidates are always kept, in detections/",
    "use-compressed": "stored cases are always compressed",
}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows default values that say something, the name of a value once, and examples line by line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_COLUMN)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or "default:" in (action.help or "")
        return action.help if silent else super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES) else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """An argument parser that takes an option with one dash or two, and with `-` or `_` between its words.

    usage: the line that help begins with, from the command's name on. examples: commands that can be run as they
    stand, which help ends with. `under` begins a group of arguments, `option` and `argument` add to it.
    """

    def __init__(self, description: str, *, usage: str | None = None, examples: Sequence[str] = ()) -> None:
        super().__init__(
            prog=None if usage is None else usage.split()[0],
            usage=usage,
            description=description,
            epilog=EXAMPLES + "".join(f"  {line}\n" for line in examples) if examples else None,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_HelpFormatter,
        )
        self._positionals.title = WORKS_ON
        self.examples = tuple(examples)
        self.spellings: dict[str, str] = {}  # as declared -> the name that argparse knows
        self.twins: dict[str, str] = {}  # as of `_key` -> the same
        self.place: argparse._ActionsContainer = self
        self._groups: dict[str, argparse._ArgumentGroup] = {}
        self._dataset: _Dataset | None = None

    def under(self, title: str, description: str | None = None) -> None:
        """Arguments declared from now on belong to the group of this title."""
        if title not in self._groups:
            self._groups[title] = self.add_argument_group(title, description)
        self.place = self._groups[title]

    def format_help(self) -> str:
        """The help, which ends with the options of every command and the examples."""
        self._finish()
        return super().format_help()

    def parsed(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments. Exits with a message where they cannot be read; AutolmkError where the dataset is
        missing or named twice.
        """
        self._finish()
        if "" in arguments or any(EMPTY.fullmatch(word) for word in arguments):
            self.error("an argument is empty; for the current folder, give .")
        words = self.normalised(arguments)
        args = self.parse_args(words) if "--" in words else self.parse_intermixed_args(words)  # which would read on
        self.require_countable(args)
        if self._dataset is not None:
            self._dataset.settle(args)
        return args

    def normalised(self, arguments: Sequence[str]) -> list[str]:
        """The arguments in the spelling that was declared; exits with near names where an option is unknown."""
        self._finish()
        result: list[str] = []
        for i, argument in enumerate(arguments):
            if argument == "--":
                return [*result, *arguments[i:]]
            name, equals, value = argument.partition("=")
            if re.match(r"--?[A-Za-z]", argument):
                result.append(self._declared(name) + equals + value)
            else:
                result.append(argument)
        return result

    def require_countable(self, args: argparse.Namespace) -> None:
        """Exit with a message where a whole number is larger than the libraries below count."""
        for name, value in vars(args).items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and abs(number) >= LARGEST:
                    self.error(
                        f"{name} is a number of {len(str(abs(number)))} digits; at most {LARGEST - 1} is possible"
                    )

    def _declared(self, name: str) -> str:
        if name in self.spellings:
            return self.spellings[name]
        key = _key(name)
        if key not in self.twins or name == GOES_ON:
            said = f": {ELSEWHERE[key]}" if key in ELSEWHERE else near(name, self.spellings)
            self.error(f"unknown option {name}{said}")
        return self.twins[key]

    def _finish(self) -> None:
        if "--help" in self.spellings:
            return
        self.under(EVERY_COMMAND)
        if "--verbose" not in self.spellings:
            option(self, "--verbose", action="store_true", help="say more, and show the traceback of an error")
        if "--disable_progress_bar" not in self.spellings:
            option(self, "--disable_progress_bar", action="store_true", help="show no progress")
        option(self, "-h", "--help", action="help", help="show this text")


def parser(description: str, *, usage: str | None = None, examples: Sequence[str] = ()) -> Parser:
    """A parser for one command; see `Parser`."""
    return Parser(description, usage=usage, examples=examples)


def option(parser: Parser, *names: str, also: Sequence[str] = (), **settings: Any) -> None:
    """Declare an option, such as `option(parser, "-np", "--num_processes", type=int)`.

    Each name is accepted with one dash and with two, and with `-` as well as `_` in it. As in argparse, the first one
    with two dashes, else the first one, names the attribute. also: names that are accepted too, but that help does not
    show, such as those of nnU-Net or of earlier versions.
    """
    settings.setdefault("help", " ")  # without any help the default value is not shown
    parser.place.add_argument(*names, **settings)
    for name in (*names, *also):
        parser.spellings[name] = name if name in names else names[0]
    for name in (*names, *also):
        parser.twins.setdefault(_key(name), parser.spellings[name])  # -c and --c may be declared to be two options


def argument(parser: Parser, name: str, **settings: Any) -> None:
    """Declare an argument that is known by its place."""
    parser.place.add_argument(name, **settings)


def add_dataset(
    parser: Parser,
    *,
    several: bool = False,
    dest: str = "dataset",
    required: bool = True,
    then: str | None = None,
    kind: str = "its number or name, such as 1 or Dataset001_Name",
) -> None:
    """DATASET as a word of its own or with -d, in a group of its own.

    several: a list of datasets. dest: the attribute that gets it. required: False gives None where it is missing. then:
    what further words are called, such as FOLD; the attribute `where` gets them. kind: what help says of the words.
    """
    parser.under("dataset")
    argument(parser, "where", nargs="*", metavar=f"DATASET {then}" if then else "DATASET", help=kind)
    option(
        parser, "-d", "--dataset", also=("--dataset_id", "--dataset_name"), dest=dest, metavar="DATASET",
        nargs="+" if several else None, help="the dataset, instead of as a word of its own",
    )  # fmt: skip
    parser._dataset = _Dataset(parser, dest, several=several, required=required, further=then is not None)


class _Dataset:
    """Where a parser finds the dataset: in the first word, or with -d."""

    def __init__(self, parser: Parser, dest: str, *, several: bool, required: bool, further: bool) -> None:
        self.parser, self.dest = parser, dest
        self.several, self.required, self.further = several, required, further

    def settle(self, args: argparse.Namespace) -> None:
        """Take the dataset out of the words, where -d does not name it. AutolmkError where it is missing, or where
        words are left that mean nothing."""
        words, given = list(args.where), getattr(args, self.dest)
        if given is None and words:
            given = words if self.several else words.pop(0)
            words = [] if self.several else words
            setattr(args, self.dest, given)
        if given is None and self.required:
            raise AutolmkError(
                "no dataset is named",
                expected=f"such as {self._example()}",
                remedy="name it as the first word or with -d; a list such as -c A B takes every word that follows it",
            )
        if words and not self.further:
            raise AutolmkError(
                "it is not clear which dataset is meant" if not self.several else "datasets are named in two ways",
                found=f"{' '.join(words)}, beside {given if isinstance(given, str) else ' '.join(given)}",
                expected=f"such as {self._example()}",
                remedy="name the dataset once",
            )
        args.where = words
        if not self.further:
            del args.where

    def _example(self) -> str:
        return self.parser.examples[0].partition("#")[0].strip() if self.parser.examples else f"{self.parser.prog} 1"


def add_plans(parser: Parser, *names: str, **settings: Any) -> None:
    """Add -p, the name of plans. names: further ones of the same option."""
    settings = {"metavar": "PLANS", "help": "name of the plans", **settings}
    option(parser, "-p", "--plans", *names, also=("-plans_name", "-overwrite_plans_name"), **settings)


def add_processes(parser: Parser) -> None:
    """Add -np, the number of processes."""
    option(
        parser, "-np", "--num_processes", also=("-npfp",), type=int, metavar="N",
        help="number of processes; 0 works without any; default: as many as processors and memory allow",
    )  # fmt: skip


def add_device(parser: Parser) -> None:
    """Add -device, which says where networks run."""
    option(
        parser, "-device", default="auto", metavar="DEVICE",
        help="cpu, cuda, cuda:N for one of several GPUs, or auto: CUDA where there is any",
    )  # fmt: skip


def add_folders(parser: Parser) -> None:
    """Add --raw, --preprocessed and --results, in a group of their own that says what decides."""
    parser.under(
        FOLDERS,
        "An option comes before the environment variable autolmk_raw, autolmk_preprocessed or autolmk_results. Without "
        "either, the folders are in ~/autolmk.",
    )
    for name, what in (
        ("raw", "your datasets, a folder each"),
        ("preprocessed", "plans, and the images as training reads them"),
        ("results", "trained models"),
    ):
        option(parser, f"--{name}", metavar="FOLDER", default=argparse.SUPPRESS, help=what)


def _key(name: str) -> str:
    """The same for all spellings of an option."""
    return name.lstrip("-").replace("_", "-")
