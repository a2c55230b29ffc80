"""Predictions that no network made, for tests of what comes after."""

from __future__ import annotations

import numpy as np

from autolmk.detections import Detections
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks
from autolmk.prediction.prediction import Prediction


def a_prediction(landmarks: Landmarks, candidates: FloatArray, log_odds: FloatArray, spread: float = 1.0) -> Prediction:
    """candidates: (L, K, P) mm, which no group moved; log_odds: (L, K)."""
    n, p = len(landmarks.names), candidates.shape[2]
    geometry = Geometry.from_parts((64,) * p, (1.0,) * p)
    rest = (np.full(n, spread), landmarks.likelihood, geometry)
    return Prediction(landmarks, candidates, log_odds, 1, Detections(landmarks.names, candidates, log_odds, *rest))
