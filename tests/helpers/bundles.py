"""A small bundle made by hand, and ways to damage it or to make it mislead."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import random
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autolmk.bundles.card import Card, CardLandmark
from autolmk.bundles.card_page import html_page, markdown
from autolmk.conformance.examples import example_plans
from autolmk.files.serialization import to_json

MODEL = "heatmap__autolmkPlans__example"
ELSEWHERE = [
    *("../victim.json", "../../victim/plans.json", "/tmp/victim.json", "fold_0/../../victim.json", "./plans.json"),
    *("fold_0\\..\\..\\victim.json", "C:/victim.json", "C:victim.json", "\\\\host\\share\\plans.json", "~/plans.json"),
    *("fold_0//config.json", "fold_0/./config.json", "", ".", "..", "fold_0/con/config.json", "fold_0/nul/config.json"),
    *("fold_0/x\n/config.json", "fold_0/x\0/config.json", "fold_0/config.json.", "fold_0/ /config.json"),
    *("sitecustomize.py", "trainer_source/../../x.py", "trainer_source/x.py", "fold_0/x.zip", "autolmk.pth"),
    *("conftest.py", "fold_x/config.json", "fold_-1/config.json", "plans.json/x", "a" * 300),
    "fold_0/" + "d/" * 600 + "config.json",
]  # fmt: skip


@dataclass
class Draft:
    """A bundle before it is zipped. files: content by path. manifest: bundle.json; None lets it be made anew of the
    files. attributes: (mode, compression, flags) of single entries. raw: changes of the zip's bytes."""

    files: dict[str, bytes]
    manifest: Any
    modes: dict[str, int] = field(default_factory=dict)
    twice: list[tuple[str, bytes]] = field(default_factory=list)
    raw: list[Callable[[bytearray], None]] = field(default_factory=list)
    text: bytes | None = None

    def rehash(self) -> None:
        """The manifest says what the files are."""
        self.manifest["files"] = {n: listed(data) for n, data in self.files.items()}

    def zipped(self) -> bytes:
        """The bundle's bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in [*self.files.items(), *self.twice, ("bundle.json", self.manifest_bytes())]:
                info = zipfile.ZipInfo("x")
                info.filename = info.orig_filename = name
                info.external_attr = self.modes.get(name, stat.S_IFREG | 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data)
        data = bytearray(buffer.getvalue())
        for change in self.raw:
            change(data)
        return bytes(data)

    def manifest_bytes(self) -> bytes:
        """Of bundle.json."""
        return json.dumps(self.manifest).encode() if self.text is None else self.text


def listed(data: bytes) -> dict[str, Any]:
    """As a manifest lists a file."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@functools.cache
def _files() -> tuple[str, dict[str, bytes]]:
    """(dataset, files of a whole bundle by path)."""
    plans = example_plans()
    card = Card(
        plans.dataset_name, MODEL, "0", plans.unit, plans.channel_names, tuple(map(CardLandmark, plans.landmarks))
    )
    return plans.dataset_name, {
        "plans.json": json.dumps(to_json(plans)).encode(),
        "dataset.json": json.dumps({"channel_names": {"0": "CT"}}).encode(),
        "fold_0/config.json": b"{}",
        "fold_0/measured.json": b"{}",
        "fold_0/checkpoint_final.safetensors": bytes(range(256)),
        "model_card.json": json.dumps(to_json(card)).encode(),
        "model_card.md": markdown(card).encode(),
        "model_card.html": html_page(card).encode(),
    }


def draft() -> Draft:
    """A whole bundle."""
    dataset, files = _files()
    manifest = {
        "format": "autolmk bundle",
        "dataset": dataset,
        "model": MODEL,
        "licence": "CC0",
        "autolmk": "0",
    }
    made = Draft(dict(files), {**manifest, "files": {}, "version": 1})
    made.rehash()
    return made


# -- mutations --------------------------------------------------------------------------------------------------------


def _path(d: Draft, r: random.Random) -> None:
    name = r.choice(ELSEWHERE)
    if r.random() < 0.5:
        d.files[name] = b"victim"
    else:
        d.files[name] = d.files.pop(r.choice(list(d.files)))
    if r.random() < 0.8:
        d.rehash()


def _other_place(d: Draft, r: random.Random) -> None:
    d.manifest[r.choice(["dataset", "model"])] = r.choice([*ELSEWHERE, "best", "a__b__c", "a__../__c", 5, None, ["x"]])


def _content(d: Draft, r: random.Random) -> None:
    name = r.choice(list(d.files))
    data = bytearray(d.files[name])
    data[r.randrange(len(data))] ^= 1 << r.randrange(8)
    d.files[name] = bytes(data)


def _hash(d: Draft, r: random.Random) -> None:
    entry = d.manifest["files"][r.choice(list(d.manifest["files"]))]
    entry["sha256"] = r.choice(
        ["0" * 64, "", "g" * 64, entry["sha256"].upper(), None, 7, "0" * 10**5, entry["sha256"] + "\n"]
    )


def _size(d: Draft, r: random.Random) -> None:
    entry = d.manifest["files"][r.choice(list(d.manifest["files"]))]
    entry["size"] = r.choice([entry["size"] + 1, entry["size"] - 1, 0, -1, 2**36, 2**62, 10**40, 1.5, "12", True, None])


def _type(d: Draft, r: random.Random) -> None:
    values: list[Any] = [None, [], {}, "x", 3, -1, True, [[]], {"a": {}}, 1e300, "é" * 10000]
    d.manifest[r.choice(list(d.manifest))] = r.choice(values)


def _key(d: Draft, r: random.Random) -> None:
    if r.random() < 0.5:
        d.manifest.pop(r.choice(list(d.manifest)))
    else:
        d.manifest[r.choice(["__class__", "path", "files2", "Format"])] = "x"


def _text(d: Draft, r: random.Random) -> None:
    whole = d.manifest_bytes()
    d.text = r.choice([
        b"", b"null", b"[]", b"[" * 50_000, b'{"a":' * 20_000, whole[: r.randrange(len(whole))], b"\xff\xfe" + whole,
        whole.replace(b'"version": 1', b'"version": NaN'), whole.replace(b'"version": 1', b'"version": 1e999'),
        whole.replace(b'"version": 1', b'"version": 2'), whole + b"{}", b"\0" * 1000,
        whole.replace(b"{", b'{"format":1,', 1),
        b"1" * 5000, b'"' + b"x" * 100_000 + b'"',
    ])  # fmt: skip


def _link(d: Draft, r: random.Random) -> None:
    name = r.choice(list(d.files))
    kinds = [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR]
    d.modes[name] = r.choice(kinds) | 0o777
    d.files[name] = r.choice([b"/etc/passwd", b"../../../victim", d.files[name]])
    d.rehash()


def _linked_folder(d: Draft, r: random.Random) -> None:
    d.files["fold_0"] = b"../../.."
    d.modes["fold_0"] = stat.S_IFLNK | 0o777
    d.rehash()


def _twice(d: Draft, r: random.Random) -> None:
    name = r.choice(list(d.files))
    twin = r.choice([name, name.upper(), name.swapcase(), unicodedata.normalize("NFKD", name), name.replace("s", "ſ")])
    if twin == name:
        d.twice.append((name, b"another"))
    else:
        d.files[twin] = b"another"
        d.rehash()


def _nested(d: Draft, r: random.Random) -> None:
    data = d.zipped()
    for _ in range(r.randrange(3)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bundle.json", data)
        data = buffer.getvalue()
    name = r.choice(["inner.zip", "fold_0/inner.autolmk.zip", "plans.json", "model_card.json", "fold_1/config.json"])
    d.files[name] = data
    d.rehash()


def _bomb(d: Draft, r: random.Random) -> None:
    size = r.choice([2**21, 2**22, 3 * 2**21])
    name = r.choice(["plans.json", "model_card.json", "fold_0/measured.json", "fold_0/checkpoint_final.safetensors"])
    d.files[name] = r.choice([b"\0", b" ", b"["]) * size
    d.rehash()


def _many(d: Draft, r: random.Random) -> None:
    d.files |= {f"fold_{i}/config.json": b"{}" for i in range(1, r.choice([5100, 6000]))}
    if r.random() < 0.5:
        d.rehash()


def _missing(d: Draft, r: random.Random) -> None:
    d.files.pop(r.choice(list(d.files)))
    if r.random() < 0.3:
        d.rehash()


def _code(d: Draft, r: random.Random) -> None:
    name = r.choice(
        ["trainer_source/a.py", "trainer_source/__init__.py", "fold_0/a.py", "a.py", "trainer_source/a/b.py"]
    )
    d.files[name] = b"raise SystemExit('run')\n"
    d.rehash()


def _plans(d: Draft, r: random.Random) -> None:
    value = json.loads(d.files["plans.json"])
    value[r.choice(list(value))] = r.choice([None, "../..", 5, [], "Dataset999_Other", 10**30])
    d.files["plans.json"] = json.dumps(value).encode()
    d.rehash()


def _card(d: Draft, r: random.Random) -> None:
    value = json.loads(d.files["model_card.json"])
    value[r.choice(list(value))] = r.choice([None, 5, [], {}, "<script>", ["x"], {"a": 1}, 2**70])
    d.files["model_card.json"] = json.dumps(value).encode()
    d.rehash()


def _flip(d: Draft, r: random.Random) -> None:
    def change(data: bytearray) -> None:
        for _ in range(r.choice([1, 1, 2, 8])):
            data[r.randrange(len(data))] = r.randrange(256)

    d.raw.append(change)


def _end(d: Draft, r: random.Random) -> None:
    """The last part of a zip: its list of files and the record of where it is."""

    def change(data: bytearray) -> None:
        for _ in range(r.choice([1, 2, 4])):
            data[-1 - r.randrange(min(len(data), 700))] = r.choice([0, 1, 255, r.randrange(256)])

    d.raw.append(change)


def _counts(d: Draft, r: random.Random) -> None:
    def change(data: bytearray) -> None:
        data[-22:] = struct.pack(
            "<4s4H2LH", b"PK\x05\x06", 0, 0, *[r.choice([0, 1, 9, 0xFFFF])] * 2,
            *(r.choice([0, 1, len(data) - 22, 0xFFFFFFFF]) for _ in range(2)), r.choice([0, 0, 5]),
        )  # fmt: skip

    d.raw.append(change)


def _cut(d: Draft, r: random.Random) -> None:
    def change(data: bytearray) -> None:
        if r.random() < 0.5:
            del data[r.randrange(len(data)) :]
        elif r.random() < 0.5:
            data[:0] = bytes(r.randrange(1, 500))
        else:
            data += bytes(r.randrange(1, 500))

    d.raw.append(change)


def _flags(d: Draft, r: random.Random) -> None:
    """Of one entry, in both of its headers: encrypted, or compressed otherwise."""

    def change(data: bytearray) -> None:
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = data.find(mark)
            data[at + offset : at + offset + 4] = r.choice(
                [b"\x01\0\x08\0", b"\0\0\x63\0", b"\x41\0\x08\0", b"\0\0\x0c\0"]
            )

    d.raw.append(change)


def _claimed(d: Draft, r: random.Random) -> None:
    """Sizes in the zip's list."""

    def change(data: bytearray) -> None:
        at = data.find(b"PK\x01\x02")
        field_at = at + r.choice([16, 20, 24, 42])  # CRC, size compressed and not, place
        data[field_at : field_at + 4] = struct.pack("<L", r.choice([0, 1, 2**20, 2**31, 2**32 - 1]))

    d.raw.append(change)


MUTATIONS = (
    *(
        _path,
        _path,
        _path,
        _other_place,
        _content,
        _hash,
        _size,
        _type,
        _key,
        _text,
        _link,
        _link,
        _linked_folder,
        _twice,
    ),
    *(
        _twice,
        _nested,
        _bomb,
        _missing,
        _code,
        _plans,
        _card,
        _flip,
        _flip,
        _end,
        _end,
        _counts,
        _cut,
        _flags,
        _claimed,
    ),
)
RARE = (_many,)  # that take longer


def mutated(seed: int) -> tuple[str, bytes]:
    """(what was done, the bundle) of a seed."""
    r = random.Random(seed)
    made = draft()
    if seed % 250 == 7:
        _many(made, r)
        return "_many", made.zipped()
    done = []
    for mutation in r.sample(MUTATIONS, r.choice([1, 1, 1, 2, 3])):
        try:
            mutation(made, r)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, zlib.error):
            continue  # an earlier mutation took away what this one changes
        done.append(mutation.__name__)
    return "+".join(done), made.zipped()


def write(folder: Path, made: Draft, name: str = "a.autolmk.zip") -> Path:
    """As a file."""
    (folder / name).write_bytes(made.zipped())
    return folder / name
