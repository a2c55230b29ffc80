"""The choices made and why: configurations and ensembles compared, combination, postprocessing, error radius."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autolmk.errors import counted
from autolmk.evaluation.bootstrap import Estimate
from autolmk.report.blocks import Block, Facts, Figure, Fold, Section, TableBlock, Text, section
from autolmk.report.charts import ChartRow, axis, whiskers
from autolmk.report.sources import FIND_BEST, Sources
from autolmk.report.wording import (
    CLOSE,
    NOTHING,
    as_number,
    enough,
    estimate,
    interval,
    level,
    number,
    p_value,
    plain,
    sentence,
    whiskers_are,
)


def choice(sources: Sources) -> Section:
    """The section on choices, from inference_information.json; what that leaves out is left out here."""
    title, known = "What was chosen, and why", sources.information
    if known is None:
        text = f"No configuration was chosen yet: {FIND_BEST} compares the trained ones on held-out cases."
        return section("choice", title, [Text(text, missing=True)])
    blocks: list[Block] = [Facts(_facts(known, sources))]
    if known.get("why"):
        blocks.append(Text(sentence(sources.names.within(str(known["why"])))))
    candidates = _candidates(known, sources)
    if candidates:
        chosen = str(known.get("chosen", ""))
        blocks += [*_comparison(candidates, chosen, sources), *_losses(candidates, chosen, sources)]
    else:
        blocks.append(Text("The record of the choice lists no candidates.", missing=True))
    if known.get("combination"):
        facts = _combination(known["combination"], sources.unit)
        blocks += [Text("How the members are combined, and what speaks for it:"), Facts(facts)]
    blocks += _postprocessing(known.get("postprocessing"), sources.unit)
    return section("choice", title, blocks)


def _candidates(known: Mapping[str, Any], sources: Sources) -> dict[str, dict[str, Any]]:
    """By name, least error first. The chosen one has the estimates of its evaluation where they are of the same
    predictions: the page states one interval for one quantity."""
    found = {str(k): dict(v) for k, v in _object(known, "candidates").items() if isinstance(v, Mapping)}
    one, results = found.get(str(known.get("chosen"))), sources.held_out
    if one is not None and results is not None and sources.final is not None:
        scores = results.evaluation.overall
        for key, evaluated in (("mre", scores.mre), ("median", scores.median)):
            if _same(estimate(one.get(key)), evaluated):
                one[key] = vars(evaluated)
        shares = _object(one, "sdr")
        same = {r: vars(e) for r, e in scores.sdr.items() if _same(estimate(shares.get(r)), e)}
        one["sdr"] = {**shares, **same}
    return {name: found[name] for name in sorted(found, key=lambda name: _value(found[name], "mre"))}


def _same(one: Estimate | None, other: Estimate) -> bool:
    """Whether two estimates are of one quantity: they have the same value."""
    if one is None or one.value is None or other.value is None:
        return False
    return math.isclose(one.value, other.value, rel_tol=1e-6)


def _facts(known: Mapping[str, Any], sources: Sources) -> tuple[tuple[str, str], ...]:
    rows = [("chosen", sources.names.of(plain(known.get("chosen"))))]
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


def _comparison(candidates: Mapping[str, Mapping[str, Any]], chosen: str, sources: Sources) -> list[Block]:
    """A table of errors, and one of shares, folded away: together they would be wider than the page."""
    unit, cases = sources.unit, as_number((sources.information or {}).get("n_cases"))
    several = len(candidates) > 1
    rows = []
    for name, found in candidates.items():
        row = [sources.names.of(name), _size(found)]
        row += [interval(enough(estimate(found.get(key)), cases)) for key in ("mre", "median")]
        if several:
            row.append(interval(enough(estimate(found.get("loss_against_best")), cases), share=True))
            row += [p_value(as_number(found.get("p"))), p_value(as_number(found.get("p_holm")))]
        rows.append((*row, plain(found.get("swaps"))))
    against = ("loss against the best", "p", "p (Holm)") if several else ()
    head = ("candidate", "size", f"MRE ({unit})", f"median ({unit})", *against, "swapped")
    strong = frozenset([list(candidates).index(chosen)] if chosen in candidates else [])
    caption = "Candidates on the held-out cases, before postprocessing"
    caption += ", least error first; the chosen one is stressed" if several else ""
    table = TableBlock(caption, head, "ll" + "r" * (len(head) - 2), tuple(rows), strong)
    return [table, *_shares(candidates, strong, sources)]


def _shares(candidates: Mapping[str, Mapping[str, Any]], strong: frozenset[int], sources: Sources) -> list[Block]:
    radii = list(dict.fromkeys(r for c in candidates.values() for r in _object(c, "sdr")))
    if not radii or len(candidates) < 2:
        return []
    rows = [
        (sources.names.of(name), *(interval(estimate(_object(c, "sdr").get(r)), share=True) for r in radii))
        for name, c in candidates.items()
    ]
    head = ("candidate", *(f"{r} {sources.unit}" for r in radii))
    title = "Successful detection rates of the candidates"
    table = TableBlock("Share of points at most that far off", head, "l" + "r" * len(radii), tuple(rows), strong)
    return [Fold(title, (table,), hidden=True)]


def _size(candidate: Mapping[str, Any]) -> str:
    """How many models, stages and parameters it has, as far as they are known."""
    members, stages = candidate.get("members"), as_number(candidate.get("n_stages"))
    parameters = as_number(candidate.get("parameters"))
    parts = [counted(len(members), "model")] if isinstance(members, list) else []
    parts += [counted(int(stages), "stage")] if stages is not None else []
    parts += [f"{parameters / 1e6:.2f}{CLOSE}M parameters"] if parameters is not None else []
    return ", ".join(parts) or NOTHING


def _losses(candidates: Mapping[str, Mapping[str, Any]], chosen: str, sources: Sources) -> list[Figure]:
    """A chart, where there is something to compare."""
    cases = as_number((sources.information or {}).get("n_cases"))
    found = {name: enough(estimate(c.get("mre")), cases) for name, c in candidates.items()}
    rows = [ChartRow(sources.names.of(name), (value,), name == chosen) for name, value in found.items()]
    shown = [v for e in found.values() if e for v in (e.value, e.low, e.high) if v is not None]
    if len(shown) < 1 or len(rows) < 2:
        return []
    said = f"Mean radial error of each candidate{whiskers_are(found.values())}."
    x = axis(f"mean radial error ({sources.unit})", shown)
    return [Figure(said, whiskers(rows, ["MRE"], x, f"Dots with whiskers. {said}"))]


def _postprocessing(steps: Any, unit: str) -> list[Block]:
    known = [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, list) else []
    if not known:
        return [Text("No step of postprocessing was tried.")] if isinstance(steps, list) else []
    measures = {"mre": f"mean error ({unit})", "accuracy": "right decisions on presence"}
    rows = []
    for step in known:
        kept, measure = step.get("kept"), str(step.get("measure") or "mre")
        without, after = (_evidence(step.get(key), share=measure == "accuracy") for key in ("without", "with"))
        said = "kept" if kept is True else "dropped" if kept is False else plain(kept)
        judged = measures.get(measure, measure) if (without, after) != (NOTHING, NOTHING) else NOTHING
        rows.append((plain(step.get("name")).replace("_", " "), said, judged, without, after, plain(step.get("why"))))
    strong = frozenset(i for i, step in enumerate(known) if step.get("kept") is True)
    head = ("step", "", "judged by", "without", "with", "why")
    return [TableBlock("Postprocessing: each step on held-out cases", head, "lllrrl", tuple(rows), strong)]


def _evidence(value: Any, *, share: bool) -> str:
    found = estimate(value)
    if found is not None:
        return interval(found, share=share)
    if isinstance(value, Mapping):
        parts = {key: estimate(v) for key, v in value.items()}
        return ", ".join(f"{k} {interval(e) if e else plain(value[k])}" for k, e in parts.items())
    return plain(value)


def _combination(value: Any, unit: str) -> tuple[tuple[str, str], ...]:
    """The rule, why, and the errors of each rule."""
    rows = _flat(value)
    words = {"mre": f"mean error ({unit})", "case_mean": f"mean of the cases' mean errors ({unit})"}
    return tuple((", ".join(words.get(part, part) for part in key.split(", ")), said) for key, said in rows)


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
