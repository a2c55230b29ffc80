"""Predictor: trained models, ready to predict; original geometry in, LPS millimetres out.

    predictor = autolmk.Predictor("results/Dataset001_X/best")
    landmarks = predictor.predict(array, autolmk.Geometry.from_sitk(image))

The folder is that of one configuration (see `model`), or a packed one, whose recipe.json says which models to combine
and what follows. Neither needs environment variables or preprocessed data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt
import torch

from autolmk.dataset import DatasetDescription
from autolmk.errors import AutolmkError
from autolmk.fingerprint import TrainingRange, appearances
from autolmk.fingerprint.training_range import NOTHING
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.imageio import as_channels, has_physical_size, read_image, require_contrast, split_name, squeeze
from autolmk.landmarks import Landmarks
from autolmk.plans import Plans
from autolmk.prediction.chain import look_through
from autolmk.prediction.model import Model
from autolmk.prediction.options import Choices, TestTime
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.stage import Prepared
from autolmk.selection import RECIPE, Recipe

ABSOLUTE = ("ct", "rgb", "none")  # normalisations that leave grey values their own scale
SURER = 0.5  # log-odds, in the mean of all landmarks, that looks at a turned image must gain
TURNS = 4  # rounds of looks, at most, at an image whose landmarks lie turned further than in training


class Predictor:
    """Loads a folder once and predicts any number of images.

    folds, checkpoint, device and further options by keyword: see `TestTime`, or all of them at once as `test_time`.
    A packed folder says by itself which folds, stages and steps count, and refuses others. AutolmkError where the
    folder is incomplete or damaged.

    >>> import SimpleITK
    >>> predictor = Predictor("results/Dataset001_X/best", device="cpu")
    >>> image = SimpleITK.ReadImage("image.nii.gz")
    >>> landmarks = predictor.predict(SimpleITK.GetArrayFromImage(image), Geometry.from_sitk(image))
    >>> landmarks.names[:2], landmarks.points.shape  # mm, LPS
    (('L0', 'L1'), (6, 3))
    """

    def __init__(
        self,
        model_folder: Path | str,
        folds: Sequence[int | str] | None = None,
        checkpoint: str = "final",
        device: str = "auto",
        *,
        test_time: TestTime | None = None,
        **options: Unpack[Choices],
    ) -> None:
        given = TestTime(folds, checkpoint, device, **options)
        if test_time is not None and given != TestTime():
            raise TypeError("options of prediction come one by one or as test_time, not both")
        self.model_folder, self.test_time = Path(model_folder).expanduser(), test_time or given
        self.recipe = Recipe.load(self.model_folder) if (self.model_folder / RECIPE).is_file() else None
        if self.recipe is None:
            self.models: tuple[Model, ...] = (Model(self.model_folder, self.test_time),)
        else:
            _refuse_parts(self.model_folder, self.test_time)
            self.models = tuple(
                Model(self.model_folder / m.model, replace(self.test_time, folds=m.folds)) for m in self.recipe.members
            )
        self.training_range = TrainingRange.load(
            self.model_folder, ndim=self.plans.ndim, channels=len(self.plans.channel_names)
        )

    @property
    def plans(self) -> Plans:
        """The plans of the first model; landmarks, channels and unit are the same for all."""
        return self.models[0].plans

    @property
    def description(self) -> DatasetDescription | None:
        """dataset.json; None where the folder has none."""
        return self.models[0].description

    @property
    def device(self) -> torch.device:
        """The device that runs the models."""
        return self.models[0].device

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each checkpoint, by fold or fold/stage; of a packed folder by model/fold..."""
        if self.recipe is None:
            return self.models[0].digests
        return {f"{m.model_folder.name}/{place}": d for m in self.models for place, d in m.digests.items()}

    @property
    def not_judged(self) -> tuple[str, ...]:
        """Properties of training images that are not known, so that images outside their range pass unsaid."""
        return NOTHING if self.training_range is None else self.training_range.not_judged

    # -- for everybody ------------------------------------------------------------------------------------------------

    def predict(self, array: npt.ArrayLike, geometry: Geometry) -> Landmarks:
        """Landmarks in mm, LPS, of an image: array (*S) or (C, *S), raw intensities, in any orientation and spacing.
        Their `outside` says, in words, what of the image lies outside the range of the training images.

        geometry: of the S axes, from `Geometry.from_sitk`, `Geometry.from_nibabel` or built by hand. A bare matrix is
        refused with TypeError: nothing says which frame it is in. AutolmkError where the image is without contrast or
        does not suit the plans.
        """
        if not isinstance(geometry, Geometry):
            raise TypeError(
                f"geometry must be an autolmk.Geometry, got {type(geometry).__name__}: a bare matrix does not say "
                "which frame it is in; use Geometry.from_sitk, Geometry.from_nibabel or Geometry(shape, affine)"
            )
        values = np.asarray(array, dtype=np.float32)
        if values.ndim == geometry.ndim:
            values = values[None]
        if values.ndim != geometry.ndim + 1 or values.shape[1:] != geometry.shape:
            raise ValueError(f"array must be (*S) or (C, *S) with S = {geometry.shape}, got {np.shape(array)}")
        image = Image(values, geometry)
        prepared = self.prepare(image)
        require_contrast(image)
        return self.conclude(self.look(prepared), self.outside(image)).landmarks

    def predict_file(self, path: Path | str | Sequence[Path | str]) -> Landmarks:
        """Landmarks of an image file, a DICOM folder, or several files that are the channels of one image."""
        files = [path] if isinstance(path, (str, Path)) else list(path)
        image = self.read([Path(file) for file in files])
        return self.conclude(self.look(self.prepare(image)), self.outside(image)).landmarks

    # -- the stops, so that a caller may overlap them over cases: read, prepare, look, conclude ------------------------

    def read(self, files: Sequence[Path], case: str | None = None) -> Image:
        """The image of one case, channels in order. case: its name, for those datasets that list spacings by case.

        AutolmkError where it is damaged, incomplete, without contrast, or has no physical size though the training
        images had one.
        """
        description = self.description
        spacing = None if description is None else description.spacing_of(case or split_name(files[0])[0])
        sized = has_physical_size(files[0])
        if self.plans.unit == "mm" and not sized and spacing is None:
            raise AutolmkError(
                "nothing says how large the pixels of an image are",
                file=files[0],
                found="a file without physical size",
                expected="an image with its spacing in mm, as in training",
                remedy="use a format that carries it, such as .nii.gz, or Predictor.predict with a Geometry",
            )
        if self.plans.unit == "px" and sized:
            raise AutolmkError(
                "this model was trained on images without physical size, so it cannot use one",
                file=files[0],
                found="a file with a spacing in mm",
                expected="PNG, TIFF or JPEG, as in training",
                remedy="convert the image",
            )
        image = read_image(
            files, spacing=spacing, nifti_affine=None if description is None else description.nifti_affine
        )
        if len(files) == 1:
            image = as_channels(image, len(self.plans.channel_names), files[0])
        require_contrast(image, files[0])
        return image

    def prepare(self, image: Image) -> list[list[Prepared]]:
        """Preprocess for each stage of each model, once for those that need it alike. AutolmkError where the image does
        not suit the plans."""
        shared = self.models[0].preparation(image)
        return [model.prepare(shared) for model in self.models]

    def outside(self, image: Image) -> tuple[str, ...]:
        """Name what of an image, as it was read, lies outside the range of the training images, in words; usually
        nothing.
        """
        if self.training_range is None:
            return ()
        if self.plans.ndim == 2 and image.geometry.ndim == 3:
            image = squeeze(image)
        absolute = [n.scheme in ABSOLUTE for n in self.models[0].configuration.normalization]
        return self.training_range.outside(image.geometry, appearances(image), absolute)

    def look(self, prepared: Sequence[Sequence[Prepared]]) -> list[Prediction]:
        """Find the landmarks with each model in a prepared image, through all of its stages. AutolmkError where the
        device's memory does not suffice, or a network's output is not finite.
        """
        found = []
        for model, images in zip(self.models, prepared, strict=True):
            with _memory_errors(model):
                found.append(self._look(model, images))
        return found

    def _look(self, model: Model, images: Sequence[Prepared]) -> Prediction:
        """With one model. Where landmarks lie as no training case's did, again on grids that are turned, see
        `TrainingRange.turns`, as long as that makes it surer. Not where they share slices of the image's own grid.
        """
        first, grid = look_through(model.stages, images), images[0].image.geometry
        if self.training_range is None or self.plans.co_slice_groups or grid.ndim < grid.physical_ndim:
            return first
        found, looks, frame = first, first.looks, grid.frame()
        rotation = np.eye(len(frame))
        for _ in range(TURNS):
            tried = [turn @ rotation for turn in self.training_range.turns(found.landmarks, grid, rotation @ frame)]
            again = [_look_turned(model, images, turned) for turned in tried]
            looks += sum(one.looks for one in again)
            best = max(range(len(again)), key=lambda i: _sureness(again[i]), default=None)
            if best is None or _sureness(again[best]) <= _sureness(found):
                break
            rotation, found = tried[best], again[best]
        if found is first or _sureness(found) < _sureness(first) + SURER:
            return replace(first, looks=looks)
        return replace(found, looks=looks, detections=replace(found.detections, geometry=grid))

    def conclude(self, found: Sequence[Prediction], outside: Sequence[str] = ()) -> Prediction:
        """The final landmarks: what the models found as one, by the recipe of a packed folder.

        outside: what `outside` said of the image; what the landmarks' own pose and shape say is added.
        """
        prediction = found[0]
        said, geometry = list(outside), prediction.detections.geometry
        if self.recipe is not None:
            final = self.recipe.conclude([one.detections for one in found])
            detections, looks = final.detections, sum(one.looks for one in found)
            prediction = Prediction(
                final.landmarks, detections.candidates, detections.log_odds, looks, detections, final
            )
        if self.training_range is not None:
            said += self.training_range.outside_pose(prediction.landmarks, geometry)
        return replace(prediction, landmarks=replace(prediction.landmarks, outside=tuple(said)))


def _look_turned(model: Model, images: Sequence[Prepared], rotation: FloatArray) -> Prediction:
    """Through all stages at images on grids turned by a rotation (P, P). Windows in the landmarks' pose are cut
    from the image as it is.
    """
    pose = [stage.configuration.windows.pose for stage in model.stages]
    return look_through(model.stages, [i if p else i.turned(rotation) for i, p in zip(images, pose, strict=True)])


def _sureness(prediction: Prediction) -> float:
    """The mean log-odds of the landmarks' best places."""
    odds = prediction.log_odds[:, 0]
    return float(odds[np.isfinite(odds)].mean()) if np.isfinite(odds).any() else -np.inf


@contextmanager
def _memory_errors(model: Model) -> Iterator[None]:
    """A device's lack of memory as an AutolmkError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        windows = (f"{s.configuration.trainer} {'x'.join(map(str, s.configuration.patch_size))}" for s in model.stages)
        raise AutolmkError(
            "the device's memory does not suffice for one window",
            found=f"{str(error).splitlines()[0]} Windows, in voxels: {', '.join(windows)}",
            expected=f"a GPU of about the {model.plans.memory_target_gb:g} GiB that were planned for, or less",
            remedy="free the device of other programs, predict with -device cpu, or train a smaller --preset",
        ) from None


def _refuse_parts(folder: Path, test_time: TestTime) -> None:
    """AutolmkError where a part is asked for that a packed folder has decided on."""
    if test_time.parts:
        raise AutolmkError(
            "a packed model says by itself which folds and steps count",
            file=folder,
            found=f"{', '.join(test_time.parts)} asked for",
            remedy="leave that out, or predict with one of the model folders in it",
        )
