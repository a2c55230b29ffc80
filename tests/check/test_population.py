"""Faults of cases beside the others, in simulated anatomy: all are found, and few sound cases are doubted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anatomies import FAULTS, WORLDS, World, with_faults

from autolmk.check.case import Findings
from autolmk.check.population import population_faults
from autolmk.check.report import Fault
from autolmk.dataset import Case
from autolmk.fingerprint.summary import CaseSummary
from autolmk.geometry import FloatArray, Geometry
from autolmk.landmarks import Landmarks, Status

ONE_PLACE = "landmarks are at one place that lie apart in the other cases"
ROWS = ("stored_twice", "drawn_twice", "stored_twice_and_shifted", "part_backwards")


def found(points: FloatArray, names: tuple[str, ...], test: tuple[int, ...] = ()) -> dict[int, list[Fault]]:
    """Of cases (N, L, P), by number. test: those that are test cases."""
    geometry = Geometry.from_parts((8,) * points.shape[2], (1.0,) * points.shape[2])
    findings = []
    for i, case in enumerate(points):
        shown = np.isfinite(case).all(axis=1)
        status = np.where(shown, Status.PRESENT, Status.UNKNOWN).astype(np.int8)
        landmarks = Landmarks(names, case, status)
        findings.append(
            Findings(
                "Ts" if i in test else "Tr",
                Case(str(i), str(i), (Path("image"),), Path("points")),
                summary=CaseSummary(str(i), geometry, landmarks, ()),
                frame="LPS",
                readings={"LPS": landmarks.points},
            )
        )
    result: dict[int, list[Fault]] = {}
    for fault in population_faults(findings, names, [], "mm"):
        result.setdefault(int(fault.case or -1), []).append(fault)
    return result


def planted(world: World, kind: str, seed: int, cases: tuple[int, ...] = (3, 17)) -> FloatArray:
    """The fault in each of these cases."""
    rng, points = np.random.default_rng(seed), world.points.copy()
    for case in cases:
        changed = FAULTS[kind](rng, world, points[case].copy())
        assert changed is not None
        points[case] = changed
    return points


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_fault_is_found_in_a_spine(kind: str) -> None:
    """Of 30 cases with two faulty ones; at most one of the others is doubted."""
    world = WORLDS["spine"](1, 30)
    faults = found(planted(world, kind, 1), world.names)
    assert {3, 17} <= set(faults) and len(faults) <= 3
    if kind in ("stored_twice", "drawn_twice", "stored_twice_and_shifted", "two_at_one_place"):
        for case in (3, 17):
            assert any(f.severity == "case" and f.problem == ONE_PLACE and f.split == "Tr" for f in faults[case])


@pytest.mark.parametrize("name", WORLDS)
def test_rows_out_of_order_are_found_in_all_anatomy(name: str) -> None:
    world = WORLDS[name](2, 50)
    kinds = ROWS if world.blocks else ("rows_shifted", "all_sides_swapped")
    whole = [i for i in range(50) if np.isfinite(world.points[i]).mean() > 0.9][: len(kinds)]
    points = world.points
    for case, kind in zip(whole, kinds, strict=True):
        points = planted(World(points, world.names, world.blocks, world.sides, world.posed), kind, 2, (case,))
    faults = found(points, world.names)
    assert set(whole) <= set(faults) and len(faults) <= len(whole) + 1


@pytest.mark.parametrize("name", WORLDS)
def test_sound_cases_are_not_doubted(name: str) -> None:
    """Scoliosis, shut eyes, bent fingers and missing points are no faults."""
    world = WORLDS[name](3, 50)
    faults = found(world.points, world.names)
    assert len(faults) <= 1
    assert not any(f.severity == "case" for case in faults.values() for f in case)


def test_landmarks_that_coincide_in_most_cases_are_no_fault_of_a_case() -> None:
    world = WORLDS["skull"](4, 30)
    points = world.points.copy()
    points[:20, 3] = points[:20, 4]
    assert not any(f.severity == "case" for case in found(points, world.names).values() for f in case)
    points = world.points.copy()
    points[7, 3] = points[7, 4]
    (fault,) = (f for f in found(points, world.names)[7] if f.severity == "case")
    assert "own_3 and own_4 (typically" in (fault.found or "") and fault.remedy


def test_test_cases_are_doubted_but_do_not_say_what_is_typical() -> None:
    world = WORLDS["skull"](5, 30)
    faults = found(planted(world, "stored_twice", 5, tuple(range(18, 30))), world.names, tuple(range(18, 30)))
    assert set(faults) == set(range(18, 30))
    assert all(any(f.severity == "case" and f.split == "Ts" for f in case) for case in faults.values())


def test_an_annotator_who_shifts_all_names_in_a_quarter_of_the_cases_is_found() -> None:
    """Such cases do not make the tails of all so heavy that nothing is strange any more."""
    rng, mean, modes = np.random.default_rng(22), np.random.default_rng(3).uniform(0, 100, (19, 2)), 6
    shapes = np.random.default_rng(4).normal(0, 2, (modes, 19, 2))
    points = np.stack(
        [mean + np.tensordot(rng.normal(size=modes), shapes, 1) + rng.normal(0, 1.2, (19, 2)) for _ in range(40)]
    )
    names = tuple(f"c{i}" for i in range(19))
    assert len(found(points, names)) <= 1
    points[::4] = np.roll(points[::4], 1, axis=1)
    faults = found(points, names)
    assert len(set(faults) & set(range(0, 40, 4))) >= 9 and len(set(faults) - set(range(0, 40, 4))) <= 1


@pytest.mark.long
@pytest.mark.parametrize("n", [20, 50, 100, 500])
@pytest.mark.parametrize("name", WORLDS)
def test_most_faults_are_found_with_few_false_alarms(name: str, n: int) -> None:
    """All kinds at random in 5 % of the cases: at least 85 % are found, and at most one sound case in 50 is doubted."""
    hit = total = false = sound = 0
    for seed in range(max(1, 200 // n)):
        world = WORLDS[name](seed, n)
        points, faulty = with_faults(world, seed)
        doubted = set(found(points, world.names))
        hit, total = hit + len(doubted & set(faulty)), total + len(faulty)
        false, sound = false + len(doubted - set(faulty)), sound + n - len(faulty)
    assert hit >= 0.85 * total and false <= max(1, sound / 50), (hit, total, false, sound)
