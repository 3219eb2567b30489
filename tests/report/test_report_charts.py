import math
import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest

from intriguing.report import charts, pen, svg

DISTRIBUTION = {
    "kind": "distribution",
    "title": "t",
    "x": "distortion",
    "series": [{"label": "A", "values": [0.1, 0.2, 0.2, 0.4], "printed": 0.3, "measured": 0.22}],
}
HEATMAP = {
    "kind": "heatmap",
    "rows": ["a", "b"],
    "columns": ["a", "b"],
    "values": [[1.0, 0.2], [0.5, 1.0]],
    "printed": [[1.0, None], [0.4, 1.0]],
}
INTERVAL = {
    "kind": "interval",
    "x": "share",
    "rows": [{"label": "r", "measured": 0.5, "low": 0.4, "high": 0.6, "printed": 0.7, "control": 0.1}],
}
ALL = pytest.mark.parametrize("picture", [DISTRIBUTION, HEATMAP, INTERVAL], ids=lambda p: p["kind"])


def _texts(drawing) -> list[str]:
    root = ET.fromstring(_xml(drawing))
    return ["".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("text")]


def _xml(drawing) -> str:
    return str(drawing).replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)


@ALL
def test_a_chart_is_one_scalable_element_with_text_as_text(picture):
    for drawing in charts.draw(picture, "one"):
        root = ET.fromstring(_xml(drawing))
        assert root.tag.endswith("svg")
        assert "viewBox" in root.attrib
        assert "width" not in root.attrib
        assert _texts(drawing)


@ALL
def test_every_colour_is_a_variable_of_the_page(picture):
    for drawing in charts.draw(picture, "one"):
        assert "var(--ours)" in drawing
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", drawing)


@ALL
def test_every_id_and_every_reference_carries_the_charts_own_prefix(picture):
    for drawing in charts.draw(picture, "one"):
        assert all(i.startswith("one-") for i in re.findall(r'\bid="([^"]*)"', drawing))
        ids = set(re.findall(r'\bid="([^"]*)"', drawing))
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]*)', drawing)) <= ids


@ALL
def test_the_same_picture_gives_the_same_bytes_and_leaves_matplotlib_alone(picture):
    before = dict(matplotlib.rcParams)
    assert charts.draw(picture, "one") == charts.draw(picture, "one")
    assert dict(matplotlib.rcParams) == before


def test_labels_are_escaped_and_dollars_are_not_mathematics():
    label = '<b>&"$x_1$'
    picture = {**INTERVAL, "title": '"><script>', "rows": [{"label": label, "measured": 0.5}]}
    for drawing in charts.draw(picture, "one"):
        assert "<script>" not in drawing
        assert label in _texts(drawing)


def test_a_label_in_any_script_draws_without_a_warning():
    assert charts.draw({**INTERVAL, "rows": [{"label": "数字 \ud800", "measured": 0.5}]}, "one")


@pytest.mark.parametrize(
    "picture",
    [
        {},
        {"kind": "pie"},
        {"kind": "distribution"},
        {"kind": "distribution", "series": [{"label": "A", "values": [math.nan, None, math.inf]}]},
        {"kind": "heatmap", "rows": ["a"], "columns": []},
        {"kind": "heatmap", "rows": ["a"], "columns": ["b"], "values": [[None]]},
        {"kind": "interval", "rows": [{"label": "r", "measured": None}]},
    ],
)
def test_nothing_to_draw_is_nothing(picture):
    assert charts.draw(picture, "one") is None


def test_series_without_a_finite_value_stands_beside_the_others():
    empty = {"label": "B", "values": [math.inf, None], "printed": None}
    wide, _ = charts.draw({**DISTRIBUTION, "series": [*DISTRIBUTION["series"], empty]}, "one")
    assert "n 0, 2 without" in _texts(wide)


def test_one_value_and_equal_values_have_an_axis():
    one = {"kind": "distribution", "series": [{"label": "A", "values": [0.3, 0.3]}]}
    assert charts.draw(one, "one") is not None


def test_a_far_tail_goes_into_the_last_bin_and_the_axis_says_so():
    values = [0.1 + 0.0001 * i for i in range(1000)] + [50.0]
    wide, _ = charts.draw({"kind": "distribution", "x": "d", "series": [{"label": "A", "values": values}]}, "one")
    assert any("and more" in text for text in _texts(wide))
    assert "50" not in _texts(wide)


def test_a_ragged_matrix_shows_dashes():
    picture = {**HEATMAP, "values": [[1.0], None], "printed": None}
    wide, _ = charts.draw(picture, "one")
    assert _texts(wide).count("—") == 3


def test_a_share_just_below_all_is_not_shown_as_all():
    wide, _ = charts.draw({**HEATMAP, "values": [[0.996, 0.2], [0.5, 1.0]], "printed": None}, "one")
    assert {"99.6", "100"} <= set(_texts(wide))


def test_labels_break_evenly_and_never_inside_brackets():
    assert pen.wrapped("FC100-100-10", 10, 3) == ["FC100-", "100-10"]
    assert pen.wrapped("FC10(1e-4)", 7, 3) == ["FC10", "(1e-4)"]
    assert pen.wrapped("Gaussian noise, std 0.1", 22, 2) == ["Gaussian", "noise, std 0.1"]
    assert pen.wrapped("", 5, 2) == [""]
    assert len(pen.wrapped("a very long name of many words indeed", 6, 2)) == 2


def test_the_sentinels_are_distinct():
    assert len(set(svg.COLOURS.values())) == len(svg.COLOURS)
