"""Whether landmarks that dataset.json declares to share a slice do so in the annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autolmk.check.report import Fault
from autolmk.dataset.description import DeclaredSlice
from autolmk.errors import AutolmkError
from autolmk.fingerprint.landmark_statistics import SAME_SLICE, SAME_SLICE_SHARE, apart_in_slices, declared_slices
from autolmk.fingerprint.summary import CaseSummary


def slice_faults(
    declared: Sequence[DeclaredSlice] | None, cases: Sequence[CaseSummary], unit: str, file: Path
) -> list[Fault]:
    """A warning for each declared group whose members lie within half a slice in fewer than 95 % of the cases that show
    at least two of them. cases: good ones of training. file: dataset.json. A fault of the dataset where images are not
    volumes."""
    if not declared or not cases:
        return []
    landmarks, geometries = [case.landmarks for case in cases], [case.geometry for case in cases]
    try:
        declared_slices(declared, geometries)
    except AutolmkError as error:
        return [Fault.of(error, "dataset")]
    faults = []
    for group in declared:
        slices, lengths = apart_in_slices(group, landmarks, geometries)
        shown = np.isfinite(slices)
        near = int((slices[shown] < SAME_SLICE).sum())
        if near >= SAME_SLICE_SHARE * shown.sum():
            continue
        faults.append(
            Fault(
                "warning",
                "landmarks that dataset.json declares to share a slice do not",
                str(file),
                found=f"co_slice_groups: {', '.join(group.landmarks)} (axis {group.axis}) lie within half a slice in "
                f"{near} of {shown.sum()} cases ({near / shown.sum():.0%}); typically {np.median(lengths[shown]):.3g} "
                f"{unit} ({np.median(slices[shown]):.2g} slices) apart",
                expected=f"at least {SAME_SLICE_SHARE:.0%} of the cases; predicted points are put on one slice",
                remedy="correct the group or its axis, or take co_slice_groups out of dataset.json: then the groups "
                "that the annotations show count",
            )
        )
    return faults
