"""Sections as one HTML file that needs nothing else: no network, no script. Reports and model cards are such pages."""

from __future__ import annotations

from collections.abc import Sequence

from autolmk.escaping import html
from autolmk.report.blocks import Section

TEMPLATE = "page.html"
NOTICE = "autolmk is research software, no medical device."


def html_page(
    title: str, sections: Sequence[Section], *, kind: str, written: str, cards: Sequence[tuple[str, str]] = ()
) -> str:
    """HTML of a page. Every text is escaped; only the charts' SVG, which is built as XML, goes in as it is.

    kind: of page, in words. written: when and by what. cards: names and values that a reader looks for first.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("autolmk.report"),
        autoescape=True,
        finalize=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=title, kind=kind, written=written, notice=NOTICE, cards=cards, sections=sections
    )
