"""Specimens of one file for all, whose images are found by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autolmk.annotations.formats.collect import Collector, height_of
from autolmk.annotations.formats.imported import undecided
from autolmk.annotations.formats.missing import without_codes
from autolmk.geometry import FloatArray


def add_specimens(
    collector: Collector, specimens: Sequence[str], names: Sequence[str], points: FloatArray, file: Path
) -> None:
    """Add a case a specimen. points: (n, k, 2 or 3). AutolmkError in 2D where no option says where y begins."""
    for specimen, own in zip(specimens, points, strict=True):
        own = without_codes(own, names, specimen, file, collector.source.options)
        images = collector.source.image(specimen, file, f"the specimen {specimen!r}")
        if images is not None and own.shape[1] == 2:
            height, y_from = height_of(images[0]), collector.source.options.y_from
            turned = own.copy()
            turned[:, 1] = height - 1 + 2 * collector.first_pixel - own[:, 1]
            if y_from is None:
                choices = {
                    s: f"point 1 of {specimen} at {p[0].tolist()} from the upper edge"
                    for s, p in (("bottom", turned), ("top", own))
                }
                raise undecided("the file does not say where y is counted from", file, "--y-from", choices)
            own = turned if y_from == "bottom" else own
        collector.add(specimen, images, names, own, file=file)
