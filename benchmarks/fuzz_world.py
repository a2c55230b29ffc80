"""The world of benchmarks/fuzz.py: small datasets of every format, and all that the commands make of one of them.

given/raw, given/preprocessed, given/results, given/predicted, given/single, ...   what the commands are given
elsewhere/, home/                                                                  what no command may touch
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autolmk.cli.main import module_of

for _tests in ("helpers", "annotations"):  # samples of other formats
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / _tests))

FOLDERS = "--raw {world}/raw --preprocessed {world}/preprocessed --results {world}/results"
MAIN = "Dataset001_Fuzz"
CPU = f"-device cpu {FOLDERS}"
SHORT = f"--epochs 1 --set schedule.iterations_per_epoch=2 --workers 0 --threads 1 --no-compile {CPU}"
IMAGES = f"-i {{world}}/raw/{MAIN}/imagesTs"
VOLUMES_SET = "Dataset014_Pointsmrkjson"  # images with a physical size, as a BIDS tree has them
OF_VOLUMES = f"results/{VOLUMES_SET}/heatmap__autolmkPlans__heatmap"
MODEL = f"results/{MAIN}/heatmap__autolmkPlans__heatmap"
IMPORTS = dict.fromkeys(
    ("slicer", "csv", "deeplabcut", "sleap", "cldetection", "bids", "coco", "labelme", "pts", "verse", "mitk",
     "imagej", "qupath"), ""
) | {
    "tps": "--y-from bottom --scale ignore --negatives real --curves points",
    "morphologika": "--y-from top",
    "nts": "--y-from top",
    "amira": "--frame LPS",
    "acsv": "--frame LPS",
    "bigwarp": "--side moving",
    "isbi2015": "--annotator junior",
}  # fmt: skip
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURES = (".png", ".tif", ".jpg", ".bmp")


Run = Callable[[str, list[str], Path], tuple[int, str]]  # (exit code, output) of a module of autolmk.cli, its words, in


@dataclass(frozen=True)
class Command:
    """One way to call a command. line: its module and arguments. reads: patterns of files to damage. writes: folders
    that it may change. leaves: what must be there after exit code 0 of undamaged arguments."""

    name: str
    line: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def module(self) -> str:
        """In autolmk.cli."""
        return module_of(self.line.split()[0])

    def arguments(self, world: Path) -> list[str]:
        """For the world in this folder."""
        return [word.replace("{world}", str(world)) for word in self.line.split()[1:]]


def commands() -> list[Command]:
    """All commands, each with the files that it reads."""
    raw, pre, res = f"raw/{MAIN}", f"preprocessed/{MAIN}", f"results/{MAIN}"
    described, plans, best = f"{raw}/dataset.json", f"{pre}/*.json", f"{res}/best/recipe.json"
    images = (f"{raw}/imagesTr/*", f"{raw}/landmarksTr/*", described)
    store = (f"{pre}/*/*", f"{pre}/*/*/*")
    one = (f"{MODEL}/*.json", f"{MODEL}/fold_*/*")
    held_out = (f"{MODEL}/fold_*/validation/*", f"{MODEL}/fold_*/*.json", f"{MODEL}/*.json")
    points, record, wide = "landmarks.csv", "run.json", "points.csv"
    predicted = (f"out/{points}", f"out/{record}")
    in_turn, model = f"-npp 0 -nps 0 {CPU}", f"-m {{world}}/{MODEL}"
    planned = f"-d 1 -pl heatmap --preset XS {CPU}"
    new_plans = (f"{pre}/autolmkPlans.json",)
    of_mm = f"-m {{world}}/{OF_VOLUMES}"
    bundle = "{world}/a.autolmk.zip"
    line = f"export_onnx -m {{world}}/{MODEL} -o {{world}}/out"
    onnx = [Command("export onnx", line, one, ("out",), ("out/pipeline.json",), 2)]
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):  # an extra
        onnx = []
    slurm = f"run 1 -c heatmap -f 0 --print-jobs slurm {CPU}"
    evaluated = ("predicted/*", f"{raw}/landmarksTs/*", described, f"{pre}/dataset_fingerprint.json")
    reported = (*held_out, plans, f"{res}/best/*", described, f"{raw}/landmarksTr/*")
    of_formats = [
        Command(f"check {n}", f"check {n} -np 0 {FOLDERS}", (f"raw/Dataset{n:03d}_*/**/*",), weight=0.5)
        for n in range(2, 2 + len(format_writers()))
    ]
    imports = [
        Command(f"import {name}", f"import_ --format {name} {{world}}/foreign/{name}/source {options} "
                f"-o {{world}}/imported/Dataset001_New {FOLDERS}", (f"foreign/{name}/**/*",), ("imported",),
                ("imported/Dataset001_New/dataset.json",), 0.5)
        for name, options in IMPORTS.items()
    ]  # fmt: skip
    return [
        *of_formats,
        *imports,
        Command("check", f"check 1 -np 0 {FOLDERS}", (f"{raw}/**/*",), weight=2),
        Command("extract_fingerprint", f"extract_fingerprint -d 1 -np 0 {FOLDERS}", images, (pre,)),
        Command("plan_experiment", f"plan_experiment {planned}", (plans, described), (pre,), new_plans, 2),
        Command("preprocess", f"preprocess -d 1 -np 0 {FOLDERS}", (plans, *store, *images), (pre,)),
        Command("plan_and_preprocess", f"plan_and_preprocess -np 0 {planned}", (*images, plans), (pre,), new_plans),
        Command("train", f"train 1 2 {SHORT}", (plans, *store, described), (res, pre), _final(2), 3),
        Command("train on", f"train 1 0 {SHORT}", one, (res, pre), _final(0), 2),
        Command("find_best", f"find_best_configuration 1 {FOLDERS}", held_out, (res,), (best,), 2),
        Command("accumulate", f"accumulate_crossval_results 1 {FOLDERS}", held_out, (res,)),
        Command("predict packed", f"predict {IMAGES} -o {{world}}/out -d 1 {in_turn}",
                (f"{res}/best/**/*", f"{raw}/imagesTs/*"), ("out",), predicted, 4),
        Command("predict single", f"predict {IMAGES} -o {{world}}/out {model} {in_turn}", one, ("out",), predicted, 4),
        Command("predict on", f"predict {IMAGES} -o {{world}}/single {model} -f 0 --save_detections "
                f"--continue_prediction {in_turn}", ("single/**/*",), ("single",), (f"single/{points}",), 2),
        Command("predict over", f"predict {IMAGES} -o {{world}}/single {model} {in_turn}",
                ("single/**/*",), ("single",), (f"single/{points}",)),
        Command("evaluate", f"evaluate -i {{world}}/predicted -d 1 --resamples 100 {FOLDERS}",
                evaluated, ("predicted/evaluation",), weight=2),
        Command("ensemble", "ensemble -i {world}/single {world}/other -o {world}/out",
                ("single/**/*", "other/**/*"), ("out",), predicted, 2),
        Command("apply_postprocessing",
                f"apply_postprocessing -i {{world}}/single -o {{world}}/out -r {{world}}/{best}",
                ("single/**/*", best), ("out",), predicted, 2),
        Command("report", f"report 1 {FOLDERS}", reported, (res,), (f"{res}/report.html",), 2),
        Command("convert", f"convert {{world}}/predicted --to csv --dataset 1 -o {{world}}/converted {FOLDERS}",
                (f"predicted/{points}", f"predicted/{record}", f"{raw}/imagesTs/*", described), ("converted",),
                (f"converted/{wide}",)),
        Command("convert dataset", f"convert 1 --to mrk.json -o {{world}}/converted {FOLDERS}", (*images, described),
                ("converted",)),
        Command("recipe", f"recipe pddca --compare {{world}}/predicted/evaluation {FOLDERS}",
                ("predicted/evaluation/summary.json",)),
        Command("export", f"export {{world}}/{MODEL} -o {{world}}/out/a.autolmk.zip", (*one, *held_out), ("out",),
                ("out/a.autolmk.zip",), 2),
        *onnx,
        Command("install", f"install {bundle} --results {{world}}/installed", ("a.autolmk.zip",), ("installed",),
                (f"installed/{MAIN}/heatmap__autolmkPlans__heatmap/bundle.json",), 4),
        Command("predict bundle", f"predict {IMAGES} -o {{world}}/out -m {bundle} {in_turn}", ("a.autolmk.zip",),
                ("out",), predicted, 2),
        Command("bids", f"bids {{world}}/bids {{world}}/out participant {of_mm} -device cpu",
                ("bids/**/*", f"{OF_VOLUMES}/**/*"), ("out",),
                ("out/dataset_description.json", "out/sub-1/anat/sub-1_desc-autolmk_T1w.mrk.json"), 2),
        Command("bids on", f"bids {{world}}/bids {{world}}/derivatives participant {of_mm} -device cpu",
                ("derivatives/**/*", "bids/**/*"), ("derivatives",), ("derivatives/dataset_description.json",)),
        Command("models", "models list --from {world}", ("a.autolmk.zip",)),
        Command("models index", "models index {world}", ("a.autolmk.zip", "index.json"), ("index.json",),
                ("index.json",)),
        Command("models show", f"models show {bundle} --results {{world}}/results", ("a.autolmk.zip",)),
        Command("install folder", "install {world}/unzipped --results {world}/installed", ("unzipped/**/*",),
                ("installed",)),
        Command("cite", f"cite {{world}}/{MODEL}", one),
        Command("run dry", f"run 1 --dry-run {CPU}", (plans, f"{res}/*", described, f"{MODEL}/*.json")),
        Command("run slurm", slurm, (plans, described), (pre,)),
    ]  # fmt: skip


def _final(fold: int) -> tuple[str, ...]:
    return (f"{MODEL}/fold_{fold}/checkpoint_final.safetensors",)


def make_world(folder: Path, seed: int, run: Run) -> Path:
    """The world in `folder`, made if it is not there yet; run: runs a command. What commands say goes to a log."""
    done = folder / "made"
    if done.is_file():
        return folder / "template"
    shutil.rmtree(folder, ignore_errors=True)
    given = folder / "template" / "given"
    for name in ("elsewhere", "home"):
        (folder / "template" / name).mkdir(parents=True)
        (folder / "template" / name / "precious.txt").write_text("not ours\n")
        (folder / "template" / name / ".notes.tmp").write_text("not ours either\n")
    rng = np.random.default_rng(seed)
    for number, (name, write) in enumerate([("Fuzz", _write_main), *format_writers()], 1):
        write(given / "raw" / f"Dataset{number:03d}_{name}", rng)
    for name in IMPORTS:
        importlib.import_module("test_import_damage").source(given / "foreign" / name, name)
    single = f"-m {{world}}/{MODEL} --save_detections -device cpu"
    steps = [
        f"plan_and_preprocess -d 1 -pl heatmap --preset XS -np 0 {CPU}",
        f"plan_and_preprocess -d 14 -pl heatmap --preset XS -np 0 {CPU}",
        f"train 14 0 {SHORT}",
        f"train 1 0 {SHORT}",
        f"train 1 1 {SHORT}",
        f"find_best_configuration 1 -f 0 1 {FOLDERS}",
        f"predict {IMAGES} -o {{world}}/predicted -d 1 {CPU}",
        f"predict {IMAGES} -o {{world}}/single -f 0 {single}",
        f"predict {IMAGES} -o {{world}}/other -f 1 {single}",
        f"evaluate -i {{world}}/predicted -d 1 {FOLDERS}",
        f"report 1 {FOLDERS}",
        f"export {{world}}/{MODEL} -o {{world}}/a.autolmk.zip",
        f"bids {{world}}/bids {{world}}/derivatives participant -m {{world}}/{OF_VOLUMES} -device cpu",
        "models index {world}",
    ]
    _write_bids(given / "bids", rng)
    for step in steps:
        _step(Command("", step, ()), folder / "template", folder / "making.log", run)
    with zipfile.ZipFile(given / "a.autolmk.zip") as archive:
        archive.extractall(given / "unzipped")
    done.touch()
    return folder / "template"


def _step(command: Command, template: Path, log: Path, run: Run) -> None:
    code, said = run(command.module, command.arguments(template / "given"), template)
    with log.open("a") as stream:
        stream.write(said)
    if code:
        sys.exit(f"{command.line}: exit code {code}, see {log}")


# -- datasets ----------------------------------------------------------------------------------------------------------

Writer = Callable[[Path, np.random.Generator], None]
NAMES = ("A", "B", "C")


def format_writers() -> list[tuple[str, Writer]]:
    """(name, function that writes a raw dataset) of every kind of image and of landmark file."""
    kinds: list[tuple[str, Writer]] = [
        (f"Image{ending.replace('.', '')}", _images_of(ending)) for ending in (*VOLUMES, *PICTURES, ".dcm", "dicom")
    ]
    return [
        *kinds,
        *(
            (f"Points{ending.replace('.', '')}", _points_of(ending))
            for ending in (".mrk.json", ".fcsv", ".csv", ".tsv")
        ),
    ]


def _blob(shape: tuple[int, ...], points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1).astype(float)
    image = rng.normal(60, 8, shape)
    for i, point in enumerate(points):
        image += (60 + 40 * i) * np.exp(-((grid - point) ** 2).sum(-1) / 18)
    return image.clip(0, 255).astype(np.float32)


def _write_main(folder: Path, rng: np.random.Generator) -> None:
    from autolmk.geometry import Geometry
    from autolmk.image import Image
    from autolmk.imageio import write_image

    for split, n in (("Tr", 8), ("Ts", 2)):
        rows = ["case,landmark,x,y,status"]
        for i in range(n):
            points = rng.uniform(0.2, 0.8, (3, 2)) * 48
            pixels = np.round(_blob((48, 48), points, rng))[None]
            write_image(
                folder / f"images{split}" / f"{split}{i}_0000.png", Image(pixels, Geometry.from_parts((48, 48), (1, 1)))
            )
            rows += [f"{split}{i},{name},{x:.2f},{y:.2f},present" for name, (y, x) in zip(NAMES, points, strict=True)]
        (folder / f"landmarks{split}").mkdir()
        (folder / f"landmarks{split}" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    described = {
        "channel_names": {"0": "grey"},
        "landmarks": {name: {"index": i} for i, name in enumerate(NAMES)},
        "file_ending": ".png",
        "coordinates": "voxel",
        "groups": r"^(T[rs]\d+)",
        "measurements": {"length": {"distance": ["A", "B"]}},
    }
    (folder / "dataset.json").write_text(json.dumps(described, indent=1))


def _write_bids(folder: Path, rng: np.random.Generator) -> None:
    """A tree of two participants, one of them with a session."""
    folder.mkdir()
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    for place, name in (("sub-1/anat", "sub-1"), ("sub-2/ses-a/anat", "sub-2_ses-a")):
        points = rng.uniform(0.2, 0.8, (3, 3)) * (6, 14, 16)
        _write_image(folder / place, f"{name}_T1w", ".nii.gz", _blob((6, 14, 16), points, rng))


def _images_of(ending: str) -> Writer:
    def write(folder: Path, rng: np.random.Generator) -> None:
        flat = ending in PICTURES or ending == ".dcm"
        shape = (24, 28) if flat else (6, 14, 16)
        rows = [f"case,landmark,x,y{'' if ending in PICTURES else ',z'}"]
        for i in range(3):
            points = rng.uniform(0.2, 0.8, (2, len(shape))) * shape
            _write_image(folder / "imagesTr", f"c{i}", ending, _blob(shape, points, rng))
            for name, point in zip(NAMES, points, strict=False):
                where = [*point[::-1], *([0.0] if ending == ".dcm" else [])]
                rows.append(f"c{i},{name}," + ",".join(f"{x:.2f}" for x in where))
        (folder / "landmarksTr").mkdir()
        (folder / "landmarksTr" / "landmarks.csv").write_text("\n".join(rows) + "\n")
        (folder / "dataset.json").write_text(json.dumps({"coordinates": "voxel"}))

    return write


def _write_image(folder: Path, case: str, ending: str, array: np.ndarray) -> None:
    import SimpleITK as sitk

    folder.mkdir(parents=True, exist_ok=True)
    if ending in (".dcm", "dicom"):
        planes = array[None] if array.ndim == 2 else array
        target = folder / case if ending == "dicom" else folder
        target.mkdir(exist_ok=True)
        for k, plane in enumerate(planes):
            _write_dicom(target / (f"{k}.dcm" if ending == "dicom" else f"{case}.dcm"), plane, k, case)
        return
    if ending in PICTURES:
        array = np.round(array).astype(np.uint8)
    image = sitk.GetImageFromArray(array)
    if ending not in PICTURES:
        image.SetSpacing((0.5, 0.5, 2.0))
    sitk.WriteImage(image, str(folder / f"{case}{ending}"))


def _write_dicom(file: Path, plane: np.ndarray, k: int, case: str) -> None:
    pydicom = importlib.import_module("pydicom")
    uid = importlib.import_module("pydicom.uid")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.CTImageStorage, f"1.2.3.{ord(case[-1])}.{k + 1}"
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    d = pydicom.dataset.FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID, d.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "CT"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.PatientID = "1.2.3", f"1.2.3.{ord(case[-1])}", "x"
    d.SamplesPerPixel, d.PhotometricInterpretation, (d.Rows, d.Columns) = 1, "MONOCHROME2", plane.shape
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.PixelSpacing, d.ImagePositionPatient = [0.5, 0.5], [0.0, 0.0, 2.0 * k]
    d.ImageOrientationPatient, d.InstanceNumber = [1.0, 0, 0, 0, 1, 0], k + 1
    d.RescaleSlope, d.RescaleIntercept = 1, -100
    d.PixelData = np.round(plane).astype(np.uint16).tobytes()
    d.save_as(file)


def _points_of(ending: str) -> Writer:
    def write(folder: Path, rng: np.random.Generator) -> None:
        from autolmk.annotations import write as write_points
        from autolmk.annotations import write_table
        from autolmk.landmarks import Landmarks

        (folder / "landmarksTr").mkdir(parents=True)
        for i in range(3):
            points = rng.uniform(0.2, 0.8, (3, 3)) * (6, 14, 16)
            _write_image(folder / "imagesTr", f"c{i}", ".nii.gz", _blob((6, 14, 16), points, rng))
            marks = Landmarks(NAMES, points[:, ::-1] * (0.5, 0.5, 2.0), np.ones(3, np.int8))
            if ending in (".csv", ".tsv"):
                write_table(folder / "one.csv", {f"c{i}": marks})
                text = "\n".join(line.partition(",")[2] for line in (folder / "one.csv").read_text().splitlines())
                (folder / "landmarksTr" / f"c{i}{ending}").write_text(
                    text.replace(",", "\t") if ending == ".tsv" else text
                )
                (folder / "one.csv").unlink()
            else:
                write_points(folder / "landmarksTr" / f"c{i}{ending}", marks)
        (folder / "dataset.json").write_text(json.dumps({"coordinates": "LPS", "landmarks": {n: {} for n in NAMES}}))

    return write
