"""Checkpoints: tensors in one safetensors file, everything else as JSON in its header; atomic; never pickle.

Names of tensors: `network.*` and `codec.*` are the weights to predict with (averaged over training); an unfinished run
also holds `training.network.*`, `training.codec.*`, `optimizer.*` and `random.*`, which resuming needs.
"""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autolmk.errors import AutolmkError
from autolmk.files import strict_json
from autolmk.files.serialization import to_json, write_bytes

VERSION = 1
SUFFIX = ".safetensors"
LONGEST_HEADER = 16_000_000  # bytes; those of large networks have less than a million
MOST_TENSORS = 20_000  # of a file; those of large networks hold some thousand
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
HEADER = "autolmk"  # the key of our JSON in the file's metadata
REFERENCE = "$tensor"  # {"$tensor": name} stands for a tensor in packed JSON
TUPLE = "$tuple"
PAIRS = "$pairs"  # a mapping whose keys are not all texts


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read. tensors: by name, on the CPU. record: parsed JSON. file: where it came from."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]
    file: Path


def checkpoint_file(fold_folder: Path, name: str) -> Path:
    """The file of a checkpoint; name: latest, best or final."""
    return fold_folder / f"checkpoint_{name}{SUFFIX}"


def save(file: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically and durably: the previous file stays whole until the new one replaces it."""
    plain = {name: _plain(tensor) for name, tensor in tensors.items()}
    header = {"version": VERSION, "crc32": _checksum(plain), "record": to_json(dict(record))}
    text = json.dumps(header, ensure_ascii=False, allow_nan=False)
    write_bytes(file, safetensors.torch.save(plain, metadata={HEADER: text}))


def load(file: Path) -> Checkpoint:
    """Load a checkpoint. AutolmkError, naming the file and a remedy, where it is missing, damaged, foreign or of
    another version.
    """
    header, tensors = _read(file, with_tensors=True)
    if _checksum(tensors) != header["crc32"]:
        raise damaged(file, "its checksum does not match its content")
    return Checkpoint(tensors, header["record"], file)


def read_record(file: Path) -> dict[str, Any]:
    """The JSON part alone, without reading tensors; same errors as `load`, but damage in tensors goes unseen."""
    record: dict[str, Any] = _read(file, with_tensors=False)[0]["record"]
    return record


def _read(file: Path, *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of one opening of the file (safetensors' own reader opens it twice): a trainer may replace it
    at any moment."""
    if not file.is_file():
        raise AutolmkError(
            "a checkpoint is missing", file=file, remedy="train this fold first, or choose another checkpoint"
        )
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
            size = int.from_bytes(start, "little")
            if len(start) < 8 or size > LONGEST_HEADER:
                raise ValueError("it does not begin as a safetensors file does")
            head = stream.read(size)
            entries = strict_json.parse(head.decode())
            text = entries.pop("__metadata__", {}).get(HEADER)
            end = _end(entries)
            if stream.seek(0, 2) != len(start) + size + end:
                raise ValueError("its length is not what its header says")
            stream.seek(len(start) + size)
            tensors = safetensors.torch.load(start + head + stream.read()) if with_tensors else {}
    except (safetensors.SafetensorError, OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise damaged(file, str(error)) from None
    except (RecursionError, OverflowError, MemoryError) as error:
        raise damaged(file, f"its header asks for too much: {type(error).__name__}") from None
    if text is None:
        raise AutolmkError("this is no checkpoint of autolmk", file=file, remedy="give a file that autolmk_train wrote")
    try:
        header = strict_json.parse(text)
        version = header["version"]
        if not isinstance(header["record"], dict) or not isinstance(header["crc32"], int):
            raise ValueError("no record and checksum")
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise damaged(file, f"its header cannot be read: {error}") from None
    if version != VERSION:
        raise AutolmkError(
            "a checkpoint of another version",
            file=file,
            found=f"version {version}",
            expected=f"version {VERSION}",
            remedy="update autolmk, or train again",
        )
    return header, tensors


def _end(entries: Mapping[str, Any]) -> int:
    """Bytes of all tensors of a header. ValueError where they are too many, or their sizes are not what shapes need."""
    if len(entries) > MOST_TENSORS:
        raise ValueError(f"{len(entries)} tensors, more than {MOST_TENSORS}")
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        if entry["dtype"] not in DTYPES or min(entry["shape"], default=0) < 0 or start < 0:
            raise ValueError(f"the tensor {name[:100]!r} of type {entry['dtype']} and shape {entry['shape']}"[:300])
        if end - start != DTYPES[entry["dtype"]] * math.prod(entry["shape"]):
            raise ValueError(f"the tensor {name[:100]!r} has another size than its shape needs")
    return max((entry["data_offsets"][1] for entry in entries.values()), default=0)


def damaged(file: Path, found: str) -> AutolmkError:
    """The error of a file that does not hold what a checkpoint must hold."""
    return AutolmkError(
        "a checkpoint is damaged",
        file=file,
        found=found,
        expected="a whole safetensors file",
        remedy="restore the file from a backup, or delete it and run autolmk_train again: it goes on from "
        "checkpoint_latest where that is left, else starts over; other checkpoints of the folder can still predict",
    )


def _plain(tensor: Tensor) -> Tensor:
    """Own contiguous memory on the CPU: safetensors refuses shared and strided tensors."""
    detached = tensor.detach()
    return detached.to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        data = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(data.data, value)
    return value


# -- modules ----------------------------------------------------------------------------------------------------------


def module_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each storage once: a state_dict may name one tensor several times."""
    persistent = module.state_dict().keys()
    result, seen = {}, set()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        key = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape))
        if name in persistent and key not in seen:
            seen.add(key)
            result[f"{prefix}.{name}"] = tensor.detach()
    return result


@torch.no_grad()
def restore_module(module: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Copy the tensors `prefix.*` into the module, in place. AutolmkError where names or shapes disagree."""
    wanted = module_tensors(module, prefix)
    given = {name for name in checkpoint.tensors if name.startswith(f"{prefix}.")}
    differing = [name for name in wanted if name in given and checkpoint.tensors[name].shape != wanted[name].shape]
    missing, extra = sorted(set(wanted) - given), sorted(given - set(wanted))
    if missing or extra or differing:
        found = "; ".join(
            f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for what, names in (("missing", missing), ("not expected", extra), ("of another shape", differing))
            if names
        )
        raise AutolmkError(
            "a checkpoint does not fit the network that the plans describe",
            file=checkpoint.file,
            found=found,
            expected="the tensors of the same plans, trainer and options",
            remedy="use the plans.json and the trainer that the checkpoint was trained with",
        )
    for name, tensor in wanted.items():
        tensor.copy_(checkpoint.tensors[name])


def load_weights(file: Path, network: nn.Module, codec: nn.Module) -> dict[str, Any]:
    """Fill network and codec with the weights to predict with, from any checkpoint; gives the checkpoint's record."""
    checkpoint = load(file)
    restore_module(network, checkpoint, "network")
    restore_module(codec, checkpoint, "codec")
    return checkpoint.record


# -- nested state, such as an optimizer's -----------------------------------------------------------------------------


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Turn into JSON nested dictionaries, lists, tuples, numbers and tensors; tensors are put into `tensors` under
    `name.*`.

    TypeError for anything else. Inverse: `unpack`.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {REFERENCE: name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: pack(item, f"{name}.{key}", tensors) for key, item in value.items()}
        return {PAIRS: [[key, pack(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return {TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        tensors[name] = torch.tensor(value, dtype=torch.float64)
        return {REFERENCE: name, "number": True}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name} is of type {type(value).__name__}, which a checkpoint cannot hold")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put tensors back into a value that `pack` took apart."""
    if isinstance(value, dict):
        if REFERENCE in value:
            tensor = tensors[value[REFERENCE]]
            return tensor.item() if value.get("number") else tensor
        if PAIRS in value:
            return {key: unpack(item, tensors) for key, item in value[PAIRS]}
        if TUPLE in value:
            return tuple(unpack(item, tensors) for item in value[TUPLE])
        return {key: unpack(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    return value


# -- random state -----------------------------------------------------------------------------------------------------


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the random generators of torch (CPU, and the device if it is CUDA), NumPy (the global one) and
    Python, for `pack`.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
