"""The report in a real browser: nothing fetched, nothing logged, no sideways scrolling on a phone, and it prints.

Without Chromium these tests are skipped; where the environment variable AUTOLMK_REQUIRE_BROWSER is set, as
`make verify` does, they fail.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import browser
import PIL.Image
import pytest
from report_data import write_report_data

from autolmk.cli.report import main

PAGES = re.compile(rb"/Type\s*/Page\b")
SIDEWAYS = """[...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll *, svg *') && e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.tagName + '.' + e.className)"""
MARGIN = 10  # pixels that a table may go on beyond its box without a word being cut
SHOWN = """[...document.querySelectorAll('td')].filter(e => e.textContent == 'schedule.weight_decay')[0]
    .checkVisibility({contentVisibilityAuto: true})"""


@pytest.fixture(scope="module", params=[2, 3])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_report_data(tmp_path_factory.mktemp("browsed"), ndim=request.param, n_train=7, n_test=5, size=24)
    assert main([data.name, *data.arguments]) == 0
    return data.results / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    program = browser.find()
    if program is None:
        said = "no Chromium: install Debian's package chromium"
        pytest.fail(said) if os.environ.get("AUTOLMK_REQUIRE_BROWSER") else pytest.skip(said)
    with browser.Browser(program, tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (768, False), (1280, True)])
def test_on_a_screen(chromium: browser.Browser, report: Path, width: int, dark: bool) -> None:
    chromium.events.clear()
    chromium.open(report, width=width, dark=dark)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate(SIDEWAYS) == []
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)"
    )
    said = [e["params"] for e in chromium.events if e["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled")]
    assert said == [] and not any(e["method"] == "Runtime.exceptionThrown" for e in chromium.events)
    asked = {e["params"]["request"]["url"] for e in chromium.events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {report.absolute().as_uri()}


@pytest.mark.parametrize("width", [390, 1200])
def test_tables_that_scroll_show_it(chromium: browser.Browser, report: Path, width: int) -> None:
    """At the side on which a table goes on, and only there: the shadow's colour against the paper's, in pixels."""
    chromium.open(report, width=width)
    chromium.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    tables = chromium.evaluate("""[...document.querySelectorAll('.scroll')].map(e => {
        const box = e.getBoundingClientRect();
        return [e.scrollWidth - e.clientWidth, box.right, box.bottom - (e.offsetHeight - e.clientHeight)];
    })""")
    assert len(tables) > 10
    if width == 390:
        assert any(beyond > MARGIN for beyond, *_ in tables)
    for beyond, right, bottom in tables:
        clip = {"x": right - 3, "y": bottom - 2, "width": 1, "height": 1, "scale": 1}
        shot = chromium.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        pixel = PIL.Image.open(io.BytesIO(base64.b64decode(shot))).convert("L").getpixel((0, 0))
        if beyond > MARGIN or beyond <= 0:
            assert (pixel < 225) == (beyond > 0), (beyond, pixel)


def test_pictures_are_decoded(chromium: browser.Browser, report: Path) -> None:
    chromium.open(report, width=1280)
    count = "document.querySelectorAll('svg.picture image').length"
    assert chromium.evaluate(count) >= 10
    decoded = "Promise.all([...document.querySelectorAll('svg.picture image')].map(e => e.decode())).then(() => 'all')"
    answer = chromium.call("Runtime.evaluate", expression=decoded, awaitPromise=True, returnByValue=True)
    assert answer["result"].get("value") == "all"


def test_in_print(chromium: browser.Browser, report: Path) -> None:
    """Light also where the screen is dark, what is folded away is shown, and tables keep to the paper's width."""
    chromium.open(report, width=1280, dark=True)
    pdf = chromium.pdf()
    assert pdf.startswith(b"%PDF") and 3 <= len(PAGES.findall(pdf)) <= 40
    assert chromium.evaluate(SHOWN) is False
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    chromium.call("Emulation.setEmulatedMedia", media="print", features=dark)
    chromium.call("Emulation.setDeviceMetricsOverride", width=688, height=970, deviceScaleFactor=1, mobile=False)
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.evaluate(SHOWN) is True
    assert chromium.evaluate("document.documentElement.scrollWidth") <= 688
    chromium.call("Emulation.setEmulatedMedia", media="")
