"""Training and prediction on a pretended GPU: no device is mixed with another, nothing waits within a step, and a step
starts as many kernels for many landmarks as for few. See helpers/pretended_gpu; nothing here ran on CUDA."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_work import KINDS, METHODS, a_batch, a_trainer, begin, decoded, go_on, method, steps
from pretended_gpu import on_pretended_gpu

MAIN = [kind for kind in KINDS if " " not in kind]
EACH = [*itertools.product(MAIN, (2, 3)), ("fine own", 3), ("fine correlated", 3)]
SCALER = "sync: _local_scalar_dense: networks/precision.py update"  # GradScaler asks whether the gradients are finite
FEW, MANY = 8, 120
CROSSINGS = list(itertools.permutations(("cpu", "bfloat16", "float16"), 2))


@pytest.mark.parametrize(("kind", "ndim"), EACH)
def test_steps_wait_for_nothing_and_go_on_bit_equal(kind: str, ndim: int, tmp_path: Path) -> None:
    """And start as many kernels for many landmarks as for few."""
    found = on_pretended_gpu(steps, kind, ndim, [FEW, MANY], tmp_path)
    assert (found["dtype"], found["devices"], found["waited"]) == ("bfloat16", ["cuda:0"], {})
    assert_goes_on(found)
    few, many = found["launches"]
    assert few == many > 0


@pytest.mark.parametrize(("kind", "ndim"), list(itertools.product(MAIN, (2, 3))))
def test_in_float16_a_step_waits_for_the_scaler_alone(kind: str, ndim: int, tmp_path: Path) -> None:
    found = on_pretended_gpu(steps, kind, ndim, [], tmp_path, bfloat16=False)
    assert found["dtype"] == "float16"
    assert [place.startswith(SCALER) for place in found["waited"]] == [True] and sum(found["waited"].values()) == 1
    assert_goes_on(found)


def assert_goes_on(found: dict[str, Any]) -> None:
    assert found["differing"] == 0 and found["finite"]
    assert found["losses"][0] == found["losses"][1] is not None


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_methods_train_validate_and_predict(name: str, ndim: int, tmp_path: Path) -> None:
    found = on_pretended_gpu(method, name, ndim, tmp_path)
    assert found["finished"] and found["finite"] and "summary.json" in found["validated"]


@pytest.mark.parametrize("ndim", [2, 3])
def test_scores_are_mirrored_and_decoded_as_on_the_cpu(ndim: int) -> None:
    found = on_pretended_gpu(decoded, ["heatmap", "coordinates", "global_cells"], ndim)
    assert all(len(apart) == ndim + 3 and max(apart.values()) <= 1e-9 for apart in found.values()), found
    assert min(min(apart.values()) for apart in found.values()) >= 0


@pytest.mark.parametrize(("before", "after"), CROSSINGS, ids=[" to ".join(pair) for pair in CROSSINGS])
def test_a_run_goes_on_on_another_device(before: str, after: str, tmp_path: Path) -> None:
    """From a processor to a card of either kind, and back."""
    if before == "cpu":
        begin(None, tmp_path)
    else:
        on_pretended_gpu(begin, tmp_path, bfloat16=before == "bfloat16")
    on_gpu = after != "cpu"
    found = on_pretended_gpu(go_on, tmp_path, bfloat16=after == "bfloat16") if on_gpu else go_on(None, tmp_path)
    assert (found["iteration"], found["kept"]) == (2, True) and math.isfinite(found["loss"])
    assert found["scale"] == (2.0**16 if after == "float16" else 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_are_traced_without_a_break(kind: str) -> None:
    """torch.compile makes one graph of each."""
    trainer = a_trainer(kind, 3)
    batch = {k: torch.as_tensor(v) for k, v in a_batch(trainer).items() if k != "cases"}
    inputs = (batch["data"], *((batch["landmarks"],) if "landmarks" in batch else ()))
    torch._dynamo.reset()
    explained = torch._dynamo.explain(trainer.build_network())(*inputs)
    assert (explained.graph_break_count, explained.graph_count) == (0, 1)
