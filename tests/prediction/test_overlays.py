"""Overlay pictures: what they say, and that it lies on the picture and beside no other text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autolmk.geometry import FloatArray
from autolmk.imageio import read_image
from autolmk.landmarks import Landmarks, Status
from autolmk.prediction import overlays
from autolmk.testing import make_phantom


def predicted(ndim: int) -> tuple[overlays.Image, Landmarks, FloatArray]:
    """A phantom's landmarks; the first without a candidate, the second unknown, the third absent."""
    phantom = make_phantom(3, ndim=ndim, size=40)
    best = phantom.landmarks.points.copy()
    best[0] = np.nan
    status = phantom.landmarks.status.copy()
    status[:3] = Status.ABSENT, Status.UNKNOWN, Status.ABSENT
    likelihood = np.full(len(status), 0.97)
    likelihood[:3] = 0.0, np.nan, 0.07
    points = np.where((status == Status.PRESENT)[:, None], best, np.nan)
    return phantom.image.canonical(), Landmarks(phantom.landmarks.names, points, status, likelihood), best


@pytest.mark.parametrize("ndim", [2, 3])
def test_case_names_status_and_likelihood_are_written(
    ndim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, landmarks, best = predicted(ndim)
    shown: list[overlays.Caption] = []
    write, sides = overlays._write, []

    def watch(
        file: Path, picture: overlays.Picture, texts: list[overlays.Caption], crosses: list[overlays.Cross]
    ) -> None:
        shown.extend(texts)
        sides.extend([picture.shape, len(crosses)])
        write(file, picture, texts, crosses)

    monkeypatch.setattr(overlays, "_write", watch)
    overlays.write_overlay(tmp_path / "a.png", "case_007", image, landmarks, best)
    n, names = len(landmarks.names), landmarks.names
    said = [text.text for text in shown]
    assert said[0] == f"case_007   {n - 3} of {n} landmarks present"
    assert f"{names[0]}: absent, 0 %, no candidate" in said and f"{names[1]}: unknown" in said
    assert f"{names[2]}: absent, 7 %" in said and all(f"{name}: present, 97 %" in said for name in names[3:])
    (height, width), crosses = sides
    assert all(0 <= text.x < width and 0 <= text.y < height for text in shown)
    assert len({(text.x, text.y) for text in shown}) == len(shown)
    assert crosses == (n - 1) * (1 if ndim == 2 else 3)
    picture = read_image([tmp_path / "a.png"]).array
    assert picture.shape[-2:] == (height, width)
    assert (picture[:3, : overlays.TITLE] > 200).all(axis=0).sum() > 100  # the title, white on black


@pytest.mark.parametrize("ndim", [2, 3])
def test_long_names_are_shortened_in_their_middle(ndim: int, tmp_path: Path) -> None:
    image, landmarks, best = predicted(ndim)
    names = tuple(f"{'long' * 20}{name}" for name in landmarks.names)
    long = Landmarks(names, landmarks.points, landmarks.status, landmarks.likelihood)
    draw = overlays._plane if ndim == 2 else overlays._volume
    grey = overlays._grey(image.array[0])
    _, texts, _ = draw(grey, image.geometry.spacing, long, image.geometry.to_voxels(best))
    headings = [text.text for text in texts if ":" in text.text]
    assert len(headings) == len(names)
    for heading, name in zip(headings, names, strict=True):
        shown = heading.split(":")[0]
        assert len(shown) <= overlays.LONGEST and name.endswith(shown.split("...")[1])


@pytest.mark.parametrize(("ndim", "unit"), [(2, "px"), (3, "mm")])
def test_a_scale_bar_has_the_length_that_it_says_and_letters_only_where_there_are_sides(ndim: int, unit: str) -> None:
    image, _, best = predicted(ndim)
    geometry = image.geometry
    canvas = np.full((1200, 2000), 0.5, dtype=np.float32)
    orient = overlays._orient_plane if ndim == 2 else overlays._orient_volume
    said = [caption.text for caption in orient(canvas, geometry, geometry.to_voxels(best), unit)]
    letters = [text for text in said if unit not in text]
    assert letters == ([] if ndim == 2 else list("APRLSIRLSIAP") * (overlays.COLUMNS - 1))  # the first has no place
    bars = [float(text.split()[0]) for text in said if unit in text]
    lit = [
        int(np.diff(np.flatnonzero(np.diff(row == 1.0, prepend=False, append=False))[:2])[0])
        for row in canvas
        if 1.0 in row
    ]
    extent = max(geometry.extent) if ndim == 2 else max(geometry.extent[1:])
    pixels = overlays.LARGEST if ndim == 2 else overlays.TILE
    assert lit[0] == pytest.approx(bars[0] * pixels / extent, abs=1)
