"""The page of an audit: it says first whether it can be trusted, shows what it is given, and runs none of it."""

import copy
import json
import math
import re

import pytest
import sample_audit
import torch
from outline import Outline

from intriguing.records import Record
from intriguing.report import audit_gallery, audit_numbers, audit_page, audit_pictures

_EVIL = """</script><script>alert(1)</script><img src=x onerror=alert(2)>"'&{{ 7*7 }}"""


@pytest.fixture(scope="module")
def good() -> str:
    document, records, distances = sample_audit.sample()
    return audit_page.build(document, records, distances=distances)


@pytest.fixture(scope="module")
def bad() -> str:
    document, records, distances = sample_audit.sample(red=True)
    return audit_page.build(document, records, distances=distances)


def _bare(*, red: bool = False) -> tuple[dict, dict]:
    """Return a sample without the sections that take time to draw."""
    document, records, _ = sample_audit.sample(red=red)
    return document | {"curves": [], "classes": [], "confusion": None, "layers": [], "transfer": None}, records


def _text(html: str) -> str:
    body = re.sub(r"<(script|style).*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_every_section_of_the_audit_stands_on_the_page_and_elements_nest(good):
    outline = Outline(good)
    wanted = {
        "verdict",
        "trust",
        "curve",
        "distances",
        "fragile",
        "confusion",
        "transfer",
        "layers",
        "figures",
        "again",
    }
    assert wanted <= set(outline.ids)
    assert len(set(outline.ids)) == len(outline.ids)
    assert all(parent != "p" for parent, tag in outline.parents if tag in ("p", "div", "figure", "ul", "ol", "dl"))


def test_the_page_asks_the_network_for_nothing_and_its_links_lead_somewhere(good, bad):
    for html in (good, bad):
        outline = Outline(html)
        links = [v for _, name, v in outline.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
        assert all(v.startswith(("#", "data:")) for v in links)
        assert {v[1:] for v in links if v.startswith("#")} <= set(outline.ids)
        assert "Content-Security-Policy\" content=\"default-src 'none'; img-src data:;" in html
        assert "url(http" not in html


def test_the_strip_says_accuracy_median_transfer_time_queries_and_device(good):
    strip = _text(re.search(r'<dl class="strip.*?</dl>', good, re.DOTALL)[0])
    for words in ("96.2%", "94.2–97.6", "0.41", "0.38–0.44", "0.118", "24.3%", "noise of the same size 2.1%"):
        assert words in strip
    for words in ("403", "3 min 34 s", "cpu"):
        assert words in strip


def test_a_trustworthy_audit_says_so_and_what_its_numbers_still_are(good):
    assert "Trustworthy No check shows that an attack was led astray; 1 is amber and worth a look; 1 did not run." in (
        _text(good)
    )
    assert "upper bound on the distance to the nearest mistake" in good
    assert "ntrustworthy:" not in good
    assert "not to be trusted" not in good


def test_an_untrustworthy_audit_is_impossible_to_overlook(bad):
    text = _text(bad)
    assert "<title>Untrustworthy: digits_net, audited</title>" in bad
    assert 'role="alert"' in bad
    assert "The numbers below are upper bounds that cannot be trusted" in text
    assert "On 62 of 64 images the gradient is exactly zero." in text
    # Every section whose numbers rest on an attack says it again, and one line stays in sight.
    sections = re.findall(r'<section id="(\w+)" class="exhibit">(.*?)</section>', bad, re.DOTALL)
    warned = {name for name, body in sections if "Upper bounds that cannot be trusted." in body}
    assert warned == {"curve", "distances", "fragile", "confusion", "transfer", "figures"}
    assert '<p class="ribbon"' in bad


def test_untrustworthy_numbers_are_labelled_bounds_in_the_direction_they_bound(bad):
    strip = dict(
        re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", re.search(r'<dl class="strip.*?</dl>', bad, re.DOTALL)[0])
    )
    assert "at most 0.41" in strip["median distance, L2"]
    assert "not to be trusted" in strip["median distance, L2"]
    # An attack that fails makes transfer look small; what needs no attack stands as it is.
    assert "at least 24.3%" in strip["transfer"]
    assert strip["clean accuracy"].startswith("<b>96.2%</b>")


def test_a_red_check_makes_the_page_untrustworthy_whatever_the_verdict_says():
    document, records = _bare(red=True)
    document["verdict"] = {"state": "trustworthy", "reasons": []}
    assert "<title>Untrustworthy" in audit_page.build(document, records)


@pytest.mark.parametrize("verdict", [None, {}, {"state": "fine"}])
def test_a_verdict_that_is_missing_or_unknown_is_no_trust(verdict):
    document, records = _bare()
    document["verdict"] = verdict
    assert "<title>Untrustworthy" in audit_page.build(document, records)


def test_checks_stand_with_state_number_and_sentence_the_worst_first(bad):
    listed = re.search(r'<ul class="checks">.*?</ul>', bad, re.DOTALL)[0]
    states = re.findall(r'<p class="state (\w+)">', listed)
    assert states == ["alarm", "alarm", "direction", "none", "agrees", "agrees"]
    first = _text(listed.split("</li>")[0])
    assert first == "red zero gradients On 62 of 64 images the gradient is exactly zero. 0.97 n 64"
    assert "did not run randomness Needs a model that may be called twice. —" in _text(listed)


def test_labels_names_and_paths_are_shown_and_never_run():
    document, records, distances = sample_audit.certified("other", red=True)

    def poisoned(value):
        if isinstance(value, dict):
            return {k: poisoned(v) for k, v in value.items()}
        if isinstance(value, list):
            return [poisoned(v) for v in value]
        return f"{value}{_EVIL}" if isinstance(value, str) and value not in keep else value

    keep = {"red", "green", "amber", "did not run", "trustworthy", "untrustworthy", "inf", "worst of", "2"}
    spoilt = poisoned(document)
    spoilt["figures"] = {f"{name}{_EVIL}": figure for name, figure in spoilt["figures"].items()}
    html = audit_page.build(spoilt, records, distances={_EVIL: distances["worst of"]})
    outline = Outline(html)
    assert outline.tags.count("script") == 2
    assert not any(name.startswith("on") for _, name, _ in outline.attributes)
    assert all(v.startswith("data:") for tag, name, v in outline.attributes if tag == "img" and name == "src")
    assert "alert(1)" in html
    assert "{{ 7*7 }}" in html
    embedded = re.search(r"<script type=\"application/json\" id=\"results\">(.*?)</script>", html, re.DOTALL)[1]
    assert json.loads(embedded)["run"]["models"][0]["name"] == f"digits_net{_EVIL}"


@pytest.fixture(scope="module")
def both() -> str:
    document, records, distances = sample_audit.certified("penalised", "adversarial")
    return audit_page.build(document, records, distances=distances)


def _body(html: str, ident: str) -> str:
    return re.search(rf'<section id="{ident}".*?</section>', html, re.DOTALL)[0]


def test_both_ends_come_first_as_a_picture_with_its_table_and_what_a_proof_costs(both, good):
    assert 'id="ends"' not in good
    assert "lower bound: no attack whatever finds one nearer" not in good
    assert "lower bound: no attack whatever finds one nearer" in _text(both)
    sections = re.findall(r'<section id="(\w+)" class="exhibit">', both)
    assert sections[0] == "ends"
    body = _body(both, "ends")
    assert body.index('id="ends-band"') < body.index('id="ends-cells"') < body.index('id="ends-cost"')
    text = _text(body)
    assert "the proof reaches 52% of the way for digits_net, 52% of the way for penalised and 52%" in text
    assert "The largest radius, 0.203 in the median, is proved for digits_net." in text
    assert "0.203 0.190–0.220" in text
    assert "◇ control &thinsp;0.0510" in text
    assert "by the product of the layers’ norms alone" in text
    assert "left out: crown alone took more than 60 s" in text
    assert "Both ends of penalised, quantiles" in text
    # A colour of its own for each model, in the band as in the costs; the drawing names no other.
    for colour in ("model1", "model2", "model3"):
        assert body.count(f"var(--{colour})") > 4
    assert "var(--model4)" not in body


def test_of_one_model_the_band_is_a_picture_whose_parts_are_named():
    document, records, _ = sample_audit.certified()
    document |= {"curves": [], "classes": [], "confusion": None, "transfer": None}
    html = audit_page.build(document, records)
    body = _body(html, "ends")
    for word in ("proved", "nobody knows", "found"):
        assert f">{word}</text>" in body
    assert "For half of the images the proof reaches 52% of the way or more." in _text(body)
    assert "median certified radius, L2" in re.search(r'<dl class="strip.*?</dl>', html, re.DOTALL)[0]
    assert "proved</dt> <dd>" in html


def test_layers_stand_with_bound_gain_and_share_those_that_lose_most_first(both):
    body = _body(both, "layers")
    text = _text(body)
    assert "those on top lose most" in text
    assert "features.0, convolution: 55%" in body
    assert "The layers of adversarial as numbers" in text
    assert "bound / gain share of the looseness features.0 convolution 4.31 2.1 2.052 55.0%" in text


def test_what_is_proved_needs_no_trust_and_the_ratio_is_then_a_lower_bound():
    document, records, _ = sample_audit.certified(red=True)
    document |= {"curves": [], "classes": [], "confusion": None, "transfer": None}
    html = audit_page.build(document, records)
    figures = {view.name: view.bound for view in audit_numbers.views(document["figures"])}
    assert (figures["certified_l2"], figures["certified"], figures["median_l2"]) == ("", "", "at most")
    assert figures["tightness_l2"] == "at least"
    assert audit_numbers.title("certified_accuracy_linf@8/255") == "certified accuracy at Linf 8/255"
    assert "Upper bounds that cannot be trusted." in _body(html, "ends")


def test_a_contradicted_certificate_is_shown_as_one_that_may_not_be_quoted():
    document, records, _ = sample_audit.certified()
    document |= {"curves": [], "classes": [], "confusion": None, "transfer": None}
    sentence = "For 1 of 500 images a certificate reaches beyond an example that was found."
    check = {"name": "certificates and examples", "state": "red", "value": 1.0, "n": 500, "sentence": sentence}
    html = audit_page.build(document | {"trust": [check]}, records)
    assert sentence in re.search(r'<section id="verdict".*?</section>', html, re.DOTALL)[0]
    strip = re.search(r'<dl class="strip.*?</dl>', html, re.DOTALL)[0]
    assert "perhaps 0.203" in strip
    assert "lower bound: no attack whatever" not in html


def test_certificates_that_are_damaged_or_empty_leave_the_page_standing():
    document, records, _ = sample_audit.certified()
    document |= {"curves": [], "classes": [], "confusion": None, "transfer": None}
    model = document["certificates"]["models"][0]
    for broken in ({}, {"models": []}, {"models": [{"name": "a"}]}, {"models": [{**model, "radii": [0.0]}]}):
        html = audit_page.build(document | {"certificates": broken}, records)
        assert ('id="ends"' in html) == bool(broken.get("models"))


def test_the_json_twin_is_the_document(good):
    text = re.search(r"<script type=\"application/json\" id=\"results\">(.*?)</script>", good, re.DOTALL)[1]
    assert json.loads(text) == json.loads(json.dumps(sample_audit.sample()[0]))


def test_the_gallery_shows_change_factor_answers_and_what_eight_bits_leave(good):
    first = _text(re.search(r'<article class="specimen" id="fragile-1">.*?</article>', good, re.DOTALL)[0])
    entry = sample_audit.sample()[0]["fragile"][0]
    assert f"L2 {entry['distance']:.4f}" in first
    assert "change ×20" in first
    assert "before zero 93.0% five 5.2% four 1.1%" in first
    assert "after five 49.8% zero 48.7% four 0.9%" in first
    assert "queries 240 8 bits survives" in first
    assert good.count('class="specimen"') == 20
    assert "8 bits</dt> <dd>dies" in good


def test_a_change_is_shown_around_mid_grey_in_the_models_box():
    original = torch.full((1, 1, 2, 2), 100.0)
    adversarial = original.clone()
    adversarial[0, 0, 0, 0] += 5.1
    record = Record(tensors={"fragile/original": original, "fragile/adversarial": adversarial})
    [(first, change, last)] = audit_gallery.rows({"a": record}, 1, (0.0, 255.0))
    assert first.flatten().tolist() == pytest.approx([100 / 255] * 4)
    assert audit_gallery.factor(last - first) == 20
    assert change.flatten().tolist() == pytest.approx([0.5 + 20 * 0.02, 0.5, 0.5, 0.5])


def test_images_that_are_missing_or_of_many_channels_are_said_to_have_no_picture():
    document, _ = _bare()
    stack = torch.zeros(20, 4, 8, 8)
    records = {"a": Record(tensors={"fragile/original": stack, "fragile/adversarial": stack})}
    for given in (records, {}):
        assert audit_page.build(document, given).count("no picture") == 60


def test_images_stay_within_their_budget():
    document, records = _bare()
    html = audit_page.build(document, records, image_budget=6_000)
    assert sum(map(len, re.findall(r'<img src="(data:image[^"]*)"', html))) <= 6_000


def test_infinite_medians_are_told_and_never_drawn(good):
    assert "no example found: nine." in good
    rows = re.search(r'<figure id="distances-table".*?</figure>', good, re.DOTALL)[0]
    assert re.search(r"<td>nine</td><td class=\"num\">41</td><td[^>]*>∞</td><td>0.900–∞</td>", rows)
    names = re.search(r'<table class="plain numbers">.*?</table>', good, re.DOTALL)[0]
    assert re.search(r"<code>median_l2_8bit</code></td><td class=\"num\">∞</td>", names)


@pytest.mark.parametrize("kept", [{"value": "inf"}, {"value": None, "non_finite": {"value": "inf"}}])
def test_an_infinite_figure_is_read_however_it_was_kept(kept):
    assert audit_numbers.view("median_l2", {"n": 5, "unit": "pixel units, L2", **kept}).value == "∞"


def test_the_curve_has_a_table_with_the_same_numbers(good):
    table = re.search(r'<figure id="curve-table-1".*?</figure>', good, re.DOTALL)[0]
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", table)
    assert heads == ["L2 distance", "worst of", "lbfgs", "ddn", "fmn", "gaussian"]
    row = next(r for r in re.findall(r"<tr>(.*?)</tr>", table) if r.startswith('<td class="num">0.5<'))
    curve = sample_audit.sample()[0]["curves"][0]
    at = curve["radii"].index(0.5)
    assert f"{100 * curve['robust_accuracy'][at]:.1f}% ({100 * curve['low'][at]:.1f}–" in row


def test_on_a_logarithmic_axis_radius_zero_stays_in_the_table_alone():
    radii = [0.0, 0.01, 0.1, 1.0]
    curve = {"attack": "a", "norm": "2", "radii": radii, "robust_accuracy": [1.0, 0.9, 0.5, 0.1], "n": 9}
    [(picture, [table])] = audit_pictures.curves([curve])
    assert picture["log_x"]
    assert [p["x"] for p in picture["series"][0]["points"]] == [0.01, 0.1, 1.0]
    assert [row[0] for row in table["rows"]] == ["0", "0.01", "0.1", "1"]


def test_many_classes_are_listed_and_not_drawn_as_a_matrix():
    names = [f"class {i}" for i in range(40)]
    counts = [[0] * 40 for _ in names]
    counts[3][7], counts[8][1] = 5, 9
    picture, table = audit_pictures.confusion({"classes": names, "counts": counts})
    assert picture is None
    assert table["rows"] == [["class 8", "class 1", 9], ["class 3", "class 7", 5]]


def test_classes_of_one_name_stay_apart():
    picture, _ = audit_pictures.confusion({"classes": ["cat", "cat"], "counts": [[0, 2], [1, 0]]})
    assert picture["rows"] == ["cat (0)", "cat (1)"]


def test_transfer_stands_beside_noise_of_equal_norm(good):
    table = re.search(r'<section id="transfer".*?</section>', good, re.DOTALL)[0]
    assert "31.0%" in table
    assert "noise of the same size on the same images" in table


def test_why_layers_are_not_bounded_is_said():
    document, records = _bare()
    document["layers_note"] = "The layers are not bounded: head.norm is no operation with a bound."
    html = audit_page.build(document, records)
    assert "head.norm is no operation with a bound." in html
    assert "layers" in Outline(html).ids


def test_with_several_models_the_page_says_whose_numbers_it_shows():
    document, records = _bare()
    document["run"]["models"].append({"name": "wider"})
    text = _text(audit_page.build(document, records))
    assert "digits_net and wider" in text
    assert "the numbers are those of digits_net, whose examples are fed to all" in text


def test_figures_of_other_models_are_folded_and_what_they_bound_is_known_by_their_own_name():
    document, records = _bare(red=True)
    document["run"]["models"].append({"name": "a/b"})
    document["figures"] |= {f"a/b/{name}": figure for name, figure in document["figures"].items()}
    html = audit_page.build(document, records)
    open_table, folded = re.findall(r'<table class="plain numbers">.*?</table>', html, re.DOTALL)
    assert "a/b/" not in open_table
    assert re.search(r'<tr><td><code>a/b/clean_accuracy</code></td><td class="num">96.2%', folded)
    assert re.search(r'<tr class="void"><td><code>a/b/median_l2</code></td><td class="num">at most 0.41', folded)


def test_an_audit_of_one_model_has_no_transfer_and_one_without_layers_no_bounds():
    document, records = _bare()
    ids = Outline(audit_page.build(document, records)).ids
    assert not {"transfer", "layers"} & set(ids)


@pytest.mark.parametrize("document", [{}, {"run": {}, "figures": {}, "trust": [], "curves": []}])
def test_an_empty_document_is_still_a_page_that_nobody_should_trust(document):
    html = audit_page.build(document, {})
    Outline(html)
    assert "No check ran in this audit" in html
    assert "<title>Untrustworthy" in html


def test_evenly_spaced_radii_stand_on_an_even_axis_and_curves_at_other_radii_have_tables_of_their_own():
    def curve(attack, end):
        radii = [end * i / 40 for i in range(41)]
        return {"attack": attack, "norm": "2", "radii": radii, "robust_accuracy": [0.5] * 41, "n": 9}

    [(picture, tables)] = audit_pictures.curves([curve("a", 1.0), curve("b", 1.0), curve("c", 2.0)])
    assert not picture["log_x"]
    assert [table["columns"][1:] for table in tables] == [["a", "b"], ["c"]]
    assert [len(table["rows"]) for table in tables] == [41, 41]


def test_nothing_is_changed_and_the_same_audit_gives_the_same_bytes():
    document, records = _bare()
    before = copy.deepcopy(document)
    assert audit_page.build(document, records) == audit_page.build(document, records)
    assert document == before


def test_a_median_of_nothing_and_a_class_of_nothing_are_dashes():
    document, records = _bare()
    document["classes"] = sample_audit.sample()[0]["classes"]
    document["figures"]["median_l2"] |= {"value": "nan", "low": "nan", "high": "nan", "n": 0}
    document["classes"][0] |= {"median_l2": None, "low": None, "high": None, "n": 0}
    html = audit_page.build(document, records, distances={"worst of": [math.inf]})
    assert re.search(r"<td>zero</td><td class=\"num\">0</td><td[^>]*>—</td>", html)


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (42, "42 s"), (60, "1 min 0 s"), (7260, "2 h 1 min"), (None, "")]
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert audit_numbers.duration(seconds) == text
