"""The page of a real run as Chromium shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import chromium
import small_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.finished(tmp_path_factory) / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    program = chromium.executable()
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with chromium.Chromium(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_from_disk_and_asks_for_nothing(
    browser: chromium.Chromium, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width, scheme=scheme)
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_every_part_is_there_and_has_size(browser: chromium.Chromium, page: Path) -> None:
    browser.open(page, 1280)
    sections = browser.evaluate("[...document.querySelectorAll('main section')].map((s) => [s.id, s.offsetHeight])")
    heights = dict(sections)
    for name in ("findings", "reading", *small_run.TABLES, "method", "again"):
        assert heights[name] > 50, name
    broken = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert browser.evaluate("document.images.length") > 50
    assert browser.evaluate(broken) == 0
    links = "[...document.querySelectorAll('a[href^=\"#\"]')]"
    dangling = f"{links}.filter((a) => !document.getElementById(a.hash.slice(1)))"
    assert browser.evaluate(f"{dangling}.length") == 0
    assert browser.evaluate("new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size") == (
        browser.evaluate("document.querySelectorAll('[id]').length")
    )


def test_dark_is_dark_and_light_is_light(browser: chromium.Chromium, page: Path) -> None:
    brightness = "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    browser.open(page, 1280, scheme="dark")
    assert max(browser.evaluate(brightness)) < 64
    browser.open(page, 1280, scheme="light")
    assert min(browser.evaluate(brightness)) > 192


def test_without_script_the_words_and_numbers_are_the_same(browser: chromium.Chromium, page: Path) -> None:
    words = {}
    for disabled in (False, True):
        browser.call("Emulation.setScriptExecutionDisabled", value=disabled)
        try:
            browser.open(page, 1280)
            answer = browser.call("Runtime.evaluate", expression="document.querySelector('main').innerText")
        finally:
            browser.call("Emulation.setScriptExecutionDisabled", value=False)
        words[disabled] = " ".join(answer["result"]["value"].split())
    assert words[True] == words[False]
    assert f"intriguing reproduce {' '.join(small_run.NAMES)} --images 8 --nets 1 --out" in words[True]
    assert "nan" not in words[True].lower().split()


def test_it_prints_without_losing_a_table(browser: chromium.Chromium, page: Path) -> None:
    browser.open(page, 794, media="print")  # A4 at 96 pixels an inch
    hidden = "[...document.querySelectorAll('main table')].filter((t) => !t.offsetHeight).length"
    assert browser.evaluate("document.querySelectorAll('main table').length") >= 3
    assert browser.evaluate(hidden) == 0
