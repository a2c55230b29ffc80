"""Pictures of points: letters at the patient's sides, a scale bar of the right length, superior up."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from autolmk.geometry import Geometry
from autolmk.image import Image
from autolmk.report.pictures import BAR, TILE, picture


def written(geometry: Geometry, unit: str) -> tuple[list[str], list[float]]:
    """Texts, and lengths of the scale bars in pixels, of a picture of the middle of an image of this geometry."""
    rng = np.random.default_rng(0)
    image = Image(rng.random((1, *geometry.shape)).astype(np.float32), geometry).canonical()
    root = ElementTree.fromstring(picture(image, geometry.centre, geometry.centre, "A picture.", unit=unit))
    bars = [e.get("d", "") for e in root.iter("path") if e.get("class") == "scale over"]
    return [e.text or "" for e in root.iter("text")], [float(bar.split("h")[1]) for bar in bars]


@pytest.mark.parametrize("mirrored", [(), (0,), (1, 2)])
def test_letters_are_the_patients_whatever_the_files_orientation(mirrored: tuple[int, ...]) -> None:
    geometry = Geometry.from_parts((30, 40, 50), (1, 1, 1), (0, 0, 0))
    for axis in mirrored:
        geometry = geometry.mirrored(axis)
    texts, bars = written(geometry, "mm")
    letters = [text for text in texts if text not in ("axial", "coronal", "sagittal") and "mm" not in text]
    assert letters == list("APRL" + "SIRL" + "SIAP") and len(bars) == 3


def test_a_single_slice_of_a_volume_has_letters_and_superior_up() -> None:
    coronal = Geometry.from_parts((30, 40), (1, 1), (0, 0, 0), [[0, 1], [0, 0], [1, 0]])
    texts, _ = written(coronal, "mm")
    assert [text for text in texts if "mm" not in text] == list("SIRL")


def test_a_plane_image_has_a_scale_bar_alone() -> None:
    texts, (bar,) = written(Geometry.from_parts((300, 400), (1, 1)), "px")
    (said,) = texts
    shown = float(said.removesuffix(" px"))
    assert shown in (10, 20, 50) and bar == pytest.approx(shown * TILE / (0.35 * 400), abs=0.1)
    assert bar <= BAR * TILE
