"""Frames of blosc2: a plain array passes; whatever could run code, fetch something or lie about its size does not."""

from __future__ import annotations

import contextlib
import struct
import sys
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest

from autolmk.data.blosc2_frame import check_frame
from autolmk.data.store import Store, StoredCase
from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.geometry import Geometry
from autolmk.landmarks import Landmarks, Status

SHAPE = (1, 20, 30)
GROK = 37  # number of a codec that is a package of its own
SOURCE = """
import numpy as np
def touch(inputs, output, offset):
    np.save({mark!r}, offset)
    output[:] = inputs[0]
"""


def written(file: Path, array: Any, **settings: Any) -> Path:
    blosc2.asarray(array, urlpath=str(file), mode="w", **settings)
    return file


def check(
    file: Path, shape: tuple[int, ...] = SHAPE, dtype: str = "<f4", chunks: tuple[int, ...] | None = None
) -> None:
    check_frame(file, dtype=dtype, shape=shape, chunks=chunks or shape)


@pytest.fixture
def noise() -> Any:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def lazy(tmp_path: Path, noise: Any) -> tuple[Path, Path]:
    """(a file of a lazy function, the file that its source makes when it runs)."""
    module, mark = tmp_path / "lazy_source.py", tmp_path / "ran.npy"
    module.write_text(SOURCE.format(mark=str(mark)))
    sys.path.insert(0, str(tmp_path))
    try:
        function = __import__("lazy_source").touch
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("lazy_source", None)
    operand = blosc2.open(str(written(tmp_path / "operand.b2nd", noise)))
    file = tmp_path / "lazy.b2nd"
    blosc2.lazyudf(function, (operand,), dtype=np.float32).save(urlpath=str(file), mode="w")
    return file, mark


@pytest.mark.parametrize("shape", [(1, 20, 30), (2, 300, 130), (1, 65, 33, 70), (3, 1, 1)])
@pytest.mark.parametrize("kind", ["noise", "zeros", "nan", "labels"])
def test_plain_arrays_pass(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    array = {"noise": array, "zeros": array * 0, "nan": array * np.nan, "labels": (array > 0).astype(np.uint8)}[kind]
    chunks, blocks = (1, *(min(n, 64) for n in shape[1:])), (1, *(min(n, 32) for n in shape[1:]))
    check(written(tmp_path / "a.b2nd", array, chunks=chunks, blocks=blocks), shape, array.dtype.str, chunks)


def test_a_lazy_function_is_refused_and_its_source_does_not_run(lazy: tuple[Path, Path]) -> None:
    file, mark = lazy
    with pytest.raises(ValueError, match="no plain array"):
        check(file)
    assert not mark.exists()
    blosc2.open(str(file), deserialize="full")[:]  # the file is one that would
    assert mark.exists()


def test_the_store_refuses_a_lazy_function_whatever_its_description_says(
    tmp_path: Path, lazy: tuple[Path, Path], noise: Any
) -> None:
    file, mark = lazy
    geometry = Geometry.from_parts(SHAPE[1:], (1.0, 1.0), (0.0, 0.0))
    marks = Landmarks(("a",), np.zeros((1, 2)), np.array([Status.PRESENT], dtype=np.int8))
    store = Store(tmp_path / "store")
    store.write("case", StoredCase("case", noise, geometry, (0.0,), marks, "s", "d", "p"))
    array, description = store.files("case")
    array.write_bytes(file.read_bytes())
    write_json(description, {**read_json(description), "bytes": array.stat().st_size})
    with pytest.raises(AutolmkError, match="no plain array"):
        store.load("case")
    assert not mark.exists()


def test_formulas_links_and_further_data_are_refused(tmp_path: Path, noise: Any) -> None:
    operand = blosc2.open(str(written(tmp_path / "operand.b2nd", noise)))
    (operand + 1).save(urlpath=str(tmp_path / "formula.b2nd"), mode="w")
    blosc2.Proxy(operand, urlpath=str(tmp_path / "link.b2nd"), mode="w")
    written(tmp_path / "meta.b2nd", noise, meta={"b2o": {"kind": "ref"}})
    further = blosc2.open(str(written(tmp_path / "vlmeta.b2nd", noise)), mode="a")
    further.schunk.vlmeta["more"] = "x"
    for name in ("formula", "link", "meta"):
        with pytest.raises(ValueError, match="no plain array"):
            check(tmp_path / f"{name}.b2nd")
    with pytest.raises(ValueError, match="beside the array"):
        check(tmp_path / "vlmeta.b2nd")


def test_other_codecs_filters_and_layouts_are_refused(tmp_path: Path, noise: Any) -> None:
    sparse = tmp_path / "sparse.b2nd"
    written(sparse, noise, contiguous=False)
    with pytest.raises(ValueError, match="no single file"):
        check(sparse)
    plain = written(tmp_path / "plain.b2nd", noise).read_bytes()
    for place, value in ((26, 1), (27, 0x5F), (71, 160), (76, 5)):
        (tmp_path / "edited.b2nd").write_bytes(plain[:place] + bytes([value]) + plain[place + 1 :])
        with pytest.raises(ValueError, match="built-in"):
            check(tmp_path / "edited.b2nd")


def chunk_for_a_plug_in(content: bytes, *, index: bool) -> bytes:
    """A frame whose chunk (or index of chunks) asks for the codec grok, which blosc2 looks for by running Python."""
    header, compressed = struct.unpack(">i", content[11:15])[0], struct.unpack(">q", content[39:47])[0]
    place = header + (compressed if index else 0)
    flags = content[place + 2] & 0x1F | 6 << 5
    edited = bytearray(content)
    edited[place + 2], edited[place + 22] = flags, GROK
    return bytes(edited)


@pytest.mark.parametrize("index", [False, True])
def test_a_chunk_that_asks_for_a_plug_in_does_not_start_python(
    tmp_path: Path, noise: Any, index: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    for name in ("grok", "openhtj2k"):
        (tmp_path / f"blosc2_{name}.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n")
    monkeypatch.chdir(tmp_path)
    content = chunk_for_a_plug_in(written(tmp_path / "plain.b2nd", noise).read_bytes(), index=index)
    Path("plug_in.b2nd").write_bytes(content)
    with pytest.raises(ValueError, match="built in"):
        check(Path("plug_in.b2nd"))
    assert not mark.exists()


def test_blosc2_itself_would_start_python(tmp_path: Path, noise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why chunks are looked at. Where this fails, blosc2 has become safe, and the test may go."""
    mark = tmp_path / "ran"
    (tmp_path / "blosc2_grok.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    content = chunk_for_a_plug_in(written(tmp_path / "plain.b2nd", noise).read_bytes(), index=False)
    Path("plug_in.b2nd").write_bytes(content)
    with contextlib.suppress(RuntimeError, ValueError):
        blosc2.open("plug_in.b2nd")[:]
    assert mark.exists()


def test_sizes_that_disagree_are_refused(tmp_path: Path, noise: Any) -> None:
    plain = written(tmp_path / "plain.b2nd", noise)
    content = plain.read_bytes()
    for shape, dtype, chunks in (
        ((1, 20, 31), "<f4", SHAPE), (SHAPE, "|u1", SHAPE), (SHAPE, "<f4", (1, 20, 15)), ((1, 1, 20, 30), "<f4", SHAPE),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="instead of"):
            check(plain, shape, dtype, chunks)
    written(tmp_path / "double.b2nd", noise.astype(np.float64))
    written(tmp_path / "records.b2nd", np.zeros(SHAPE, dtype=[("a", "<f4")]))
    for name in ("double", "records"):
        with pytest.raises(ValueError, match="array of type"):
            check(tmp_path / f"{name}.b2nd")
    huge = content[:30] + struct.pack(">q", 2**50) + content[38:]
    for damaged in (b"", content[:50], content[:-1], content + b"x", huge):
        plain.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"does not begin|its size"):
            check(plain)


def test_no_damage_of_the_header_is_an_error_of_another_kind(tmp_path: Path, noise: Any) -> None:
    content = written(tmp_path / "plain.b2nd", noise).read_bytes()
    rng = np.random.default_rng(3)
    header = struct.unpack(">i", content[11:15])[0]
    for _ in range(400):
        edited = bytearray(content)
        for place in rng.integers(0, header + 40, rng.integers(1, 5)):
            edited[place] = rng.integers(256)
        (tmp_path / "edited.b2nd").write_bytes(edited)
        with contextlib.suppress(ValueError):
            check(tmp_path / "edited.b2nd")
