"""autolmk_train from a bundle: frozen layers stay as the bundle has them, and a run goes on only as it was begun."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from autolmk.bundles.exporting import export
from autolmk.files.serialization import read_json, write_json
from autolmk.fold import checkpoint
from autolmk.fold.checkpoint import checkpoint_file

TRAIN = runpy.run_path(str(Path(__file__).with_name("test_cli_train.py")))
run, model, folder, complaint = TRAIN["run"], TRAIN["model"], TRAIN["folder"], TRAIN["complaint"]


def test_layers_of_a_bundle_are_frozen(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "1", "0", "--epochs", "1") == 0
    write_json(model(folder) / "dataset.json", {"channel_names": {"0": "CT"}})
    bundle, _ = export(model(folder), tmp_path / "a.autolmk.zip")
    write_json(model(folder) / "dataset.json", {"landmarks": {}})
    start = checkpoint.load(checkpoint_file(model(folder) / "fold_0", "final")).tensors
    begin = ("1", "1", "--epochs", "1", "-pretrained_weights", str(bundle))
    assert run(folder, *begin, "--freeze", "encode") == 2
    assert "did you mean 'encoder'" in complaint(capsys)
    for wrong in ("encoder", "encoder=x", "encoder=-1", "=0.1", "encoder=0.1 encoder=0.2"):
        assert run(folder, *begin, "--layer_rates", *wrong.split()) == 2, wrong
        assert "rates of layers cannot be read" in complaint(capsys)
    assert run(folder, "1", "1", "--freeze", "encoder") == 2
    assert "-pretrained_weights" in complaint(capsys)
    assert not (model(folder) / "fold_1").exists()
    assert run(folder, *begin, "--freeze", "encoder", "--layer_rates", "decoder=0.5") == 0
    config = read_json(model(folder) / "fold_1" / "config.json")
    assert config["layer_rates"] == {"encoder": 0.0, "decoder": 0.5} and config["pretrained"]["share"] == 1.0
    found = checkpoint.load(checkpoint_file(model(folder) / "fold_1", "final")).tensors
    same = {name for name in start if torch.equal(start[name], found[name])}
    frozen = {name for name in start if name.startswith("network.encoder.")}
    assert frozen and frozen <= same and len(same) < len(start)


def test_a_run_goes_on_with_the_rates_that_it_was_begun_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(folder, "1", "0", "--epochs", "1") == 0
    weights = checkpoint_file(model(folder) / "fold_0", "final")
    begin = ("1", "1", "--epochs", "2", "-pretrained_weights", str(weights))
    from autolmk.training.state import Run

    step = Run.step

    def stopping(self: Run, batch: object) -> None:
        step(self, batch)  # type: ignore[arg-type]
        if self.iteration == 3:
            (self.folder / "stop").touch()

    monkeypatch.setattr(Run, "step", stopping)
    assert run(folder, *begin, "--freeze", "encoder") == 0
    assert "stopped" in capsys.readouterr().out
    monkeypatch.setattr(Run, "step", step)
    assert run(folder, *begin) == 2
    error = complaint(capsys)
    assert "other rates of its layers" in error and "found: encoder 0" in error and "--freeze" in error
    assert run(folder, *begin, "--freeze", "encoder") == 0
    first, last = (checkpoint.load(f).tensors for f in (weights, checkpoint_file(model(folder) / "fold_1", "final")))
    assert all(torch.equal(first[name], last[name]) for name in first if name.startswith("network.encoder."))
