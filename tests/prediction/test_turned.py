"""Images whose landmarks lie turned as no training case's did are looked at again, on a grid that is turned as well."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from predictions import a_prediction
from scipy.spatial.transform import Rotation

from autolmk.geometry import FloatArray, Geometry
from autolmk.image import Image
from autolmk.landmarks import Landmarks, Status
from autolmk.prediction import predictor as module
from autolmk.prediction.prediction import Prediction
from autolmk.prediction.predictor import Predictor
from autolmk.prediction.stage import Prepared

FOUND = np.array([[3.0, 4.0], [9.0, 12.0], [5.0, 1.0]])


def plane(degrees: float) -> FloatArray:
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_turned_image_shows_everything_where_it_was(ndim: int) -> None:
    grid = Geometry.from_parts((24, 30, 36)[:ndim], (2.0, 1.0, 1.5)[:ndim], (5.0, -3.0, 8.0)[:ndim])
    place = grid.to_physical(np.array([17.0, 9.0, 12.0])[:ndim])
    voxels = grid.to_physical(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))
    blob = np.exp(-0.5 * (np.linalg.norm(voxels - place, axis=-1) / 4) ** 2).astype(np.float32)
    turn = plane(60) if ndim == 2 else Rotation.from_rotvec([0.4, 0.7, -0.3]).as_matrix()
    turned = Prepared(Image(blob[None], grid), (0.0,)).turned(turn)
    inner = turned.image.geometry
    brightest = inner.to_physical(np.array(np.unravel_index(turned.image.array[0].argmax(), inner.shape), dtype=float))
    assert np.linalg.norm(brightest - place) <= max(grid.spacing)
    np.testing.assert_allclose(inner.direction, turn @ grid.direction, atol=1e-9)
    corners = grid.to_physical([[0] * ndim, [n - 1 for n in grid.shape], [0, *(n - 1 for n in grid.shape[1:])]])
    assert inner.contains(inner.to_voxels(corners)).all()
    assert [turned.array_axis(axis) for axis in range(ndim)] == [grid.array_axis(axis) for axis in range(ndim)]


def looked(monkeypatch: pytest.MonkeyPatch, sure: dict[float, float], rounds: list[list[float]]) -> Prediction:
    """What is found where a look at a grid turned by so many degrees is so sure, and these turns are tried."""
    grid = Geometry.from_parts((20, 20), (1.0, 1.0))
    marks = Landmarks(("a", "b", "c"), FOUND, np.full(3, Status.PRESENT, dtype=np.int8))

    def look(stages: Any, images: list[Prepared]) -> Prediction:
        own = images[0].image.geometry
        degrees = round(float(np.degrees(np.arctan2(*(own.direction @ grid.direction.T)[[1, 0], 0]))))
        moved = replace(marks, points=FOUND + degrees)
        found = a_prediction(moved, moved.points[:, None], np.full((3, 1), sure[degrees]))
        return replace(found, detections=replace(found.detections, geometry=own))

    monkeypatch.setattr(module, "look_through", look)
    given = iter(rounds)
    known = SimpleNamespace(turns=lambda landmarks, geometry, frame: [plane(d) for d in next(given)])
    itself: Any = SimpleNamespace(training_range=known, plans=SimpleNamespace(co_slice_groups=()))
    windows = SimpleNamespace(configuration=SimpleNamespace(windows=SimpleNamespace(pose=False)))
    image = Prepared(Image(np.zeros((1, 20, 20), np.float32), grid), (0.0,))
    found = Predictor._look(itself, SimpleNamespace(stages=[windows]), [image])  # type: ignore[arg-type]
    assert found.detections.geometry is grid
    return found


@pytest.mark.parametrize(
    ("sure", "rounds", "degrees", "looks"),
    [
        ({0: 1.0}, [[]], 0, 1),
        ({0: 1.0, 40: 3.0, -40: 0.0}, [[40, -40], []], 40, 3),
        ({0: 1.0, 40: 0.5, -40: 2.0, -65: 3.0, -15: 0.0}, [[40, -40], [-25, 25], []], -65, 5),
        ({0: 1.0, 40: 3.0, 80: 4.0, 120: 5.0, 160: 6.0}, [[40]] * 4, 160, 5),
        ({0: 1.0, 40: 1.4, -40: 0.0}, [[40, -40], []], 0, 3),
        ({0: 1.0, 90: 0.5, 180: 0.9, -90: 0.0}, [[90, 180, -90]], 0, 4),
    ],
)
def test_the_surest_look_counts(
    monkeypatch: pytest.MonkeyPatch, sure: dict[float, float], rounds: list[list[float]], degrees: float, looks: int
) -> None:
    found = looked(monkeypatch, sure, rounds)
    np.testing.assert_allclose(found.landmarks.points, FOUND + degrees)
    assert found.looks == looks


def test_not_where_landmarks_share_slices_nor_without_a_training_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "look_through", lambda stages, images: "one look")
    image: Any = Prepared(Image(np.zeros((1, 8, 8), np.float32), Geometry.from_parts((8, 8), (1.0, 1.0))), (0.0,))
    for known, groups in ((None, ()), ("known", ("a group",))):
        itself: Any = SimpleNamespace(training_range=known, plans=SimpleNamespace(co_slice_groups=groups))
        assert Predictor._look(itself, SimpleNamespace(stages=[]), [image]) == "one look"  # type: ignore[arg-type, comparison-overlap]
