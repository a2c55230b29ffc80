"""The parts that planners of published numbers share: these do not follow the data, and either fit the memory or do
not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autolmk.errors import AutolmkError
from autolmk.planning.memory import GIB
from autolmk.planning.planner import PlanRequest, memory_of
from autolmk.plans import Augmentation, Configuration

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint


def unchanged(fingerprint: Fingerprint) -> Augmentation:
    """Windows as the images are: no rotation, scale, shift, mirroring or change of intensities."""
    pose = fingerprint.pose
    return Augmentation((0.0,) * len(pose.rotation), (1.0, 1.0), (0.0,) * len(pose.translation), None, 0.0)


def require_memory(request: PlanRequest, configuration: Configuration) -> None:
    """Raise AutolmkError where training the configuration with its batch does not fit the memory target."""
    needed = memory_of(request.fingerprint, configuration, request.device, configuration.batch_size).total
    budget = request.budget
    if needed > budget:
        raise AutolmkError(
            "the published network does not fit the memory target",
            found=f"{needed / GIB:.2g} GiB: batches of {configuration.batch_size}, {configuration.patch_size} voxels",
            expected=f"at most {budget / GIB:.2g} GiB",
            remedy="raise -gpu_memory_target, or plan the method itself, which fits its network to it",
        )
