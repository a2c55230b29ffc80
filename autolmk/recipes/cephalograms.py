"""Cephalograms of two challenges: ISBI 2015 and CL-Detection 2023."""

from __future__ import annotations

from pathlib import Path

from autolmk.annotations.formats import FORMATS, Imported
from autolmk.annotations.formats.parsing import wrong
from autolmk.recipes.public_dataset import PublicDataset, Published, RecipeChoices, reading


def read_isbi2015(source: Path, choices: RecipeChoices) -> Imported:
    """The mean of both annotators unless one is chosen; images 151 to 400 are test cases."""
    annotator = choices.annotator or "mean"
    return _by("isbi2015", source, RecipeChoices(annotator, choices.split))


def read_cl_detection(source: Path, choices: RecipeChoices) -> Imported:
    """The training part, whose points are public."""
    return _by("cldetection", source, choices)


def _by(name: str, source: Path, choices: RecipeChoices) -> Imported:
    reader = FORMATS[name].read
    if reader is None:
        wrong(source, "format", name, "a reader")
    return reader(source, reading(choices))


ISBI2015 = PublicDataset(
    "isbi2015",
    "ISBI 2015 cephalograms: 19 landmarks",
    "Dataset744_ISBI2015",
    "ISBI 2015 Grand Challenge in Dental X-ray Image Analysis: https://figshare.com/s/37ec464af8e81ae6ebbf",
    "not known here: see the data's page",
    ("fetch RawImage.rar and AnnotationsByMD.rar from that page", "unpack both into one folder"),
    ("RawImage/TrainingData/001.bmp ...", "RawImage/Test1Data, RawImage/Test2Data",
     "AnnotationsByMD/400_junior/001.txt, AnnotationsByMD/400_senior/001.txt"),
    ("images 1 to 150 are for training, 151 to 300 are Test1, 301 to 400 are Test2; a pixel is 0.1 mm",
     "the truth is the mean of both annotators (--annotator mean, the default)",
     "MRE in mm, and SDR at 2, 2.5, 3 and 4 mm; papers report Test1 and Test2 apart, autolmk_evaluate both together"),
    read_isbi2015,
    (Published("global-to-local regression", "Noothout et al., IEEE TMI 2020",
               other="median errors of the 19 landmarks from 0.46 to 2.12 mm"),),
    ("the licence", "MRE and SDR of other papers: none could be read at its source"),
    annotators=True,
)  # fmt: skip

CL_DETECTION = PublicDataset(
    "cl-detection",
    "CL-Detection 2023: cephalograms with 38 landmarks",
    "Dataset738_CLDetection2023",
    "Zhang et al., arXiv 2409.15834: https://cl-detection2023.grand-challenge.org/",
    "not known here: an agreement is signed for the data",
    ("register with the challenge, and fetch train_stack.mha and train-gt.json",
     "extract the pictures of the stack, named by number, with the organisers' script "
     "(https://github.com/szuboy/CL-Detection2023)"),
    ("train-gt.json", "1.png, 2.png ..., in any folder below"),
    ("600 images of three centres in all; the points of the test part are hidden",
     "scale in train-gt.json is mm a pixel", "MRE in mm, and SDR at 2, 2.5, 3 and 4 mm"),
    read_cl_detection,
    (Published("best of the challenge, hidden test set", "Zhang et al., arXiv 2409.15834, abstract", mre=1.518,
               sdr={2.0: 75.719}),),
    ("the number of public images",),
)  # fmt: skip
