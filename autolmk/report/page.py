"""The report, section by section."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import autolmk
from autolmk.files.serialization import write_bytes
from autolmk.progress_bars import tracked
from autolmk.report.accuracy import accuracy
from autolmk.report.annotation_doubts import FOLDER, write_doubts
from autolmk.report.blocks import Section
from autolmk.report.cases import worst
from autolmk.report.choice import choice
from autolmk.report.data import data
from autolmk.report.html import html_page
from autolmk.report.learning import learning
from autolmk.report.measuring import measuring
from autolmk.report.planning import planning
from autolmk.report.reliability import reliability
from autolmk.report.reviewing import reviewing
from autolmk.report.sources import Sources
from autolmk.report.suspicions import find_doubts, suspicions
from autolmk.report.wording import CLOSE, enough, interval, plain


def write_report(file: Path, sources: Sources, *, progress: bool = True, more: Sequence[Section] = ()) -> list[Path]:
    """Write the report, and suspected_annotation_errors/CASE.mrk.json beside it; the files that were written.

    more: sections that follow the report's own. AutolmkError where an image cannot be read or the disk refuses.
    """
    found = find_doubts(sources)
    steps: dict[str, Callable[[], Section | None]] = {
        "choice": lambda: choice(sources),
        "accuracy": lambda: accuracy(sources),
        "reliability": lambda: reliability(sources),
        "measurements": lambda: measuring(sources),
        "review": lambda: reviewing(sources),
        "worst cases": lambda: worst(sources, progress=progress),
        "annotations": lambda: suspicions(sources, found, progress=progress),
        "dataset": lambda: data(sources),
        "plans": lambda: planning(sources),
        "learning curves": lambda: learning(sources),
    }
    sections = []
    for step in tracked(steps.values(), "report", unit="section", shown=progress):
        made = step()
        if made is not None:
            sections.append(made)
    sections += more
    written = f"Report of autolmk {autolmk.__version__}, {time.strftime('%Y-%m-%d %H:%M')}."
    page = html_page(sources.name, sections, kind="autolmk report", written=written, cards=_cards(sources))
    write_bytes(file, page.encode())
    doubted = () if isinstance(found, str) else found
    return [file, *write_doubts(file.parent / FOLDER, doubted, unit=sources.unit)]


def _cards(sources: Sources) -> list[tuple[str, str]]:
    """The figures that a reader looks for first."""
    cards = []
    if sources.fingerprint is not None:
        cards.append(("training cases", str(sources.fingerprint.n_cases)))
        cards.append(("landmarks", str(len(sources.fingerprint.landmarks))))
    for results in sources.results:
        scores, unit = results.evaluation.overall, sources.unit
        cards.append(
            (
                f"mean radial error, {results.name}",
                f"{interval(enough(scores.mre, results.evaluation.n_cases))}{CLOSE}{unit}",
            )
        )
    if sources.information and sources.information.get("chosen"):
        cards.append(("chosen", sources.names.of(plain(sources.information["chosen"]))))
    return cards
