"""The check of a whole dataset: each case, and the cases beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from autolmk.check.case import Findings, frame_fault, inspect_case
from autolmk.check.files import list_files, suggested
from autolmk.check.names import name_faults
from autolmk.check.population import population_faults
from autolmk.check.report import SEVERITIES, Fault, Report, Severity
from autolmk.check.shared_slices import slice_faults
from autolmk.check.unlike_images import image_faults
from autolmk.dataset import Case, Dataset, lists_landmarks, missing_description
from autolmk.errors import AutolmkError, counted, some
from autolmk.files.serialization import near
from autolmk.fingerprint import largest_case_bytes
from autolmk.landmarks import Status
from autolmk.parallel import default_workers, map_cases

WHOLE_DATASET = 0.5  # of the cases in the same wrong frame, from which the dataset is at fault


def check_dataset(
    folder: Path, *, workers: int | None = None, progress: bool = True, names: Severity | None = None
) -> Report:
    """All faults of the raw dataset in `folder`. Each image is read once, in `workers` processes (default: as many as
    processors and memory allow; 0: in this one). names: how grave it is that names differ from case to case; by default
    a fault of the dataset where dataset.json lists no landmarks, else nothing."""
    dataset, opening = _opened(Path(folder))
    if dataset is None:
        return Report(Path(folder).name, Path(folder), opening)
    listed, cases = list_files(dataset)
    faults = [*opening, *listed]
    if not any(split == "Tr" for split, _ in cases.values()):
        return _report(dataset, faults, [])
    count = workers
    if count is None:
        count = default_workers(largest_case_bytes([case for _, case in cases.values()]))
    found = map_cases(partial(inspect_case, dataset), cases, workers=count, progress="checking" if progress else None)
    findings = []
    for key, result in sorted(found, key=lambda pair: pair[0]):
        split, case = cases[key]
        if isinstance(result, AutolmkError):
            result = Findings(split, case, (Fault.of(result, "case", case=case.identifier, split=split),))
        findings.append(result)
        faults += result.faults
    faults += _dimensions(findings) + _frames(dataset, findings) + _names(dataset, findings) + _twins(findings)
    named = {f"{f.split}/{f.case.identifier}": f.names for f in findings if f.split == "Tr"}
    grave = names or (None if lists_landmarks(dataset.folder) else "dataset")
    faults += name_faults(named, dataset.folder / "landmarksTr", grave)
    good = [f for f in findings if f.summary is not None and not faulty(f, faults)]
    unit = dataset.unit if good else "mm"
    faults += population_faults(good, dataset.landmark_names, dataset.pairs, unit)
    faults += image_faults(good, dataset.channel_names, unit)
    training = [f for f in good if f.split == "Tr" and not faulty(f, faults)]
    faults += _never_seen(dataset, training)
    summaries = [f.summary for f in training if f.summary is not None]
    faults += slice_faults(dataset.co_slice_groups, summaries, unit, dataset.folder / "dataset.json")
    return _report(dataset, faults, findings)


def _opened(folder: Path) -> tuple[Dataset | None, tuple[Fault, ...]]:
    """The dataset, as its files say where dataset.json is missing; None where it cannot be opened. With its faults."""
    try:
        if folder.is_dir() and not (folder / "dataset.json").exists():
            error, inferred = missing_description(folder)
            return inferred, (Fault.of(error, "dataset"),)
        return Dataset.open(folder), ()
    except AutolmkError as error:
        return None, (Fault.of(suggested(error), "dataset"),)


def faulty(finding: Findings, faults: Sequence[Fault]) -> bool:
    """Whether one of the faults leaves the case out. A test case may have the name of a training case."""
    key = (finding.split, finding.case.identifier)
    return any(fault.severity == "case" and (fault.split, fault.case) == key for fault in faults)


def _report(dataset: Dataset, faults: Sequence[Fault], findings: Sequence[Findings]) -> Report:
    training = [f for f in findings if f.split == "Tr"]
    good = {f.case.identifier: f.summary for f in training if f.summary is not None and not faulty(f, faults)}
    if training and not good and not any(fault.severity == "dataset" for fault in faults):
        faults = [
            *faults,
            Fault(
                "dataset",
                "no training case is without a fault",
                str(dataset.folder),
                found=next((f"{f.case}: {f.problem}" for f in faults if f.severity == "case"), None),
                remedy="mend the cases' own faults",
            ),
        ]
    ordered = sorted(faults, key=lambda f: (SEVERITIES.index(f.severity), f.case or "", f.problem))
    lost = {f.case for f in faults if f.severity == "case" and f.split == "Tr" and f.case is not None}
    bad = sorted(({f.case.identifier for f in training} | lost) - set(good))
    return Report(
        name=dataset.name,
        folder=dataset.folder,
        faults=tuple(ordered),
        good_cases=tuple(sorted(good)),
        n_cases=len({f.case.identifier for f in training} | lost),
        dataset=dataset,
        bad_cases=tuple(bad),
        summaries=good,
    )


# -- cases together ---------------------------------------------------------------------------------------------------


def _dimensions(findings: Sequence[Findings]) -> list[Fault]:
    """Plane images among single slices of volumes, or the other way round: their points cannot be compared."""
    known = [(f, f.summary.geometry.physical_ndim) for f in findings if f.summary is not None]
    counts = Counter(p for f, p in known if f.split == "Tr") or Counter(p for _, p in known)
    if not counts:
        return []
    usual = max(counts, key=lambda p: (counts[p], p))
    kinds = {2: "a plane image", 3: "a volume, or a slice of one"}
    return [
        Fault(
            "case",
            "an image lies in another space than those of the other cases",
            str(f.case.images[0]),
            f.case.identifier,
            found=f"{p} physical axes ({kinds[p]})",
            expected=f"{usual} physical axes ({kinds[usual]})",
            remedy="convert it as the others are, or keep plane images and slices of volumes in separate datasets",
            split=f.split,
        )
        for f, p in known
        if p != usual
    ]


def _frames(dataset: Dataset, findings: Sequence[Findings]) -> list[Fault]:
    """Points in another frame than said, and files that name another frame than dataset.json."""
    faults = []
    placed = [f for f in findings if f.frame is not None]
    wrong = Counter((f.frame, f.other_frame, f.own_frame is not None) for f in placed if f.other_frame is not None)
    for (frame, other, own), count in wrong.items():
        members = [f for f in placed if (f.frame, f.other_frame, f.own_frame is not None) == (frame, other, own)]
        assert frame is not None and other is not None
        if count > 1 and count >= WHOLE_DATASET * len(placed):
            faults.append(frame_fault(members[0].case, frame, other, own, severity="dataset", n=count))
        else:
            faults += [frame_fault(f.case, frame, other, own, split=f.split) for f in members]
    said = dataset.description.coordinates
    disagreeing = [f for f in findings if said is not None and f.own_frame not in (None, said)]
    for own_frame in sorted({str(f.own_frame) for f in disagreeing}):
        cases = [f.case for f in disagreeing if f.own_frame == own_frame]
        faults.append(
            _of_cases(
                "dataset",
                "landmark files name another frame than dataset.json",
                cases,
                found=own_frame,
                expected=f"{said}, as coordinates in dataset.json says",
                remedy="remove coordinates from dataset.json if the files are right (they win), else export them again",
            )
        )
    return faults


def _of_cases(
    severity: Severity, problem: str, cases: Sequence[Case], *, found: str, hint: str = "", expected: str, remedy: str
) -> Fault:
    """One fault of several cases, which names the first one's file. hint: behind the names of the cases."""
    where = f"{counted(len(cases), 'case')}: {some([case.identifier for case in cases])}{hint}"
    first = cases[0]
    return Fault(severity, problem, str(first.annotation), first.identifier, f"{found} in {where}", expected, remedy)


def _names(dataset: Dataset, findings: Sequence[Findings]) -> list[Fault]:
    """Landmarks in the files that dataset.json does not list: they are ignored."""
    cases: dict[str, list[Case]] = {}
    for finding in findings:
        for name in finding.names:
            cases.setdefault(name, []).append(finding.case)
    known = dataset.landmark_names
    return [
        _of_cases(
            "warning",
            "an unknown landmark name",
            where,
            found=repr(name),
            hint=near(name, known),
            expected=f"one of {some(list(known))}",
            remedy="correct the name in the file, or add it to landmarks in dataset.json; else the point is ignored",
        )
        for name, where in sorted(cases.items())
        if name not in known
    ]


def _never_seen(dataset: Dataset, good: Sequence[Findings]) -> list[Fault]:
    """Landmarks that no usable training case shows: in no file, they are taken for misspelt; else they may be rare,
    and training goes on without them."""
    summaries = [f.summary for f in good if f.summary is not None]
    if not summaries:
        return []
    status = np.stack([summary.landmarks.status for summary in summaries])
    shown = (status == Status.PRESENT).any(axis=0).tolist()
    lacking = [name for name, seen in zip(dataset.landmark_names, shown, strict=True) if not seen]
    named = {name for f in good for name in f.names}
    listed = dataset.folder / "dataset.json"
    unheard = lacking if not any(shown) else [name for name in lacking if name not in named]
    faults = []
    if unheard:
        faults.append(
            Fault(
                "dataset",
                "landmarks that no training case shows",
                str(listed),
                found=some(unheard),
                expected="each landmark in the file of at least one usable training case",
                remedy="place their points; or correct their names, see warnings about unknown ones; or remove them "
                "from landmarks in dataset.json",
            )
        )
    counts = zip(dataset.landmark_names, (status == Status.ABSENT).sum(axis=0).tolist(), strict=True)
    rare = [
        f"{name} (absent in {absent}, unknown in {len(status) - absent} of {counted(len(status), 'case')})"
        for name, absent in counts
        if name in lacking and name not in unheard
    ]
    if rare:
        faults.append(
            Fault(
                "warning",
                "landmarks that are never present in the training cases",
                str(listed),
                found=some(rare),
                expected="each landmark present in some training cases",
                remedy="nothing, then they are predicted as unknown; or add cases that show them; or list under "
                "landmarks in dataset.json only the others",
            )
        )
    return faults


def _twins(findings: Sequence[Findings]) -> list[Fault]:
    """The same image under two names: it would be on both sides of a split."""
    same: dict[str, list[Findings]] = {}
    for finding in findings:
        if finding.digest is not None:
            same.setdefault(finding.digest, []).append(finding)
    return [
        Fault(
            "warning",
            "the same image is there under several names",
            str(twins[0].case.images[0]),
            twins[0].case.identifier,
            found=some([f"{f.case.identifier} (images{f.split})" for f in twins]),
            expected="different images",
            remedy="keep one, or give them one subject by groups in dataset.json; never train and test on it",
        )
        for twins in same.values()
        if len(twins) > 1 and len({(f.split, f.case.subject) for f in twins}) > 1
    ]
