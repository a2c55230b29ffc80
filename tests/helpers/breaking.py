"""A place with datasets and a trained model, and ways to break it; for test_broken_inputs.py."""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autolmk import annotations, imageio
from autolmk.files.serialization import read_json, write_json
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks
from autolmk.methods.sources import keep_sources
from autolmk.phantom import write_phantom

PHANTOM, VOLUMES = "Dataset001_Phantom", "Dataset002_Volumes"
GRID = (1.0, 1.5, 1.0)  # mm, array order, of the volumes
POINTS = {"Top": (1, 2, 9), "Bottom": (6, 12, 3), "Front": (3, 17, 7), "Back": (7, 5, 5)}  # mm, of the volumes
DEFAULTS = {  # of each command, before a case's own arguments, which win
    "check": "-np 0",
    "extract_fingerprint": "-np 0",
    "plan_experiment": "-d 1 -pl heatmap -device cpu -gpu_memory_target 0.02",
    "plan_and_preprocess": "-np 0 -pl heatmap -device cpu -gpu_memory_target 0.02",
    "preprocess": "-d 1 -np 0",
    "train": "--epochs 1 --workers 0 --threads 1 -device cpu --set schedule.iterations_per_epoch=2",
    "predict": "-i {images} -o {out} -m {model} -device cpu",
    "evaluate": "",
    "import_": "",
}
TRAINER = "from autolmk.trainers.heatmap import HeatmapTrainer\n\n\nclass Mine(HeatmapTrainer):\n    pass\n"
UNFINISHED = """
from autolmk.methods.trainer import Trainer


class Mine(Trainer):
    def build_network(self):
        return None
"""


class Place:
    """A folder with two raw datasets, and a model of the first one: fold 0 is finished, fold 1 was stopped."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch | None = None) -> None:
        self.folder, self.patch = folder, patch
        self.raw, self.pre, self.results = folder / "raw", folder / "preprocessed", folder / "results"
        self.phantom, self.volumes = self.raw / PHANTOM, self.raw / VOLUMES
        self.planned = self.pre / PHANTOM
        self.model = self.results / PHANTOM / "heatmap__autolmkPlans__heatmap"
        self.images, self.truth = self.phantom / "imagesTs", self.phantom / "landmarksTs"
        self.predictions, self.out = folder / "predictions", folder / "out"

    def run(self, command: str, arguments: str) -> int:
        module = importlib.import_module(f"autolmk.cli.{command}")
        try:
            return int(module.main(self.arguments(command, arguments)))
        except SystemExit as end:  # as argparse refuses
            return int(end.code or 0)

    def arguments(self, command: str, arguments: str) -> list[str]:
        names = ("raw", "preprocessed", "results")
        folders = [part for name in names for part in (f"--{name}", str(self.folder / name))]
        given = f"{DEFAULTS[command]} {arguments}".split()
        return [*folders, *(part.format(**self.names()) for part in given)]

    def names(self) -> dict[str, Any]:
        """For paths such as {model}/fold_0."""
        stores = [p for p in self.planned.iterdir() if p.is_dir()] if self.planned.is_dir() else []
        return {**vars(self), "store": stores[0] if stores else self.planned / "no_store"}

    def tree(self) -> dict[str, str]:
        """Every file with its content's digest, and every folder."""
        return {
            str(p.relative_to(self.folder)): hashlib.md5(p.read_bytes()).hexdigest() if p.is_file() else "no file"
            for p in self.folder.rglob("*")
        }


def trained_place(folder: Path) -> Place:
    """Made by the commands themselves."""
    place = Place(folder)
    write_phantom(place.phantom, n_train=6, n_test=2, ndim=2, size=40)
    write_volumes(place.volumes)
    assert place.run("plan_and_preprocess", "-d 1") == 0
    assert place.run("train", "1 0") == 0
    (place.model / "fold_1").mkdir()
    (place.model / "fold_1" / "stop").touch()
    assert place.run("train", "1 1") == 0
    assert (place.model / "fold_1" / "checkpoint_latest.safetensors").exists()
    assert place.run("predict", "-o {predictions}") == 0
    assert place.run("evaluate", "{predictions} {truth} -o {out}") == 0
    shutil.rmtree(place.out)
    return place


def write_volumes(folder: Path) -> None:
    """Five cases of two channels, NIfTI, 9 x 21 x 12 mm, with points in mm."""
    rng = np.random.default_rng(0)
    for i in range(5):
        geometry = Geometry.from_parts((12, 14, 9), GRID, (0.0, 0.0, 0.0))
        for channel in range(2):
            array = rng.random((1, *geometry.shape)).astype(np.float32)
            imageio.write_image(folder / "imagesTr" / f"v{i}_{channel:04d}.nii.gz", Image(array, geometry))
        points = np.array(list(POINTS.values())) + rng.normal(0, 0.3, (len(POINTS), 3))
        marks = Landmarks(tuple(POINTS), points, np.ones(len(POINTS), np.int8))
        annotations.write(folder / "landmarksTr" / f"v{i}.mrk.json", marks, unit="mm")
    description = {"channel_names": {"0": "T1", "1": "T2"}, "landmarks": {n: {} for n in POINTS}}
    write_json(folder / "dataset.json", {**description, "file_ending": ".nii.gz", "numTraining": 5})


# -- ways to break things ----------------------------------------------------------------------------------------------

Damage = Callable[[Place], object]


def cut(path: str, share: float = 0.5) -> Damage:
    """A file that ends too early."""

    def damage(place: Place) -> None:
        file = at(place, path)
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return damage


def flip(path: str, share: float = 0.9) -> Damage:
    """A file with one wrong byte."""

    def damage(place: Place) -> None:
        file = at(place, path)
        content = bytearray(file.read_bytes())
        content[int(share * len(content))] ^= 0xFF
        file.write_bytes(content)

    return damage


def wipe(path: str) -> Damage:
    """A file whose middle was never written, as after a crash of the machine."""

    def damage(place: Place) -> None:
        file = at(place, path)
        content = file.read_bytes()
        quarter = len(content) // 4
        file.write_bytes(content[:quarter] + bytes(2 * quarter) + content[3 * quarter :])

    return damage


def replace(path: str, before: str, after: str) -> Damage:
    """Another text in a text file."""

    def damage(place: Place) -> None:
        file = at(place, path)
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))

    return damage


def lines(path: str, edit: Callable[[list[str]], Sequence[str]]) -> Damage:
    """Other lines in a text file."""
    return lambda place: at(place, path).write_text("\n".join(edit(at(place, path).read_text().splitlines())) + "\n")


def put(path: str, content: str | bytes = "") -> Damage:
    """A file where none, or another one, should be."""

    def damage(place: Place) -> None:
        file = at(place, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def drop(*paths: str) -> Damage:
    """Files or folders that are gone."""

    def damage(place: Place) -> None:
        for path in paths:
            found = at(place, path)
            shutil.rmtree(found) if found.is_dir() else found.unlink()

    return damage


def block(path: str) -> Damage:
    """A file where a folder was."""

    def damage(place: Place) -> None:
        found = at(place, path)
        shutil.rmtree(found)
        found.touch()

    return damage


def edit(path: str, change: Callable[[Any], object]) -> Damage:
    """JSON that says something else."""

    def damage(place: Place) -> None:
        file = at(place, path)
        value = read_json(file)
        changed = change(value)
        write_json(file, value if changed is None else changed)

    return damage


def setting(path: str, keys: str, value: object) -> Damage:
    """One value of a JSON file, KEY.KEY."""

    def change(content: Any) -> None:
        *outer, last = keys.split(".")
        for key in outer:
            content = content[key]
        content[last] = value

    return edit(path, change)


def image(
    path: str, shape: tuple[int, ...], *, channels: int = 1, value: float | None = None, bad: float | None = None
) -> Damage:
    """An image of another kind."""

    def damage(place: Place) -> None:
        array = np.random.default_rng(1).integers(1, 200, (channels, *shape)).astype(np.float32)
        if value is not None:
            array[:] = value
        if bad is not None:
            array.flat[3] = bad
        imageio.write_image(at(place, path), Image(array, Geometry.from_parts(shape, (1.0,) * len(shape))))

    return damage


def both(*damages: Damage) -> Damage:
    """Several at once."""
    return lambda place: [damage(place) for damage in damages]


def copy(source: str, target: str) -> Damage:
    """A file or folder twice."""

    def damage(place: Place) -> None:
        found = at(place, source)
        (shutil.copytree if found.is_dir() else shutil.copy)(found, at(place, target))

    return damage


def tensors(path: str, change: Callable[[dict[str, Any]], None]) -> Damage:
    """A whole checkpoint with other tensors in it."""

    def damage(place: Place) -> None:
        from autolmk.fold import checkpoint

        file = at(place, path)
        loaded = checkpoint.load(file)
        change(loaded.tensors)
        checkpoint.save(file, loaded.tensors, loaded.record)

    return damage


def swap_axes(markups: Any) -> None:
    """y and z of every point exchanged."""
    for point in markups["markups"][0]["controlPoints"]:
        x, y, z = point["position"]
        point["position"] = [x, z, y]


def in_metres(markups: Any) -> None:
    """Points in another unit."""
    for point in markups["markups"][0]["controlPoints"]:
        point["position"] = [1000 * x for x in point["position"]]


def other_plans(stored: Any) -> None:
    """As if the plans had been changed after preprocessing."""
    stored["plans_digest"] = "0123456789abcdef"


def two_kinds(place: Place) -> None:
    """A .tif and a .jpg image of one case, for a model that was trained on neither."""
    drop("{images}")(place)
    image("{images}/a.tif", (9, 9))(place)
    image("{images}/a.jpg", (9, 9))(place)


def header(path: str, offset: int, form: str, *values: float) -> Damage:
    """Other numbers in the header of a .nii.gz file."""

    def damage(place: Place) -> None:
        file = at(place, path)
        content = bytearray(gzip.decompress(file.read_bytes()))
        struct.pack_into("<" + form, content, offset, *values)
        file.write_bytes(gzip.compress(content))

    return damage


def link(path: str, target: str) -> Damage:
    """A link, perhaps to nowhere."""
    return lambda place: at(place, path).symlink_to(at(place, target))


def full_disk(place: Place) -> None:
    """No space left, as the operating system says it."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert place.patch is not None
    place.patch.setattr(os, "fsync", refuse)


def foreign_model(place: Place) -> None:
    """A model of a trainer that is not shipped."""
    file = place.folder / "mine.py"
    file.write_text(TRAINER)
    keep_sources([f"{file}:Mine"], place.model)
    setting("{model}/fold_0/config.json", "trainer", f"{file}:Mine")(place)


def at(place: Place, path: str) -> Path:
    """A path with the names of the place in braces."""
    return Path(path.format(**place.names()))
