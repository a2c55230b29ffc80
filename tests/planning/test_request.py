"""PlanRequest: what a user leaves open is filled in; planners of the present and the earlier signature work alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from fingerprints import a_fingerprint

from autolmk.errors import AutolmkError
from autolmk.fingerprint import Fingerprint
from autolmk.planning.planner import PRESETS, Planner, PlanRequest, plan_dataset
from autolmk.plans import Configuration

BASE = a_fingerprint()


class Noted(Planner):
    """Notes what it is asked for."""

    asked: ClassVar[list[Any]] = []

    def plan(self, request: PlanRequest) -> dict[str, Configuration]:
        self.asked.append(request)
        return {}


class OfOld(Noted):
    """As planners were written before there were requests."""

    def plan(  # type: ignore[override]
        self,
        fingerprint: Fingerprint,
        *,
        preset: str,
        device: str,
        memory_target_gb: float,
        spacing: Sequence[float] | None = None,
    ) -> dict[str, Configuration]:
        self.asked.append((fingerprint, preset, device, memory_target_gb, spacing))
        return super().plan(  # type: ignore[call-arg]
            fingerprint,
            preset=preset,
            device=device,
            memory_target_gb=memory_target_gb,
            spacing=spacing,  # type: ignore[arg-type]
        )


class Loose(Noted):
    """An earlier planner that passes on whatever it gets."""

    def plan(self, *arguments: Any, **more: Any) -> dict[str, Configuration]:
        return super().plan(*arguments, **more)


class Neither(Planner):
    def plan(self, fingerprint: Fingerprint, size: int) -> dict[str, Configuration]:  # type: ignore[override]
        return {}


@pytest.mark.parametrize("planner", [Noted, OfOld, Loose])
def test_planners_of_both_signatures_get_the_same_request(planner: type[Planner]) -> None:
    request = PlanRequest(BASE, "S", "cuda", 3.0, (2.0,) * BASE.ndim)
    Noted.asked = []
    assert planner().plan(request) == {} and Noted.asked[-1] == request
    assert len(Noted.asked) == (2 if planner is OfOld else 1)
    old = {"preset": "S", "device": "cuda", "memory_target_gb": 3.0, "spacing": [2.0] * BASE.ndim}
    assert planner().plan(BASE, **old) == {} and Noted.asked[-1] == request  # type: ignore[arg-type, call-arg]
    if planner is OfOld:
        assert Noted.asked[0] == (BASE, "S", "cuda", 3.0, (2.0,) * BASE.ndim)


def test_a_planner_of_neither_signature_is_told_which_there_is() -> None:
    with pytest.raises(AutolmkError, match="Neither cannot be asked") as raised:
        plan_dataset(PlanRequest.of(BASE, "cpu"), {"neither": Neither()}, plans_name="p")
    said = str(raised.value)
    assert "plan(self, fingerprint" in said and "plan(self, request)" in said and "test_request.py" in said


def test_what_is_left_open_is_filled_in_and_said() -> None:
    small, large = (PlanRequest.of(BASE, device) for device in ("cpu", "cuda"))
    assert (small.preset, large.preset) == ("XS", "M") and large.size == PRESETS["M"]
    assert large.memory_target_gb == 8.0 and large.budget == 0.85 * 8 * 2**30 and small.budget == 0.3 * 2**30
    assert large.why == {"preset": "the default with CUDA", "memory_target_gb": "the preset's"}
    asked = PlanRequest.of(BASE, "cpu", preset="S", memory_target_gb=1, spacing=list(BASE.median_spacing))
    assert set(asked.why.values()) == {"as demanded"} and asked.spacing == tuple(BASE.median_spacing)
