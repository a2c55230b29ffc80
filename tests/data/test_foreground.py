"""Foreground, background and padding: what an image shows is normalised alike, however far the image reaches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from autolmk.data.foreground import find_foreground, foreground_quantiles, without_padding
from autolmk.data.normalization import normalize
from autolmk.image import FloatImage
from autolmk.plans import Normalization

FOREGROUND = Normalization("foreground", low=10.0, high=90.0)
ROBUST = Normalization("robust", low=10.0, high=90.0)
RESCALE = Normalization("robust_rescale", low=0.5, high=99.5)
MOST = 0.1  # standard deviations of the tissue by which its values may change
Background = Callable[[tuple[int, ...]], FloatImage]


class Scene:
    """An anatomy (image, where it is) on a background that goes on beyond the image."""

    def __init__(self, kind: str, ndim: int, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, ndim])
        shape = (128,) * 2 if ndim == 2 else (36,) * 3
        axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
        radius = np.sqrt(sum((a / 0.8) ** 2 for a in axes)) + 0.08 * textured(rng, shape, 6.0)
        self.body = radius < 1
        texture, fine = textured(rng, shape, 2.5), textured(rng, shape, 1.2)
        self.background: Background = lambda s: rng.normal(0, 0.08, s)
        image = 1 + 0.3 * texture + rng.normal(0, 0.08, shape)
        if kind == "mr":  # the noise of magnitudes
            self.background = lambda s: np.hypot(rng.normal(0, 0.08, s), rng.normal(0, 0.08, s))
        elif kind == "ct":  # air, fat, soft tissue and a shell of bone
            image = np.where(texture > 1.5, -100.0, 40.0) + 25 * fine
            image = np.where((radius > 0.85) & (texture > -0.5), 900 + 150 * fine, image) + rng.normal(0, 20, shape)
            self.background = lambda s: rng.normal(-1000, 20, s)
        elif kind == "cut out":  # by a mask
            image = 100 + 20 * texture + 5 * fine
            self.background = lambda s: np.zeros(s)
        elif kind == "on white":
            image = 140 + 25 * texture + rng.normal(0, 4, shape)
            self.background = lambda s: rng.normal(200, 4, s)
        elif kind == "on grey":  # with darker and brighter parts
            image = 100 + 30 * texture + rng.normal(0, 3, shape)
            self.background = lambda s: rng.normal(100, 3, s)
        self.image = np.where(self.body, image, self.background(shape)).astype(np.float32)


def textured(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> FloatImage:
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), width, mode="wrap")
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


def wider(image: FloatImage, factor: float, background: Background) -> tuple[FloatImage, tuple[slice, ...]]:
    """(image in the middle of `factor` times its sides, where it lies)."""
    shape = tuple(round(factor * n) for n in image.shape)
    where = tuple(slice((b - n) // 2, (b - n) // 2 + n) for n, b in zip(image.shape, shape, strict=True))
    result = np.asarray(background(shape), dtype=np.float32)
    result[where] = image
    return result, where


def change(
    before: FloatImage,
    after: FloatImage,
    where: tuple[slice, ...],
    body: np.ndarray,
    scheme: Normalization = FOREGROUND,
) -> float:
    """Largest change of 90 % of the tissue's normalised values, over their standard deviation. where: `before` in
    `after`; body: of `before`."""
    first, second = normalize(before, scheme)[body], normalize(after, scheme)[where][body]
    inner = (first > np.percentile(first, 5)) & (first < np.percentile(first, 95))
    return float(np.abs(first - second)[inner].max() / first.std())


KINDS = ("mr", "gaussian", "ct", "cut out", "on white", "on grey")
SCENES = {(kind, ndim): Scene(kind, ndim) for kind in KINDS for ndim in (2, 3)}
everywhere = pytest.mark.parametrize(("kind", "ndim"), list(SCENES))


@everywhere
@pytest.mark.parametrize("scheme", [FOREGROUND, RESCALE], ids=["foreground", "robust_rescale"])
def test_a_canvas_does_not_move_tissue(kind: str, ndim: int, scheme: Normalization) -> None:
    scene = SCENES[kind, ndim]
    mean, std = scene.image.mean(), scene.image.std()
    for factor in (1.15, 1.5, 2.0):
        for value in (0.0, mean - 3 * std, scene.image.max(), 1e6 * std):
            after, where = wider(scene.image, factor, lambda s, value=value: np.full(s, value))  # type: ignore[misc]
            assert change(scene.image, after, where, scene.body, scheme) <= MOST, (factor, value)


@everywhere
@pytest.mark.parametrize("scheme", [FOREGROUND, RESCALE], ids=["foreground", "robust_rescale"])
def test_more_background_does_not_move_tissue(kind: str, ndim: int, scheme: Normalization) -> None:
    scene = SCENES[kind, ndim]
    for factor in (1.5, 2.0):
        after, where = wider(scene.image, factor, scene.background)
        assert change(scene.image, after, where, scene.body, scheme) <= MOST, factor
    after = np.asarray(scene.background(tuple(2 * n for n in scene.image.shape)), dtype=np.float32)
    where = tuple(slice(n) for n in scene.image.shape)
    after[where] = scene.image
    assert change(scene.image, after, where, scene.body, scheme) <= MOST  # the anatomy in a corner


@everywhere
def test_a_crop_does_not_move_tissue(kind: str, ndim: int) -> None:
    scene = SCENES[kind, ndim]
    inside = tuple(slice(n // 10, n - n // 10) for n in scene.image.shape)
    whole = normalize(scene.image, FOREGROUND)[inside][scene.body[inside]]
    part = normalize(scene.image[inside], FOREGROUND)[scene.body[inside]]
    inner = (whole > np.percentile(whole, 5)) & (whole < np.percentile(whole, 95))
    assert np.abs(whole - part)[inner].max() <= MOST * whole.std()


@everywhere
@pytest.mark.parametrize("share", [0.001, 0.01])
def test_metal_does_not_move_tissue_and_is_bounded(kind: str, ndim: int, share: float) -> None:
    scene = SCENES[kind, ndim]
    rng, count = np.random.default_rng(1), round(share * scene.image.size)
    metal = np.float32(20 * (np.percentile(scene.image[scene.body], 95) - np.percentile(scene.image, 2)))
    for place in ("scattered", "in one piece"):
        if (kind, ndim, share, place) == ("cut out", 3, 0.01, "in one piece"):
            continue  # see below: what still moves tissue
        after = scene.image.copy()
        if place == "scattered":
            after.ravel()[rng.choice(np.flatnonzero(scene.body), count, replace=False)] += metal
        else:
            after.ravel()[piece(scene, count)] += metal
        body = scene.body & (after == scene.image)
        whole = tuple(slice(n) for n in scene.image.shape)
        assert change(scene.image, after, whole, body) <= MOST, place
        assert 6 < normalize(after, FOREGROUND).max() <= 10


def piece(scene: Scene, count: int) -> np.ndarray:
    """Flat indices of the `count` voxels nearest to one a third through the body."""
    tissue = np.argwhere(scene.body)
    distance = np.linalg.norm(
        np.indices(scene.image.shape).reshape(scene.image.ndim, -1).T - tissue[len(tissue) // 3], axis=1
    )
    return np.argsort(distance)[:count]


@everywhere
@pytest.mark.parametrize("scheme", [FOREGROUND, ROBUST, RESCALE], ids=["foreground", "robust", "robust_rescale"])
def test_a_linear_change_of_intensity_changes_nothing(kind: str, ndim: int, scheme: Normalization) -> None:
    image = SCENES[kind, ndim].image
    before = normalize(image, scheme)
    assert np.abs(normalize(100 * image + 500, scheme) - before).max() < 1e-3
    negative = normalize(-image, scheme)
    assert np.abs(negative - (1 - before if scheme is RESCALE else -before)).max() < 1e-3


@everywhere
def test_tissue_is_standardised(kind: str, ndim: int) -> None:
    scene = SCENES[kind, ndim]
    tissue = normalize(scene.image, FOREGROUND)[scene.body]
    assert abs(tissue.mean()) < 0.25 and 0.8 < tissue.std() < 1.25
    rescaled = normalize(scene.image, RESCALE)[scene.body]
    assert (np.abs(rescaled - 0.5) <= 0.501).mean() > 0.97


# -- what still moves tissue ------------------------------------------------------------------------------------------


def test_a_crop_that_cuts_anatomy_away_moves_tissue_as_what_is_left_does() -> None:
    for scene in SCENES.values():
        part = tuple(
            slice(round(0.8 * n)) for n in scene.image.shape
        )  # a corner: a quarter to a third of the body goes
        whole, left = scene.image[scene.body], scene.image[part][scene.body[part]]
        inner = np.array([np.percentile(whole, 5), np.percentile(whole, 95)])
        by_truth = np.abs((inner - left.mean()) / left.std() - (inner - whole.mean()) / whole.std()).max()
        before, after = normalize(scene.image, FOREGROUND)[part], normalize(scene.image[part], FOREGROUND)
        tissue = before[scene.body[part]]
        inside = scene.body[part] & (before > np.percentile(tissue, 5)) & (before < np.percentile(tissue, 95))
        assert np.abs(before - after)[inside].max() / tissue.std() <= by_truth + 0.15


def test_metal_in_one_piece_that_fills_a_fifth_of_its_surroundings_is_taken_for_the_anatomy() -> None:
    scene = SCENES["cut out", 3]
    after = scene.image.copy()
    after.ravel()[piece(scene, round(0.01 * after.size))] = 5000
    assert find_foreground(after).values.min() > 1000
    assert np.abs(normalize(after, FOREGROUND)).max() <= 10  # bounded, though wrong


def test_a_background_that_is_as_uneven_as_the_anatomy_is_not_told_from_it() -> None:
    scene = SCENES["on white", 2]
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in scene.image.shape], indexing="ij")
    vignetted = scene.image - np.float32(60) * sum(a**2 for a in axes).astype(np.float32)
    assert find_foreground(vignetted).whole
    assert not find_foreground(scene.image - np.float32(8) * sum(a**2 for a in axes).astype(np.float32)).whole


# -- images without a background that can be told -------------------------------------------------------------------


def photograph(ndim: int = 2) -> FloatImage:
    rng, shape = np.random.default_rng(3), (128, 160) if ndim == 2 else (40, 44, 48)
    return np.asarray(128 + 40 * textured(rng, shape, 2.5), dtype=np.float32)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scheme", [FOREGROUND, ROBUST], ids=["foreground", "robust"])
def test_an_image_full_of_anatomy_is_foreground(ndim: int, scheme: Normalization) -> None:
    image = photograph(ndim)
    assert find_foreground(image).whole
    everything, body = tuple(slice(n) for n in image.shape), np.ones(image.shape, bool)
    for value in (0.0, 500.0):
        after, where = wider(image, 1.5, lambda s, value=value: np.full(s, value))  # type: ignore[misc]
        assert change(image, after, where, body, scheme) <= MOST
    after = image.copy()
    after.ravel()[np.random.default_rng(0).choice(image.size, image.size // 100, replace=False)] = 4000
    assert change(image, after, everything, after == image, scheme) <= MOST
    assert normalize(after, scheme).max() <= 10


def test_a_black_sector_and_a_collimator_are_padding() -> None:
    image = photograph()
    rows, columns = np.indices(image.shape)
    sector = np.abs(columns - 80) < 10 + 0.5 * rows
    masked = np.where(sector, image, 0)
    filled, padded = without_padding(masked)
    assert np.array_equal(padded, ~sector) and np.array_equal(filled, masked)
    assert abs(normalize(masked, ROBUST)[sector].mean()) < 0.1
    framed = image.copy()
    framed[:12], framed[-12:], framed[:, :20] = 0, 0, 255  # two colours
    assert np.array_equal(without_padding(framed)[1], framed != image)


def test_padding_around_padding_takes_the_inner_value() -> None:
    image = np.where(SCENES["cut out", 3].body, SCENES["cut out", 3].image, -1024).astype(np.float32)
    after, where = wider(image, 1.4, lambda s: np.full(s, -3000.0))  # a canvas around air that a scanner cut off
    filled, padded = without_padding(after)
    assert filled.min() == -1024 and np.array_equal(padded[where], image == -1024)
    assert np.abs(normalize(after, FOREGROUND)[where] - normalize(image, FOREGROUND)).max() < 1e-5
    assert np.ptp(normalize(after, FOREGROUND)[~np.isin(after, image)]) == 0


def test_canvas_gets_the_level_of_the_background_that_it_surrounds() -> None:
    scene = SCENES["gaussian", 2]
    after, where = wider(scene.image, 1.5, lambda s: np.full(s, 5.0))
    found, level = normalize(after, FOREGROUND), find_foreground(scene.image).background
    assert level is not None and abs(level) < 0.02
    canvas = np.ones(after.shape, bool)
    canvas[where] = False
    assert np.ptp(found[canvas]) == 0 and abs(found[0, 0] - np.median(found[where][~scene.body])) < 0.1


def test_declared_padding_counts_where_it_reaches_the_border() -> None:
    scene = SCENES["mr", 2]
    image = scene.image.copy()
    image[:12, :12] = np.random.default_rng(0).integers(-2005, -1999, (12, 12))  # of several values, in a corner
    image[64, 64] = -2001  # inside: no padding
    padded = without_padding(image, (-2005, -2000))[1]
    assert padded[:12, :12].all() and padded.sum() == 144
    clean, found = normalize(scene.image, FOREGROUND), normalize(image, FOREGROUND, (-2005, -2000))
    assert np.abs(found - clean)[scene.body & (image == scene.image)].max() < 0.05
    assert np.abs(found[:12, :12]).max() < 4 < np.abs(normalize(image, FOREGROUND)[:12, :12]).min()


# -- degenerate images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [FOREGROUND, ROBUST, RESCALE], ids=["foreground", "robust", "robust_rescale"])
def test_degenerate_images_are_normalised_without_division_by_zero(scheme: Normalization) -> None:
    zero = 0.5 if scheme is RESCALE else 0.0
    for shape in ((5, 5), (1, 7), (2, 2, 2), (1, 1), (60, 60), (20, 20, 20)):
        assert (normalize(np.full(shape, 7.0, np.float32), scheme) == zero).all()
    speck = np.zeros((20, 20, 20), np.float32)
    speck[10, 10, 10] = 1000
    result = normalize(speck, scheme)
    assert np.isfinite(result).all() and result[10, 10, 10] > result[0, 0, 0] and np.abs(result).max() <= 10
    binary = np.zeros((64, 64), np.float32)
    binary[20:40, 20:40] = 1
    result = normalize(binary, scheme)
    assert np.isfinite(result).all() and result[30, 30] - result[0, 0] > (0.1 if scheme is RESCALE else 1)
    labels = np.zeros((64, 64), np.float32)
    labels[8:-8, 8:-8] = np.random.default_rng(0).integers(1, 5, (6, 6)).repeat(8, 0).repeat(8, 1)
    assert len(np.unique(normalize(labels, scheme))) == 5


def test_nothing_beyond_numbers_of_voxels_is_needed() -> None:
    tiny = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert find_foreground(tiny).whole and np.isfinite(normalize(tiny, FOREGROUND)).all()
    assert foreground_quantiles(tiny) == pytest.approx((0.25, 2.5, 4.75), abs=0.8)


def test_quantiles_are_those_of_the_tissue() -> None:
    scene = SCENES["mr", 3]
    expected = np.percentile(scene.image[scene.body], [5, 50, 95])
    assert foreground_quantiles(scene.image) == pytest.approx(expected, abs=0.1)
    after, _ = wider(scene.image, 2.0, scene.background)
    assert foreground_quantiles(after) == pytest.approx(foreground_quantiles(scene.image), abs=0.02)


def test_percentiles_are_checked() -> None:
    for low, high in ((0, 90), (10, 100), (90, 10), (50, 50)):
        with pytest.raises(ValueError, match="percentiles"):
            Normalization("foreground", low=low, high=high)
