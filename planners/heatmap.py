"""Plans for `heatmap`: one U-Net, one heatmap a landmark, one look at the image or windows over it; see `design`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autolmk.planning.planner import PRESETS, Planner, usable_bytes
from autolmk.planning.window_search import Search
from autolmk.plans import Configuration

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

NAME = "heatmap"


class HeatmapPlanner(Planner):
    """One configuration, `heatmap`."""

    def plan(
        self,
        fingerprint: Fingerprint,
        *,
        preset: str,
        device: str,
        memory_target_gb: float,
        spacing: Sequence[float] | None = None,
    ) -> dict[str, Configuration]:
        """See Planner."""
        search = Search(NAME, fingerprint, PRESETS[preset], device, usable_bytes(device, memory_target_gb))
        return {NAME: search.configuration(spacing)}
