"""The choices made and why: configurations and ensembles compared, combination, postprocessing, error radius."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autolmk.errors import counted
from autolmk.report.blocks import Block, Facts, Figure, Section, TableBlock, Text, section
from autolmk.report.charts import ChartRow, axis, whiskers
from autolmk.report.sources import FIND_BEST, Sources
from autolmk.report.wording import (
    CLOSE,
    NOTHING,
    as_number,
    estimate,
    interval,
    level,
    number,
    p_value,
    plain,
    sentence,
)


def choice(sources: Sources) -> Section:
    """The section on choices, from inference_information.json; what that leaves out is left out here."""
    title, known = "What was chosen, and why", sources.information
    if known is None:
        text = f"No configuration was chosen yet: {FIND_BEST} compares the trained ones on held-out cases."
        return section("choice", title, [Text(text, missing=True)])
    blocks: list[Block] = [Facts(_facts(known, sources))]
    if known.get("why"):
        blocks.append(Text(sentence(str(known["why"]))))
    candidates = {k: v for k, v in _object(known, "candidates").items() if isinstance(v, Mapping)}
    if candidates:
        chosen = str(known.get("chosen", ""))
        blocks += [_comparison(candidates, chosen, sources.unit), *_losses(candidates, chosen)]
    else:
        blocks.append(Text("The record of the choice lists no candidates.", missing=True))
    if known.get("combination"):
        facts = _flat(known["combination"])
        blocks += [Text("How the members are combined, and what speaks for it:"), Facts(facts)]
    blocks += _postprocessing(known.get("postprocessing"), sources.unit)
    return section("choice", title, blocks)


def _facts(known: Mapping[str, Any], sources: Sources) -> tuple[tuple[str, str], ...]:
    rows = [("chosen", plain(known.get("chosen")))]
    chosen = _object(known, "candidates").get(str(known.get("chosen")))
    if isinstance(chosen, Mapping) and chosen.get("members"):
        rows.append(("its members", plain(chosen["members"])))
    if known.get("folds") is not None:
        folds = known["folds"]
        rows.append(("folds", ", ".join(map(str, folds)) if isinstance(folds, list) else plain(folds)))
    if known.get("n_cases") is not None:
        rows.append(("held-out cases", plain(known["n_cases"])))
    radius = _object(known, "error_radius")
    if radius:
        claimed, median = level(as_number(radius.get("level"))), as_number(radius.get("median_radius"))
        said = f"{claimed}, median {number(median)} {sources.unit}"
        rows.append(("error radius", said if median is not None else f"none is given at {claimed}"))
    return tuple(rows)


def _comparison(candidates: Mapping[str, Mapping[str, Any]], chosen: str, unit: str) -> TableBlock:
    radii = list(dict.fromkeys(r for c in candidates.values() for r in _object(c, "sdr")))
    order = sorted(candidates, key=lambda name: _value(candidates[name], "mre"))
    rows = []
    for name in order:
        found = candidates[name]
        row = [name, _size(found), interval(estimate(found.get("mre"))), interval(estimate(found.get("median")))]
        row += [interval(estimate(found.get("loss_against_best")), share=True)]
        row += [p_value(as_number(found.get("p"))), p_value(as_number(found.get("p_holm"))), plain(found.get("swaps"))]
        rows.append((*row, *(interval(estimate(_object(found, "sdr").get(r)), share=True) for r in radii)))
    head = [
        "candidate",
        "size",
        f"MRE ({unit})",
        f"median ({unit})",
        "loss against the best",
        "p",
        "p (Holm)",
        "swapped",
    ]
    head += [f"SDR {r} {unit}" for r in radii]
    caption = "Candidates on the held-out cases, least error first; the chosen one is stressed"
    strong = frozenset([order.index(chosen)] if chosen in order else [])
    return TableBlock(caption, tuple(head), "ll" + "r" * (len(head) - 2), tuple(rows), strong)


def _size(candidate: Mapping[str, Any]) -> str:
    """How many models, stages and parameters it has, as far as they are known."""
    members, stages = candidate.get("members"), as_number(candidate.get("n_stages"))
    parameters = as_number(candidate.get("parameters"))
    parts = [counted(len(members), "model")] if isinstance(members, list) else []
    parts += [counted(int(stages), "stage")] if stages is not None else []
    parts += [f"{parameters / 1e6:.2f}{CLOSE}M parameters"] if parameters is not None else []
    return ", ".join(parts) or NOTHING


def _losses(candidates: Mapping[str, Mapping[str, Any]], chosen: str) -> list[Figure]:
    order = sorted(candidates, key=lambda name: _value(candidates[name], "mre"))
    rows = [ChartRow(name, (estimate(candidates[name].get("mre")),), name == chosen) for name in order]
    shown = [v for row in rows for e in row.values if e for v in (e.value, e.low, e.high) if v is not None]
    if not shown:
        return []
    said = "Mean radial error of each candidate with its 95 % interval over cases."
    return [Figure(said, whiskers(rows, ["MRE"], axis("mean radial error", shown), f"Dots with whiskers. {said}"))]


def _postprocessing(steps: Any, unit: str) -> list[Block]:
    known = [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, list) else []
    if not known:
        return [Text("No step of postprocessing was tried.")] if isinstance(steps, list) else []
    rows = []
    for step in known:
        kept = step.get("kept")
        without, after = (_evidence(step.get(key)) for key in ("without", "with"))
        said = "kept" if kept is True else "dropped" if kept is False else plain(kept)
        rows.append((plain(step.get("name")), said, without, after, plain(step.get("why"))))
    caption = f"Postprocessing: each step with and without, on held-out cases (errors in {unit})"
    strong = frozenset(i for i, step in enumerate(known) if step.get("kept") is True)
    return [TableBlock(caption, ("step", "", "without", "with", "why"), "lllll", tuple(rows), strong)]


def _evidence(value: Any) -> str:
    found = estimate(value)
    if found is not None:
        return interval(found)
    if isinstance(value, Mapping):
        parts = {key: estimate(v) for key, v in value.items()}
        return ", ".join(f"{k} {interval(e) if e else plain(value[k])}" for k, e in parts.items())
    return plain(value)


def _flat(value: Any, path: str = "") -> tuple[tuple[str, str], ...]:
    """Nested evidence as names and values."""
    if isinstance(value, Mapping) and estimate(value) is None:
        return tuple(row for k, v in value.items() for row in _flat(v, f"{path}, {k}" if path else str(k)))
    found = estimate(value) if isinstance(value, Mapping) else None
    return ((path or "evidence", interval(found) if found else plain(value)),)


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _value(candidate: Mapping[str, Any], key: str) -> float:
    found = estimate(candidate.get(key))
    return float("inf") if found is None or found.value is None else found.value
