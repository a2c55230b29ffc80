"""Cephalograms of the ISBI 2015 challenge: NNN.bmp, and NNN.txt of two annotators, in 400_junior and 400_senior.

A text file has a line x,y for each of 19 landmarks, in pixels of 0.1 mm, then the numbers of the classes of anatomy,
which are left aside. Images 1 to 150 are for training (RawImage/TrainingData), 151 to 400 for test (Test1Data,
Test2Data).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autolmk.annotations.formats.collect import Collector, numbered
from autolmk.annotations.formats.imported import Format, Imported, Options, undecided
from autolmk.annotations.formats.parsing import number, wrong
from autolmk.annotations.formats.source import ImportedFiles, some_files, text_of
from autolmk.errors import some
from autolmk.geometry import FloatArray

PIXEL = 0.1  # mm
TRAINING = 150  # the last image for training
ANNOTATORS = ("junior", "senior")


def read(path: Path, options: Options) -> Imported:
    """The cases, as one annotator sees them or the mean of both."""
    source = ImportedFiles(path, options)
    files = _by_annotator(source)
    if options.annotator is None:
        raise _which(files, source)
    wanted = ANNOTATORS if options.annotator == "mean" else (options.annotator,)
    lacking = [a for a in wanted if not files[a]]
    if lacking:
        wrong(source.folder, "source", f"no folder of the {lacking[0]} annotator", f"400_{lacking[0]}/001.txt, ...")
    collector = Collector(source, "voxel")
    stems = sorted(set().union(*(files[a] for a in wanted)))
    incomplete = [stem for stem in stems if any(stem not in files[a] for a in wanted)]
    if incomplete:
        wrong(source.folder, "source", f"{some(incomplete)} of one annotator only", "each case of both annotators")
    for stem in stems:
        seen = [points_of(files[a][stem]) for a in wanted]
        if len({len(p) for p in seen}) > 1:
            wrong(files[wanted[0]][stem], "content", [len(p) for p in seen], "as many landmarks of both annotators")
        points = np.mean(seen, axis=0)
        test = options.split and _is_test(stem, source)
        images = source.image(stem, files[wanted[0]][stem], "its own name")
        spacing = (PIXEL, PIXEL)
        collector.add(
            stem, images, numbered(len(points)), points, file=files[wanted[0]][stem], test=test, spacing=spacing
        )
    return collector.result("a pixel is 0.1 mm wide", f"points of: {options.annotator}")


def points_of(file: Path) -> FloatArray:
    """The points (n, 2) on the lines x,y; lines of a single number are classes of anatomy."""
    points = []
    for line, text in enumerate(text_of(file).split("\n"), start=1):
        fields = text.replace(",", " ").split()
        if len(fields) == 2:
            points.append([number(f, file, f"line {line}") for f in fields])
        elif len(fields) > 2 or (len(fields) == 1 and not fields[0].isdigit()):
            wrong(file, f"line {line}", text[:80], "x,y of a landmark, or the number of a class")
    if not points:
        wrong(file, "content", "no points", "lines x,y")
    return np.array(points, dtype=np.float64)


def _by_annotator(source: ImportedFiles) -> dict[str, dict[str, Path]]:
    files: dict[str, dict[str, Path]] = {a: {} for a in ANNOTATORS}
    for file in source.files((".txt",)):
        for annotator in ANNOTATORS:
            if annotator in file.parent.name.lower():
                files[annotator][file.stem] = file
    if not any(files.values()):
        wrong(source.folder, "source", "no folder of an annotator", "400_junior/001.txt and 400_senior/001.txt, ...")
    return files


def _which(files: Mapping[str, Mapping[str, Path]], source: ImportedFiles) -> Exception:
    both = sorted(set(files["junior"]) & set(files["senior"])) or sorted(files["junior"] or files["senior"])
    first = {a: points_of(files[a][both[0]])[0] for a in ANNOTATORS if both[0] in files[a]}
    choices = {a: f"landmark 1 of {both[0]} at {p.tolist()}" for a, p in first.items()}
    if len(first) == 2:
        choices["mean"] = f"landmark 1 of {both[0]} at {np.mean(list(first.values()), axis=0).tolist()}"
    return undecided("two annotators placed these points", source.folder, "--annotator", choices)


def _is_test(stem: str, source: ImportedFiles) -> bool:
    images = source.image(stem, source.folder, "its own name")
    folder = images[0].parent.name.lower() if images else ""
    if "test" in folder or "train" in folder:
        return "test" in folder
    if not stem.isdigit():
        wrong(source.folder, "source", stem, "numbers as names, or the folders TrainingData, Test1Data and Test2Data")
    return int(stem) > TRAINING


def sniff(path: Path) -> bool:
    """Whether a folder has annotators' folders."""
    return path.is_dir() and any(
        f.parent.name.lower() in ("400_junior", "400_senior") for f in some_files(path, (".txt",), 3)
    )


FORMAT = Format(
    "isbi2015",
    "cephalograms of ISBI 2015: .bmp, and .txt in 400_junior and 400_senior",
    sniff,
    read,
    ("--annotator", "--keep-split", "--images"),
    ("isbi", "isbi2015ceph", "isbi2014"),
)
