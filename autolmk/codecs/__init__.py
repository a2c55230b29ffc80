"""Codecs: what networks are trained against and how their outputs are read; one file a kind, see `codec`."""

from autolmk.codecs.codec import Candidates, Codec, Target
from autolmk.codecs.heatmap import MIN_SIGMA, HeatmapCodec, HeatmapTarget

__all__ = ["Candidates", "Codec", "HeatmapCodec", "HeatmapTarget", "MIN_SIGMA", "Target"]
