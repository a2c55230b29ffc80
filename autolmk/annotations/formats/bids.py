"""A BIDS tree: sub-*/[ses-*/]anat/*_T1w.nii.gz with *_afids.fcsv beside the images or below derivatives/.

Points and image belong together where subject, session and all other entities of the image's name are the same; the
points' may have further ones, such as desc-. AFIDs have numbers as labels and names as descriptions.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from autolmk.annotations.annotation import Annotation
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import Format, Imported, Options
from autolmk.annotations.formats.parsing import wrong
from autolmk.annotations.formats.slicer import annotation_of
from autolmk.annotations.formats.source import Images, ImportedFiles, some_files, stem_of
from autolmk.annotations.formats.states import add_annotation
from autolmk.errors import some

SUBJECT = r"^(sub-[A-Za-z0-9]+)"  # all sessions of a subject go to the same fold
ENDINGS = ("_afids.fcsv", "_afids.mrk.json", "_markups.fcsv", "_markups.mrk.json", ".fcsv", ".mrk.json")
NOT_OF_IMAGE = ("desc", "label", "rater", "hemi")  # entities that points may have and images need not
IMAGE_SUFFIXES = ("T1w", "T2w", "ct", "CT", "FLAIR", "T2star", "PDw", "T1map", "T2map", "UNIT1")


def read(path: Path, options: Options) -> Imported:
    """The cases of a tree."""
    source = ImportedFiles(path, options)
    collector = Collector(source, "LPS")
    images = [(f, _entities(stem_of(f))) for f in source.all_images() if stem_of(f).startswith("sub-")]
    files = [f for f in source.files((".fcsv", ".mrk.json")) if f.name.startswith("sub-")]
    if not files:
        wrong(source.folder, "source", "no sub-*_afids.fcsv", "a BIDS tree with points")
    for file in files:
        stem = next(file.name[: -len(e)] for e in ENDINGS if file.name.lower().endswith(e))
        annotation = annotation_of(file, options)
        if options.names_from is None and _numbered(annotation):
            annotation = annotation_of(file, _by_description(options))
        add_annotation(collector, stem, _image_of(stem, file, images), annotation, file)
    result = collector.result("AFIDs are named by their descriptions where the labels are numbers")
    return replace(result, groups=SUBJECT)


def _image_of(stem: str, file: Path, images: list[tuple[Path, dict[str, str]]]) -> Images | None:
    """The image all of whose entities the points share, with the most of them."""
    wanted = _entities(stem)
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


def _entities(stem: str) -> dict[str, str]:
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
