"""autolmk_train and autolmk_predict on a pretended GPU: see helpers/pretended_gpu; nothing here ran on CUDA."""

from __future__ import annotations

import collections
import itertools
from pathlib import Path
from typing import Any

import pytest
from gpu_commands import by_commands, timed_look
from gpu_work import METHODS
from pretended_gpu import on_pretended_gpu

SCALER = "sync: _local_scalar_dense: networks/precision.py update"  # GradScaler asks whether the gradients are finite
OF_A_WINDOW = (  # each once: whether scores are finite, and copies back of what is found
    "sync: _local_scalar_dense: prediction/stage.py require_finite",
    "copy from the device: _to_copy: codecs/heatmap.py _local_maxima",
    "copy from the device: _to_copy: codecs/heatmap.py _values",
    "copy from the device: _to_copy: codecs/cells.py _decode",
    "copy from the device: _to_copy: codecs/coordinates.py decode",
)
OFTEN = (("heatmap", 2, True), ("apga", 3, False), ("coarse_to_fine", 3, True), ("global_to_local", 2, False))
SAME = 1e-2  # mm and log-odds: float32 of the same weights


@pytest.mark.parametrize(
    ("method", "ndim", "bfloat16"),
    [
        pytest.param(
            *(method, ndim, bfloat16), id=f"{method}-{ndim}-{'bfloat16' if bfloat16 else 'float16'}",
            marks=() if (method, ndim, bfloat16) in OFTEN else pytest.mark.long,
        )
        for method, ndim, bfloat16 in itertools.product(METHODS, (2, 3), (True, False))
    ],
)  # fmt: skip
def test_a_fold_is_trained_stopped_gone_on_with_validated_and_predicted_with(
    method: str, ndim: int, bfloat16: bool, tmp_path: Path
) -> None:
    found = on_pretended_gpu(by_commands, method, ndim, tmp_path, bfloat16=bfloat16)
    assert found["trained"] and found["stops"] >= len(METHODS[method])
    assert len(found["differing"]) >= len(METHODS[method]) and not any(found["differing"])
    assert found["validated alike"] and found["finite"]
    assert_waits(found["steps"], () if bfloat16 else (SCALER,))
    first, second = found["looks"]
    assert first["calls"] > 0 and (second["calls"] > 0) == (len(METHODS[method]) > 1)
    for look in (first, second):
        assert_waits(look, OF_A_WINDOW)
    assert max(found["apart"]["float32"]) <= SAME, found["apart"]


def assert_waits(seen: dict[str, Any], allowed: tuple[str, ...]) -> None:
    """Only there, and at most once a call."""
    found = collections.Counter()
    for place, times in seen["waits"].items():
        found[place.rpartition(", line")[0]] += times
    assert not set(found) - set(allowed), "\n".join(map(str, seen["waits"].items()))
    assert max(found.values(), default=0) <= seen["calls"], "\n".join(map(str, seen["waits"].items()))


@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_is_timed_on_the_device(method: str) -> None:
    """The codec's weights are there too."""
    assert on_pretended_gpu(timed_look, method, 2) > 0
