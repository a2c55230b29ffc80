"""The conformal quantile covers as promised with the case as the unit, and declines what the cases cannot give."""

from __future__ import annotations

import numpy as np
import pytest

from autolmk.evaluation.conformal import conformal_quantile


def test_of_one_score_a_case_it_is_the_known_order_statistic() -> None:
    scores = [np.array([float(i)]) for i in range(1, 20)]  # 19 cases: the 18th smallest at 90 %
    assert conformal_quantile(scores, 0.9) == 18
    assert conformal_quantile(scores[:9], 0.9) == 9
    assert np.isnan(conformal_quantile(scores[:8], 0.9)) and np.isnan(conformal_quantile([], 0.5))


def test_the_case_is_the_unit() -> None:
    """A case with many points weighs no more than one with a single point."""
    few = [np.array([1.0])] * 19
    assert conformal_quantile([*few, np.full(1000, 5.0)], 0.9) == 1.0
    assert conformal_quantile([*few, np.empty(0)], 0.9) == 1.0


def test_coverage_with_points_that_hang_together() -> None:
    rng = np.random.default_rng(0)

    def cases(n: int) -> list[np.ndarray]:
        return [np.exp(rng.normal() + 0.5 * rng.normal(size=8)) for _ in range(n)]

    covered = []
    for _ in range(300):
        radius = conformal_quantile(cases(40), 0.9)
        covered.append(np.mean([np.mean(case <= radius) for case in cases(20)]))
    assert 0.885 < np.mean(covered) < 0.945


def test_a_level_is_a_share() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_quantile([np.ones(3)], 1.0)
