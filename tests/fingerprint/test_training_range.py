"""What lies outside the training images' range: few false alarms, and each kind of change is named with its number."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fingerprints import a_fingerprint
from scipy.spatial.transform import Rotation
from test_appearance import blob

from autolmk.errors import AutolmkError
from autolmk.files.serialization import read_json, write_json
from autolmk.fingerprint import FILE_NAME, Fingerprint, TrainingRange, fingerprint_of
from autolmk.fingerprint.appearance import appearance
from autolmk.fingerprint.summary import CaseSummary, ChannelSummary
from autolmk.fingerprint.training_range import bounds
from autolmk.geometry import FloatArray, Geometry
from autolmk.image import FloatImage
from autolmk.landmarks import Landmarks

NAMES = tuple(f"L{i}" for i in range(10))
SHAPE, SPACING = (24, 48, 48), (2.0, 1.0, 1.0)
SHAPE_POINTS = np.random.default_rng(7).normal(0, 9, (len(NAMES), 3))


def image_of(seed: int, **changes: Any) -> FloatImage:
    """One of a homogeneous dataset: the same scanner, other subjects."""
    rng = np.random.default_rng(seed)
    image = blob(noise=rng.uniform(0.03, 0.04), seed=seed)[::2] * rng.uniform(0.9, 1.1)
    return np.asarray(image ** changes.get("gamma", 1.0) if "gamma" in changes else image, dtype=np.float32)


def geometry_of(seed: int) -> Geometry:
    """Fields of view of SD 5 %, spacings that are the same, oblique by a few degrees."""
    rng = np.random.default_rng(seed)
    shape = np.round(np.array(SHAPE) * np.exp(rng.normal(0, 0.05, 3))).astype(int)
    turn = Rotation.from_rotvec(rng.normal(0, 0.03, 3)).as_matrix()
    return Geometry.from_parts(tuple(shape), SPACING, (0, 0, 0), turn[:, ::-1])


def points_of(seed: int, geometry: Geometry) -> FloatArray:
    """Turned by some 8 degrees, of SD 5 % in size and 1 mm in shape."""
    rng = np.random.default_rng(1000 + seed)
    turn = Rotation.from_rotvec(rng.normal(0, 0.08, 3))
    own = SHAPE_POINTS + rng.normal(0, 0.6, SHAPE_POINTS.shape)
    return np.asarray(np.exp(rng.normal(0, 0.05)) * turn.apply(own) + geometry.centre)


def summary(seed: int) -> CaseSummary:
    geometry = geometry_of(seed)
    marks = Landmarks(NAMES, points_of(seed, geometry), np.ones(len(NAMES), dtype=np.int8))
    channel = ChannelSummary(
        np.zeros(1, dtype=np.float32), 0.0, 1.0, (0.0, 0.5, 1.0), True, ((0.5, 1.0), (0.5, 1.0)), np.zeros(len(NAMES))
    )
    return CaseSummary(str(seed), geometry, marks, (channel,), appearances=(appearance(image_of(seed)),))


@functools.cache
def summaries() -> dict[str, CaseSummary]:
    """Of 60 cases; made by the first test that asks, not where files are read for their tests' names."""
    return {f"case{i:02d}": summary(i) for i in range(60)}


def fingerprint(cases: list[str]) -> Fingerprint:
    chosen = {case: summaries()[case] for case in cases}
    return fingerprint_of(chosen, dataset_name="Dataset001_Alike", unit="mm", channel_names=("CT",))


def said_of(known: TrainingRange, case: CaseSummary, absolute: bool = True) -> tuple[str, ...]:
    looks = known.outside(case.geometry, case.appearances, [absolute])
    return looks + known.outside_pose(case.landmarks, case.geometry)


@pytest.fixture(scope="module")
def known() -> TrainingRange:
    return TrainingRange(fingerprint([f"case{i:02d}" for i in range(20)]))


@pytest.mark.parametrize("n", [8, 16, 40])
def test_at_most_one_case_in_twenty_of_the_same_kind_is_called_outside(n: int) -> None:
    alarms = judged = 0
    for draw in range(2):
        cases = list(np.random.default_rng(draw).permutation(sorted(summaries())))
        known = TrainingRange(fingerprint(cases[:n]))
        assert [
            case for case in cases[:n] if said_of(known, summaries()[case])
        ] == []  # training images themselves: none
        others = [said_of(known, summaries()[case]) for case in cases[n:]]
        alarms, judged = alarms + sum(map(bool, others)), judged + len(others)
    assert alarms <= 0.05 * judged


@pytest.mark.parametrize("n", [8, 15, 40])
def test_leave_one_out_calls_at_most_one_case_in_twenty_outside(n: int) -> None:
    cases = sorted(summaries())[:n]
    found, said = fingerprint(cases), []
    for one in cases:
        parts = {part: getattr(found, part) for part in ("cases", "appearances", "poses")}
        rest = {part: {case: v for case, v in values.items() if case != one} for part, values in parts.items()}
        said.append(said_of(TrainingRange(dataclasses.replace(found, **rest)), summaries()[one]))
    assert sum(map(bool, said)) <= 0.05 * n


@pytest.mark.parametrize("n", [3, 8, 40])
def test_one_number_is_outside_as_often_as_it_is_meant_to_be(n: int) -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 1, (4000, n + 1))
    limits = [bounds(row[:n], margin=0.0) for row in draws]
    outside = np.mean([not b.low <= row[n] <= b.high for b, row in zip(limits, draws, strict=True)])
    assert outside <= 0.003


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((24, 48, 86), SPACING, "field of view 1.7 times the largest training image's (x: 86 mm, there 52 mm)"),
        ((24, 26, 48), SPACING, "field of view 0.63 times the smallest training image's (y: 26 mm, there 41 mm)"),
        ((12, 48, 48), (4.0, 1.0, 1.0), "spacing 2 times the coarsest training image's (z: 4 mm, there 2 mm)"),
        ((24, 96, 96), (2.0, 0.5, 0.5), "spacing 0.5 times the finest training image's (y, x: 0.5, 0.5 mm, there 1, 1"),
    ],
)
def test_extents_and_spacings(
    known: TrainingRange, shape: tuple[int, ...], spacing: tuple[float, ...], message: str
) -> None:
    look = summaries()["case00"].appearances
    (said,) = known.outside(Geometry.from_parts(shape, spacing), look, [True])
    assert said.startswith(message)
    for axes in ((1, 2, 0), (2, 1, 0)):  # however the file stores it
        (same,) = known.outside(Geometry.from_parts(shape, spacing).permuted(axes).mirrored(1), look, [True])
        assert same == said


def test_thick_slices_within_the_range_of_spacings() -> None:
    cases = {f"c{i}": summaries()[f"case{i:02d}"] for i in range(12)}
    for i, (name, case) in enumerate(cases.items()):
        width = 0.5 + i / 8
        geometry = Geometry.from_parts([round(48 / width)] * 3, (width,) * 3)
        points = case.landmarks.points - case.geometry.centre + geometry.centre
        marks = dataclasses.replace(case.landmarks, points=points)
        cases[name] = dataclasses.replace(case, geometry=geometry, landmarks=marks)
    found = fingerprint_of(cases, dataset_name="Dataset001_Cubes", unit="mm", channel_names=("CT",))
    thick = Geometry.from_parts((25, 80, 80), (1.9, 0.6, 0.6))
    said = TrainingRange(found).outside(thick, summaries()["case00"].appearances, [True])
    assert said == ("voxels 3.2 times as long as wide, in training at most 1",)


def test_an_oblique_grid(known: TrainingRange) -> None:
    turn = Rotation.from_euler("x", 35, degrees=True).as_matrix()
    geometry = Geometry.from_parts(SHAPE, SPACING, (0, 0, 0), turn[:, ::-1])
    (said,) = known.outside(geometry, summaries()["case00"].appearances, [True])
    assert said.startswith("grid oblique by 35 degrees, in training at most")


def changed(what: str) -> FloatImage:
    image, rng = image_of(50), np.random.default_rng(3)
    if what == "metal":
        image[rng.random(image.shape) < 0.001] = 40
    elif what == "windowed":
        image = np.round(np.clip(image, 0.1, 0.6) * 400)
    elif what == "noisy":
        image = image + rng.normal(0, 0.25, image.shape)
    elif what == "smooth":
        image = np.stack([(np.roll(image, 1, a) + image + np.roll(image, -1, a)) / 3 for a in (1, 2)]).mean(0)
        image = np.stack([(np.roll(image, s, 0)) for s in (-1, 0, 1)]).mean(0)
    elif what == "inverted":
        image = 1 - image
    elif what == "shifted":
        image = image + 5
    elif what == "stretched":
        image = image * 4
    elif what == "padded":
        image[:8] = image.min()
    return np.asarray(image, dtype=np.float32)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("metal", "far outside the range of all others"),
        ("windowed", "hold the lowest or the highest value"),
        ("windowed", "different grey values, in training at least"),
        ("noisy", "times the strongest of training"),
        ("smooth", "smoother than in training"),
        ("inverted", "the border lies at 88% of the range of grey values, in training at 10% to 13%"),
        ("shifted", "grey values: median of the foreground"),
        ("stretched", "grey values range over"),
        ("padded", "% of the image is padding, in training at most 0.00%"),
    ],
)
def test_grey_values(known: TrainingRange, what: str, message: str) -> None:
    geometry = Geometry.from_parts(SHAPE, SPACING)
    said = known.outside(geometry, (appearance(changed(what)),), [True])
    assert any(message in text for text in said), said


@pytest.mark.parametrize("what", ["shifted", "stretched"])
def test_scales_that_mean_nothing_are_not_judged(known: TrainingRange, what: str) -> None:
    assert known.outside(Geometry.from_parts(SHAPE, SPACING), (appearance(changed(what)),), [False]) == ()


def pose_said(known: TrainingRange, points: FloatArray) -> tuple[str, ...]:
    geometry = Geometry.from_parts(SHAPE, SPACING)
    marks = Landmarks(NAMES, points + geometry.centre, np.ones(len(NAMES), dtype=np.int8))
    return known.outside_pose(marks, geometry)


def test_landmarks_turned_sized_and_astray(known: TrainingRange) -> None:
    assert pose_said(known, SHAPE_POINTS) == ()
    (turned,) = pose_said(known, Rotation.from_euler("y", 60, degrees=True).apply(SHAPE_POINTS))
    assert turned.startswith("landmarks turned by ")
    assert abs(float(turned.split()[3]) - 60) <= 5
    (large,) = pose_said(known, 1.8 * SHAPE_POINTS)
    assert large.startswith("landmarks 1.8 times the mean size, in training 0.9")
    astray = SHAPE_POINTS.copy()
    astray[6, 2] += 15
    (said,) = pose_said(known, astray)
    assert said.startswith("landmarks unlike the mean shape")
    assert said.endswith("L6 furthest")


def test_turns_bring_landmarks_back_into_the_training_poses(known: TrainingRange) -> None:
    geometry = Geometry.from_parts(SHAPE, SPACING)
    frame = geometry.frame()

    def turns(points: FloatArray, seen: FloatArray) -> list[FloatArray]:
        return known.turns(Landmarks(NAMES, points + 3.0, np.ones(len(NAMES), dtype=np.int8)), geometry, seen)

    assert turns(SHAPE_POINTS, frame) == []
    lying = Rotation.from_rotvec([0.3, 0.9, 0.2]).apply(SHAPE_POINTS)
    (there,) = turns(lying, frame)
    assert turns(lying, there @ frame) == []  # on that grid they lie as in training
    astray = SHAPE_POINTS.copy()
    astray[6, 2] += 15
    assert turns(astray, frame) == []  # a volume says which side is up


def test_old_fingerprints_judge_what_they_hold_and_say_what_not(tmp_path: Path, known: TrainingRange) -> None:
    known.fingerprint.save(tmp_path / FILE_NAME)
    value = read_json(tmp_path / FILE_NAME)
    for key in ("appearances", "poses", "mean_rotation"):
        del value[key]
    write_json(tmp_path / FILE_NAME, value)
    old = TrainingRange.load(tmp_path, ndim=3, channels=1)
    assert old is not None
    assert old.not_judged == ("grey values", "pose and shape of the landmarks")
    wide = Geometry.from_parts((24, 48, 86), SPACING)
    assert len(old.outside(wide, (appearance(changed("metal")),), [True])) == 1
    assert TrainingRange(a_fingerprint()).not_judged[0] == "field of view, spacing and orientation"


def test_other_versions_and_other_images(tmp_path: Path, known: TrainingRange) -> None:
    assert TrainingRange.load(tmp_path, ndim=3, channels=1) is None
    known.fingerprint.save(tmp_path / FILE_NAME)
    with pytest.raises(AutolmkError, match="of other images than the model"):
        TrainingRange.load(tmp_path, ndim=2, channels=1)
    write_json(tmp_path / FILE_NAME, {"version": 1})
    assert TrainingRange.load(tmp_path, ndim=3, channels=1) is None


@pytest.mark.parametrize(
    ("part", "value", "found"),
    [("cases", [8, 8], "shape"), ("cases", [8, 8, 0], "shape"), ("mean_shape", [1.0], "mean_shape")],
)
def test_parts_of_other_axes_are_named(
    part: str, value: list[float], found: str, tmp_path: Path, known: TrainingRange
) -> None:
    file = tmp_path / FILE_NAME
    known.fingerprint.save(file)
    saved = json.loads(file.read_text())
    first = next(iter(saved[part]))
    if part == "cases":
        saved[part][first]["shape"] = value
    else:
        saved[part][first] = value
    write_json(file, saved)
    with pytest.raises(AutolmkError, match="contradicts itself") as caught:
        TrainingRange.load(tmp_path, ndim=3, channels=1)
    assert found in str(caught.value)
