"""Plans for `heatmap`: one U-Net, one heatmap a landmark, one look at the image or windows over it."""

from __future__ import annotations

from autolmk.planning.planner import Planner, PlanRequest
from autolmk.planning.window_search import Search
from autolmk.plans import Configuration

NAME = "heatmap"


class HeatmapPlanner(Planner):
    """Planner of one configuration, `heatmap`."""

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        """Plan the configuration `heatmap`, see `Planner.plan`."""
        search = Search(NAME, request.fingerprint, request.size, request.device, request.budget)
        return {NAME: search.configuration(request.spacing)}
