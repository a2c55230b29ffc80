"""Bundles there and back: predictions stay the same bit for bit, and nothing tells whose images trained a model."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autolmk.bundles.card_page import markdown
from autolmk.bundles.citation import sheet
from autolmk.bundles.exporting import export
from autolmk.bundles.in_place import read
from autolmk.bundles.installing import install as put
from autolmk.cli import cite, install, models, predict
from autolmk.cli import export as export_command
from autolmk.errors import AutolmkError
from autolmk.files.digest import sha256_of
from autolmk.selection.packing import pack

OLD = Path(__file__).parents[1] / "commands" / "model_of_2026_11"
NAME = "local_cells__autolmkPlans__global_to_local"
BLOBS = runpy.run_path(str(Path(__file__).parents[1] / "prediction" / "test_predictor.py"))
RECIPE = runpy.run_path(str(Path(__file__).parents[1] / "selection" / "test_packing.py"))["a_recipe"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The kept model, in a folder of its own name."""
    return Path(shutil.copytree(OLD / "model", tmp_path / "of_anna_meier" / NAME))


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text())
    file.write_text(json.dumps(change(value) or value))


def predicted(model: Path, images: Path, out: Path, *more: str) -> dict[str, bytes]:
    """All that prediction writes, but timings."""
    assert predict.main(["-i", str(images), "-o", str(out), "-m", str(model), "-device", "cpu", *more]) == 0
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.is_file() and p.name != "run.json"}


def test_prediction_is_the_same_bit_for_bit(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the model folder, its bundle read in place, and the installed bundle."""
    file, results = tmp_path / "a.autolmk.zip", tmp_path / "results"
    assert export_command.main([str(model), "-o", str(file)]) == 0
    assert f"SHA-256 {sha256_of(file)}" in capsys.readouterr().out
    assert install.main([str(file), "--results", str(results), "--sha256", sha256_of(file)]) == 0
    installed = results / "Dataset001_Phantom" / NAME
    here = predicted(model, OLD / "images", tmp_path / "here")
    assert set(here) >= {"landmarks.csv", "phantom_008.mrk.json", "phantom_009.mrk.json"}
    assert predicted(file, OLD / "images", tmp_path / "there") == here
    assert predicted(installed, OLD / "images", tmp_path / "installed") == here
    runs = [json.loads((tmp_path / place / "run.json").read_text()) for place in ("here", "there", "installed")]
    assert runs[0]["identity"] == runs[1]["identity"] == runs[2]["identity"]
    assert runs[1]["model_folder"] == str(file) and not list(Path(tmp_path).glob("autolmk-bundle-*"))


def contents(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_no_case_subject_or_path_is_in_it(model: Path, tmp_path: Path) -> None:
    """In no byte of any file, wherever training wrote one: fingerprint, records of folds, measured numbers, reasons."""
    fold = model / "fold_0"
    edit(fold / "config.json", lambda v: v | {"pretrained": {"file": "/home/jane/secret/x.safetensors", "share": 0.5}})
    edit(fold / "measured.json", lambda v: v["placement"]["why"].update(side="as phantom_003 shows"))
    edit(model / "dataset_fingerprint.json", lambda v: v.update(failed=["phantom_broken"]))
    edit(model / "plans.json", lambda v: v["why"].update({"x": "phantom_001 is odd", "y": "read in /home/jane/data/x"}))
    edit(model / "dataset.json", lambda v: v.update(groups=r"^(phantom_\d+)", converted_by="/home/jane/convert.py"))
    text = (model / "plans.json").read_text() + (model / "dataset_fingerprint.json").read_text()
    assert "phantom_0" in text and "/home/jane" in text
    file, manifest = export(model, tmp_path / "a.autolmk.zip")
    found = contents(file)
    assert set(found) == {*manifest.files, "bundle.json"}
    for name, data in found.items():
        for secret in (b"phantom_", b"/home", b"jane", b"secret", str(tmp_path).encode(), b"anna_meier"):
            assert secret not in data, f"{secret!r} in {name}"
    assert not [name for name in found if "validation" in name or "log" in name]
    config = json.loads(found["fold_0/config.json"])
    assert config["cases"] == {"train": 6, "val": 2} and config["pretrained"] == {"share": 0.5}
    assert len(json.loads(found["dataset_fingerprint.json"])["cases"]) == 8


@pytest.mark.parametrize(
    "text",
    ["As in phantom_003.", "PHANTOM_003", "see /home/jane/data", r"C:\Users\jane\x", "~/data/x", r"\\host\share\x"],
)
def test_a_text_that_names_a_case_or_a_path_is_refused(text: str, model: Path, tmp_path: Path) -> None:
    edit(model / "dataset.json", lambda v: v.update(description=text))
    with pytest.raises(AutolmkError, match=r"names a case, a subject or a path[\s\S]*description[\s\S]*reword"):
        export(model, tmp_path / "a.autolmk.zip")
    assert not (tmp_path / "a.autolmk.zip").exists()


def test_texts_without_secrets_are_kept(model: Path, tmp_path: Path) -> None:
    said = {
        "description": "Phantoms and/or heads, 1/2 mm; see https://example.org/a/b (phantom_003x, xphantom_003).",
        "licence": "CC BY 4.0",
        "intended_use": "Tests | alone <b>",
    }
    edit(model / "dataset.json", lambda v: v.update(said))
    file, manifest = export(model, tmp_path / "a.autolmk.zip")
    card = read(file)[1]
    assert (card.description, card.licence, card.intended_use) == tuple(
        said.values()
    ) and manifest.licence == "CC BY 4.0"
    pages = contents(file)
    assert rb"Tests \| alone \<b\>" in pages["model_card.md"] and b"Tests | alone &lt;b&gt;" in pages["model_card.html"]
    assert b"<script" not in pages["model_card.html"] and b"default-src" in pages["model_card.html"]


def test_the_card_says_what_is_known(model: Path, tmp_path: Path) -> None:
    """Errors as summary.json of the fold has them, ranges and counts as the fingerprint has them."""
    card = read(export(model, tmp_path / "a.autolmk.zip")[0])[1]
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert card.held_out is not None and card.held_out.n == summary["overall"]["n"] == 16
    assert card.held_out.mre.value == pytest.approx(summary["overall"]["mre"]["value"], abs=1e-9)
    for one in card.landmarks:
        assert one.errors is not None
        assert one.errors.mre.value == pytest.approx(summary["landmarks"][one.name]["mre"]["value"], abs=1e-9)
    by_name = {one.name: one for one in card.landmarks}
    assert (by_name["Pineal"].shown, by_name["Pineal"].absent, by_name["Eye_R"].pair) == (6, 2, "Eye_L")
    assert card.ranges["field of view (rows, columns), px"] == "48.0 × 48.0"
    assert card.training["training cases"] == "8, of 8 subjects" and card.held_out_cases == 2
    assert any("always reports" in text for text in card.limits) and card.coverage is None


def test_the_card_has_the_reproducibility_sheet(model: Path, tmp_path: Path) -> None:
    """What autolmk_cite says of the model, as plain text; without it, as in earlier versions, there is no section."""
    card = read(export(model, tmp_path / "a.autolmk.zip")[0])[1]
    said = sheet(model)
    assert (card.methods, card.reproducibility, card.references) == (said.text(), said.facts, said.references())
    assert "(Isensee et al. 2021)" in card.methods and "@" not in card.methods and "\\" not in card.methods
    assert any(one.startswith("Isensee, Fabian; ") and one.endswith(".") for one in card.references)
    assert "\n## Reproducibility\n" in markdown(card)
    assert "Reproducibility" not in markdown(replace(card, methods=""))


def test_the_same_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    files = [export(model, tmp_path / f"{i}.autolmk.zip")[0] for i in range(2)]
    assert sha256_of(files[0]) == sha256_of(files[1])


def test_an_installed_model_is_exported_with_what_is_known_of_it(model: Path, tmp_path: Path) -> None:
    """Its held-out cases stayed behind, its errors did not."""
    file, _ = export(model, tmp_path / "a.autolmk.zip", licence="CC0-1.0")
    folder, _ = put(file, tmp_path / "results")
    again, manifest = export(folder, tmp_path / "b.autolmk.zip", licence="CC0-1.0")
    assert read(again)[1] == read(file)[1] and manifest == read(file)[0]
    folder.rename(tmp_path / "mine")
    with pytest.raises(AutolmkError, match=r"another name[\s\S]*TRAINER__PLANS__CONFIGURATION"):
        export(tmp_path / "mine")


def test_an_unfinished_or_damaged_model_is_not_exported(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.autolmk.zip"
    target.write_bytes(b"an earlier one")
    with pytest.raises(AutolmkError, match="fold 3"):
        export(model, target, folds=["3"])
    (model / "fold_0" / "measured.json").write_text("{")
    with pytest.raises(AutolmkError, match="JSON"):
        export(model, target)
    with pytest.raises(AutolmkError, match="no model folder"):
        export(tmp_path, target)
    assert target.read_bytes() == b"an earlier one" and len(list(tmp_path.iterdir())) == 2


def test_a_packed_model_of_ones_own_trainer(tmp_path: Path) -> None:
    """The whole way of a final predictor with code: refused without trust, then the same predictions."""
    one = BLOBS["make_model"](tmp_path)
    best = one.parent / "best"
    pack(best, one.parent, RECIPE(one.name, "0"), lambda place: None)
    assert predict.main(["-i", "x", "-o", "y", "-m", str(tmp_path / "nothing.zip")]) == 2
    file, manifest = export(best, tmp_path / "best.autolmk.zip")
    assert manifest.packed and len(manifest.code) == 1
    assert str(tmp_path).encode() not in b"".join(
        v for n, v in contents(file).items() if not n.endswith(".safetensors")
    )
    results = str(tmp_path / "lab")
    assert install.main([str(file), "--results", results]) == 2
    assert install.main([str(file), "--results", results, "--trust-code"]) == 0
    assert install.main([str(file), "--results", results, "--trust-code"]) == 0  # again
    images = tmp_path / "images"
    images.mkdir()
    geometry = BLOBS["some_geometry"](0, 3)
    from autolmk.imageio import write_image

    write_image(images / "a_0000.nii.gz", BLOBS["make_image"](geometry, BLOBS["some_points"](geometry)))
    here = predicted(best, images, tmp_path / "here", "--trust-code")
    assert predict.main(["-i", str(images), "-o", str(tmp_path / "no"), "-m", str(file), "-device", "cpu"]) == 2
    assert predicted(file, images, tmp_path / "there", "--trust-code") == here
    installed = tmp_path / "lab" / manifest.dataset / "best"
    assert predicted(installed, images, tmp_path / "installed", "--trust-code") == here


# -- a lab's list, and citing -----------------------------------------------------------------------------------------


def test_a_folder_is_a_zoo(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    export(model, zoo / "heads.autolmk.zip", licence="CC0-1.0")
    (zoo / "broken.autolmk.zip").write_bytes(b"broken")
    (zoo / "readme.txt").write_text("ours")
    assert models.main(["list", "--from", str(zoo)]) == 0
    said = capsys.readouterr()
    assert "heads.autolmk.zip  10         0.403 px      2      CC0-1.0" in said.out and "1 bundle:" in said.out
    assert "left out" in said.err and "broken.autolmk.zip" in said.err
    assert models.main(["show", "heads", "--from", str(zoo)]) == 0
    assert "## Errors on held-out cases" in capsys.readouterr().out
    (zoo / "broken.autolmk.zip").unlink()
    assert models.main(["index", str(zoo)]) == 0
    index = json.loads((zoo / "index.json").read_text())
    assert index["models"][0]["sha256"] == sha256_of(zoo / "heads.autolmk.zip") and len(index["models"]) == 1
    alone = tmp_path / "index.json"
    shutil.copy(zoo / "index.json", alone)
    assert models.main(["list", "--from", str(alone)]) == 0 and "0.403 px" in capsys.readouterr().out
    assert models.main(["show", "heads", "--from", str(alone)]) == 2
    assert "not beside it" in capsys.readouterr().err
    assert models.main(["show", "hands", "--from", str(zoo)]) == 2
    edit(alone, lambda v: v["models"][0].update(file="../x.zip"))
    assert models.main(["list", "--from", str(alone)]) == 2 and "plain name" in capsys.readouterr().err


def test_what_is_installed_is_listed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, results = export(model, tmp_path / "a.autolmk.zip")[0], str(tmp_path / "results")
    assert install.main([str(file), "--results", results]) == 0
    assert models.main(["list", "--results", results]) == 0
    assert f"Dataset001_Phantom/{NAME}  (licence: not stated)" in capsys.readouterr().out
    assert models.main(["show", "Dataset001_Phantom", "--results", results]) == 0
    assert "Crown" in capsys.readouterr().out
    assert install.main([str(file), "--results", results, "--sha256", "0" * 64]) == 2


def test_the_sheet_says_how_to_do_it_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same of the folder and of its bundle; each cited key has its entry, and no path is in it."""
    file, _ = export(model, tmp_path / "a.autolmk.zip")
    assert cite.main([str(model)]) == 0
    folder_said = capsys.readouterr().out
    assert cite.main([str(file)]) == 0
    assert capsys.readouterr().out == folder_said
    assert sha256_of(model / "fold_0" / "checkpoint_final.safetensors") in folder_said and "phantom_" not in folder_said
    assert "10 landmarks were located in 2D images" in folder_said and "8 images of 8 subjects" in folder_said
    keys = {key for part in folder_said.split("[@")[1:] for key in part.split("]")[0].replace("@", "").split("; ")}
    assert keys >= {"autolmk", "isensee2021", "noothout2020", "he2016", "loshchilov2019"}
    assert all(f"{{{key},\n" in folder_said for key in keys) and folder_said.count("\n@") == len(keys)
    assert cite.main([str(model), "--bibtex", "-o", str(tmp_path / "x.bib")]) == 0
    assert (tmp_path / "x.bib").read_text().count("@") == len(keys)
    assert cite.main([]) == 0 and "@software{autolmk" in capsys.readouterr().out


def test_weights_of_a_bundle_are_a_start(model: Path, tmp_path: Path) -> None:
    from autolmk.bundles.in_place import weights_of
    from autolmk.bundles.starting import checkpoint_in

    file, _ = export(model, tmp_path / "a.autolmk.zip")
    with weights_of(file) as place:
        found = checkpoint_in(place, "global_to_local", "local_cells")
        assert found is not None
        assert found.read_bytes() == (model / "fold_0" / "checkpoint_final.safetensors").read_bytes()
        assert (found.parent / "global_to_local_global" / "checkpoint_final.safetensors").is_file()
    with weights_of(found) as same:
        assert same == found
    assert not found.exists() and np.all([checkpoint_in(p, "x", "y") == p for p in (None, file)])


def test_a_checkpoint_with_a_path_in_it_is_written_anew(model: Path, tmp_path: Path) -> None:
    from autolmk.fold import checkpoint

    kept = model / "fold_0" / "checkpoint_final.safetensors"
    before = checkpoint.load(kept)
    checkpoint.save(kept, before.tensors, before.record | {"note": "/home/jane/x of phantom_001"})
    file, _ = export(model, tmp_path / "a.autolmk.zip")
    data = contents(file)["fold_0/checkpoint_final.safetensors"]
    assert b"jane" not in data and data == (OLD / "model" / "fold_0" / "checkpoint_final.safetensors").read_bytes()
    assert zipfile.is_zipfile(io.BytesIO(file.read_bytes()))
