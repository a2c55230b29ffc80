"""autolmk_demo writes its phantom whole, and into no folder that others began."""

from __future__ import annotations

from pathlib import Path

import pytest

from autolmk.cli import demo

RAW = Path("raw") / "Dataset001_Phantom"


def test_the_phantom_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(place: Path, seed: int) -> None:
        (place / "imagesTr").mkdir(parents=True)
        (place / "dataset.json").write_text(str(seed))
        if seed == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_phantom", write)
    monkeypatch.setattr(demo, "_commands", lambda *_: [])
    monkeypatch.setattr(demo, "_report", lambda *_: 0)
    assert demo.main(["--folder", str(tmp_path), "--seed", "1"]) == 130
    assert list((tmp_path / "raw").iterdir()) == []
    assert demo.main(["--folder", str(tmp_path), "--seed", "2"]) == 0
    assert [file.name for file in (tmp_path / "raw").iterdir()] == [RAW.name]
    assert (tmp_path / RAW / "dataset.json").read_text() == "2"


def test_a_folder_of_others_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / RAW / "imagesTr").mkdir(parents=True)
    (tmp_path / RAW / "imagesTr" / "mine.nii.gz").write_text("mine")
    assert demo.main(["--folder", str(tmp_path)]) == 2
    assert [f.name for f in (tmp_path / RAW).rglob("*")] == ["imagesTr", "mine.nii.gz"]
