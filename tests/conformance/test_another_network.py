"""The trainer of documentation/another_network.md, where MONAI is installed."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

from autolmk.conformance.examples import example_plans
from autolmk.methods import sources
from autolmk.methods.trainer import Trainer, trainer_class
from autolmk.planning.memory import training_bytes
from autolmk.testing import check_trainer

PAGE = Path(__file__).parents[2] / "documentation/another_network.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI's own, while it is imported
        pytest.importorskip("monai.networks.nets")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine/monai_trainer.py"
    file.write_text(code)
    return file


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_pages_trainer_keeps_the_contract(ndim: int, file: Path) -> None:
    check_trainer(trainer_class(f"{file}:MonaiTrainer"), ndims=(ndim,))


def test_plans_decide_on_its_size_and_it_is_kept_without_monai(file: Path, tmp_path: Path) -> None:
    cls: type[Trainer] = trainer_class(f"{file}:MonaiTrainer")
    plans = example_plans(3)
    trainer = cls(plans, plans.configuration("example"))
    output = trainer.build_network()(torch.zeros(1, 2, 12, 16, 24))
    assert output.shape == (1, 5, 12, 16, 12)  # output stride (1, 1, 2)
    assert training_bytes(trainer, 2).saved > training_bytes(trainer, 1).saved > output.numel() * 4
    kept = sources.keep_sources([f"{file}:MonaiTrainer"], tmp_path / "model")
    assert [source.hashes.keys() for source in kept.values()] == [{"trainer_source/monai_trainer.py"}]
