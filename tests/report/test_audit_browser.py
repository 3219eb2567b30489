"""The page of an audit as Chromium shows it: nothing overflows, complains or is fetched, and no warning is missed."""

import pytest
import sample_audit

import chromium
from intriguing import report
from intriguing.report import audit_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audits")
    for name, red in (("good", False), ("bad", True)):
        document, records, distances = sample_audit.sample(red=red)
        document["run"]["models"][0]["source"] = f"{'very-long-' * 12}path/net.py:build"
        report.write(folder / f"{name}.html", audit_page.build(document, records, distances=distances))
    for name, others in (("one", ()), ("three", ("penalised by its norms", "trained on adversarial examples"))):
        document, records, distances = sample_audit.certified(*others)
        report.write(folder / f"{name}.html", audit_page.build(document, records, distances=distances))
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = chromium.executable()
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with chromium.Chromium(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_never_scrolls_sideways_complains_or_calls_out(browser, pages, width, scheme):
    for name in ("good", "bad", "one", "three"):
        path = pages / f"{name}.html"
        browser.open(path, width, scheme=scheme)
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.complaints() == []
        assert browser.requests() == [path.resolve().as_uri()]


def test_that_it_is_untrustworthy_stays_in_sight_wherever_one_reads(browser, pages):
    for width in (390, 1280):
        browser.open(pages / "bad.html", width)
        # Before anything is scrolled, the verdict itself is on the screen.
        assert browser.evaluate("document.querySelector('.band .word').getBoundingClientRect().bottom < innerHeight")
        for place in ("#curve", "#fragile-9", "#again"):
            browser.evaluate(f"document.querySelector('{place}').scrollIntoView()")
            ribbon = "document.querySelector('.ribbon').getBoundingClientRect()"
            assert browser.evaluate(f"{ribbon}.bottom <= innerHeight + 1 && {ribbon}.top > 0")


def test_warnings_stand_out_from_their_ground_in_both_schemes(browser, pages):
    script = """(() => {
      const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = (e) => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return light(c); } };
      const seen = [...document.querySelectorAll(
        '.band .word, .band p, .band li, .ribbon, p.void, .strip dt, .strip b, .strip small, .checks p, .checks h3, ' +
        '.specimen dt, .specimen dd, .specimen h3 small, .tops li span, .numbers td')];
      return Math.min(...seen.map((e) => [light(getComputedStyle(e).color), ground(e)])
        .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)));
    })()"""
    for name in ("good", "bad"):
        for scheme in ("light", "dark"):
            browser.open(pages / f"{name}.html", 1280, scheme=scheme)
            # WCAG 2.2, 1.4.3: 4.5 to 1 for text of ordinary size.
            assert browser.evaluate(script) >= 4.5
