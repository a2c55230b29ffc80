"""Files of strangers: names that lead elsewhere, stages in a circle and numbers beyond all memory are refused."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autolmk.conformance.examples import example_plans
from autolmk.data.splits import check_splits
from autolmk.errors import AutolmkError
from autolmk.files.serialization import from_json, to_json, write_json
from autolmk.fold import checkpoint
from autolmk.fold.measured import Measured
from autolmk.methods.trainer import build
from autolmk.plans import Plans
from autolmk.prediction.model import Model
from autolmk.prediction.options import TestTime
from autolmk.selection.recipe import RecipeMember
from autolmk.trainers.heatmap import HeatmapTrainer

ELSEWHERE = ["../../victim", "/etc", "..", ".", "", "a/b", "a\\b", "~root", "C:x", "a\nb", "nul", "x."]


def edited(value: Any, place: str, new: Any) -> Any:
    """The JSON with another value at a dotted place."""
    *path, last = place.split(".")
    for part in path:
        value = value[part]
    value[last] = new
    return value


@pytest.mark.parametrize("name", ELSEWHERE)
def test_no_name_in_plans_leads_elsewhere(name: str) -> None:
    for place in ("configurations.example.data_identifier", "configurations.example.previous_stage", "plans_name",
                  "dataset_name", "configurations.example.trainer"):  # fmt: skip
        value = to_json(example_plans())
        edited(value, place, f"a:{name.replace(':', '/')}" if place.endswith("trainer") else name)
        with pytest.raises(AutolmkError, match="plain name"):
            Plans.parse(value)
    value = to_json(example_plans())
    value["configurations"][name] = value["configurations"]["example"]
    with pytest.raises(AutolmkError, match="plain name"):
        Plans.parse(value)
    with pytest.raises(AutolmkError, match="plain name"):
        from_json(RecipeMember, {"model": name, "folds": ["0"]})


@pytest.mark.parametrize("folds", [[], ["../0"], [""], ["0", "0"], ["-1"], ["٣"], ["al"]])
def test_folds_of_a_member_are_folds(folds: list[str]) -> None:
    with pytest.raises(AutolmkError, match="fold"):
        from_json(RecipeMember, {"model": "a", "folds": folds})


@pytest.mark.parametrize(
    "place",
    ["patch_size", "batch_size", "architecture.features_per_stage", "architecture.kernel_sizes", "architecture.strides",
     "architecture.n_conv_per_stage", "architecture.output_stride"],
)  # fmt: skip
@pytest.mark.parametrize("number", [0, -1, 10**9, 10**30])
def test_numbers_of_a_network_are_refused_before_memory_is_taken(place: str, number: int) -> None:
    value = to_json(example_plans(trainer="heatmap"))
    before = value["configurations"]["example"]
    for part in place.split("."):
        before = before[part]
    deep = isinstance(before, list) and isinstance(before[0], list)
    new = [[number] * 3] * 3 if deep else [number] * 3 if isinstance(before, list) else number
    edited(value["configurations"]["example"], place, new)
    with pytest.raises(AutolmkError):
        plans = Plans.parse(value)
        build(HeatmapTrainer(plans, plans.configurations["example"]))


@pytest.mark.parametrize(
    "place",
    ["architecture.kernel_sizes", "architecture.strides", "architecture.output_stride", "augmentation.translation"],
)
def test_numbers_an_axis_are_as_many_as_axes(place: str) -> None:
    value = to_json(example_plans(trainer="heatmap"))
    numbers = value["configurations"]["example"]
    for part in place.split("."):
        numbers = numbers[part]
    numbers = numbers[-1] if isinstance(numbers[0], list) else numbers
    del numbers[0]
    with pytest.raises(AutolmkError, match=f"{re.escape(place)}.*for 3 axes"):
        Plans.parse(value)


def test_weights_beyond_this_machine_are_counted_and_not_taken() -> None:
    plans = example_plans(trainer="heatmap")
    c = plans.configurations["example"]
    wide = replace(c, architecture=replace(c.architecture, features_per_stage=(2**15,) * 3))
    with pytest.raises(AutolmkError, match="GiB, where this machine"):
        build(HeatmapTrainer(plans, wide))


def model_folder(folder: Path, previous: str) -> Path:
    plans = example_plans(trainer="heatmap")
    plans.save(folder / "plans.json")
    fold = folder / "fold_0"
    network, codec = build(HeatmapTrainer(plans, plans.configurations["example"]))
    tensors = {**checkpoint.module_tensors(network, "network"), **checkpoint.module_tensors(codec, "codec")}
    configuration = to_json(plans.configurations["example"])
    for place in (fold, fold / "example"):
        checkpoint.save(checkpoint.checkpoint_file(place, "final"), tensors, {})
        Measured().save(place)
        edited(configuration, "previous_stage", previous)
        write_json(place / "config.json", {"configuration": configuration, "options": {}, "trainer": "heatmap"})
    (fold / "example" / "example").symlink_to(fold, target_is_directory=True)
    return folder


@pytest.mark.parametrize(
    ("previous", "words"), [(".", "plain name"), ("..", "plain name"), ("example", "circle"), ("nowhere", "lack")]
)
def test_stages_in_a_circle_are_an_error(tmp_path: Path, previous: str, words: str) -> None:
    with pytest.raises(AutolmkError, match=words) as error:
        Model(model_folder(tmp_path, previous), TestTime(device="cpu"))
    assert "config.json" in str(error.value)


@pytest.mark.parametrize("options", [[], ["a"], "a", None, 3])
def test_options_of_another_kind_are_named(tmp_path: Path, options: Any) -> None:
    folder = model_folder(tmp_path, "example")
    file = folder / "fold_0" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "options": options}))
    with pytest.raises(AutolmkError, match="options"):
        Model(folder, TestTime(device="cpu"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "1e30", "-1" + "0" * 400])
@pytest.mark.parametrize("key", ["presence_slope", "shape_residual"])
def test_measured_numbers_are_finite(tmp_path: Path, number: str, key: str) -> None:
    (tmp_path / "measured.json").write_text(f'{{"version": 1, "{key}": {number}}}')
    with pytest.raises(AutolmkError):
        Measured.load(tmp_path)


@pytest.mark.parametrize(
    "split", [{"train": ["a", "a"], "val": ["b"]}, {"train": ["a"], "val": ["b", "b"]},
              {"train": [], "val": ["a", "b"]}, {"train": ["a", "b"], "val": ["b"]}],
)  # fmt: skip
def test_a_case_stands_once_in_a_fold(split: dict[str, list[str]]) -> None:
    with pytest.raises(AutolmkError, match="splits"):
        check_splits([split], {"a": "a", "b": "b"})


def entry(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


@pytest.mark.parametrize(
    "header",
    [
        {f"t{i}": entry("F32", [0], 0) for i in range(30_000)}, {"a": entry("F32", [10**9] * 4, 4)},
        {"a": entry("F32", [-1, -1], 4)}, {"a": entry("C128", [1], 16)}, {"a": []}, [], {"a": {"dtype": "F32"}},
        {"__metadata__": {"autolmk": "[" * 10_000}}, {"__metadata__": {"autolmk": '{"version": 1}'}},
        {"__metadata__": {"autolmk": '{"version": 1, "crc32": 0, "record": []}'}},
        {"__metadata__": {"autolmk": "1" * 5000}},
    ],
    ids=range(11),
)  # fmt: skip
def test_headers_of_checkpoints_are_bounded(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    for read in (checkpoint.load, checkpoint.read_record):
        with pytest.raises(AutolmkError, match="damaged"):
            read(file)
    text = b"[" * 100_000
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(AutolmkError, match="damaged"):
        checkpoint.load(file)


def test_a_checkpoint_of_every_type_of_tensor_is_read(tmp_path: Path) -> None:
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(kind): torch.ones(2, 3).to(kind) for kind in types}
    checkpoint.save(tmp_path / "a", tensors, {"x": 1})
    assert set(checkpoint.load(tmp_path / "a").tensors) == set(tensors)
