"""The page as Chromium shows it: nothing overflows, nothing complains, nothing is fetched."""

import pytest
import sample_run

import chromium
from intriguing import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    study, results, records = sample_run.sample()
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.write(path, report.build(study, results, records, command=sample_run.COMMAND))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = chromium.executable()
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with chromium.Chromium(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 375, 390, 768, 1280, 1400])
def test_the_page_never_scrolls_sideways_complains_or_calls_out(browser, page, width, scheme):
    browser.open(page, width, scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]


def test_text_stands_out_from_its_ground_in_both_schemes(browser, page):
    script = """(() => {
      const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = light(getComputedStyle(document.body).backgroundColor);
      const seen = [...document.querySelectorAll("main p, main small, main td .value, main th, main dt, main li")];
      return Math.min(...seen.map((e) => light(getComputedStyle(e).color))
        .map((v) => (Math.max(v, ground) + 0.05) / (Math.min(v, ground) + 0.05)));
    })()"""
    for scheme in ("light", "dark"):
        browser.open(page, 1280, scheme=scheme)
        # WCAG 2.2, 1.4.3: 4.5 to 1 for text of ordinary size.
        assert browser.evaluate(script) >= 4.5


def test_one_of_the_two_drawings_of_a_chart_is_shown(browser, page):
    for width, shown, hidden in ((390, "narrow", "wide"), (1280, "wide", "narrow")):
        browser.open(page, width)
        heights = "[...document.querySelectorAll('.when-%s')].map((e) => e.offsetHeight)"
        assert all(browser.evaluate(heights % shown))
        assert not any(browser.evaluate(heights % hidden))


def test_a_verdict_filter_dims_the_other_cells_and_lets_go(browser, page):
    browser.open(page, 1280)
    button = "document.querySelector('#table-1 .tally button[data-verdict=differs]')"
    dimmed = "document.querySelectorAll('#table-1-cells td.dim').length"
    rest = "document.querySelectorAll('#table-1-cells td[data-verdict]:not([data-verdict=differs])').length"
    assert browser.evaluate(dimmed) == 0
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(dimmed) == browser.evaluate(rest) > 0
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(dimmed) == 0


def test_the_pointer_lights_its_row_and_column(browser, page):
    browser.open(page, 1280)
    over = "new PointerEvent('pointerover', {bubbles: true})"
    browser.evaluate(f"document.querySelector('#table-1-cells td.ours').dispatchEvent({over})")
    assert browser.evaluate("document.querySelectorAll('#table-1-cells tr.lit').length") == 1
    assert browser.evaluate("document.querySelectorAll('#table-1-cells td.lit').length") == 12


def test_everything_is_readable_without_script(browser, page):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, 1280)
        words = browser.call("Runtime.evaluate", expression="document.body.innerText", returnByValue=True)["result"][
            "value"
        ]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    for text in ("14 agrees", "6.63–6.83", "Where this comes from", "ours 0.055", "Contents", sample_run.COMMAND):
        assert text in " ".join(words.split())


def test_the_first_click_leads_to_a_functions_entry_and_its_source_opens(browser, page):
    # A busy browser scrolls to the entry before the page hears of it and opens what leads there; here it always does.
    late = """const listen = window.addEventListener;
      window.addEventListener = (type, heard) => listen(type, (event) => setTimeout(heard, 100, event))"""
    added = browser.call("Page.addScriptToEvaluateOnNewDocument", source=late)
    browser.open(page, 1280)
    browser.call("Page.removeScriptToEvaluateOnNewDocument", **added)
    assert browser.evaluate("document.querySelectorAll('.function details[open]').length") == 0
    browser.evaluate("document.querySelector('#figure-1 figure.cards .made a').click()")
    entry = "document.querySelector(':target')"
    assert browser.evaluate(f"{entry}.className") == "function"
    assert browser.evaluate(f"{entry}.id") == "code-intriguing.report.images-encode"
    browser.evaluate("new Promise((done) => setTimeout(done, 300))")
    assert browser.evaluate(f"{entry}.querySelector('details').open")
    assert browser.evaluate(f"{entry}.querySelector('pre').innerText.includes('def encode(')")
    assert browser.evaluate(f"{entry}.getBoundingClientRect().top") < 200


def test_the_list_of_contents_is_at_hand_everywhere_and_closes_when_used(browser, page):
    for width in (390, 1280):
        browser.open(page, width)
        browser.evaluate("document.querySelector('#erratum-E7').scrollIntoView()")
        summary = "document.querySelector('.toc > summary')"
        assert 0 <= browser.evaluate(f"{summary}.getBoundingClientRect().top") < 30
        browser.evaluate(f"{summary}.click()")
        listed = browser.evaluate("[...document.querySelectorAll('.toc nav a')].map((a) => a.hash)")
        sections = browser.evaluate("[...document.querySelectorAll('main > .exhibit')].map((s) => '#' + s.id)")
        assert set(sections) <= set(listed)
        box = "document.querySelector('.toc nav').getBoundingClientRect()"
        assert browser.evaluate(f"{box}.height") > 300
        assert browser.evaluate(f"{box}.right") <= width
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        browser.evaluate("document.querySelector('.toc nav a[href=\"#table-1\"]').click()")
        assert browser.evaluate("document.querySelector('.toc').open") is False
        assert browser.evaluate("document.querySelector('#table-1').getBoundingClientRect().top") < 120


def test_photographs_are_smooth_and_large_and_digits_have_hard_pixels(browser, page):
    shown = """[...document.querySelectorAll('%s img')].map((i) =>
      [getComputedStyle(i).imageRendering, i.offsetWidth, i.offsetHeight, i.complete && i.naturalWidth])"""
    for width in (390, 1280):
        browser.open(page, width)
        photographs = browser.evaluate(shown % "#figure-5")
        digits = browser.evaluate(shown % "#figure-1 .top")
        assert {rendering for rendering, *_ in photographs} == {"auto"}
        assert {rendering for rendering, *_ in digits} == {"pixelated"}
        assert all(natural == 112 and w >= 70 and abs(w - h) <= 1 for _, w, h, natural in photographs)
        assert all(natural == 8 and w >= 56 for _, w, _, natural in digits)


def test_charts_keep_their_texts_readable_and_within_the_page(browser, page):
    script = """[...document.querySelectorAll('.lines svg.chart')].filter((s) => s.getClientRects().length).map((s) => {
      const texts = [...s.querySelectorAll('text')].map((t) => t.getBoundingClientRect());
      const right = s.getBoundingClientRect().right;
      return [Math.min(...texts.map((t) => t.height)), Math.max(...texts.map((t) => t.right)) - right];
    })"""
    for width in (375, 1280):
        browser.open(page, width)
        found = browser.evaluate(script)
        assert len(found) == 2
        for height, beyond in found:
            assert height >= 9
            assert beyond <= 2
