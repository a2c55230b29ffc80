"""Broken inputs of many kinds, given to the real commands: each gets a message that names the file or the case and what
to do, a non-zero exit code, no traceback, and leaves nothing half-written. The table is CASES, breaking.py breaks."""

from __future__ import annotations

import ast
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from breaking import (
    PHANTOM,
    TRAINER,
    UNFINISHED,
    Damage,
    Place,
    block,
    both,
    copy,
    cut,
    drop,
    edit,
    flip,
    foreign_model,
    full_disk,
    header,
    image,
    in_metres,
    lines,
    link,
    other_plans,
    put,
    replace,
    setting,
    swap_axes,
    tensors,
    trained_place,
    two_kinds,
    wipe,
)

import autolmk


@dataclass(frozen=True)
class Broken:
    """kind: of what is broken. said: words of the message, file or case first. code: the exit code. leaves: what may be
    new or changed afterwards. limit: bytes that a file may have, as on a disk that is full."""

    kind: str
    command: str
    arguments: str
    damage: Damage | None
    said: tuple[str, ...]
    code: int = 2
    leaves: tuple[str, ...] = ()
    limit: int | None = None


RAW = "{phantom}/dataset.json"
CSV = "{phantom}/landmarksTr/phantom_001.csv"
PNG = "{phantom}/imagesTr/phantom_001_0000.png"
MRK = "{volumes}/landmarksTr/v1.mrk.json"
NII = "{volumes}/imagesTr/v1_0001.nii.gz"
PLANS = "{planned}/autolmkPlans.json"
SPLITS = "{planned}/splits_final.json"
LATEST = "{model}/fold_1/checkpoint_latest.safetensors"
FINAL = "{model}/fold_0/checkpoint_final.safetensors"
MEASURED = "{model}/fold_0/measured.json"
CONFIG = "{model}/fold_0/config.json"
TEST = "{images}/phantom_006_0000.png"
OUT = ("out", "out/*")
PRE = (f"preprocessed/{PHANTOM}/*",)
FINGERPRINT = "{planned}/dataset_fingerprint.json"
NEW = "1 0 --results {folder}/new"  # a model that was not begun
LOG = ("results/*/fold_1/training_log.jsonl", "results/*/fold_1/progress.png")
FOLD_2 = ("results/*/fold_2", "results/*/fold_2/*")

# fmt: off
CASES = [
    # images
    Broken("truncated image", "check", "1", cut(PNG), ("phantom_001", "truncated"), 3),
    Broken("truncated image", "check", "2", cut(NII), ("v1_0001.nii.gz", "truncated"), 3),
    Broken("truncated image", "plan_and_preprocess", "-d 1", cut(PNG), ("phantom_001", "1 case was skipped"), 3,
           PRE),
    Broken("truncated image", "extract_fingerprint", "-d 1", cut(PNG), ("phantom_001", "truncated"), 3, PRE),
    Broken("truncated image", "preprocess", "", cut(PNG), ("phantom_001", "failures.json"), 3, PRE),
    Broken("truncated image", "predict", "", cut(TEST), ("phantom_006", "truncated"), 3, OUT),
    Broken("empty image file", "check", "1", put(PNG), ("phantom_001_0000.png", "empty"), 3),
    Broken("no image inside", "check", "1", put(PNG, "not an image"), ("phantom_001_0000.png",), 3),
    Broken("wrong shape", "check", "2", image(NII, (5, 6, 7)), ("v1_0001.nii.gz", "differ in their geometry"), 3),
    Broken("header that lies", "check", "2", header(NII, 42, "h", 30000), ("v1_0001.nii.gz", "truncated"), 3),
    Broken("header that lies", "check", "2", header(NII, 80, "f", 0), ("v1_0001.nii.gz", "pixdim"), 3),
    Broken("NaN in the header", "check", "2", header(NII, 280, "12f", *[np.nan] * 12), ("v1_0001.nii.gz",), 3),
    Broken("broken link", "predict", "", both(drop(TEST), link(TEST, "{folder}/nowhere.png")),
           ("phantom_006_0000.png", "missing"), 3, OUT),
    Broken("wrong number of channels", "check", "1", image(PNG, (40, 40), channels=3), ("phantom_001", "3 channels"),
           3),
    Broken("missing channel", "check", "2", drop(NII), ("v1_0000.nii.gz", "add the missing channels"), 3),
    Broken("NaN voxels", "predict", "", both(drop("{images}"), image("{images}/a.tif", (40, 40), bad=np.nan)),
           ("a.tif", "NaN"), 3, OUT),
    Broken("image of one value", "check", "1", image(PNG, (40, 40), value=7), ("phantom_001", "single value"), 3),
    Broken("no images", "check", "1", drop("{phantom}/imagesTr"), ("imagesTr", "missing")),
    Broken("no images", "plan_and_preprocess", "-d 1", drop("{phantom}/imagesTr"), ("imagesTr", "missing")),
    # points
    Broken("NaN points", "check", "1", lines(CSV, lambda r: [r[0], "Crown,nan,nan,nan,1,1,1,0,,present", *r[2:]]),
           ("phantom_001", "no finite coordinates"), 3),
    Broken("no numbers", "check", "1", lines(CSV, lambda r: [*r[:1], r[1].replace(".", "x"), *r[2:]]),
           ("phantom_001",), 3),
    Broken("missing column", "check", "1", replace(CSV, "label,l,p", "label,l,q"), ("phantom_001.csv",), 3),
    Broken("empty landmark file", "check", "1", put(CSV), ("phantom_001.csv",), 3),
    Broken("unreadable JSON", "check", "2", cut(MRK), ("v1.mrk.json", "not valid JSON"), 3),
    Broken("binary landmark file", "check", "1", put(CSV, bytes(range(256))), ("phantom_001.csv",), 3),
    Broken("missing landmarks", "check", "1", drop(CSV), ("phantom_001", "no landmarks"), 3),
    Broken("missing landmarks", "preprocess", "", drop(CSV), ("phantom_001", "no landmarks"), 3, PRE),
    Broken("missing landmarks", "check", "2", drop("{volumes}/landmarksTr"), ("v0", "no landmarks")),
    Broken("duplicated landmark", "check", "1", lines(CSV, lambda r: [*r, r[1]]), ("phantom_001.csv", "twice"), 3),
    Broken("two annotations", "check", "1", copy(CSV, CSV.replace(".csv", ".tsv")),
           ("phantom_001", "two annotations")),
    Broken("unknown names", "check", "1", setting(RAW, "landmarks.Nose", {"index": 10}), ("dataset.json", "Nose")),
    Broken("wrong frame", "check", "2", replace(MRK, '"LPS"', '"RAS"'), ("v1.mrk.json", "another frame"), 3),
    Broken("wrong frame", "check", "2", setting("{volumes}/dataset.json", "coordinates", "RAS"), ("v0", "RAS")),
    Broken("swapped axes", "check", "2", edit(MRK, swap_axes), ("v1.mrk.json", "outside"), 3),
    Broken("points in another unit", "check", "2", edit(MRK, in_metres), ("v1.mrk.json", "outside"), 3),
    # dataset.json
    Broken("unreadable JSON", "check", "1", cut(RAW), ("dataset.json", "not valid JSON")),
    Broken("unreadable JSON", "evaluate", "{predictions} -d 1", put(RAW, "{"), ("dataset.json",)),
    Broken("misspelt key", "check", "1", replace(RAW, "channel_names", "chanel_names"),
           ("chanel_names", "did you mean")),
    Broken("misspelt key", "plan_and_preprocess", "-d 1", replace(RAW, "pair", "pear"), ("dataset.json", "pear")),
    Broken("wrong type", "check", "1", setting(RAW, "numTraining", "six"), ("dataset.json", "numTraining")),
    Broken("missing dataset.json", "check", "1", drop(RAW), ("dataset.json", "this is what the files say")),
    Broken("pair without partner", "check", "1", setting(RAW, "landmarks.Eye_L.pair", "Eye_X"),
           ("dataset.json", "Eye_X")),
    Broken("no regular expression", "check", "1", setting(RAW, "groups", "(subject"), ("dataset.json", "groups")),
    Broken("unknown file ending", "check", "1", setting(RAW, "file_ending", ".xyz"), (".xyz",)),
    # which dataset
    Broken("wrong dataset", "check", "7", None, ("no dataset '7'", "--raw")),
    Broken("wrong dataset", "train", "Dataset001_Fantom 0", None, ("did you mean 'Dataset001_Phantom'",)),
    Broken("ambiguous dataset", "train", "1 0", copy("{phantom}", "{raw}/Dataset001_Twin"),
           ("Dataset001_Twin", "full name")),
    # plans
    Broken("unknown preset", "plan_experiment", "--preset XXS", None, ("XXS", "XL")),
    Broken("impossible spacing", "plan_experiment", "-overwrite_target_spacing 1 1 1", None, ("1, 1, 1", "y x")),
    Broken("impossible spacing", "plan_experiment", "-overwrite_target_spacing 0 1", None, ("0, 1", "positive")),
    Broken("impossible spacing", "plan_experiment", "-overwrite_target_spacing 1000 1000", None,
           ("1000, 1000", "0.1 to 10")),
    Broken("memory too small", "plan_experiment", "-gpu_memory_target 0.00001", None, ("memory",)),
    Broken("unknown device", "plan_experiment", "-device tpu", None, ("tpu",)),
    Broken("wrong plug-in", "plan_experiment", "-pl heatmep", None, ("heatmep", "did you mean 'heatmap'")),
    Broken("damaged fingerprint", "plan_experiment", "", cut(FINGERPRINT), ("dataset_fingerprint.json",)),
    Broken("no fingerprint", "plan_experiment", "", drop(FINGERPRINT),
           ("no fingerprint", "autolmk_extract_fingerprint")),
    Broken("no plans", "preprocess", "-plans_name other", None, ("other", "autolmk_plan")),
    Broken("no plans", "train", "1 0 -p other", None, ("other.json", "autolmk_plan_and_preprocess")),
    Broken("other version", "train", "1 0", setting(PLANS, "version", 99), ("autolmkPlans.json", "version 99")),
    Broken("other version", "preprocess", "", setting(PLANS, "version", 99), ("autolmkPlans.json", "version 99")),
    Broken("plans edited wrongly", "train", "1 0", replace(PLANS, "batch_size", "batchsize"),
           ("batchsize", "did you mean")),
    Broken("plans edited wrongly", "train", NEW, setting(PLANS, "configurations.heatmap.patch_size", [40]),
           ("patch_size",)),
    Broken("plans edited wrongly", "train", NEW, setting(PLANS, "configurations.heatmap.patch_size", [41, 41]),
           ("patch_size",)),
    Broken("plans edited wrongly", "preprocess", "", setting(PLANS, "configurations.heatmap.spacing", [1.0]),
           ("autolmkPlans.json", "spacing")),
    Broken("plans edited wrongly", "train", NEW, setting(PLANS, "channel_names", ["T1", "T2"]),
           ("autolmkPlans.json", "2 channels")),
    Broken("plans edited wrongly", "train", NEW, setting(PLANS, "landmarks", []), ("autolmkPlans.json", "landmarks")),
    Broken("plans edited wrongly", "train", NEW,
           setting(PLANS, "configurations.heatmap.architecture.strides", [[1, 1]]), ("features_per_stage",)),
    Broken("no plans at all", "train", "1 0", put(PLANS, "[]"), ("autolmkPlans.json", "no autolmk plans")),
    Broken("changed plans", "train", "1 2", setting(PLANS, "configurations.heatmap.batch_size", 3),
           ("plans.json", "-p")),
    Broken("unknown configuration", "preprocess", "-c heatmop", None, ("heatmop", "did you mean")),
    Broken("unknown configuration", "train", "1 heatmop 0", None, ("heatmop", "did you mean")),
    # preprocessed data
    Broken("no preprocessed data", "train", "1 2", drop("{store}"),
           ("not preprocessed", "autolmk_plan_and_preprocess")),
    Broken("damaged stored case", "train", "1 2", cut("{store}/phantom_001.b2nd"),
           ("phantom_001", "autolmk_preprocess")),
    Broken("damaged stored case", "train", "1 2", wipe("{store}/phantom_002.b2nd"),
           ("phantom_002", "autolmk_preprocess")),
    Broken("damaged stored case", "train", "1 2", cut("{store}/phantom_001.json"), ("phantom_001",)),
    Broken("damaged stored case", "train", "1 2", put("{store}/phantom_001.json", "[]"), ("phantom_001",)),
    Broken("data of other plans", "train", "1 2", edit("{store}/phantom_001.json", other_plans),
           ("phantom_001", "other plans")),
    # splits
    Broken("wrong fold", "train", "1 9", None, ("no fold 9", "0, 1, 2")),
    Broken("wrong fold", "train", "1 two", None, ("two", "all")),
    Broken("lost cases", "train", "1 2", drop("{store}/phantom_001.json"), ("splits_final.json", "phantom_001")),
    Broken("new cases", "train", "1 2",
           edit(SPLITS, lambda s: [{k: [c for c in v if c != "phantom_001"] for k, v in f.items()} for f in s]),
           ("splits_final.json", "phantom_001")),
    Broken("damaged splits", "train", "1 2", cut(SPLITS), ("splits_final.json",)),
    Broken("damaged splits", "train", "1 2", put(SPLITS, "[]"), ("splits_final.json", "empty")),
    Broken("case on both sides", "train", "1 0", edit(SPLITS, lambda s: s[0]["train"].extend(s[0]["val"])),
           ("splits_final.json", "both sides")),
    # options of training
    Broken("unknown option", "train", "1 0 --epoch 3", None, ("--epoch", "did you mean")),
    Broken("unknown --set key", "train", "1 0 --set schedule.learning_rat=1", None,
           ("learning_rat", "learning_rate")),
    Broken("unknown --set key", "train", "1 0 --set sigmoid=1", None, ("sigmoid",)),
    Broken("wrong --set value", "train", "1 2 --set batch_size=two", None, ("batch_size", "a whole number")),
    Broken("wrong --set value", "train", "1 2 --set patch_size=[43,40]", None, ("(43, 40)", "--set")),
    Broken("wrong --set value", "train", "1 2 --set n_candidates=few", None, ("n_candidates", "few")),
    Broken("wrong --set value", "train", "1 2 --set batch_size=-2", None, ("batch_size",)),
    Broken("wrong time", "train", "1 0 --max-time soon", None, ("soon", "20m")),
    Broken("wrong time", "train", "1 0 --max-time 0s", None, ("0s",)),
    Broken("wrong number", "train", "1 0 --epochs 0", None, ("--epochs", "1 or more")),
    Broken("wrong number", "train", "1 0 --epochs many", None, ("--epochs", "many")),
    Broken("unknown device", "train", "1 2 -device cuda:9", None, ("cuda:9", "-device cpu")),
    Broken("unknown device", "train", "1 2 -device gpu", None, ("gpu", "cuda:N")),
    Broken("unknown logger", "train", "1 2 --logger tensorbord", None, ("tensorbord", "did you mean")),
    Broken("rate without end", "train", "1 2 --set schedule.learning_rate=1e24 --epochs 3", None,
           ("phantom_", "learning rate"), 2, FOLD_2),
    # plug-ins
    Broken("wrong plug-in", "train", "1 0 -tr heatmp", None, ("heatmp", "did you mean")),
    Broken("wrong plug-in", "train", "1 0 -tr {folder}/nowhere.py:Mine", None, ("nowhere.py",)),
    Broken("wrong plug-in", "train", "1 0 -tr nowhere.module:Mine", None, ("nowhere.module",)),
    Broken("no such class", "train", "1 0 -tr {folder}/mine.py:Mein", put("{folder}/mine.py", TRAINER),
           ("mine.py", "Mine")),
    Broken("not a trainer", "train", "1 0 -tr {folder}/a.py:Mine", put("{folder}/a.py", "class Mine: pass"),
           ("a.py", "Trainer")),
    Broken("import error", "train", "1 0 -tr {folder}/b.py:Mine", put("{folder}/b.py", "import nowhere"),
           ("b.py", "line 1")),
    Broken("syntax error", "train", "1 0 -tr {folder}/c.py:Mine", put("{folder}/c.py", "class Mine(:"),
           ("c.py", "line 1")),
    Broken("abstract methods", "train", "1 0 -tr {folder}/d.py:Mine", put("{folder}/d.py", UNFINISHED),
           ("d.py", "build_codec")),
    Broken("broken trainer", "train", "1 2 -tr {folder}/e.py:Mine",
           put("{folder}/e.py", TRAINER.replace("pass", "def build_network(self): return 1 / 0")),
           ("e.py, line 5", "ZeroDivisionError")),
    # checkpoints
    Broken("truncated checkpoint", "train", "1 1", cut(LATEST), ("checkpoint_latest", "damaged")),
    Broken("truncated checkpoint", "predict", "", cut(FINAL), ("checkpoint_final", "damaged")),
    Broken("empty checkpoint", "predict", "", put(FINAL), ("checkpoint_final", "damaged")),
    Broken("altered checkpoint", "train", "1 1", flip(LATEST), ("checkpoint_latest", "checksum")),
    Broken("altered checkpoint", "predict", "", flip(FINAL), ("checkpoint_final", "checksum")),
    Broken("altered checkpoint", "predict", "", flip(FINAL, 0.001), ("checkpoint_final",)),
    Broken("wrong tensors", "predict", "", tensors(FINAL, lambda t: t.pop(min(t))), ("checkpoint_final", "missing")),
    Broken("wrong tensors", "train", "1 1",
           tensors(LATEST, lambda t: t.update({k: v[..., None] for k, v in t.items()})), ("checkpoint_latest",)),
    Broken("wrong tensors", "train", "1 1",
           tensors(LATEST, lambda t: [t.pop(k) for k in list(t) if k.startswith("optimizer")]),
           ("checkpoint_latest",)),
    Broken("other plans' checkpoint", "train", "1 1 --set sigma=[3,3]", None,
           ("checkpoint_latest", "other plans or options")),
    Broken("other seed", "train", "1 1 --seed 7", None, ("checkpoint_latest", "seed")),
    Broken("no checkpoint", "train", "1 2 -pretrained_weights {folder}/none.safetensors", None,
           ("none.safetensors", "missing")),
    Broken("no checkpoint", "train", "1 2 -pretrained_weights {folder}/raw", None, ("raw",)),
    Broken("foreign file", "train", "1 2 -pretrained_weights {folder}/x.pth", put("{folder}/x.pth", b"PK\x03\x04"),
           ("x.pth",)),
    Broken("no checkpoint", "train", "1 3 --val", None, ("fold_3", "missing")),
    # the model's folder
    Broken("no model folder", "predict", "-m {raw}", None, ("raw", "no model folder")),
    Broken("no model folder", "predict", "-m {folder}/nowhere", None, ("nowhere", "no model folder")),
    Broken("damaged plans", "predict", "", cut("{model}/plans.json"), ("plans.json", "not valid JSON")),
    Broken("other version", "predict", "", setting("{model}/plans.json", "version", 0), ("plans.json", "version 0")),
    Broken("damaged measured.json", "predict", "", cut(MEASURED), ("measured.json", "not valid JSON")),
    Broken("damaged measured.json", "predict", "", drop(MEASURED), ("measured.json",)),
    Broken("damaged measured.json", "predict", "", replace(MEASURED, "presence_slope", "slope"),
           ("measured.json", "slope")),
    Broken("damaged measured.json", "predict", "", setting(MEASURED, "mean_shape.Chin", [1, 2, 3]),
           ("measured.json",)),
    Broken("unreadable JSON", "predict", "", cut("{model}/dataset.json"), ("dataset.json", "not valid JSON")),
    Broken("damaged config.json", "predict", "", drop(CONFIG), ("config.json",)),
    Broken("damaged config.json", "predict", "", edit(CONFIG, lambda c: {k: v for k, v in c.items() if k != "trainer"}),
           ("config.json", "trainer")),
    Broken("damaged config.json", "predict", "", setting(CONFIG, "configuration.patch_size", "big"),
           ("config.json", "patch_size")),
    Broken("damaged config.json", "predict", "",
           setting(CONFIG, "configuration.architecture.features_per_stage", [4, 8, 16, 32]), ("checkpoint_final",)),
    Broken("fold not trained", "predict", "-f 3", None, ("fold 3", "-f")),
    Broken("fold not trained", "predict", "-chk best -f 1", None, ("fold 1",)),
    Broken("code that is not trusted", "predict", "", foreign_model, ("mine.py", "--trust-code")),
    Broken("code that was changed", "predict", "--trust-code",
           both(foreign_model, put("{model}/trainer_source/mine.py", "1")), ("mine.py", "changed")),
    # images to predict
    Broken("wrong number of channels", "predict", "", image(TEST, (40, 40), channels=3), ("phantom_006", "channels"),
           3, OUT),
    Broken("wrong dimension", "predict", "-i {volumes}/imagesTr/v0_0000.nii.gz", None, ("v0", "physical size"), 3,
           OUT),
    Broken("wrong dimension", "predict", "", both(drop("{images}"), image("{images}/a.tif", (5, 40, 40))),
           ("case: a", "single slice"), 3, OUT),
    Broken("empty image file", "predict", "", put(TEST), ("phantom_006", "empty"), 3, OUT),
    Broken("too many channels", "predict", "", copy(TEST, TEST.replace("0000", "0001")), ("phantom_006", "channels"),
           3, OUT),
    Broken("empty folder", "predict", "", both(drop("{images}"), put("{images}/readme.txt")),
           ("imagesTs", "no image")),
    Broken("no image inside", "predict", "-i {folder}/a.txt", put("{folder}/a.txt"), ("a.txt", "not known"), 3, OUT),
    Broken("two models", "predict", "-d 1", None, ("either a dataset or -m",)),
    Broken("two models", "predict", "", both(drop("{model}/plans.json"), copy("{model}", "{results}/other")),
           ("no model folder",)),
    Broken("missing folder", "predict", "-i {folder}/nowhere", None, ("nowhere", "missing")),
    Broken("two kinds of images", "predict", "", two_kinds, ("imagesTs", "two kinds", "a.jpg")),
    Broken("wrong number", "predict", "-step_size 3", None, ("3.0", "0 < step <= 1")),
    Broken("another run's output", "predict", "-o {predictions} --disable_tta --continue_prediction -step_size 0.3",
           None, ("run.json", "--continue_prediction")),
    Broken("damaged output", "predict", "-o {predictions} --continue_prediction",
           put("{predictions}/landmarks.csv", "a,b"), ("landmarks.csv", "--continue_prediction")),
    Broken("damaged output", "predict", "-o {predictions} --continue_prediction", cut("{predictions}/run.json"),
           ("run.json",)),
    Broken("damaged output", "predict", "-o {predictions} --continue_prediction", put("{predictions}/run.json", "[]"),
           ("run.json",)),
    # where to write
    Broken("a file in the way", "predict", "-o {folder}/file", put("{folder}/file"), ("file", "choose")),
    Broken("a file in the way", "predict", "-o {folder}/file/out", put("{folder}/file"), ("file", "choose")),
    Broken("a file in the way", "train", "1 2 --results {folder}/file", put("{folder}/file"), ("file", "choose")),
    Broken("a file in the way", "preprocess", "", block("{store}"),
           ("spacing_1x1",)),
    Broken("a file in the way", "evaluate", "{predictions} {truth} -o {folder}/file", put("{folder}/file"),
           ("file", "choose")),
    Broken("full disk", "predict", "", full_disk, ("No space left", "free disk space"), 2, OUT),
    Broken("full disk", "extract_fingerprint", "-d 2", full_disk, ("No space left", "free disk space"), 2,
           ("preprocessed/*",)),
    Broken("full disk", "preprocess", "", both(drop("{store}"), full_disk), ("No space left", "free disk space"), 2,
           PRE),
    Broken("full disk", "train", "1 2", full_disk, ("No space left", "free disk space"), 2, FOLD_2),
    Broken("full disk", "train", "1 1", full_disk, ("No space left", "free disk space")),
    Broken("full disk", "evaluate", "{predictions} {truth} -o {out}", full_disk, ("No space left", "free disk space"),
           2, OUT),
    Broken("file too large", "preprocess", "", drop("{store}"), ("File too large", "free disk space"), 2, PRE, 2000),
    Broken("file too large", "train", "1 1", None, ("File too large", "checkpoint_latest"), 2, LOG, 100_000),
    Broken("file too large", "train", "1 2", None, ("File too large", "free disk space"), 2, FOLD_2, 100_000),
    Broken("file too large", "predict", "--save_overlays", None, ("File too large", "free disk space"), 2, OUT, 8000),
    Broken("file too large", "predict", "--save_heatmap_crops", None, ("File too large", "free disk space"), 2, OUT,
           300),
    # evaluation
    Broken("cases not predicted", "evaluate", "{predictions} -d 1",
           drop("{predictions}/landmarks.csv", "{predictions}/phantom_006.mrk.json"),
           ("phantom_006", "--skip-missing")),
    Broken("other landmarks", "evaluate", "{predictions} {volumes}/landmarksTr", None, ("v0",)),
    Broken("other landmarks", "evaluate", "{predictions} -d 1",
           lines("{predictions}/landmarks.csv", lambda r: [r[0], *(x.replace(",", ",No_", 1) for x in r[1:])]),
           ("phantom_006", "No_Crown")),
    Broken("damaged predictions", "evaluate", "{predictions} -d 1",
           lines("{predictions}/landmarks.csv", lambda r: [*r[:3], r[3][: len(r[3]) // 3]]),
           ("landmarks.csv", "line")),
    Broken("no predictions", "evaluate", "{folder}/nowhere -d 1", None, ("nowhere",)),
    Broken("no annotations", "evaluate", "{predictions} -d 1", drop("{truth}"), ("landmarksTs",)),
    Broken("duplicated landmark", "evaluate", "{predictions} -d 1",
           lines("{predictions}/landmarks.csv", lambda r: [*r, r[-1]]), ("phantom_007", "twice")),
    Broken("nothing to compare with", "evaluate", "{predictions}", None, ("autolmk_evaluate DATASET PREDICTIONS",)),
    Broken("wrong number", "evaluate", "{predictions} -d 1 --radii 0 2", None, ("radii",)),
    # import
    Broken("missing folder", "import_", "-i {folder}/Dataset009_New", None, ("Dataset009_New", "missing")),
    Broken("no format", "import_", "-i {raw}", None, ("raw", "--format")),
    Broken("incomplete source", "import_", "-i {volumes} -d Dataset009_New", None, ("Dataset002_Volumes",)),
    Broken("dataset exists", "import_", "-i {volumes} -d Dataset001_Phantom", None, ("Dataset001_Phantom",)),
]
# fmt: on


@contextmanager
def file_limit(size: int | None) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def allowed(path: str, patterns: Sequence[str]) -> bool:
    """Whether what is at `path` may be new, and is no leftover of a writer."""
    name = path.rpartition("/")[2]
    leftover = name.endswith(".tmp") or ".tmp." in name or name.startswith(".writing_")
    return not leftover and any(fnmatch(path, pattern) for pattern in patterns)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Made once, copied for each case."""
    return trained_place(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("broken", CASES, ids=[f"{i:03d} {c.command}: {c.kind}" for i, c in enumerate(CASES)])
def test_broken_input(
    broken: Broken,
    trained: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Place(tmp_path / "place", monkeypatch)
    shutil.copytree(trained.folder, place.folder)
    if broken.damage is not None:
        broken.damage(place)
    before = place.tree()
    capsys.readouterr()
    with file_limit(broken.limit):
        code = place.run(broken.command, broken.arguments)
    printed = capsys.readouterr()
    message = printed.out + printed.err if broken.command == "check" else printed.err
    after = place.tree()
    assert code == broken.code, message
    for words in broken.said:
        assert words in message, message
    assert "what to do: " in message or "usage: " in message, message
    assert "Traceback" not in message and "internal error" not in message, message
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert not {path for path in changed if not allowed(path, broken.leaves)}, message
    for path in changed & after.keys():
        if path.endswith(".json"):
            json.loads((place.folder / path).read_text())


def test_there_are_fifty_of_twenty_five_kinds() -> None:
    assert len(CASES) >= 50
    assert len({case.kind for case in CASES}) >= 25


@pytest.mark.parametrize(
    ("command", "arguments", "damage", "said"),
    [
        ("check", "1", cut(RAW), "dataset.json"),
        ("train", "1 1", cut(LATEST), "checkpoint_latest"),
        ("predict", "-f 0", cut(FINAL), "checkpoint_final"),
    ],
)
def test_as_installed(trained: Place, tmp_path: Path, command: str, arguments: str, damage: Damage, said: str) -> None:
    """The same as a user's shell sees it."""
    place = Place(tmp_path / "place")
    shutil.copytree(trained.folder, place.folder)
    damage(place)
    before = place.tree()
    program = Path(sys.executable).with_name(f"autolmk_{command}")
    done = subprocess.run([program, *place.arguments(command, arguments)], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr and "what to do: " in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert place.tree() == before


def test_every_message_says_what_to_do() -> None:
    """Wherever the package raises an AutolmkError of its own."""
    folder = Path(autolmk.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "AutolmkError":
                assert any(k.arg == "remedy" for k in node.keywords), f"{file}, line {node.lineno}"
