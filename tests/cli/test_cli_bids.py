"""autolmk_bids: a tree of images in, a tree of derivatives out, that autolmk's own BIDS reader takes as points."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from autolmk import annotations
from autolmk.cli.bids import main
from autolmk.errors import AutolmkError
from autolmk.imageio import write_image
from autolmk.prediction.bids import images_of, require_free

BLOBS = runpy.run_path(str(Path(__file__).parents[1] / "prediction" / "test_predictor.py"))


def tree(root: Path, *names: str) -> None:
    for i, name in enumerate(names):
        geometry = BLOBS["some_geometry"](i)
        write_image(root / name, BLOBS["make_image"](geometry, BLOBS["some_points"](geometry)))


def predict(*arguments: object) -> int:
    return main([*map(str, arguments), "-device", "cpu", "--trust-code"])


def test_participants_and_sessions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, root, out = BLOBS["make_model"](tmp_path), tmp_path / "bids", tmp_path / "out"
    first, second = "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-a/anat/sub-02_ses-a_desc-preproc_T1w.nii.gz"
    tree(root, first, second, "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz")
    (root / "sub-03" / "anat").mkdir(parents=True)
    (root / "sub-03" / "anat" / "sub-03_T1w.nii.gz").write_bytes(b"damaged")
    assert predict(root, out, "participant", "-m", model) == 3
    assert "2 of 3 images predicted" in capsys.readouterr().out
    expected = {
        "dataset_description.json",
        "sub-01/anat/sub-01_desc-autolmk_T1w.mrk.json",
        "sub-01/anat/sub-01_desc-autolmk_T1w.json",
        "sub-02/ses-a/anat/sub-02_ses-a_desc-preprocAutolmk_T1w.mrk.json",
        "sub-02/ses-a/anat/sub-02_ses-a_desc-preprocAutolmk_T1w.json",
    }
    assert {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()} == expected
    points = BLOBS["some_points"](BLOBS["some_geometry"](0))
    found = annotations.read(out / "sub-01/anat/sub-01_desc-autolmk_T1w.mrk.json")
    np.testing.assert_allclose(found.points, points, atol=0.15)
    sidecar = json.loads((out / "sub-01/anat/sub-01_desc-autolmk_T1w.json").read_text())
    assert sidecar["Sources"] == [f"bids::{first}"] and sidecar["FiducialsCoordinateUnits"] == "mm"
    np.testing.assert_array_equal(list(sidecar["FiducialsCoordinates"].values()), found.points)
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and described["GeneratedBy"][0]["Name"] == "autolmk"


def test_only_the_participants_that_are_asked_for(tmp_path: Path) -> None:
    tree(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    for label in ("02", "sub-02"):
        assert [image.entities for image in images_of(tmp_path, ["T1w"], [label])] == ["sub-02"]
    with pytest.raises(AutolmkError, match="sub-07"):
        images_of(tmp_path, ["T1w"], ["07"])


def test_channels_by_suffix(tmp_path: Path) -> None:
    tree(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii")
    (image,) = images_of(tmp_path, ["T2w", "T1w"])
    assert [file.name for file in image.files] == ["sub-01_T2w.nii", "sub-01_T1w.nii.gz"] and image.suffix == "T2w"
    with pytest.raises(AutolmkError, match="lacks a channel"):
        images_of(tmp_path, ["T1w", "FLAIR"])
    with pytest.raises(AutolmkError, match="no image to predict"):
        images_of(tmp_path, ["bold"])


def test_as_many_suffixes_as_the_model_has_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "bids", "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz")
    arguments = (tmp_path / "bids", tmp_path / "out", "participant", "-m", BLOBS["make_model"](tmp_path))
    assert predict(*arguments, "--suffix", "T1w", "T2w") == 2
    assert "takes another number of images" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_derivatives_of_others_and_the_tree_itself_stay(tmp_path: Path) -> None:
    name = "sub-01/anat/sub-01_T1w.nii.gz"
    tree(tmp_path / "bids", name)
    (image,) = images_of(tmp_path / "bids", ["T1w"])
    with pytest.raises(AutolmkError, match="BIDS tree itself"):
        require_free(tmp_path / "bids", tmp_path / "bids" / "sub-01" / "..", [image])
    for made in ("[]", "{}", '{"GeneratedBy": [{"Name": "fMRIPrep"}]}', '{"GeneratedBy": [{"Name": 1}, 2]}', "{", ""):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        (out / "dataset_description.json").write_text(made)
        with pytest.raises(AutolmkError, match="did not make"):
            require_free(tmp_path / "bids", out, [image])
    (out / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "autolmk"}]}')
    require_free(tmp_path / "bids", out, [image])


@pytest.mark.parametrize("name", ["sub-01", "sub-01/anat"])
def test_links_and_files_among_the_derivatives_stay(name: str, tmp_path: Path) -> None:
    tree(tmp_path / "bids", "sub-01/anat/sub-01_T1w.nii.gz")
    images, out = images_of(tmp_path / "bids", ["T1w"]), tmp_path / "out"
    (tmp_path / "precious").mkdir()
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(tmp_path / "precious")
    with pytest.raises(AutolmkError, match="a link is in the place"):
        require_free(tmp_path / "bids", out, images)
    (out / name).unlink()
    (out / "sub-01" / "anat").mkdir(parents=True, exist_ok=True)
    (out / "sub-01" / "anat" / "sub-01_desc-autolmk_T1w.json").write_text("mine")
    with pytest.raises(AutolmkError, match="in the way"):
        require_free(tmp_path / "bids", out, images)
