"""A BIDS tree: sub-*/[ses-*/]anat/*_T1w.nii.gz with *_afids.fcsv beside the images or below derivatives/.

Points and image belong together where subject, session and all other entities of the image's name are the same; the
points' may have further ones, such as desc-. AFIDs have numbers as labels and names as descriptions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autolmk.annotations import fcsv
from autolmk.annotations.annotation import Annotation
from autolmk.annotations.csv import write_rows
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.exported import Export, ExportedCase, Writer, cannot_hold
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import wrong
from autolmk.annotations.formats.slicer import annotation_of
from autolmk.annotations.formats.source import Images, ImportedFiles, some_files, stem_of
from autolmk.annotations.formats.states import add_annotation
from autolmk.errors import some
from autolmk.files.serialization import write_bytes, write_json

SUBJECT = r"^(sub-[A-Za-z0-9]+)"  # all sessions of a subject go to the same fold
ENDINGS = ("_afids.fcsv", "_afids.mrk.json", "_markups.fcsv", "_markups.mrk.json", ".fcsv", ".mrk.json")
NOT_OF_IMAGE = ("desc", "label", "rater", "hemi")  # entities that points may have and images need not
NAME = re.compile(r"sub-[A-Za-z0-9]+(_[A-Za-z0-9]+-[A-Za-z0-9]+)*(_[A-Za-z0-9]+)?")
BIDS_VERSION = "1.8.0"
COLUMN = "autolmk_cases"
README = """# {name}

Points in LPS millimetres, written by autolmk {version}: `*_afids.fcsv` opens in 3D Slicer, the JSON file beside each
says more. This folder is meant for `derivatives/` of the images' dataset, to which `bids:images:` in them refers.
"""
IMAGE_SUFFIXES = ("T1w", "T2w", "ct", "CT", "FLAIR", "T2star", "PDw", "T1map", "T2map", "UNIT1")


def read(path: Path, options: Options) -> Imported:
    """The cases of a tree."""
    source = ImportedFiles(path, options)
    collector = Collector(source, "LPS")
    images = [(f, entities_of(stem_of(f))) for f in source.all_images() if stem_of(f).startswith("sub-")]
    files = [f for f in source.files((".fcsv", ".mrk.json")) if f.name.startswith("sub-")]
    if not files:
        wrong(source.folder, "source", "no sub-*_afids.fcsv", "a BIDS tree with points")
    for file in files:
        stem = next(file.name[: -len(e)] for e in ENDINGS if file.name.lower().endswith(e))
        annotation = annotation_of(file, options)
        if options.names_from is None and _numbered(annotation):
            annotation = annotation_of(file, _by_description(options))
        add_annotation(collector, stem, image_of(stem, file, images), annotation, file)
    result = collector.result("AFIDs are named by their descriptions where the labels are numbers")
    return replace(result, groups=SUBJECT)


def image_of(stem: str, file: Path, images: list[tuple[Path, dict[str, str]]]) -> Images | None:
    """The image all of whose entities the points share, with the most of them."""
    wanted = entities_of(stem)
    fitting = [
        (f, e) for f, e in images
        if all(wanted.get(k) == v for k, v in e.items() if k not in NOT_OF_IMAGE and k != "suffix")
        and all(k in e for k in wanted if k in ("ses", "sub", "run", "acq", "space"))
        and e.get("suffix") in (wanted.get("suffix", e.get("suffix")), wanted.get("suffix"))
        and e.get("desc") in (None, wanted.get("desc"))
    ]  # fmt: skip
    anatomical = [(f, e) for f, e in fitting if e.get("suffix") in IMAGE_SUFFIXES]
    if len(anatomical) > 1:
        longest = max(len(e) for _, e in anatomical)
        anatomical = [(f, e) for f, e in anatomical if len(e) == longest]
    if len(anatomical) > 1:
        t1 = [(f, e) for f, e in anatomical if e.get("suffix") == "T1w"]
        anatomical = t1 if len(t1) == 1 else anatomical
    if len(anatomical) > 1:
        wrong(file, "name", some([f.name for f, _ in anatomical]), "one image that fits the points",
              "name a smaller tree as the source, or with --images")  # fmt: skip
    return (anatomical[0][0],) if anatomical else None


def entities_of(stem: str) -> dict[str, str]:
    """sub, ses and so on of a file's name without its ending, and its suffix."""
    parts = stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    if parts and "-" not in parts[-1]:
        entities["suffix"] = parts[-1]
    return entities


def _numbered(annotation: Annotation) -> bool:
    return bool(annotation.names) and all(re.fullmatch(r"\d+", name) for name in annotation.names)


def _by_description(options: Options) -> Options:
    return Options(**{**vars(options), "names_from": "description"})


def sniff(path: Path) -> bool:
    """Whether a folder is a BIDS tree with points."""
    return path.is_dir() and any(
        re.match(r"sub-[A-Za-z0-9]+_.*", f.name) and "sub-" in str(f.parent)
        for f in some_files(path, (".fcsv", ".mrk.json"))
    )


FORMAT = Format(
    "bids",
    "BIDS tree with *_afids.fcsv or .mrk.json",
    sniff,
    read,
    ("--images", "--names-from", "--frame"),
    ("afids", "bidsafids"),
)


def _write(export: Export, folder: Path) -> Sequence[str]:
    """A derivative dataset: sub-*/[ses-*/]anat/*_desc-*_afids.fcsv, numbered as AFIDs are, and a JSON file beside."""
    if export.cases[0].landmarks.points.shape[1] == 2:
        cannot_hold("pictures", "BIDS as AFIDs use it", export.cases[0].identifier, "volumes", "convert to coco or csv")
    desc = "autolmk" if export.predicted else "groundtruth"
    stems = {case.identifier: _stem_of(case.identifier, desc) for case in export.cases}
    twice = [case for case, stem in stems.items() if list(stems.values()).count(stem) > 1]
    if twice:
        cannot_hold("two cases of one name", "BIDS", some([f"{c} as {stems[c]}" for c in twice]),
                    "names that differ in their letters and digits", "rename the images as sub-LABEL")  # fmt: skip
    subjects: dict[str, list[str]] = {}
    for case in export.cases:
        stem = stems[case.identifier]
        entities = entities_of(stem)
        place = folder / f"sub-{entities['sub']}"
        place = place / f"ses-{entities['ses']}" / "anat" if "ses" in entities else place / "anat"
        place.mkdir(parents=True, exist_ok=True)
        fcsv.write(place / f"{stem}_afids.fcsv", case.landmarks, numbered=True)
        write_json(place / f"{stem}_afids.json", _sidecar(case))
        subjects.setdefault(f"sub-{entities['sub']}", []).append(case.identifier)
    rows = [[subject, ", ".join(cases)] for subject, cases in sorted(subjects.items())]
    write_rows(folder / "participants.tsv", ["participant_id", COLUMN], rows)
    write_json(folder / "participants.json", {COLUMN: {"Description": "Names of the cases in autolmk's dataset"}})
    write_bytes(folder / ".bidsignore", b"*_afids.fcsv\n*_afids.json\n")
    description = _description(export)
    write_json(folder / "dataset_description.json", description)
    write_bytes(folder / "README.md", README.format(name=description["Name"], version=export.version).encode())
    return ["points are in LPS, as each file says; labels are numbers and descriptions names, as AFIDs have it",
            "a landmark that is not present has nan as coordinates"]  # fmt: skip


def _stem_of(case: str, desc: str) -> str:
    """sub-LABEL and the other entities of the case's name, and desc-; without its suffix, such as T1w."""
    if NAME.fullmatch(case) is None:
        label = re.sub(r"[^A-Za-z0-9]", "", case)
        if not label:
            cannot_hold("the name of a case", "BIDS", repr(case), "letters or digits in it", "rename the image")
        return f"sub-{label}_desc-{desc}"
    return "_".join([*(p for p in case.split("_") if "-" in p and not p.startswith("desc-")), f"desc-{desc}"])


def _sidecar(case: ExportedCase) -> dict[str, object]:
    """As AFIDs describe their points, in the manner of BIDS' files of coordinate systems."""
    marks = case.landmarks
    there = [i for i, present in enumerate(marks.present) if present]
    content: dict[str, object] = {
        **_source(case),
        "FiducialsCoordinateSystem": "Other",
        "FiducialsCoordinateSystemDescription": "LPS: x to the left, y to the posterior, z to the superior, as in ITK",
        "FiducialsCoordinateUnits": "mm",
        "FiducialsCoordinates": {marks.names[i]: marks.points[i].tolist() for i in there},
    }
    for key, values in (("Likelihood", marks.likelihood), ("ErrorRadius", marks.error_radius)):
        if np.isfinite(values).any():
            content[key] = {marks.names[i]: float(values[i]) for i in range(len(values)) if np.isfinite(values[i])}
    return content


def _source(case: ExportedCase) -> dict[str, object]:
    """The image as a BIDS URI where the case has the name of a BIDS image, whose place follows from it; else its file's
    name.
    """
    entities = entities_of(case.identifier)
    ending = case.images[0].name.partition(".")[2] if case.images else ""
    if NAME.fullmatch(case.identifier) is None or "suffix" not in entities or not ending:
        return {"ImageFile": case.image_name}
    folders = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    return {"Sources": [f"bids:images:{'/'.join(folders)}/anat/{case.identifier}.{ending}"]}


def _description(export: Export) -> dict[str, object]:
    kind = "predicted" if export.predicted else "annotated"
    return {
        "Name": f"{export.name}: {kind} landmarks",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "autolmk", "Version": export.version}],
        "DatasetLinks": {"images": "../.."},
    }


WRITER = Writer("bids", "derivative dataset of BIDS, as AFIDs have it", _write, "never")
