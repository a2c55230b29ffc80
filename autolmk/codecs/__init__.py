"""Codecs: what networks are trained against and how their outputs are read; one file a kind, see `codec`."""

from autolmk.codecs.cells import CellCodec, CellTarget
from autolmk.codecs.codec import Candidates, Codec, HeldOut, Target
from autolmk.codecs.coordinates import CoordinateCodec, CoordinateTarget
from autolmk.codecs.heatmap import MIN_SIGMA, HeatmapCodec, HeatmapTarget
from autolmk.codecs.slices import SliceCodec, SliceTarget

__all__ = [
    "Candidates",
    "CellCodec",
    "CellTarget",
    "Codec",
    "CoordinateCodec",
    "CoordinateTarget",
    "HeatmapCodec",
    "HeatmapTarget",
    "HeldOut",
    "MIN_SIGMA",
    "SliceCodec",
    "SliceTarget",
    "Target",
]
