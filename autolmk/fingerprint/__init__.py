"""Fingerprint: what a dataset says of itself. Nothing here needs torch."""

from __future__ import annotations

from autolmk.fingerprint.appearance import Appearance, appearances
from autolmk.fingerprint.case_pose import CasePose
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
from autolmk.fingerprint.training_range import TrainingRange

__all__ = [
    "Appearance",
    "CaseGeometry",
    "CasePose",
    "CoSliceGroup",
    "FILE_NAME",
    "Fingerprint",
    "Intensity",
    "LandmarkStatistics",
    "MirrorPlane",
    "Pose",
    "TrainingRange",
    "appearances",
    "extract_fingerprint",
    "fingerprint_of",
    "largest_case_bytes",
]
