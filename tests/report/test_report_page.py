import base64
import dataclasses
import hashlib
import json
import math
import os
import re

import pytest
import sample_run
import torch
from outline import Outline

from intriguing import report
from intriguing.errors import StoreError
from intriguing.records import Record
from intriguing.report import page
from intriguing.studies.spec import Exhibit, Study

_EVIL = """</script><script>alert(1)</script><img src=x onerror=alert(2)>"'&{{ 7*7 }}"""


@pytest.fixture(scope="module")
def html() -> str:
    study, results, records = sample_run.sample()
    return report.build(study, results, records, command=sample_run.COMMAND)


def test_elements_nest_and_ids_are_unique(html):
    outline = Outline(html)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {"table-1", "table-2", "figure-7"} <= set(outline.ids)
    assert '<section id="table-1"' in html
    assert all(parent != "p" for parent, tag in outline.parents if tag in ("p", "div", "figure", "ul", "ol", "dl"))


def test_nothing_is_asked_of_the_network(html):
    outline = Outline(html)
    links = [v for _, name, v in outline.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert links
    assert all(v.startswith(("#", "data:")) for v in links)
    assert "url(http" not in html
    assert "@import" not in html
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'; img-src data:;", html)


def test_every_anchor_leads_somewhere(html):
    outline = Outline(html)
    targets = {v[1:] for _, name, v in outline.attributes if name in ("href", "xlink:href") and v.startswith("#")}
    assert targets <= set(outline.ids)


def test_printed_and_measured_stand_side_by_side(html):
    row = re.search(r"<tr><th scope=\"row\">FC10\(1e-4\)</th>(.*?)</tr>", html, re.DOTALL)[1]
    ours, paper = re.findall(r"<td class=\"(?:ours|paper)\".*?</td>", row, re.DOTALL)[:2]
    assert "6.73%" in ours
    assert "6.63–6.83" in ours
    assert "n 60,000" in ours
    assert "6.7%" in paper
    assert ">s</sup>" in paper
    assert "agrees" in paper


def test_findings_rule_marks_method_command_and_seeds_are_said(html):
    _, _, records = sample_run.sample()
    for finding in records["table-1"].values["findings"]:
        assert finding in html
    for words in (
        "half its last digit",
        "second-hand",
        "from memory",
        "How it was measured",
        sample_run.COMMAND,
        "2.13.0",
        "0, 1, 2, 3, 4",
        "3f1c9b0e5a7d42c8b6e1f0a9d8c7b6a5",
        "sample_run:STUDY",
        "intriguing.experiments.transfer:transfer",
        "Not in this run: Table 4",
    ):
        assert words in html


def test_the_summary_counts_the_verdicts_in_words(html):
    assert "Of the 76 printed numbers that this run measured again, " in html
    assert " agree, " in html


def test_the_data_are_embedded_as_json(html):
    _, results, _ = sample_run.sample()
    text = re.search(r"<script type=\"application/json\" id=\"results\">(.*?)</script>", html, re.DOTALL)[1]
    assert json.loads(text) == json.loads(json.dumps(results))


def test_the_same_run_gives_the_same_bytes(html):
    study, results, records = sample_run.sample()
    assert report.build(study, results, records, command=sample_run.COMMAND) == html


def test_untrusted_texts_are_shown_and_never_run():
    study, results, records = sample_run.sample()
    cells = [
        {
            **c,
            "row": _EVIL,
            "note": _EVIL,
            "mark": _EVIL,
            "verdict": _EVIL,
            "code": _EVIL,
            "unit": _EVIL,
            "control": {"label": _EVIL, "measured": 0.1},
        }
        for c in results["cells"][:2]
    ]
    figures = [
        {"kind": "distribution", "title": _EVIL, "x": _EVIL, "series": [{"label": _EVIL, "values": [1.0, 2.0]}]},
        {"kind": "heatmap", "rows": [_EVIL], "columns": [_EVIL], "values": [[0.5]], "row_label": _EVIL},
        {"kind": "interval", "rows": [{"label": _EVIL, "measured": 1.0}]},
        {"kind": "lines", "x": _EVIL, "y": _EVIL, "series": [{"label": _EVIL, "points": [{"x": 1, "y": 1}]}]},
        {
            "kind": "cards",
            "cards": [
                {
                    "title": _EVIL,
                    "note": _EVIL,
                    "facts": [[_EVIL, _EVIL]],
                    "images": [{"tensor": "original", "index": 0, "label": _EVIL}],
                    "histogram": {"edges": [0, 1], "counts": [1], "x": _EVIL},
                }
            ],
        },
        {"kind": _EVIL, "caption": _EVIL},
        {
            "kind": "gallery",
            "groups": [
                {
                    "title": _EVIL,
                    "columns": [_EVIL],
                    "rows": [{"label": _EVIL, "images": [{"tensor": "original", "index": 0}]}],
                }
            ],
        },
    ]
    extra = [{"id": _EVIL, "title": _EVIL, "columns": [_EVIL], "rows": [[_EVIL]]}]
    values = {"figures": figures, "tables": extra, "notes": [_EVIL], "findings": [_EVIL]}
    records = {**records, "table-1": Record(values, records["figure-7"].tensors)}
    results = {
        **results,
        "cells": [*cells, *results["cells"]],
        "run": {"settings": {_EVIL: _EVIL}, "hashes": {"x": _EVIL}},
    }
    html = report.build(study, results, records, command=_EVIL)
    outline = Outline(html)
    assert outline.tags.count("script") == 2
    assert not [a for a in outline.attributes if a[1].startswith("on")]
    assert not [a for a in outline.attributes if a == ("img", "src", "x")]
    assert "49" not in re.findall(r"&#39;&amp;(.{0,12})", html)
    assert "{{ 7*7 }}" in html


def test_the_script_that_runs_is_the_one_the_policy_names(html):
    allowed = re.search(r"script-src 'sha256-([^']*)'", html)[1]
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[0]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == allowed


def test_an_empty_run_is_still_a_page():
    html = report.build(sample_run.STUDY, {"schema": 1, "run": {}, "cells": []}, {}, command="intriguing reproduce")
    Outline(html)
    assert "11 more are not in this run" in html
    assert "Figure 1, Table 1, Table 2, Figure 7, Table 4" in html


def test_missing_numbers_and_pictures_leave_dashes_and_words():
    study, results, records = sample_run.sample()
    holes = [dict(c) for c in results["cells"][:5]]
    holes[0].update(measured=None, low=None, high=None, n=None, printed=None)
    holes[1].update(measured=math.nan, low=math.nan, high=math.nan)
    holes[2].update(measured=math.inf, high=math.inf)
    gallery = {
        "kind": "gallery",
        "groups": [
            {"columns": ["a", "b"], "rows": [{"label": "7", "images": [{"tensor": "gone", "index": 0}, None]}]},
            {},
        ],
    }
    figures = [gallery, {"kind": "gallery"}, {"kind": "distribution"}, {"kind": "unknown"}, {}]
    records = {"table-1": Record({"figures": figures, "notes": None, "tables": [{}]})}
    html = report.build(study, {**results, "cells": holes}, records, command="c")
    Outline(html)
    assert "no picture" in html
    assert "nothing to draw" in html
    assert "∞" in html
    text = re.search(r"id=\"results\">(.*?)</script>", html, re.DOTALL)[1]
    assert json.loads(text)["cells"][1]["measured"] is None


def test_cells_of_a_table_the_study_does_not_state_are_shown_all_the_same():
    study, results, _ = sample_run.sample()
    cell = {**results["cells"][0], "table": "table-9"}
    html = report.build(study, {**results, "cells": [cell]}, {}, command="c")
    assert '<section id="table-9"' in html


def test_images_stay_within_their_budget():
    generator = torch.Generator().manual_seed(0)
    tensors = {"a": torch.rand(45, 3, 200, 200, generator=generator)}
    rows = [{"label": str(i), "images": [{"tensor": "a", "index": 3 * i + j} for j in range(3)]} for i in range(30)]
    gallery = {"kind": "gallery", "groups": [{"columns": ["x", "y", "z"], "rows": rows}]}
    records = {"figure-7": Record({"figures": [gallery]}, tensors)}
    html = report.build(sample_run.STUDY, {"cells": []}, records, command="c", image_budget=1_000_000)
    pictures = sum(len(uri) for uri in re.findall(r"data:image/[a-z]*;base64,[^\"]*", html))
    # The opening repeats the first three images.
    assert pictures <= 1_000_000 * 48 / 45
    assert "to keep this page small" in html
    assert len(html.encode()) < 10_000_000


def test_the_sample_is_far_below_ten_megabytes(html):
    assert len(html.encode()) < 2_000_000


def test_names_that_no_file_can_hold_do_not_stop_the_page(tmp_path):
    exhibit = dataclasses.replace(sample_run.STUDY.exhibit("table-1"), title="bad \ud800 name")
    study = Study("s", "t", "c", "s", (exhibit,))
    html = report.build(study, {"cells": []}, {"table-1": Record()}, command="\udcff")
    report.write(tmp_path / "report.html", html)
    assert "bad ? name" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_writing_replaces_the_whole_file_or_nothing(tmp_path):
    target = tmp_path / "report.html"
    report.write(target, "old")
    report.write(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_folder_that_is_not_there_is_named_in_the_error(tmp_path):
    with pytest.raises(StoreError, match=r"absent.*free some space or name another folder"):
        report.write(tmp_path / "absent" / "report.html", "x")


def test_a_full_disk_is_said_in_one_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write_atomic", refuse)
    with pytest.raises(StoreError, match=r"report\.html: no space left on device; free some space"):
        report.write(tmp_path / "report.html", "x")


def test_what_the_paper_prints_and_the_run_leaves_out_is_named(html):
    assert "AE400-10, test error after fine-tuning (1.4%)" in html


def test_non_finite_numbers_come_back_from_their_names_in_the_results():
    study, results, _ = sample_run.sample()
    cell = {**results["cells"][2], "measured": None, "high": None, "non_finite": {"measured": "inf", "high": "inf"}}
    assert "∞" in report.build(study, {"cells": [cell]}, {}, command="c")


def test_an_exhibit_is_one_section_whatever_its_name():
    odd: Exhibit = dataclasses.replace(sample_run.STUDY.exhibits[0], name='a "b" <c>')
    html = report.build(Study("s", "t", "c", "s", (odd,)), {"cells": []}, {odd.name: Record()}, command="c")
    assert '<section id="a-b-c"' in html
    Outline(html)


def test_sections_stand_in_their_parts_and_parts_in_the_studys_order(html):
    anchors = re.findall(r'<section (?:class="part" )?id="([^"]*)"', html)
    assert anchors.index("part-Units-and-directions-section-3") < anchors.index("figure-1") < anchors.index("table-1")
    assert anchors.index("part-Errata") < anchors.index("erratum-E7") < anchors.index("method")
    for title, sentence in sample_run.STUDY.parts.items():
        assert html.count(f">{title}<") >= 2
        assert sentence in html


def test_a_study_without_parts_is_one_run_of_sections():
    study, results, records = sample_run.sample()
    plain = dataclasses.replace(
        study, parts={}, exhibits=tuple(dataclasses.replace(e, part="") for e in study.exhibits)
    )
    html = report.build(plain, results, records, command="c")
    Outline(html)
    assert 'class="part"' not in html
    assert html.count('class="exhibit') == len(records)


def test_an_erratum_shows_print_and_correction_and_says_how_to_cite_it(html):
    section = re.search(r'<section id="erratum-E7".*?</section>', html, re.DOTALL)[0]
    assert '<a href="#erratum-E7">Erratum E7</a> to arXiv:1312.6199, section 4.3' in section
    for word in ("As printed", "Corrected", "6.706", "3.353", "computed, not sampled"):
        assert word in section
    assert "n 1" not in section
    assert "tally" not in section


def test_two_clicks_lead_from_every_table_and_figure_to_its_source(html):
    sections = re.findall(r'<section id="([^"]*)" class="exhibit.*?</section>', html, re.DOTALL)
    assert len(sections) == 10
    for name in sections:
        section = re.search(rf'<section id="{name}" class="exhibit.*?</section>', html, re.DOTALL)[0]
        figures = re.findall(r"<figure.*?</figure>", section, re.DOTALL)
        for figure in figures:
            anchors = re.findall(r'<span class="made">Code: .*?</span>', figure)
            assert len(anchors) == 1, (name, figure[:200])
            for anchor in re.findall(r'href="#([^"]*)"', anchors[0]):
                entry = re.search(
                    rf'<article class="function" id="{re.escape(anchor)}">.*?</article>', html, re.DOTALL
                )[0]
                assert f'href="#{name}"' in entry
                assert "sample_run" in entry or "szegedy2014" in entry
    shown = re.search(
        r'<article class="function" id="code-intriguing.report.pen-apart">.*?</article>', html, re.DOTALL
    )[0]
    assert "<summary>Source: " in shown
    assert "def apart(wanted: Sequence[float]" in shown
    assert html.count("def apart(wanted") == 1


def test_findings_stand_at_their_sections_and_the_strongest_at_the_top(html):
    _, _, records = sample_run.sample()
    strip = re.search(r'<ul class="findings">.*?</ul>', html, re.DOTALL)[0]
    assert 5 <= strip.count("<li>") <= 7
    assert "Erratum" not in strip
    for name, record in records.items():
        section = re.search(rf'<section id="{name}" class="exhibit.*?</section>', html, re.DOTALL)[0]
        assert all(finding in section for finding in record.values.get("findings", ()))


def test_the_page_says_on_which_images_the_run_measured():
    settings = {"data": "digits", "photographs": None}
    splits = ("test", "photographs/test")
    assert "measured on “digits”; where the paper takes photographs, the same" in page._measured_on(settings, splits)
    assert "photographs, on “grocery”" in page._measured_on({**settings, "photographs": "grocery"}, splits)
    assert "photographs" not in page._measured_on({**settings, "photographs": "grocery"}, ("test",))
    assert page._measured_on({}, ()) == ""
