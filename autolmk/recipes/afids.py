"""AFIDs: 32 anatomical fiducials of the brain in MRI; HCP, OASIS and SNSX."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from autolmk.annotations.annotation import Annotation
from autolmk.annotations.formats import Imported
from autolmk.annotations.formats.bids import ENDINGS, entities_of, image_of
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.slicer import annotation_of
from autolmk.annotations.formats.source import ImportedFiles, stem_of
from autolmk.annotations.formats.states import add_annotation
from autolmk.dataset.description import LandmarkDescription
from autolmk.recipes.public_dataset import PublicDataset, Published, RecipeChoices, reading, require_files

TRUTH = "derivatives/afids_groundtruth"
NAMES = (  # by number, as other/afids.csv of afids-data has them
    "AC", "PC", "infracollicular sulcus", "PMJ", "superior interpeduncular fossa", "R superior LMS", "L superior LMS",
    "R inferior LMS", "L inferior LMS", "culmen", "intermammillary sulcus", "R MB", "L MB", "pineal gland",
    "R LV at AC", "L LV at AC", "R LV at PC", "L LV at PC", "genu of CC", "splenium of CC", "R AL temporal horn",
    "L AL temporal horn", "R superior AM temporal horn", "L superior AM temporal horn", "R inferior AM temporal horn",
    "L inferior AM temporal horn", "R indusium griseum origin", "L indusium griseum origin",
    "R ventral occipital horn", "L ventral occipital horn", "R olfactory sulcal fundus", "L olfactory sulcal fundus",
)  # fmt: skip


def read(source: Path, choices: RecipeChoices) -> Imported:
    """The cases of all BIDS datasets below the source, named DATASET_sub-LABEL as nnLandmark names them."""
    files = sorted(f for pattern in ("", "**/") for f in source.glob(f"{pattern}{TRUTH}/sub-*/**/*.fcsv"))
    files = sorted(set(files))
    require_files(files, source, f"DATASET/{TRUTH}/sub-LABEL/anat/*.fcsv and DATASET/sub-LABEL/anat/*.nii.gz")
    options = replace(reading(choices), names_from="number")
    reader = ImportedFiles(source, options)
    collector = Collector(reader, "LPS")
    for file in files:
        root = next(p.parent.parent for p in file.parents if p.name == "afids_groundtruth")
        images = [
            (f, entities_of(stem_of(f)))
            for f in reader.all_images()
            if f.is_relative_to(root) and "derivatives" not in f.relative_to(root).parts and f.name.startswith("sub-")
        ]
        stem = next(file.name[: -len(e)] for e in ENDINGS if file.name.lower().endswith(e))
        stem = re.sub(r"_space-T1w(?=_|$)", "", stem)  # the space of the image itself
        annotation = _named(annotation_of(file, options))
        entities = entities_of(stem)
        labels = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
        case = "_".join([root.absolute().name, *labels])
        add_annotation(collector, case, image_of(stem, file, images), annotation, file, identifier=case)
    found = collector.result("points are named by their numbers, as the protocol of AFIDs has it")
    return replace(found, groups=r"(sub-[A-Za-z0-9]+)", described={"landmarks": _described()})


def _named(annotation: Annotation) -> Annotation:
    """The points 1 to 32 with their names; others are left aside."""
    kept = [i for i, name in enumerate(annotation.names) if name.isdecimal() and 1 <= int(name) <= len(NAMES)]
    names = tuple(NAMES[int(annotation.names[i]) - 1] for i in kept)
    rows = np.array(kept, dtype=int)
    return Annotation(names, annotation.points[rows].reshape(-1, 3), annotation.status[rows], annotation.frame)


def _described() -> dict[str, LandmarkDescription]:
    """With left/right pairs."""
    other = {"R ": "L ", "L ": "R "}
    return {
        name: LandmarkDescription(i, pair=other[name[:2]] + name[2:] if name[:2] in other else None)
        for i, name in enumerate(NAMES)
    }


def _of(name: str, title: str, number: int, where: str, licence: str, fetch: tuple[str, ...]) -> PublicDataset:
    every = name == "afids"
    return PublicDataset(
        name,
        f"AFIDs: 32 fiducials of the brain in MRI, {title}",
        f"Dataset{number}_AFIDs" + ("" if every else title.partition(" ")[0]),
        where,
        licence,
        fetch,
        (f"DATASET/{TRUTH}/sub-LABEL/anat/sub-LABEL_*_afids.fcsv", "DATASET/sub-LABEL/anat/sub-LABEL_*T1w.nii.gz"),
        ("landmarks 1 to 32 of the protocol, the ground truth that AFIDs publish",
         "cases are named DATASET_sub-LABEL, as in nnLandmark's split_Dataset732_Afids.json, which divides all of "
         "them: give it with --split-file",
         "MRE in mm over all points, SDR at 2, 3 and 4 mm"),
        read,
        (Published("nnLandmark, all AFIDs", "Ertl et al., arXiv 2504.06742, abstract", mre=1.2),) if every else (),
        ("nnLandmark's division, which is not copied here",)
        + (() if every else ("published errors of this part alone",)),
    )  # fmt: skip


PLACE = "Magnetic resonance imaging datasets with anatomical fiducials: https://github.com/afids/afids-data"
POINTS = "points CC BY 4.0"
DATALAD = "datalad install https://github.com/afids/afids-data.git, then datalad get -r . in it"
AFIDS = _of(
    "afids",
    "all datasets of afids-data",
    732,
    PLACE,
    f"{POINTS}; images of HCP and OASIS under their own data use agreements, the others CC BY 4.0",
    (DATALAD, "name afids-data, or its data/datasets, with --source"),
)
HCP = _of(
    "afids-hcp",
    "HCP (30 cases)",
    750,
    f"{PLACE}; https://github.com/afids/AFIDs-HCP",
    f"{POINTS}; images under HCP's data use agreement",
    ("accept HCP's agreement", "datalad install https://github.com/afids/AFIDs-HCP, then datalad get ."),
)
OASIS = _of(
    "afids-oasis",
    "OASIS (30 cases)",
    751,
    f"{PLACE}; https://github.com/afids/AFIDs-OASIS",
    f"{POINTS}; images under OASIS' data use agreement",
    ("accept OASIS' agreement", "datalad install https://github.com/afids/AFIDs-OASIS, then datalad get ."),
)
SNSX = _of(
    "afids-snsx",
    "SNSX (32 cases, 7 T)",
    752,
    f"{PLACE}; https://openneuro.org/datasets/ds004470",
    "CC BY 4.0",
    ("fetch ds004470 of OpenNeuro",),
)
