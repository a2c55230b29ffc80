"""The contracts of Trainer and Planner, executable: `check_trainer(MyTrainer)`, `check_planner(MyPlanner)`.

The checks run on small literal plans and fingerprints, in 2D and in 3D, in seconds, on the CPU. Breaches raise an
AutolmkError that says what was found, what is expected and what to do: of a trainer all, of a planner the first.
Shipped methods pass the same checks.
"""

from __future__ import annotations

from autolmk.conformance.examples import example_plans
from autolmk.conformance.planners import check_planner, example_fingerprint
from autolmk.conformance.trainers import check_trainer

__all__ = ["check_planner", "check_trainer", "example_fingerprint", "example_plans"]
