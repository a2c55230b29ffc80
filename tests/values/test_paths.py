"""Argument before environment before default, and datasets by number or name."""

from __future__ import annotations

from pathlib import Path

import pytest

from autolmk.errors import AutolmkError
from autolmk.paths import Folders, dataset_name, folders, model_folder, plain_name


def test_argument_beats_environment_beats_default(tmp_path: Path) -> None:
    environ = {"autolmk_raw": str(tmp_path / "e"), "autolmk_results": str(tmp_path / "r"), "autolmk_preprocessed": ""}
    found = folders(raw=tmp_path / "a", environ=environ)
    assert found.raw.path == tmp_path / "a" and str(found.raw) == f"{tmp_path / 'a'} (from --raw)"
    assert found.raw.describe(found.raw / "x") == f"{tmp_path / 'a' / 'x'} (from --raw)"
    assert found.results.path == tmp_path / "r" and "environment variable autolmk_results" in str(found.results)
    assert found.preprocessed.path == Path.home() / "autolmk" / "preprocessed" and "default" in str(found.preprocessed)


def test_home_and_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = folders(raw="~/x", results="y", environ={})
    assert found.raw.path == Path.home() / "x" and found.results / "z" == tmp_path / "y" / "z"


@pytest.fixture
def place(tmp_path: Path) -> Folders:
    (tmp_path / "raw" / "Dataset001_Skull").mkdir(parents=True)
    (tmp_path / "pre" / "Dataset012_Wing").mkdir(parents=True)
    (tmp_path / "raw" / "notes").mkdir()
    (tmp_path / "raw" / "Dataset005_file").touch()
    return folders(tmp_path / "raw", tmp_path / "pre", tmp_path / "results", environ={})


@pytest.mark.parametrize("given", ["1", "001", "Dataset001_Skull"])
def test_dataset_by_number_or_name(given: str, place: Folders) -> None:
    assert dataset_name(given, place) == "Dataset001_Skull"


def test_dataset_known_from_another_folder(place: Folders) -> None:
    assert dataset_name("12", place) == "Dataset012_Wing"


@pytest.mark.parametrize("given", ["5", "2", "Dataset001_Skul", "notes"])
def test_unknown_dataset_says_where_it_looked(given: str, place: Folders) -> None:
    with pytest.raises(AutolmkError) as caught:
        dataset_name(given, place)
    assert "Dataset012_Wing" in str(caught.value) and "(from --raw)" in str(caught.value)
    if given == "Dataset001_Skul":
        assert "did you mean 'Dataset001_Skull'" in str(caught.value)


def test_number_of_two_datasets_is_refused(place: Folders) -> None:
    (place.results / "Dataset001_Other").mkdir(parents=True)
    with pytest.raises(AutolmkError, match="more than one dataset"):
        dataset_name("1", place)
    assert dataset_name("Dataset001_Other", place) == "Dataset001_Other"


def test_model_folder_is_that_of_nnunet() -> None:
    folder = model_folder(Path("results"), "Dataset001_Skull", "heatmap", "autolmkPlans", "heatmap")
    assert folder == Path("results/Dataset001_Skull/heatmap__autolmkPlans__heatmap")


@pytest.mark.parametrize("name", ["heatmap", "case 1", "Zoë", "a.b-c_d", "sub-01.nii", "console", "a~", "..a", "نقطة"])
def test_plain_names_pass(name: str) -> None:
    assert plain_name(name, "a name") == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a/b", "/etc", "..\\x", "a\\b", "~", "~root", "C:", "c:x", "a\nb", "a\0", "\x1b[2J", "\u2028",
        "a ", "a.", "...", "CON", "nul.txt", "Com1", "lpt9.a.b", "\ud800", "x" * 201, "é" * 120,
    ],
    ids=range(25),
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        plain_name(name, "a name")
