"""A model card as a page: Markdown, and one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from autolmk.bundles.card import NOT_STATED, Card, HeldOutErrors
from autolmk.escaping import lines
from autolmk.evaluation.bootstrap import MIN_CASES
from autolmk.report.blocks import Block, Facts, Section, TableBlock, Text, section
from autolmk.report.html import NOTICE
from autolmk.report.html import html_page as page
from autolmk.report.naming import model_names
from autolmk.report.wording import LEAST_CASES, NOTHING, enough, interval, level, number, sentence

BIBTEX = "autolmk_cite MODEL --bibtex prints these references for BibTeX."
COMMAND = "autolmk_predict -"
RADII = ("2", "4")  # of the table's shares
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def sections(card: Card) -> list[Section]:
    """The card's content in order."""
    use: list[Block] = [Facts(tuple(card.texts.items()))]
    if card.intended_use == NOT_STATED:
        use.append(
            Text("Whoever trained this model has not stated what it is meant for. Validate it on your own cases.")
        )
    sheet = [sheet_section(card.methods, card.reproducibility, card.references)] if card.methods else []
    return [
        section("use", "Use", use),
        section("errors", "Errors on held-out cases", [Text(sentence(card.how)), *_errors(card)]),
        section("radius", "Error radius", [_radius(card)]),
        section("training", "What it was trained on", [Facts(tuple(card.training.items()))]),
        section("limits", "What it was never shown", _limits(card)),
        section("landmarks", "Landmarks", [_landmarks(card)]),
        section("prediction", "How to predict", _prediction(card)),
        *sheet,
    ]


def sheet_section(methods: str, facts: Mapping[str, str], references: Sequence[str]) -> Section:
    """The reproducibility sheet as a section: a paragraph for a paper, versions and hashes, and what it cites."""
    cited = TableBlock("References", ("reference",), "l", tuple((one,) for one in references))
    return section("sheet", "Reproducibility", [Text(methods), Facts(tuple(facts.items())), cited, Text(BIBTEX)])


def html_page(card: Card) -> str:
    """HTML. Every text is escaped."""
    return page(title(card), sections(card), kind="model card", written=_written(card))


def markdown(card: Card) -> str:
    """Markdown, of which no part of a name or text is markup."""
    said = [f"# {_plain(title(card))}", _plain(_written(card))]
    for one in sections(card):
        said.append(f"## {one.title}")
        said += [_block(block) for block in one.blocks]
    return "\n\n".join([*said, f"---\n\n{NOTICE}"]) + "\n"


def title(card: Card) -> str:
    """The title of the card's page: the dataset, and the model as users call it."""
    return f"{card.dataset}: {model_names([card.model]).of(card.model)}"


def _written(card: Card) -> str:
    return f"Model card, written by autolmk {card.autolmk}."


# -- blocks -----------------------------------------------------------------------------------------------------------


def _errors(card: Card) -> list[Block]:
    if card.held_out is None:
        return []
    shares = tuple(f"within {radius} {card.unit}" for radius in RADII)
    head = ("landmark", "points", f"mean ({card.unit})", f"median ({card.unit})", *shares, "missing")
    rows = [_row("all", card.held_out, card.held_out_cases)]
    rows += [_row(one.name, one.errors) for one in card.landmarks]
    said = f"In brackets, 95 % intervals over cases: of means and medians from {LEAST_CASES} cases on, "
    said += f"of shares from {MIN_CASES} on."
    table = TableBlock(
        "Distance from the annotated point", head, "l" + "r" * (len(head) - 1), tuple(rows), frozenset({0})
    )
    return [table, Text(said)]


def _row(name: str, errors: HeldOutErrors | None, n_cases: int = 0) -> tuple[str, ...]:
    """n_cases: of all landmarks together. A landmark has one point a case: too few for an interval of its median."""
    if errors is None:
        return (name, "0", *[NOTHING] * 5)
    median = interval(enough(errors.median, n_cases)) if n_cases else number(errors.median.value)
    shares = [interval(errors.sdr.get(radius), share=True) for radius in RADII]
    mean = interval(enough(errors.mre, n_cases or errors.n))
    return (name, str(errors.n), mean, median, *shares, str(errors.missing))


def _radius(card: Card) -> Block:
    found = card.coverage
    if found is None:
        return Text("The model gives no error radius: autolmk_find_best_configuration measures one.")
    measured = "not measured" if found.measured is None else interval(found.measured, share=True)
    rows = (
        ("claimed coverage", level(found.claimed)),
        ("measured on held-out points", measured),
        ("held-out cases", str(found.n_cases)),
        ("in words", sentence(found.why)),
    )
    return Facts(rows)


def _limits(card: Card) -> list[Block]:
    blocks: list[Block] = []
    if card.ranges:
        blocks.append(Text("Its training images lie within these ranges; autolmk_predict flags images beyond them."))
        blocks.append(Facts(tuple(card.ranges.items())))
    return [*blocks, *(Text(text) for text in card.limits)]


def _landmarks(card: Card) -> TableBlock:
    head = ("landmark", "definition", "other side", "cases that show it", "cases that lack it")
    rows = [
        (one.name, one.definition or NOTHING, one.pair or NOTHING, _count(one.shown), _count(one.absent))
        for one in card.landmarks
    ]
    return TableBlock("As named in training", head, "lllrr", tuple(rows))


def _count(value: int | None) -> str:
    return NOTHING if value is None else str(value)


def _prediction(card: Card) -> list[Block]:
    unit = "LPS millimetres" if card.unit == "mm" else "pixels"
    return [
        Text(f"autolmk_predict -i IMAGES -o PREDICTIONS -m {card.dataset}__{card.model}.autolmk.zip"),
        Text(f"Points are in {unit}. Channels, in this order: {', '.join(card.channels)}."),
    ]


# -- Markdown ---------------------------------------------------------------------------------------------------------


def _block(block: Block) -> str:
    if isinstance(block, Facts):
        return _table(("", ""), "ll", block.rows)
    if isinstance(block, TableBlock):
        return _table(block.head, block.align, block.rows)
    if isinstance(block, Text):
        return f"    {lines(block.text)}" if block.text.startswith(COMMAND) else _plain(block.text)
    raise TypeError(f"a model card holds no {block.kind}")


def _table(head: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    marks = ["---:" if letter == "r" else "---" for letter in align]
    table = [[_plain(cell) for cell in head], marks, *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def _plain(text: str) -> str:
    """One line in which nothing is markup, also no HTML."""
    said = SPECIAL.sub(r"\\\1", " ".join(lines(text).split()))
    said = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", said)
    return re.sub(r"^([-+=])", r"\\\1", said)
