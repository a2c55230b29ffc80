"""What a trainer changes of windows reaches the batch, image and points together; and how often cases are drawn."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_loading
from test_loading import CASES, NAMES

from autolmk.data.loading import BatchSource, Drawing, TrainingLoader, case_order
from autolmk.data.training_sample import TrainingSample, augmented
from autolmk.errors import AutolmkError
from autolmk.geometry import Geometry
from autolmk.landmarks import Status

data = test_loading.data


def load(data: Any, drawing: Drawing, **settings: Any) -> TrainingLoader:
    store, plans = data
    arguments = (store, tuple(CASES), plans, plans.configuration("c"), lambda rng, array: array)
    return TrainingLoader(BatchSource(*arguments, seed=5, drawing=drawing), **settings)


def moved(rng: np.random.Generator, sample: TrainingSample) -> TrainingSample:
    """Down by two rows and right by one column, on a grid that moved along."""
    grid = sample.geometry.crop((-2, -1), sample.array.shape[1:])
    return dataclasses.replace(sample, array=np.roll(sample.array, (2, 1), axis=(1, 2)), geometry=grid)


def test_points_follow_a_changed_grid(data: Any) -> None:
    plain, changed = (next(load(data, Drawing(augment))) for augment in (None, moved))
    np.testing.assert_array_equal(changed["data"], np.roll(plain["data"], (2, 1), axis=(2, 3)))
    np.testing.assert_allclose(changed["voxels"], plain["voxels"] + [2, 1], atol=1e-9)
    np.testing.assert_array_equal(changed["status"], plain["status"])
    assert np.isnan(changed["voxels"][changed["status"] != Status.PRESENT]).all()


def test_an_unchanged_sample_changes_no_bit(data: Any) -> None:
    plain, same = (next(load(data, Drawing(augment))) for augment in (None, lambda rng, sample: sample))
    for name in ("data", "voxels", "status"):
        np.testing.assert_array_equal(plain[name], same[name])


def test_a_sample_knows_its_case_step_and_points(data: Any) -> None:
    seen: list[TrainingSample] = []
    loader = load(data, Drawing(lambda rng, sample: seen.append(sample) or sample), first_iteration=7)
    batch = next(loader)
    assert [sample.case for sample in seen] == batch["cases"] and {sample.iteration for sample in seen} == {7}
    for sample, voxels in zip(seen, batch["voxels"], strict=True):
        np.testing.assert_allclose(sample.voxels, voxels, atol=1e-9)
        assert sample.landmarks.tolist() == [0, 1, 2] and len(sample.status) == len(NAMES)


def test_windows_of_single_landmarks_are_changed_one_by_one() -> None:
    rng, grids = (
        np.random.default_rng(0),
        [Geometry.from_parts((6, 6), (1.0, 2.0)).crop((i, 0), (6, 6)) for i in (0, 9)],
    )
    sample: Any = {
        "data": rng.normal(size=(2, 1, 6, 6)).astype(np.float32),
        "voxels": np.array([[1.0, 2], [np.nan, np.nan]]),
        "status": np.array([Status.PRESENT, Status.UNKNOWN], dtype=np.int8),
        "landmarks": np.array([4, 2]),
    }
    seen: list[int] = []

    def augment(rng: np.random.Generator, one: TrainingSample) -> TrainingSample:
        seen.append(int(one.landmarks[0]))
        return moved(rng, one)

    found = augmented(sample, augment, rng, grids, "case", 0)
    assert seen == [4, 2]
    np.testing.assert_allclose(found["voxels"], [[3, 3], [np.nan, np.nan]], atol=1e-9)
    np.testing.assert_array_equal(found["data"], np.roll(sample["data"], (2, 1), axis=(2, 3)))
    np.testing.assert_array_equal(found["landmarks"], [4, 2])


def changing(**changes: Callable[[TrainingSample], Any]) -> Any:
    return lambda rng, s: dataclasses.replace(s, **{key: change(s) for key, change in changes.items()})


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (changing(array=lambda s: s.array[:, 1:]), "intensities that do not fit"),
        (changing(array=lambda s: s.array.astype(np.float64)), "intensities that do not fit"),
        (changing(array=lambda s: s.array * np.nan), "intensities that do not fit"),
        (changing(geometry=lambda s: s.geometry.crop((0, 0), (3, 3))), "voxels that do not fit"),
        (changing(points=lambda s: s.points[1:]), "points that do not fit"),
        (changing(points=lambda s: s.points * np.nan), "points that do not fit"),
        (changing(status=lambda s: s.status + 7), "states that do not fit"),
        (lambda rng, sample: sample.array, "things that do not fit"),
    ],
)
def test_a_sample_that_does_not_agree_is_named(augment: Any, message: str, data: Any) -> None:
    with pytest.raises(AutolmkError, match=message) as raised:
        next(load(data, Drawing(augment)))
    assert raised.value.case in CASES and raised.value.remedy and raised.value.expected is not None


# -- how often cases are drawn -----------------------------------------------------------------------------------------


def test_cases_are_drawn_as_often_as_their_weights_say() -> None:
    weights, rounds = (1.0, 0.0, 3.0, 0.5, 5.5), 400
    drawn = [case_order(3, turn, 5, weights) for turn in range(rounds)]
    share = np.bincount(np.concatenate(drawn), minlength=5) / (5 * rounds)
    np.testing.assert_allclose(share, np.array(weights) / 10, atol=0.01)
    for one in drawn:  # floor(n p) or ceil(n p) times in each round
        count = np.bincount(one, minlength=5)
        assert count[1] == 0 and count[2] in (1, 2) and count[4] in (2, 3)
    np.testing.assert_array_equal(case_order(3, 7, 5, (2.0,) * 5), case_order(3, 7, 5))


def test_other_weights_hold_from_the_next_batch_on_whoever_makes_it(data: Any) -> None:
    found = []
    for workers in (0, 2):
        with load(data, Drawing(), workers=workers) as loader:
            cases = [next(loader)["cases"] for _ in range(3)]
            loader.draw_by((0.0, 0.0, 1.0))
            found.append(cases + [next(loader)["cases"] for _ in range(3)])
    assert found[0] == found[1]
    before, after = (Counter(itertools.chain(*part)) for part in (found[0][:3], found[0][3:]))
    assert after == {CASES[2]: 6} and len(before) == 3
