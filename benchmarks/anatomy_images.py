"""The part of anatomy.py that trains: a heatmap model on 2D phantoms, its test images deformed with their points.

Points are drawn whether or not held-out cases gain; bounds are for models whose held-out cases do, as none else draws.
A deformation takes each landmark from its place to where the unusual anatomy has it, and what lies between smoothly
along (thin-plate splines; Bookstein, PAMI 1989). Finished steps are not repeated.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
from anatomy import ANATOMIES, MOST_BIAS, MOST_LOST, TYPICAL_LOST, anatomy, bias
from correlated import set_folders
from real_data import command
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates

from autolmk import Predictor
from autolmk.dataset import Dataset
from autolmk.geometry import FloatArray
from autolmk.image import Image
from autolmk.landmarks import Landmarks
from autolmk.phantom import write_phantom
from autolmk.plans import Plans, replace_configuration
from autolmk.prediction.assignment import ShapePrior
from autolmk.prediction.shrinkage import shrink_by_misfit
from autolmk.training.drawing import drawn

NAME, METHOD, FOLD = "Dataset001_Anatomy", "heatmap", 0
MODEL = f"{METHOD}__autolmkPlans__{METHOD}"
N_TRAIN, N_TEST, SIZE = 40, 15, 80
NOISES = (0.0, 40.0)  # grey values, added to test images
LOCAL = 6.0  # px around a landmark that is moved by itself


def run(work: Path, steps: int) -> bool:
    """Train, deform, predict, and print the table; whether the bounds are met."""
    train(work, steps)
    predictor = Predictor(work / "results" / NAME / MODEL, folds=[FOLD], shape_prior=False)
    names, stage = predictor.plans.landmarks, predictor.models[0].stages[-1]
    prior, errors = stage.prior, stage.measured[0].errors
    assert prior is not None and errors is not None
    print(f"held-out cases: {'drawn' if errors.drawn else 'not drawn'}: {errors.why}\n")
    head = ("noise", "anatomy", "error", "drawn", "loss", "as before", "bias", "bounds")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    dataset, met = Dataset.open(work / "raw" / NAME), True
    for noise, kind in itertools.product(NOISES, ANATOMIES):
        rng, table = np.random.default_rng(0), []
        for case in dataset.cases("Ts"):
            image = dataset.read_image(case)
            truth = dataset.read_landmarks(case, image.geometry).reordered(names)
            image, points, off = unusual(image, truth, kind, noise, prior, rng)
            found = predictor.conclude(predictor.look(predictor.prepare(image))).detections
            sides = [found.best, drawn(found, prior, errors).best]
            sides.append(shrink_by_misfit(found.best, found.log_odds[:, 0], prior))
            of = slice(None) if off < 0 else [off]
            mean = [float(np.nanmean(np.linalg.norm(side - points, axis=1)[of])) for side in sides]
            table.append([*mean, bias(sides[1], points, prior, off) - bias(sides[0], points, prior, off)])
        without, with_it, before, length = map(float, np.mean(table, axis=0))
        loss = with_it / without - 1
        most = TYPICAL_LOST if kind == "typical" else MOST_LOST
        good = not errors.drawn or (loss <= most and abs(length) <= MOST_BIAS)
        met &= good
        print(
            f"| {noise:g} | {kind} | {without:.3f} | {with_it:.3f} | {100 * loss:+.1f} % | {before:.3f} | "
            f"{100 * length:+.2f} % | {'met' if good else 'MISSED'} |",
            flush=True,
        )
    return met


def train(work: Path, steps: int) -> None:
    """Data, plans and one fold, of preset XS in so many steps."""
    raw, plans = work / "raw" / NAME, work / "preprocessed" / NAME / "autolmkPlans.json"
    if not (raw / "dataset.json").is_file():
        write_phantom(raw, n_train=N_TRAIN, n_test=N_TEST, ndim=2, size=SIZE)
    set_folders(work, "results")
    command("plan_and_preprocess", "-d", "1", "-pl", METHOD, "--preset", "XS")
    planned = Plans.load(plans)
    schedule = replace(planned.configuration(METHOD).schedule, epochs=1, iterations_per_epoch=steps, max_seconds=None)
    replace_configuration(planned, METHOD, schedule=schedule).save(plans)
    command("train", "1", METHOD, str(FOLD), "--threads", "1", "--workers", "0")


def unusual(
    image: Image, truth: Landmarks, kind: str, noise: float, prior: ShapePrior, rng: np.random.Generator
) -> tuple[Image, FloatArray, int]:
    """(the image with another anatomy and noise, its points (L, P), NaN where none, the landmark that is off)."""
    present, points = truth.present, np.where(truth.present[:, None], truth.points, np.nan)
    shown = replace(
        prior, points=prior.points[present], residual=prior.residual[present], left_out=prior.strays[present]
    )
    moved, off = anatomy(kind, points[present], shown, rng)
    grid = np.stack(np.meshgrid(*map(np.arange, image.geometry.shape), indexing="ij"), axis=-1).reshape(-1, 2)
    places = image.geometry.to_physical(grid.astype(np.float64))
    array = image.array
    if kind != "typical":
        sources = image.geometry.to_voxels(places + displacement(places, moved, points[present], off))
        array = np.stack([map_coordinates(c, sources.T, order=1, mode="nearest").reshape(c.shape) for c in array])
    array = (array + rng.normal(0, noise, array.shape)).clip(0, 255)
    points[present] = moved
    return (
        Image(array.astype(np.float32), image.geometry),
        points,
        off if off < 0 else int(np.flatnonzero(present)[off]),
    )


def displacement(places: FloatArray, moved: FloatArray, points: FloatArray, off: int) -> FloatArray:
    """(M, P) from places (M, P) of the deformed image to those of the image, which take the points moved back."""
    if off >= 0:  # nothing else moves
        near = np.exp(-((places - moved[off]) ** 2).sum(axis=1) / (2 * LOCAL**2))
        return near[:, None] * (points - moved)[off]
    return np.asarray(RBFInterpolator(moved, points - moved, kernel="thin_plate_spline")(places))
