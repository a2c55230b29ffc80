"""The reference runner: an exported model on one case, with NumPy, SciPy, SimpleITK and onnxruntime alone.

    python run_onnx.py image.nii.gz -o points.mrk.json

`sources` makes run_onnx.py from this module and all that it calls. A case is read by SimpleITK; where a NIfTI file's
voxels are is read from its header as autolmk does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autolmk.annotations import mrk_json
from autolmk.data.preprocessing import preprocess_image
from autolmk.errors import AutolmkError
from autolmk.export_onnx.decoders import decoder_of
from autolmk.export_onnx.nifti_grid import ENDINGS, grid_of
from autolmk.export_onnx.torch_free import Network, OnnxMember
from autolmk.files.serialization import from_json, read_json
from autolmk.fold.measured import Measured
from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.imageio.channels import is_grey, require_contrast
from autolmk.imageio.reading import squeeze
from autolmk.landmarks import Landmarks
from autolmk.plans import Configuration, Plans
from autolmk.prediction.first_look import look_first
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.second_look import look_again
from autolmk.prediction.stage import Member, Prepared, Stage
from autolmk.selection.recipe import Recipe

PIPELINE, VERSION = "pipeline.json", 1
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")  # whose headers do not say how large a pixel is
NOT_READ = (".dcm", ".ima")
SUFFIX = ".mrk.json"


class Runner:
    """An exported folder, loaded once. AutolmkError where it is incomplete or of another version."""

    def __init__(self, folder: Path) -> None:
        pipeline = read_json(folder / PIPELINE, remedy="copy the whole folder that was exported")
        if not isinstance(pipeline, dict) or pipeline.get("version") != VERSION:
            found = pipeline.get("version") if isinstance(pipeline, dict) else type(pipeline).__name__
            raise AutolmkError(
                "a pipeline of another version",
                file=folder / PIPELINE,
                found=found,
                expected=f"version {VERSION}",
                remedy="use the run_onnx.py that was written beside it",
            )
        self.nifti_affine = pipeline["nifti_affine"]
        how = {"mirror": bool(pipeline["mirror"]), "step": float(pipeline["step"])}
        recipe = pipeline["recipe"]
        self.recipe = None if recipe is None else from_json(Recipe, recipe, file=folder / PIPELINE)
        self.models = [_Model(folder, model, how) for model in pipeline["models"]]
        self.plans = self.models[0].plans

    def predict(self, image: Image) -> Landmarks:
        """Landmarks in mm, LPS, of an image (C, *S) as it was read."""
        require_contrast(image)
        found = [model.predict(image) for model in self.models]
        if self.recipe is None:
            return found[0].landmarks
        return self.recipe.conclude([one.detections for one in found]).landmarks

    def read(self, files: Sequence[Path], spacing: Sequence[float] | None) -> Image:
        """The image of one case, a file a channel. spacing: mm in array order, of pictures for a model in mm."""
        parts = [_read(file, self.plans.unit, spacing, self.nifti_affine) for file in files]
        if any(not part.geometry.is_close(parts[0].geometry) for part in parts):
            raise AutolmkError(
                "the channels of a case are not on one grid",
                file=", ".join(map(str, files)),
                expected="files of the same size, spacing, origin and direction",
                remedy="resample them onto one grid",
            )
        image = Image(np.concatenate([part.array for part in parts]), parts[0].geometry)
        wanted = len(self.plans.channel_names)
        if len(files) == 1 and files[0].suffix.lower() in PICTURES:
            if wanted == 1 and is_grey(image):
                image = Image(np.ascontiguousarray(image.array[:1]), image.geometry)
            elif wanted == 3 and len(image.array) == 1:
                image = Image(np.repeat(image.array, 3, axis=0), image.geometry)
        return image


class _Model:
    """One configuration with its stages."""

    def __init__(self, folder: Path, value: dict[str, Any], how: dict[str, Any]) -> None:
        file = folder / PIPELINE
        cpu: Any = "cpu"
        self.plans = from_json(Plans, value["plans"], file=file)
        self.stages = []
        for stage in value["stages"]:
            configuration = from_json(Configuration, stage["configuration"], file=file)
            measured = tuple(from_json(Measured, one["measured"], file=file) for one in stage["members"])
            parts: list[Any] = [
                OnnxMember(Network(folder / one["file"]), decoder_of(one["decoding"]), tuple(one["untrained"]))
                for one in stage["members"]
            ]
            members: list[Member] = parts
            self.stages.append(Stage(self.plans, configuration, tuple(members), measured, cpu, **how))

    def predict(self, image: Image) -> Prediction:
        """As `prediction.chain.look_through`."""
        if self.plans.ndim == 2 and image.geometry.ndim == 3:
            image = squeeze(image)
        found: Prediction | None = None
        for stage in self.stages:
            prepared = Prepared(*preprocess_image(image, stage.configuration))
            found = look_first(stage, prepared) if found is None else look_again(stage, prepared, found)
        assert found is not None
        return found


def _read(file: Path, unit: str, spacing: Sequence[float] | None, nifti_affine: Any) -> Image:
    """One file by SimpleITK, (C, *S) float32."""
    import SimpleITK

    if not file.is_file() or file.suffix.lower() in NOT_READ:
        raise AutolmkError(
            "this runner cannot read that",
            file=file,
            found="DICOM" if file.suffix.lower() in NOT_READ else "a folder" if file.is_dir() else "no file",
            expected="an image file a channel",
            remedy="convert DICOM to NIfTI, or use autolmk_predict",
        )
    try:
        read: Any = SimpleITK.ReadImage(str(file))
    except RuntimeError as error:
        raise AutolmkError(
            "an image cannot be read", file=file, found=str(error).splitlines()[-1], remedy="check or convert the file"
        ) from None
    if read.GetDimension() > 3:
        raise AutolmkError(
            "this runner cannot read that",
            file=file,
            found=f"{read.GetDimension()} axes",
            remedy="take one volume of it",
        )
    array = SimpleITK.GetArrayFromImage(read).astype(np.float32)
    shape = read.GetSize()[::-1]
    channels = np.moveaxis(array, -1, 0) if read.GetNumberOfComponentsPerPixel() > 1 else array[None]
    sizeless = file.suffix.lower() in PICTURES
    if unit == "px" and not sizeless:
        raise AutolmkError(
            "this model was trained on images without physical size, so it cannot use one",
            file=file,
            found="a file with a spacing in mm",
            expected=", ".join(PICTURES),
            remedy="convert the image",
        )
    if unit == "mm" and sizeless and spacing is None:
        raise AutolmkError(
            "nothing says how large the pixels of an image are",
            file=file,
            found="a picture without physical size",
            remedy="say it with --spacing, in mm, rows first",
        )
    if sizeless:
        geometry = Geometry.from_parts(shape, (1.0,) * len(shape) if unit == "px" or spacing is None else spacing)
    elif file.name.lower().endswith(ENDINGS):
        geometry = grid_of(file, read.GetSize(), nifti_affine)
    else:
        geometry = Geometry.from_sitk(read)
    return Image(np.ascontiguousarray(channels), geometry)


def main(argv: Sequence[str] | None = None) -> int:
    """Predict one case; exit code 2 with a message where that is not possible."""
    parser = argparse.ArgumentParser(prog="run_onnx.py", description="Predict the landmarks of one case.")
    parser.add_argument("images", nargs="+", type=Path, help="the case's image, a file a channel, in order")
    parser.add_argument("-o", "--output", type=Path, required=True, help="CASE.mrk.json, for 3D Slicer, in LPS")
    parser.add_argument("-m", "--model", type=Path, default=Path(sys.argv[0]).parent, help="default: beside this file")
    parser.add_argument("--spacing", type=float, nargs="+", help="mm, of pictures that do not say it, rows first")
    arguments = parser.parse_args(argv)
    try:
        if not arguments.output.name.endswith(SUFFIX):
            raise AutolmkError(
                "the output must be a .mrk.json file", found=arguments.output.name, remedy=f"give a name in {SUFFIX}"
            )
        runner = Runner(arguments.model)
        landmarks = runner.predict(runner.read(arguments.images, arguments.spacing))
        mrk_json.write(arguments.output, landmarks, unit=runner.plans.unit)
    except AutolmkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0
