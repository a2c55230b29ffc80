"""Fingerprint: what a dataset says of itself. Nothing here needs torch."""

from __future__ import annotations

from autolmk.fingerprint.fingerprint import (
    FILE_NAME,
    CaseGeometry,
    Fingerprint,
    Intensity,
    MirrorPlane,
    extract_fingerprint,
    fingerprint_of,
    largest_case_bytes,
)
from autolmk.fingerprint.landmark_statistics import CoSliceGroup, LandmarkStatistics, Pose

__all__ = [
    "CaseGeometry",
    "CoSliceGroup",
    "FILE_NAME",
    "Fingerprint",
    "Intensity",
    "LandmarkStatistics",
    "MirrorPlane",
    "Pose",
    "extract_fingerprint",
    "fingerprint_of",
    "largest_case_bytes",
]
