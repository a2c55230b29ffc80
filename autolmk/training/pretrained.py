"""Weights of another run as a start: landmarks and channels are matched by name, the rest by the tensors' names."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autolmk.errors import AutolmkError
from autolmk.fold import checkpoint
from autolmk.methods.trainer import Trainer
from autolmk.plans import Configuration, Plans

LISTED = 8  # names that a message lists


@dataclass(frozen=True)
class Taken:
    """The weights that were loaded. share: of all weights, those in tensors that were taken. whole: tensors copied as
    they are. by_name: tensors copied landmark by landmark or channel by channel. new: tensors that keep their fresh
    start. unused: tensors of the file that had no place. sha256: of the file, which may have been a temporary copy.
    """

    file: str
    share: float
    landmarks: tuple[str, ...]
    new_landmarks: tuple[str, ...]
    new_channels: tuple[str, ...]
    whole: tuple[str, ...]
    by_name: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    sha256: str = ""

    def sentence(self) -> str:
        """The loaded weights in one sentence, for the console."""
        taken = f"{len(self.whole)} tensors as they are, {len(self.by_name)} by landmark or channel"
        parts = [f"{100 * self.share:.0f} % of this network ({taken})"]
        if not self.landmarks:
            parts.append("no landmark of the same name, so that what tells landmarks apart starts fresh")
        for what, names in (
            ("landmarks taken", self.landmarks),
            ("new landmarks", self.new_landmarks),
            ("channels that start from those of other names", self.new_channels),
            ("tensors that start fresh", self.new),
            ("tensors of the file without a place", self.unused),
        ):
            if names:
                more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
                parts.append(f"{what}: {', '.join(names[:LISTED])}{more}")
        return f"weights from {self.file}: " + "; ".join(parts)


@torch.no_grad()
def load_pretrained(file: Path, trainer: Trainer, network: nn.Module, codec: nn.Module) -> Taken:
    """Fill network and codec, in place, with what fits of the checkpoint `file`.

    A tensor whose first axis counts landmarks (found by building the method again, with one landmark and one channel
    more) is copied landmark by landmark; the first convolution channel by channel, where new channels start at the
    mean of the old ones (of equal number: at the one in their place). So weights of another dataset, with other
    landmarks and channels, give all but what tells landmarks apart. AutolmkError where the file is no checkpoint of
    autolmk or nothing of it fits.
    """
    source = checkpoint.load(file)
    plans = trainer.plans
    landmarks, channels = tuple(source.record["landmarks"]), tuple(source.record["channels"])
    targets = _tensors(network, codec)
    counted = _counted_axes(trainer, targets)
    same_landmarks, same_channels = landmarks == plans.landmarks, channels == plans.channel_names
    same = {0: same_landmarks, 1: same_channels, -1: same_landmarks and same_channels}
    whole, by_name = [], []
    for name, target in targets.items():
        given = source.tensors.get(name)
        if given is None or given.ndim != target.ndim:
            continue
        axis = counted.get(name)
        if given.shape == target.shape and (axis is None or same[axis]):
            target.copy_(given)
            whole.append(name)
        elif axis is not None and _copy_by_name(target, given, axis, plans, landmarks, channels):
            by_name.append(name)
    used = {*whole, *by_name}
    unused = tuple(sorted(n for n in source.tensors if n.startswith(("network.", "codec.")) and n not in used))
    if not any(targets[name].ndim > 1 for name in used):  # vectors alone, such as biases, mean nothing
        raise AutolmkError(
            "nothing of the pretrained weights fits this network",
            file=file,
            found=f"tensors such as {_shapes(source.tensors)}",
            expected=f"tensors such as {_shapes(targets)}",
            remedy="take weights of the same method, of images of as many axes, and of an architecture that shares "
            "stages with this one (the same preset)",
        )
    sizes = {name: tensor.numel() for name, tensor in targets.items()}
    return Taken(
        file=str(file),
        share=sum(sizes[name] for name in used) / sum(sizes.values()),
        landmarks=tuple(n for n in plans.landmarks if n in landmarks),
        new_landmarks=tuple(n for n in plans.landmarks if n not in landmarks),
        new_channels=tuple(n for n in plans.channel_names if n not in channels),
        whole=tuple(whole),
        by_name=tuple(by_name),
        new=tuple(n for n in targets if n not in used),
        unused=unused,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    """The first few kernels, or whatever there is."""
    names = sorted(tensors, key=lambda name: (tensors[name].ndim < 2, name))
    return ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in names[:3])


def _tensors(network: nn.Module, codec: nn.Module) -> dict[str, Tensor]:
    return {**checkpoint.module_tensors(network, "network"), **checkpoint.module_tensors(codec, "codec")}


def _counted_axes(trainer: Trainer, targets: dict[str, Tensor]) -> dict[str, int]:
    """Names of the tensors that grow with landmarks or channels -> the axis along which they do, by one for one;
    -1 where they grow in any other way and cannot be matched by name."""
    larger = type(trainer)(_one_more(trainer.plans), _one_channel_more(trainer.configuration), _options(trainer))
    with torch.random.fork_rng():
        grown = _tensors(larger.build_network(), larger.build_codec())
    result = {}
    for name, target in targets.items():
        here, there = tuple(target.shape), tuple(grown[name].shape) if name in grown else ()
        if here == there:
            continue
        if there == (here[0] + 1, *here[1:]) and here[0] == trainer.n_landmarks:
            result[name] = 0
        elif len(here) > 1 and there == (here[0], here[1] + 1, *here[2:]) and here[1] == trainer.n_channels:
            result[name] = 1
        else:
            result[name] = -1
    return result


def _one_more(plans: Plans) -> Plans:
    """With one landmark and one channel more."""
    return dataclasses.replace(
        plans,
        landmarks=(*plans.landmarks, "one more"),
        channel_names=(*plans.channel_names, "one more"),
        configurations={name: _one_channel_more(c) for name, c in plans.configurations.items()},
    )


def _one_channel_more(configuration: Configuration) -> Configuration:
    normalization = (*configuration.normalization, configuration.normalization[-1])
    return dataclasses.replace(configuration, normalization=normalization)


def _options(trainer: Trainer) -> dict[str, object]:
    return {f.name: getattr(trainer.options, f.name) for f in dataclasses.fields(trainer.options)}


def _copy_by_name(
    target: Tensor, given: Tensor, axis: int, plans: Plans, landmarks: Sequence[str], channels: Sequence[str]
) -> bool:
    """Whether anything could be copied."""
    if axis == 0:
        return _copy_landmarks(target, given, plans.landmarks, landmarks)
    return axis == 1 and _copy_channels(target, given, plans.channel_names, channels)


def _copy_landmarks(target: Tensor, given: Tensor, names: Sequence[str], known: Sequence[str]) -> bool:
    if given.shape[1:] != target.shape[1:] or given.shape[0] != len(known):
        return False
    shared = [(row, known.index(name)) for row, name in enumerate(names) if name in known]
    for row, source in shared:
        target[row].copy_(given[source])
    return bool(shared)


def _copy_channels(target: Tensor, given: Tensor, names: Sequence[str], known: Sequence[str]) -> bool:
    if given.shape[0] != target.shape[0] or given.shape[2:] != target.shape[2:] or given.shape[1] != len(known):
        return False
    same_count = len(names) == len(known)
    for column, name in enumerate(names):
        if name in known:
            target[:, column].copy_(given[:, known.index(name)])
        elif same_count:  # another name in the same place, such as MR instead of CT
            target[:, column].copy_(given[:, column])
        else:
            target[:, column].copy_(given.mean(dim=1))
    return True
