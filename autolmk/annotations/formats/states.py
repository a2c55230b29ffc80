"""Annotations that carry states and a frame of their own, added to a collector."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autolmk.annotations.annotation import Annotation
from autolmk.annotations.formats.collect import Collector
from autolmk.annotations.formats.imported import undecided
from autolmk.annotations.formats.missing import without_codes
from autolmk.annotations.formats.source import Images

FLIP = np.array([-1.0, -1.0, 1.0])


def add_annotation(
    collector: Collector,
    key: str,
    images: Images | None,
    annotation: Annotation,
    file: Path,
    *,
    identifier: str | None = None,
    test: bool = False,
) -> None:
    """Add a case whose file states frame and states; identifier and test as of `Collector.add`. AutolmkError where it
    states no frame, and no option does."""
    frame = annotation.frame or collector.source.options.frame
    if not annotation.names:
        frame = "LPS"  # of no points
    if frame not in ("LPS", "RAS"):
        first = annotation.points[:1].reshape(-1)
        choices = {
            "LPS": f"point 1 of {key} at {first.tolist()}",
            "RAS": f"point 1 of {key} at {(first * FLIP).tolist()} in LPS",
        }
        raise undecided("a file does not say in which frame its points are", file, "--frame", choices)
    points = np.where(annotation.present[:, None], annotation.points, np.nan)
    points = without_codes(points, annotation.names, key, file, collector.source.options)
    points = points * FLIP if frame == "RAS" else points
    collector.add(
        key, images, annotation.names, points, file=file, status=annotation.status, test=test, identifier=identifier
    )
