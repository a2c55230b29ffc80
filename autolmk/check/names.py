"""Names of landmarks that differ from case to case though the landmarks are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autolmk.check.report import Fault
from autolmk.errors import some

FEW = 3  # cases from which on a name that only one of them has is a sign
STRANGE_SHARE = 0.3  # of the usual number of names a case, from which on names of a single case are a pattern
SHOWN_CASES, SHOWN_NAMES = 3, 2


def name_faults(names: Mapping[str, Sequence[str]], file: Path, *, inferred: bool) -> list[Fault]:
    """Names that carry the specimen's or the list's name, and one name in several spellings.

    names: case -> names of its points. inferred: whether they become the dataset's landmarks, as dataset.json lists
    none; then each would be a landmark of its own, which is a fault of the dataset.
    """
    cases = {case: list(dict.fromkeys(found)) for case, found in names.items() if found}
    pattern = _by_case(cases, file) if inferred else []
    return pattern or _spellings(cases, file, inferred=inferred)


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


def _remedy(cases: Mapping[str, list[str]]) -> str:
    numbers = [tuple(m.group(1) if (m := re.search(r"(\d+)\s*$", name)) else "" for name in f) for f in cases.values()]
    listed = "; or list the names under landmarks in dataset.json"
    if all(numbers[0]) and len({frozenset(n) for n in numbers}) == 1 and len(set(numbers[0])) == len(numbers[0]):
        return (
            f'write "names_from": "number" in dataset.json: the number at the end of a label is the name then{listed}'
        )
    if len({len(found) for found in cases.values()}) == 1:
        return f'write "names_from": "order" in dataset.json, if all files list the points in the same order{listed}'
    return f'rename the points, or write "names_from" in dataset.json: label, description, number or order{listed}'


def _spellings(cases: Mapping[str, list[str]], file: Path, *, inferred: bool) -> list[Fault]:
    """Names that differ only in upper and lower case, blanks, underscores or a copy's number, and never meet."""
    groups: dict[str, set[str]] = {}
    for found in cases.values():
        for name in found:
            groups.setdefault(re.sub(r"[\W_]+", "", name.casefold()) or name, set()).add(name)
    meet = [set(found) for found in cases.values()]
    apart = [sorted(g) for g in groups.values() if len(g) > 1 and not any(len(g & found) > 1 for found in meet)]
    if not apart:
        return []
    return [
        Fault(
            "dataset" if inferred else "warning",
            "a landmark's name is spelt in several ways",
            str(file),
            found=some([" and ".join(map(repr, group)) for group in sorted(apart)]),
            expected="one name a landmark",
            remedy="rename the points; or list the landmarks in dataset.json, if they are different ones",
        )
    ]
