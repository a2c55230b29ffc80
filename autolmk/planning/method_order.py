"""The order of methods: the configurations of a plan, in the order of the errors that are expected of them.

autolmk_train takes the first one, and autolmk_run tries them in this order. It is an expectation alone: held-out cases
decide. Rules, the first one that tells two methods apart counts; documentation/plans.md has what each was measured on:

1. where landmarks stand in an even row, networks that see the whole row from each of its landmarks come first;
2. where another look is clearly finer than one look at the image, or follows the pose of landmarks that lie anyhow, it
   comes first; else the fewest stages do;
3. of several stages, a network of its own for each landmark comes first where cases are many enough, else a shared one;
4. the order in which they were planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autolmk.planning.rules import ANY_POSE
from autolmk.plans import Configuration

if TYPE_CHECKING:
    from autolmk.fingerprint import Fingerprint

FINER = 1.5  # times, from which another look at a finer spacing is expected to gain
OWN_CASES = 15  # from which a network of its own for each landmark is expected to learn enough


@dataclass(frozen=True)
class Expected:
    """The key that one method is sorted by, the lowest first, and the key in words."""

    key: tuple[int, ...]
    why: str


def methods(configurations: Mapping[str, Configuration]) -> tuple[str, ...]:
    """Names of the configurations that no other one builds on, in their order."""
    earlier = {c.previous_stage for c in configurations.values()}
    return tuple(name for name in configurations if name not in earlier)


def repeated(configurations: Mapping[str, Configuration]) -> dict[str, str]:
    """Methods that are planned just as an earlier one -> that one: training both would show nothing. As where one look
    at the image is all that a method of several stages would see."""
    found: dict[str, str] = {}
    kept: list[str] = []
    for name in methods(configurations):
        bare = replace(configurations[name], why={})
        twin = next((other for other in kept if replace(configurations[other], why={}) == bare), None)
        if twin is None:
            kept.append(name)
        else:
            found[name] = twin
    return found


def in_order(
    fingerprint: Fingerprint, configurations: Mapping[str, Configuration]
) -> tuple[dict[str, Configuration], dict[str, str]]:
    """Sort the configurations, method after method as expected, each behind the stages that it builds on; return them
    and the reasons, `order.1`, `order.2`, ... -> method and reason, none for a single method.
    """
    found = {name: _expected(name, fingerprint, configurations) for name in methods(configurations)}
    order = sorted(found, key=lambda name: found[name].key)
    listed = dict.fromkeys(stage for name in order for stage in _chain(name, configurations))
    result = {stage: configurations[stage] for stage in listed}
    if len(order) < 2:
        return result, {}
    twins = repeated(result)
    why = {n: f"planned as {twins[n]} is, so one of them is enough" if n in twins else found[n].why for n in order}
    return result, {f"order.{k}": f"{name}: {why[name]}" for k, name in enumerate(order, start=1)}


def _chain(name: str, configurations: Mapping[str, Configuration]) -> tuple[str, ...]:
    """Stages of a method, first to last."""
    before = configurations[name].previous_stage
    return (name,) if before is None else (*_chain(before, configurations), name)


def _expected(name: str, fingerprint: Fingerprint, configurations: Mapping[str, Configuration]) -> Expected:
    chain = [configurations[stage] for stage in _chain(name, configurations)]
    row, why_row = _sees_row(fingerprint, chain[0])
    look, why_look = _look(fingerprint, chain, configurations)
    own, why_own = _own(fingerprint, chain[-1]) if len(chain) > 1 else (0, "")
    return Expected((row, look, own), "; ".join(why for why in (why_row, why_look, why_own) if why))


def _sees_row(fingerprint: Fingerprint, first: Configuration) -> tuple[int, str]:
    """0 where the first look sees an even row of landmarks as a whole, or where there is none; else 1."""
    from autolmk.planning.context_rules import SEES_ROW, even_row, seen_of_extent

    row = even_row(fingerprint)
    if not row:
        return 0, ""
    share = seen_of_extent(fingerprint, first)[0]
    said = f"{len(row)} landmarks stand in an even row ({row[0]} to {row[-1]})"
    if share >= SEES_ROW:
        return 0, f"{said}, which its first look sees as a whole"
    return 1, f"{said}, of which its first look sees {share:.2g} times the extent: {SEES_ROW:g} would tell them apart"


def _look(
    fingerprint: Fingerprint, chain: list[Configuration], configurations: Mapping[str, Configuration]
) -> tuple[int, str]:
    """How far the last look is from the best that these plans offer: 0 for one that is as fine, and in the landmarks'
    pose where they lie anyhow; else by the number of stages."""
    last, unit = chain[-1], fingerprint.unit
    others = [configurations[name] for name in methods(configurations)]
    finest = [min(axis) for axis in zip(*(c.spacing for c in others), strict=True)]
    times = max(s / f for s, f in zip(last.spacing, finest, strict=True))
    anyhow = fingerprint.pose.rotation_max >= ANY_POSE and any(c.windows.pose for c in others)
    spacing = "x".join(f"{s:.3g}" for s in last.spacing)
    said = f"{'looks again' if len(chain) > 1 else 'looks once'}, at {spacing} {unit}"
    if times >= FINER:
        return 1 + len(chain), f"{said}, {times:.1f} times as coarse as the finest of these plans"
    if anyhow and not last.windows.pose:
        turned = f"{fingerprint.pose.rotation_max:.0f} degrees"
        return 1 + len(chain), f"{said}, and not in the landmarks' pose, which turns by up to {turned}"
    if anyhow:
        return 0, f"{said}, in the landmarks' pose"
    coarsest = max(max(s / f for s, f in zip(c.spacing, finest, strict=True)) for c in others)
    if coarsest >= FINER:
        return 0, f"{said}; others look {coarsest:.1f} times as coarsely"
    if len(chain) == 1:
        return 0, f"{said}, hardly coarser than any other: then one look is the simplest and the fastest"
    return len(chain), f"{said}, hardly finer than one look"


def _own(fingerprint: Fingerprint, last: Configuration) -> tuple[int, str]:
    """0 where what suits the number of cases is planned: networks of their own from OWN_CASES on, else a shared one."""
    own = last.trainer == "local_cells" or last.options.get("weights") == "own"
    cases = fingerprint.n_cases
    kind = "a network of its own for each landmark" if own else "one network for all landmarks' windows"
    reason = f"own networks from {OWN_CASES} cases on" if own else f"own networks are first from {OWN_CASES} cases on"
    return int(own != (cases >= OWN_CASES)), f"{kind} ({cases} cases; {reason})"
