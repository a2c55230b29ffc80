"""Networks as ONNX graphs that give scores, checked against torch."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autolmk.codecs import Codec
from autolmk.codecs.cells import CERTAIN, LONGEST, RULES, CellCodec
from autolmk.codecs.coordinates import CoordinateCodec
from autolmk.codecs.heatmap import NO_LOWER_THAN, REACH, WIDEST, HeatmapCodec, HeightCodec
from autolmk.codecs.slices import SliceCodec
from autolmk.errors import AutolmkError
from autolmk.plans import Configuration
from autolmk.prediction.stage import Member

OPSET = 18
PACKAGES = ("onnx", "onnxruntime")
MOST_BYTES = 2**31 - 2**20  # of a graph in one file
AGREE = 1e-3  # of the largest score, between torch and onnxruntime


class _Scoring(nn.Module):
    """A network and what its codec makes of the output: data, landmarks of the windows if any -> scores."""

    def __init__(self, network: nn.Module, codec: Codec) -> None:
        super().__init__()
        self.network, self.codec = network, codec

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B, C, *S), or (B, W, C, *S) and (B, W) -> (B, L or W, ...) float32."""
        return self.codec.scores(self.network(*inputs), *inputs[1:])


def require_packages() -> None:
    """Raise AutolmkError where what writes and checks graphs is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise AutolmkError(
            "the export to ONNX needs packages that are not installed",
            found=f"no {', '.join(missing)}",
            remedy="pip install 'autolmk[onnx]'",
        )


def decoding(codec: Codec) -> dict[str, Any]:
    """The description of a codec that `decoders.decoder_of` needs. AutolmkError for a codec that no decoder follows,
    such as one's own.
    """
    if type(codec) is SliceCodec:
        codec = codec.heatmaps
    if type(codec) in (HeatmapCodec, HeightCodec):
        assert isinstance(codec, HeatmapCodec)
        return {
            "kind": "heatmap",
            "patch_size": codec.patch_size,
            "stride": codec.stride,
            "cells": codec.cells,
            "sigma": codec.sigma,
            "n_candidates": codec.n_candidates,
            "reach": REACH,
            "no_lower_than": NO_LOWER_THAN,
            "widest": WIDEST,
        }
    if type(codec) is CellCodec:
        rule = RULES[codec.voting]
        return {
            "kind": "cells",
            "cells": codec.shape,
            "cell_size": codec.cell_size,
            "exclusive": codec.exclusive,
            "n_candidates": codec.n_candidates,
            "voting": codec.voting,
            "power": rule.power,
            "reach": rule.reach,
            "longest": LONGEST,
            "certain": CERTAIN,
        }
    if type(codec) is CoordinateCodec:
        return {"kind": "coordinates", "patch_size": codec.patch_size}
    raise AutolmkError(
        "this model cannot be exported: the runner does not know how its codec decodes",
        found=type(codec).__name__,
        expected="a codec that autolmk ships",
        remedy="predict with autolmk_predict, or use a shipped codec in your trainer",
    )


def write_graph(file: Path, member: Member, configuration: Configuration, n_channels: int, n_landmarks: int) -> None:
    """Write a member's graph and check it in onnxruntime on as many windows as it was traced with, and on another
    number. AutolmkError where it cannot be written, or computes something else."""
    scoring = _Scoring(member.network, member.codec).eval().cpu()
    size = sum(t.numel() * t.element_size() for t in (*scoring.parameters(), *scoring.buffers()))
    if size > MOST_BYTES:
        raise AutolmkError(
            "a network is too large for an ONNX file",
            found=f"{size / 2**30:.1f} GiB",
            expected="less than 2 GiB",
            remedy="export a model of a smaller preset",
        )
    samples = _samples(configuration, n_channels, n_landmarks)
    names = ["data", "landmarks"][: len(samples[0])]
    windows = (
        {0: "batch"} if len(names) == 1 or configuration.windows.per_sample is None else {0: "batch", 1: "windows"}
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its successor needs onnxscript, and cannot trace every network here
            torch.onnx.export(
                scoring,
                samples[0],
                str(file),
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=["scores"],
                dynamic_axes=dict.fromkeys((*names, "scores"), windows),
            )
    except Exception as error:
        raise AutolmkError(
            "a network cannot be written as ONNX",
            file=file,
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy="a network of your own must be traceable by torch.onnx",
        ) from error
    for inputs in samples:
        _check(file, scoring, dict(zip(names, inputs, strict=True)))


def _samples(configuration: Configuration, n_channels: int, n_landmarks: int) -> list[tuple[Tensor, ...]]:
    """Two inputs of different numbers of windows; the first is traced."""
    generator = torch.Generator().manual_seed(0)
    shape = (n_channels, *configuration.patch_size)
    if configuration.windows.kind != "landmark":
        return [(torch.randn(n, *shape, generator=generator),) for n in (2, 3)]
    if configuration.windows.per_sample is None:
        rows = torch.arange(n_landmarks)
        return [(torch.randn(n, n_landmarks, *shape, generator=generator), rows.expand(n, -1)) for n in (2, 1)]
    some = [torch.arange(n)[None] % n_landmarks for n in (3, 2)]
    return [(torch.randn(1, which.shape[1], *shape, generator=generator), which) for which in some]


def _check(file: Path, scoring: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """AutolmkError where onnxruntime computes other scores than torch."""
    from autolmk.export_onnx.torch_free import Network

    with torch.no_grad():
        expected = scoring(*inputs.values()).numpy()
    try:
        found = Network(file)(*(tensor.numpy() for tensor in inputs.values()))
        apart = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        said = f"scores {apart:.3g} apart, shapes {found.shape} and {expected.shape}"
    except Exception as error:
        apart, said = float("inf"), str(error).splitlines()[0]
    if not apart <= AGREE * max(1.0, float(np.abs(expected).max())):
        raise AutolmkError(
            "an exported network computes something else than the model",
            file=file,
            found=said,
            expected="the same scores for any number of windows",
            remedy="a network of your own must not depend on values or sizes of its input in Python",
        )
