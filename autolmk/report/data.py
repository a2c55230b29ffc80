"""The dataset, and what its fingerprint says."""

from __future__ import annotations

from autolmk.errors import some
from autolmk.fingerprint import Fingerprint
from autolmk.report.blocks import Block, Facts, Fold, Section, TableBlock, Text, section
from autolmk.report.sources import Sources
from autolmk.report.wording import number, plain


def data(sources: Sources) -> Section:
    """Facts, and a table of the landmarks."""
    fingerprint = sources.fingerprint
    if fingerprint is None:
        text = "The dataset has no fingerprint yet: autolmk_plan_and_preprocess extracts it."
        return section("data", "The dataset", [Text(text, missing=True)])
    blocks: list[Block] = [
        Facts(_facts(sources, fingerprint)),
        Fold("Landmarks", (_landmarks(sources, fingerprint),), True),
    ]
    if fingerprint.failed:
        blocks.append(Text(f"Left out, because they cannot be read: {some(fingerprint.failed)}."))
    return section("data", "The dataset", blocks)


def _facts(sources: Sources, fingerprint: Fingerprint) -> tuple[tuple[str, str], ...]:
    unit, f = fingerprint.unit, fingerprint
    subjects = f"{f.n_cases} of {f.n_subjects} subjects" if f.n_subjects != f.n_cases else str(f.n_cases)
    orientations = sorted({case.orientation for case in f.cases.values()})
    oblique = sum(case.obliquity > 1 for case in f.cases.values())
    rows = [
        ("training cases", subjects),
        ("images", f"{f.ndim}D, {', '.join(f.channel_names)}"),
        ("landmarks", str(len(f.landmarks))),
        ("median spacing (z, y, x)"[: 24 if f.ndim == 3 else 14], f"{_list(f.median_spacing)} {unit}"),
        ("median size", f"{_list(f.median_shape)} voxels, {_list(f.median_extent)} {unit}"),
        ("orientations", f"{', '.join(orientations)}; {oblique} of {f.n_cases} oblique by more than 1°"),
        ("left/right pairs", ", ".join(f"{a} – {b}" for a, b in f.pairs) or "none"),
        ("spread of the shape", f"{number(f.shape_residual)} {unit} around the mean shape"),
    ]
    slices = "; ".join(", ".join(group.names) for group in f.co_slice_groups)
    rows += [("landmarks on one slice", slices)] if slices else []
    for name, channel in zip(f.channel_names, f.intensity, strict=True):
        said = f"median {number(channel.median)}, 0.5 to 99.5 %: {number(channel.percentile_00_5)} to "
        rows.append((f"intensity of {name}", said + number(channel.percentile_99_5)))
    description = sources.description
    known = (
        [("licence", description.licence or description.license), ("reference", description.reference)]
        if (description)
        else []
    )
    return (*rows, *((name, plain(value)) for name, value in known if value))


def _list(values: tuple[float, ...]) -> str:
    return " × ".join(map(number, values))


def _landmarks(sources: Sources, fingerprint: Fingerprint) -> TableBlock:
    known = (sources.description.landmarks if sources.description else None) or {}
    defined = any(d.definition for d in known.values())
    rows = []
    for name in fingerprint.landmarks:
        found = fingerprint.landmark_statistics[name]
        row = [name, str(found.n_present), str(found.n_absent), str(found.n_unknown)]
        definition = known[name].definition if name in known else None
        rows.append((*row, definition or "") if defined else tuple(row))
    head = ("landmark", "present", "absent", "unknown", *(("definition",) if defined else ()))
    return TableBlock("How many training cases show each landmark", head, "lrrr" + "l" * defined, tuple(rows))
