"""One voice: every command takes a dataset, its options and its words in the same way, and its help has one form."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from autolmk.cli.arguments import EVERY_COMMAND, FOLDERS, Parser, add_dataset, option, parser
from autolmk.errors import AutolmkError

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = sorted({place: name for name, place in sorted(SCRIPTS.items(), reverse=True) if name != "autolmk"}.values())
OTHER_WORDS = {"autolmk_import", "autolmk_convert", "autolmk_export"}  # first word: no dataset, although -d names one
LONG = {
    "-c": "configuration", "-chk": "checkpoint", "-d": "dataset", "-f": "fold", "-i": "input", "-m": "model",
    "-np": "num-processe", "-o": "output", "-p": "plan", "-pl": "planner", "-r": "recipe", "-t": "truth",
    "-tr": "trainer", "-h": "help",
}  # fmt: skip
NEEDED = {"autolmk_train": ["0"], "autolmk_predict": ["-i", "images", "-o", "out"], "autolmk_evaluate": ["out"]}


class Caught(BaseException):
    """Brings a command's parser out of its `main`, past `run`, which catches every Exception."""


@pytest.fixture(scope="module")
def parsers() -> dict[str, Parser]:
    """The parser of every command."""
    found: dict[str, Parser] = {}

    def catch(self: Parser, arguments: object) -> None:
        raise Caught(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parsed", catch)
        for command in COMMANDS:
            module, function = SCRIPTS[command].split(":")
            with pytest.raises(Caught) as caught:
                getattr(importlib.import_module(module), function)([])
            (found[command],) = caught.value.args
    for one in found.values():
        one.format_help()
    return found


def shown(known: Parser) -> list[argparse.Action]:
    """The options that help shows."""
    return [a for a in known._actions if a.option_strings and a.help != argparse.SUPPRESS]


def key(name: str) -> str:
    """The same for all spellings of an option, and for one and several."""
    word = name.lstrip("-").replace("_", "-")
    return word.removesuffix("s") if len(word) > 3 else word


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_can_be_run_as_they_stand(command: str, parsers: dict[str, Parser]) -> None:
    known = parsers[command]
    assert known.examples, f"{command} has no example: parser(..., examples=(...))"
    assert known.usage is not None and known.usage.startswith(f"{command} "), f"{command}: parser(..., usage=...)"
    for example in known.examples:
        first, *words = shlex.split(example.partition(" > ")[0], comments=True)
        assert first == command
        known.parsed(words)
    assert known.format_help().rstrip().endswith(known.examples[-1])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_has_a_group_and_a_help(command: str, parsers: dict[str, Parser]) -> None:
    text = parsers[command].format_help()
    assert not re.search(r"^(positional|optional) arguments:$", text, re.M)
    titles = re.findall(r"^([a-z ]+):$", text, re.M)
    assert len(titles) >= 2 and titles[-2:] == [EVERY_COMMAND, "examples"]
    assert text.count("autolmk_preprocessed") == (f"{FOLDERS}:" in text), "the folders are explained once"
    for action in shown(parsers[command]):
        assert action.help and action.help.strip(), action.option_strings


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_taken_in_every_spelling(command: str, parsers: dict[str, Parser]) -> None:
    known = parsers[command]
    for action in shown(known):
        for name in action.option_strings:
            stem = name.lstrip("-")
            for word in {stem, stem.replace("_", "-"), stem.replace("-", "_")}:
                taken = known.normalised([f"-{word}", f"--{word}"]) if stem != "c" else [name]
                assert set(taken) <= set(action.option_strings), (name, taken)


@pytest.mark.parametrize("words", [["1", "-o", ""], ["", "-o", "out"], ["1", "-o="], ["1", "--raw="]])
def test_an_empty_name_is_not_the_current_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    known = parser("Try.")
    add_dataset(known)
    option(known, "-o", "--output")
    option(known, "--raw")
    with pytest.raises(SystemExit) as refused:
        known.parsed(words)
    assert refused.value.code == 2 and "an argument is empty" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_no_abbreviation_is_taken_for_an_option(command: str, parsers: dict[str, Parser]) -> None:
    known = parsers[command]
    for action in shown(known):
        for name in action.option_strings:
            short = f"--{name.lstrip('-')[:-1]}"
            if len(short) > 3 and short.lstrip("-").replace("_", "-") not in known.twins:
                with pytest.raises(SystemExit) as refused:
                    known.normalised([short])
                assert refused.value.code == 2


def test_a_word_means_one_thing(parsers: dict[str, Parser]) -> None:
    """Options of two commands that share a spelling share their whole name."""
    names: dict[str, set[str]] = {}
    for command, known in parsers.items():
        for action in shown(known):
            first = action.option_strings[0]
            also = {n for n, declared in known.spellings.items() if declared in action.option_strings}
            whole = {key(n) for n in {*action.option_strings, *also} if n != "-c"}
            for name in {n for n in action.option_strings if n != "-c"}:
                common = names.setdefault(key(name), set(whole))
                assert common & whole, (command, name)
                common &= whole
            if first in LONG:
                assert LONG[first] in whole, f"{command}: {first} should be --{LONG[first]}"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["1", "Dataset001_Skull"])
def test_a_dataset_is_named_in_either_way(command: str, name: str, parsers: dict[str, Parser]) -> None:
    known, needed = parsers[command], NEEDED.get(command, [])
    if "-d" not in known.spellings or command in OTHER_WORDS:
        return
    ways = [[name, *needed], ["-d", name, *needed], [*needed, "--dataset", name], [*needed, "--dataset_id", name]]
    found = [vars(known.parsed(way)) for way in ways]
    if command == "autolmk_evaluate":
        from autolmk.cli.evaluate_arguments import places

        found.append(vars(known.parsed([*needed, name])))
        assert {places(argparse.Namespace(**one)) for one in found} == {(Path("out"), None, name)}
        bare = known.parsed([*needed, str(ROOT)])
        assert places(bare) == (Path("out"), ROOT, None)
    else:
        assert all(one == found[0] for one in found)
        given = found[0]["d" if command == "autolmk_predict" else "dataset"]
        assert given in (name, [name])


@pytest.mark.parametrize("words", [[], ["1", "-d", "2"], ["1", "2"]])
def test_one_dataset_is_needed_and_no_more(words: list[str]) -> None:
    known = parser("A command.", usage="autolmk_example DATASET", examples=("autolmk_example 1",))
    add_dataset(known)
    with pytest.raises(AutolmkError, match="dataset") as refused:
        known.parsed(words)
    assert "autolmk_example 1" in str(refused.value)


def test_options_may_stand_before_and_after_words() -> None:
    known = parser("A command.")
    add_dataset(known, several=True)
    option(known, "-np", type=int)
    for words in (["1", "2", "-np", "3"], ["-np", "3", "1", "2"], ["-d", "1", "2", "-np", "3"]):
        args = known.parsed(words)
        assert (args.dataset, args.np) == (["1", "2"], 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("--num_parts", "several folders"),
        ("-prev_stage_predictions", "by themselves"),
        ("--c", "the same command goes on"),
        ("--numprocesses", "did you mean '--num_processes'"),
    ],
)
def test_what_nnunet_has_and_autolmk_has_not_is_explained(
    wrong: str, said: str, parsers: dict[str, Parser], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsers["autolmk_ensemble"].parsed(["-i", "a", "b", "-o", "c", "-np", "2"])
    assert "works in one process" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parsers["autolmk_preprocess"].parsed(["1", wrong])
    assert said in capsys.readouterr().err


NNUNET = [  # (command, what users of nnU-Net type)
    ("autolmk_plan_and_preprocess", "-d 1 2 --verify_dataset_integrity -npfp 4 --no_pp -pl heatmap -np 2"),
    ("autolmk_plan_experiment", "-d 1 -gpu_memory_target 20 -overwrite_target_spacing 1 1 1 -overwrite_plans_name a"),
    ("autolmk_preprocess", "-d 1 -plans_name a -c heatmap -np 2 --verbose"),
    ("autolmk_train", "1 heatmap 0 -tr heatmap -p a --npz --c -device cpu -num_gpus 1 -pretrained_weights w"),
    ("autolmk_train", "1 heatmap all --val --val_best"),
    ("autolmk_find_best_configuration", "1 -c a b -p x -tr t -f 0 1 --disable_ensembling"),
    ("autolmk_predict", "-i x -o y -d 1 -p a -tr t -c c -f 0 1 -step_size 0.5 --disable_tta -chk best -npp 2 -nps 2"),
    ("autolmk_predict", "-i x -o y -m z --save_probabilities --continue_prediction --disable_progress_bar --verbose"),
    ("autolmk_predict", "-i x -o y -m z --c"),
    ("autolmk_ensemble", "-i a b -o c --disable-progress-bar"),
]


@pytest.mark.parametrize(("command", "words"), NNUNET)
def test_what_users_of_nnunet_type_is_taken(command: str, words: str, parsers: dict[str, Parser]) -> None:
    parsers[command].parsed(words.split())


def test_earlier_p_of_evaluate_is_read_with_a_warning(
    parsers: dict[str, Parser], monkeypatch: pytest.MonkeyPatch
) -> None:
    from autolmk.cli.evaluate_arguments import places

    said: list[str] = []
    monkeypatch.setattr("autolmk.cli.evaluate_arguments.logger.warning", said.append)
    args = parsers["autolmk_evaluate"].parsed(["-p", "out", "-d", "1"])
    assert places(args) == (Path("out"), None, "1") and said[0].startswith("-p is read as -i")
    assert "-p" not in parsers["autolmk_evaluate"].format_help().split()
