"""Only what an earlier run wrote, by its own record, is removed or replaced in an output folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autolmk.errors import AutolmkError
from autolmk.files.serialization import write_json
from autolmk.prediction.output import PredictionFolder

STRANGERS = (
    ".x.tmp",
    ".a.mrk.json.tmp",
    ".writing_book/chapter.txt",
    "deep/er/.x.tmp",
    "deep/.writing_it/x",
    "overlays/.x.tmp",
    "overlays/mine.png",
    "heatmap_crops/notes.txt",
    "heatmap_crops/a/1_mine.nii.gz",
    "heatmap_crops/other/x",
    "detections/mine.json",
    "mine.mrk.json",
    "notes.csv",
)
OURS = (
    "a.mrk.json",
    "overlays/a.png",
    "detections/a.json",
    "heatmap_crops/a/0_tip.nii.gz",
    "landmarks.csv",
    ".a.mrk.json.autolmk-abcd1234.tmp",
    "heatmap_crops/a/.0_tip.nii.gz.autolmk-abcd1234.tmp.nii.gz",
)


def fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def tree(folder: Path) -> dict[str, str | None]:
    """Path -> content; None of folders."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def record(folder: Path, cases: object = None, **more: object) -> None:
    value = {"identity": {}, "inputs": {"a": ""} if cases is None else cases, "crops": ["0_tip.nii.gz"]}
    write_json(folder / "run.json", value | more)


def begin(folder: Path, case: str = "b", resume: bool = False) -> None:
    PredictionFolder(folder, {case: ""}, {}, unit="mm").begin(resume=resume)


def test_what_the_record_lists_goes_and_all_else_stays(tmp_path: Path) -> None:
    fill(tmp_path, STRANGERS)
    before = tree(tmp_path)
    fill(tmp_path, OURS)
    record(tmp_path)
    begin(tmp_path)
    after = tree(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) == {"run.json", "landmarks.csv"}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("case", ["..", ".", "", "/etc", "../victim", "a/b", "a\\b", "a\0b"])
def test_a_record_that_names_paths_is_refused(case: str, resume: bool, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    fill(folder, STRANGERS)
    fill(tmp_path, ("victim/x", "victim.mrk.json"))
    for more in ({"cases": {case: ""}}, {"crops": [case]}, {"tables": [case]}):
        record(folder, **more)
        before = tree(tmp_path)
        with pytest.raises(AutolmkError, match=r"run\.json"):
            begin(folder, resume=resume)
        assert tree(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"inputs": {"a": ""}}', '{"identity": {}, "inputs": ["a"]}'])
def test_a_record_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    fill(tmp_path, OURS)
    (tmp_path / "run.json").write_text(content)
    before = tree(tmp_path)
    with pytest.raises(AutolmkError):
        begin(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["b.mrk.json", "landmarks.csv", "review.csv", "detections/b.json", "overlays/b.png"])
@pytest.mark.parametrize("recorded", [False, True])
def test_files_in_the_way_are_not_replaced(name: str, recorded: bool, tmp_path: Path) -> None:
    """Such as annotations of the same cases, where the output folder is that of the annotations."""
    fill(tmp_path, (name,))
    if recorded:
        record(tmp_path, tables=["failures.json"])
    before = tree(tmp_path)
    with pytest.raises(AutolmkError, match="files are in the way"):
        begin(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["overlays", "detections", "heatmap_crops", "heatmap_crops/a"])
def test_links_in_the_place_of_folders_are_never_followed(name: str, tmp_path: Path) -> None:
    folder, precious = tmp_path / "out", tmp_path / "precious"
    fill(precious, ("a.png", "a.json", "0_tip.nii.gz", "a/0_tip.nii.gz", "a.mrk.json"))
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(precious)
    record(folder)
    before = tree(precious)
    with pytest.raises(AutolmkError, match="a link is in the place"):
        begin(folder)
    assert tree(precious) == before


@pytest.mark.parametrize("write", [Path.symlink_to, Path.hardlink_to], ids=["symlink", "hardlink"])
def test_what_a_link_in_the_place_of_a_file_points_to_stays(
    write: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    folder, precious = tmp_path / "out", tmp_path / "precious"
    precious.write_text("mine")
    folder.mkdir()
    for name in ("a.mrk.json", "landmarks.csv"):
        write(folder / name, precious)
    record(folder)
    begin(folder, "a")
    assert precious.read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["landmarks.csv", "run.json"]


def test_a_folder_of_ours_is_that_of_an_unbroken_run(tmp_path: Path) -> None:
    """A run that starts over leaves nothing of the one before."""
    begin(tmp_path / "new", "a")
    fill(tmp_path / "old", OURS)
    record(tmp_path / "old")
    begin(tmp_path / "old", "a")
    for name in ("new", "old"):
        (tmp_path / name / "run.json").unlink()
    for folder in ("overlays", "detections", "heatmap_crops"):
        shutil.rmtree(tmp_path / "old" / folder)  # empty, but for folders
    assert tree(tmp_path / "old") == tree(tmp_path / "new")
