"""Stand-ins for torch in the runner: networks are ONNX graphs, scores are NumPy arrays.

Shapes: L landmarks or windows, K candidates, C channels, D image axes, *S spatial, *O output cells.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autolmk.errors import AutolmkError
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage

Tensor = Codec = object  # names that annotations need
device = str


class nn:
    """Stand-in for `torch.nn`, as far as annotations need it."""

    Module = object


class Precision:
    """Everything is float32 on the CPU."""

    dtype = None

    def __init__(self, device: object) -> None:
        self.device = device


def MixedPrecision(network: Any, device: object, dtype: object) -> Any:
    """The network itself: ONNX graphs have their precision built in."""
    return network


class Network:
    """An ONNX graph: data, and where it asks for them the landmarks of windows -> scores."""

    def __init__(self, file: Path) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251 - it would write, and report, a device's identity
        import onnxruntime

        if not file.is_file():
            raise AutolmkError("a network is missing", file=file, remedy="copy the whole folder that was exported")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = [one.name for one in self.session.get_inputs()]

    def __call__(self, data: FloatImage, landmarks: npt.NDArray[np.int64] | None = None) -> FloatImage:
        """Compute scores (B, L or W, ...) from data (B, C, *S), or from (B, W, C, *S) and landmarks (B, W)."""
        given = {"data": np.ascontiguousarray(data, dtype=np.float32), "landmarks": landmarks}
        return np.asarray(self.session.run(None, {name: given[name] for name in self.inputs})[0])


@dataclass(frozen=True, eq=False)
class OnnxMember:
    """One network and its decoder, as `stage.Member`."""

    network: Network
    codec: Any
    untrained: tuple[str, ...]


class Look:
    """Sees windows of one image through all members and views, as `first_look.Look` does by torch."""

    def __init__(self, stage: Any, prepared: Any) -> None:
        self.stage, self.image, self.fill, self.members = stage, prepared.image, prepared.fill, stage.members
        plans, configuration, members = stage.plans, stage.configuration, stage.members
        self.patch, self.partner = configuration.patch_size, plans.pair_indices()
        untrained = np.stack([np.isin(plans.landmarks, m.untrained) for m in members])
        self.untrained = untrained
        physical = configuration.augmentation.mirror_axis
        axis = None if physical is None else prepared.array_axis(physical)
        self.axes = [axis, None] if stage.mirror and axis is not None else [None]

    def scores(self, start: Sequence[int]) -> FloatImage:
        """The scores (L, *output) of the window whose first voxel is `start`, averaged over members and views."""
        window = self.image.geometry.crop(start, self.patch)
        data = self.image.resample(window, fill=self.fill).array
        each = []
        for member, untrained in zip(self.members, self.untrained, strict=True):
            for axis in self.axes:
                seen = data if axis is None else np.flip(data, 1 + axis)
                scores = member.network(seen[None])[0]
                scores = scores if axis is None else member.codec.mirror(scores, axis, self.partner)
                scores[untrained] = 0.0
                each.append(scores)
        counts = (~self.untrained).sum(axis=0).clip(1) * len(self.axes)
        total = np.sum(each, axis=0, dtype=np.float32)
        return np.asarray(total / counts.reshape(-1, *[1] * (total.ndim - 1)).astype(np.float32))

    def decode(self, start: Sequence[int]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Window voxels (L, K, D), log-odds (L, K) and widths in voxels (L, K) of the window at `start`."""
        scores = self.scores(start)
        require_finite(scores)
        voxels, log_odds, spread = self.members[0].codec.decode(scores)
        log_odds[self.stage.unknown] = -np.inf
        return voxels, log_odds, spread


def see_landmarks(
    look: Any, windows: Sequence[Geometry], which: Sequence[int], spacing: Sequence[float]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Look at a window for each landmark, as `second_look` needs it: voxels (W, K, D), log-odds and widths in voxels
    (W, K).
    """
    look.seen += len(windows)
    data = np.stack([look._cut(window, spacing) for window in windows])
    scores = look.member.network(data[None], np.array(which, dtype=np.int64)[None])[0]
    require_finite(scores)
    voxels, log_odds, spread = look.member.codec.decode(scores)
    return voxels, log_odds, spread


def require_finite(scores: FloatImage) -> None:
    """Raise AutolmkError where a network's scores (...) are NaN or infinitely high."""
    highest = float(scores.max())
    if not np.isfinite(highest):
        raise AutolmkError(
            "the network's output is not finite",
            found=f"scores up to {highest}",
            remedy="check the image's intensities; if other images fail too, train again",
        )
