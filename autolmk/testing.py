"""Help for authors of trainers and planners, and for tests: a phantom dataset and the contracts as executable
checks.
"""

from __future__ import annotations

from autolmk.conformance import check_planner, check_trainer
from autolmk.phantom import make_phantom, write_phantom

__all__ = ["check_planner", "check_trainer", "make_phantom", "write_phantom"]
