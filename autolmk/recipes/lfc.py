"""LFC: the fetal cerebellum in MRI, six ends of three lines, as APGA and DGMLD use it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from autolmk.annotations.formats import Imported
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.parsing import coordinate, field, json_of, wrong
from autolmk.annotations.formats.source import ImportedFiles
from autolmk.dataset.description import Measurement
from autolmk.recipes.public_dataset import PublicDataset, Published, RecipeChoices, reading, require_files, subfolder

LINES = ("CBD", "BBD", "TCD", "FOD", "HDV", "ADV")  # in the order of the numbers at the ends of the files' names
USED = ("TCD", "HDV", "ADV")  # whose ends are the published landmarks
PARTS = ("train", "valid", "test")
SUFFIX = re.compile(r".*?(\d+)(?:\.mrk)?\.json")


def read(source: Path, choices: RecipeChoices) -> Imported:
    """The cases of train, valid and test: both ends of TCD, HDV and ADV. feta21, another population, is left aside."""
    collector = Collector(ImportedFiles(source, reading(choices)), "LPS")
    names = [f"{line}_{end}" for line in USED for end in (1, 2)]
    images = []
    for part in PARTS:
        folder, labels = subfolder(source, part), subfolder(source, f"{part}_label")
        if folder is None or labels is None:
            continue
        for image in sorted(folder.glob("*.nii*")):
            images.append(image)
            stem = image.name.partition(".nii")[0]
            lines = _lines(labels / stem)
            if lines is None:
                collector.add(stem, (image,), names, [[float("nan")] * 3] * len(names), file=labels, identifier=stem)
                continue
            points = [point for name in USED for point in lines[name]]
            collector.add(stem, (image,), names, points, file=labels / stem, test=part == "test", identifier=stem)
    require_files(images, source, "train/NUMBER.nii.gz and train_label/NUMBER/*_LINE.json")
    measurements = {line: Measurement(distance=(f"{line}_1", f"{line}_2")) for line in USED}
    return collector.result(
        "the files of a case, sorted by the number at the end, are CBD, BBD, TCD, FOD, HDV, ADV",
        described={"measurements": measurements},
    )


def _lines(folder: Path) -> dict[str, list[list[float]]] | None:
    """line -> its two ends in LPS; None where the case is not annotated. AutolmkError unless there are six lines."""
    files = [(int(match[1]), f) for f in sorted(folder.glob("*.json")) if (match := SUFFIX.fullmatch(f.name))]
    if not files:
        return None
    if len(files) != len(LINES):
        wrong(folder, "annotation", f"{len(files)} files", f"{len(LINES)} lines, {', '.join(LINES)}")
    return {name: _ends(file) for name, (_, file) in zip(LINES, sorted(files), strict=True)}


def _ends(file: Path) -> list[list[float]]:
    markups = field(json_of(file), "markups", list, file, "the file")
    if len(markups) != 1:
        wrong(file, "markups", len(markups), "one line")
    controls = field(markups[0], "controlPoints", list, file, "markups[0]")
    frame: Any = markups[0].get("coordinateSystem", "LPS")
    if len(controls) != 2 or frame not in ("LPS", "RAS"):
        wrong(file, "line", f"{len(controls)} points in {frame}", "two points in LPS or RAS")
    sign = (-1.0, -1.0, 1.0) if frame == "RAS" else (1.0, 1.0, 1.0)
    ends = []
    for i, control in enumerate(controls):
        position = field(control, "position", list, file, f"point {i + 1}")
        if len(position) != 3:
            wrong(file, f"position of point {i + 1}", position[:5], "three numbers")
        ends.append([s * coordinate(x, file, f"point {i + 1}") for s, x in zip(sign, position, strict=True)])
    return ends


TABLE = "the results figure of APGA's paper, mean and SD over three runs"
DATASET = PublicDataset(
    "lfc",
    "LFC: landmarks of the fetal cerebellum in MRI",
    "Dataset737_LFC",
    "DGMLD, Gong et al., AAAI 2025: https://github.com/lhaof/DGMLD; also Hugging Face haifan-gong/LFC",
    "not known here: see the data's own page",
    ("follow the link to the Google Drive folder in the readme of that repository", "unpack it so that train, valid, "
     "test and train_label, valid_label, test_label lie in one folder"),
    ("train/NUMBER.nii.gz", "train_label/NUMBER/*_K.json: six line markups of 3D Slicer, sorted by K", "valid/...",
     "test/..."),
    ("train, valid and test are the published division: 120, 60 and 120 cases, 8, 4 and 8 a week of gestation",
     "valid joins train, as autolmk makes its own folds",
     "MRE in mm, mean of the six landmarks' means, on test; TCD, HDV and ADV are also distances"),
    read,
    (
        Published("ResUNet", TABLE, mre=1.39, sd=0.01),
        Published("Hourglass", TABLE, mre=1.41, sd=0.02),
        Published("VitPose", TABLE, mre=1.65, sd=0.02),
        Published("SwinUNETR", TABLE, mre=1.79, sd=0.02),
        Published("APGA, with its refinement by co-planar points", TABLE, mre=1.34, sd=0.01),
        Published("nnMamba, without refinement", "names of checkpoints in APGA's code, not its table", mre=1.3444),
    ),
    ("the licence", "what CBD, BBD, FOD, HDV and ADV stand for, in the authors' words"),
)  # fmt: skip
