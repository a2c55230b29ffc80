"""Names of landmarks that differ from case to case though the landmarks are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from autolmk.check.report import Fault, Severity
from autolmk.errors import counted, some

FEW = 3  # cases from which on a name that only one of them has is a sign
STRANGE_SHARE = 0.3  # of the usual number of names a case, from which on names of a single case are a pattern
SHOWN_CASES, SHOWN_NAMES = 3, 2
SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")


def name_faults(names: Mapping[str, Sequence[str]], file: Path, severity: Severity | None) -> list[Fault]:
    """Names that carry the specimen's or the list's name, and one name in several spellings.

    names: case -> names of its points. severity: of names that differ from case to case; None where dataset.json lists
    the landmarks, and such names are no more than ignored.
    """
    cases = {case: list(dict.fromkeys(found)) for case, found in names.items() if found}
    pattern = (_by_case(cases, file) or _by_group(cases, file)) if severity is not None else []
    found = pattern or _spellings(cases, file)
    grave: Severity = severity or "warning"
    return [*(replace(f, severity=grave) if f.severity == "dataset" else f for f in found), *_shorter(cases, file)]


def _by_case(cases: Mapping[str, list[str]], file: Path) -> list[Fault]:
    if len(cases) < 2:
        return []
    count: dict[str, int] = {}
    for found in cases.values():
        for name in found:
            count[name] = count.get(name, 0) + 1
    usual = float(np.median([len(found) for found in cases.values()]))
    single = [name for name, n in count.items() if n == 1]
    shared = len(count) - len(single)
    many = len(single) >= max(2, STRANGE_SHARE * usual) and len(count) > 1.25 * usual
    if not many or (len(cases) < FEW and shared):
        return []
    odd = [case for case, found in cases.items() if set(found) & set(single)]
    shown = "; ".join(f"{case}: {', '.join(cases[case][:SHOWN_NAMES])}, ..." for case in odd[:SHOWN_CASES])
    return [
        Fault(
            "dataset",
            "names of landmarks differ from case to case",
            str(file),
            found=f"{len(count)} names in {len(cases)} cases of {usual:g} points: {shown}",
            expected="the same names in all cases",
            remedy=_remedy(cases),
        )
    ]


def _by_group(cases: Mapping[str, list[str]], file: Path) -> list[Fault]:
    """Groups of cases, as of two annotators, that have no name in common, in whatever spelling.

    A warning where they may be of different anatomy: other numbers of names, or the same names of the other side.
    """
    groups: list[tuple[set[str], list[str]]] = []
    for case, found in cases.items():
        names, members = {_plain(name) for name in found}, [case]
        for group in [g for g in groups if g[0] & names]:
            groups.remove(group)
            names, members = names | group[0], [*group[1], *members]
        groups.append((names, members))
    if len(groups) < 2:
        return []
    groups.sort(key=lambda g: -len(g[1]))
    shown = "; ".join(
        f"{counted(len(members), 'case')} such as {members[0]}: {some(cases[members[0]])}" for _, members in groups[:3]
    )
    sides = [{_plain(SIDE.sub("", n.casefold())) for m in members for n in cases[m]} for _, members in groups]
    alike = len({len(names) for names, _ in groups}) == 1 and not any(a & b for a, b in combinations(sides, 2))
    return [
        Fault(
            "dataset" if alike else "warning",
            "groups of cases have no landmark's name in common",
            str(file),
            found=shown,
            expected="the same names in all cases",
            remedy=_remedy(cases),
        )
    ]


def _shorter(cases: Mapping[str, list[str]], file: Path) -> list[Fault]:
    """Cases of numbered points that have fewer than most: which one is missing cannot be told from the numbers."""
    numbers = {case: [int(n) for n in found] for case, found in cases.items() if all(n.isdecimal() for n in found)}
    runs = {case: len(n) for case, n in numbers.items() if sorted(n) == list(range(1, len(n) + 1))}
    if len(numbers) < len(cases) or len(set(runs.values())) < 2 or len(runs) < len(cases):
        return []
    usual = max(set(runs.values()), key=lambda k: (list(runs.values()).count(k), k))
    odd = [f"{n} in {case}" for case, n in runs.items() if n != usual]
    return [
        Fault(
            "warning",
            "cases have other numbers of points than most, and points have numbers alone",
            str(file),
            found=f"{some(odd)}; {usual} in {list(runs.values()).count(usual)} of {counted(len(runs), 'case')}",
            expected="as many points in all cases",
            remedy="see that a point left out has not shifted the numbers of all that follow",
        )
    ]


def _remedy(cases: Mapping[str, list[str]]) -> str:
    numbers = [tuple(m.group(1) if (m := re.search(r"(\d+)\s*$", name)) else "" for name in f) for f in cases.values()]
    listed = "; or list the names under landmarks in dataset.json"
    if all(numbers[0]) and len({frozenset(n) for n in numbers}) == 1 and len(set(numbers[0])) == len(numbers[0]):
        return (
            'write "names_from": "number" in dataset.json (autolmk_import: --names-from number): the number at the end '
            f"of a label is the name then{listed}"
        )
    if len({len(found) for found in cases.values()}) == 1:
        return (
            'write "names_from": "order" in dataset.json (autolmk_import: --names-from order), if all files list the '
            f"points in the same order{listed}"
        )
    return f'rename the points, or write "names_from" in dataset.json: label, description, number or order{listed}'


def _spellings(cases: Mapping[str, list[str]], file: Path) -> list[Fault]:
    """Names that differ only in upper and lower case, blanks, underscores or a copy's number, and never meet."""
    groups: dict[str, set[str]] = {}
    for found in cases.values():
        for name in found:
            groups.setdefault(_plain(name), set()).add(name)
    meet = [set(found) for found in cases.values()]
    apart = [sorted(g) for g in groups.values() if len(g) > 1 and not any(len(g & found) > 1 for found in meet)]
    if not apart:
        return []
    return [
        Fault(
            "dataset",
            "a landmark's name is spelt in several ways",
            str(file),
            found=some([" and ".join(map(repr, group)) for group in sorted(apart)]),
            expected="one name a landmark",
            remedy="rename the points; or list the landmarks in dataset.json, if they are different ones",
        )
    ]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold()) or name
