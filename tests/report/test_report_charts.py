import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import matplotlib
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from intriguing.report import charts, pen, svg
from intriguing.report import lines as line_chart

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
LINES = {
    "kind": "lines",
    "x": "images",
    "y": "test error",
    "log_x": True,
    "series": [
        {"label": "A", "points": [{"x": 10.0**k, "y": 0.5 / k, "low": 0.4 / k, "high": 0.6 / k} for k in (1, 2, 3)]},
        {"label": "B", "role": "control", "points": [{"x": 10, "y": 0.5}, {"x": 1000, "y": 0.45}]},
        {"label": "C", "role": "paper", "points": [{"x": 1000, "y": 0.2}]},
    ],
}
ALL = pytest.mark.parametrize("picture", [DISTRIBUTION, HEATMAP, INTERVAL, LINES], ids=lambda p: p["kind"])


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
        {"kind": "lines"},
        {"kind": "lines", "series": [{"label": "A", "points": [{"x": None, "y": 1}, {"x": math.nan, "y": 1}, {}]}]},
        {"kind": "lines", "log_y": True, "series": [{"label": "A", "points": [{"x": 1, "y": 0}]}]},
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
    assert pen.wrapped("FC100-100-10, ReLU", 14, 2, hyphens=False) == ["FC100-100-10,", "ReLU"]
    assert len(pen.wrapped("a very long name of many words indeed", 6, 2)) == 2


def _at(drawing, text):
    """Return where a text stands, in pixels from the top left corner."""
    found = re.search(rf'<text[^>]*?transform="translate\(([\d.-]+) ([\d.-]+)\)[^>]*>{re.escape(text)}<', drawing)
    found = found or re.search(rf'<text[^>]*? x="([\d.-]+)" y="([\d.-]+)"[^>]*>{re.escape(text)}<', drawing)
    return float(found[1]), float(found[2])


def test_every_line_is_named_at_its_end_in_its_colour():
    for drawing in charts.draw(LINES, "one"):
        xs = [_at(str(drawing), name)[0] for name in "ABC"]
        assert len(set(xs)) == 1
        assert xs[0] > max(_at(str(drawing), tick)[0] for tick in ("10", "100", "1,000"))
        for name, role in (("A", "ours"), ("B", "control"), ("C", "paper")):
            assert re.search(rf"<text[^>]*fill: var\(--{role}\)[^>]*>{name}<", str(drawing))


def test_names_of_lines_that_end_together_do_not_touch():
    series = [{"label": f"line {k}", "points": [{"x": 0, "y": 0}, {"x": 1, "y": 0.5 + k / 1000}]} for k in range(6)]
    for drawing in charts.draw({"kind": "lines", "series": series}, "one"):
        ys = sorted(_at(str(drawing), f"line {k}")[1] for k in range(6))
        assert min(b - a for a, b in pairwise(ys)) >= pen.SMALL


def test_shares_have_ticks_in_per_cent_and_powers_are_written_as_such():
    assert any(text.endswith("%") for text in _texts(charts.draw(LINES, "one")[0]))
    points = [{"x": k, "y": 10.0**-k} for k in range(1, 13)]
    wide, _ = charts.draw({"kind": "lines", "y": "volume", "log_y": True, "series": [{"points": points}]}, "one")
    ticks = set(_texts(wide))
    assert {"0.001", "10⁻¹²"} <= ticks
    assert "1e-12" not in ticks


def test_zero_on_a_logarithmic_scale_is_a_mark_at_the_foot_and_no_part_of_the_line():
    points = [{"x": 1, "y": 0, "low": 0, "high": 0.001}, {"x": 2, "y": 0.01}, {"x": 3, "y": 0.1}]
    picture = {"kind": "lines", "log_y": True, "series": [{"label": "A", "points": points}]}
    assert line_chart.off_scale(picture)
    wide, _ = charts.draw(picture, "one")
    line = next(d for d in re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*stroke-width: 1.9', str(wide)))
    assert line.count("L") == 1
    assert not line_chart.off_scale({**picture, "log_y": False})


def test_lines_of_one_meaning_differ_in_dashes_and_marks():
    points = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]
    series = line_chart.read({"series": [{"label": str(k), "points": points} for k in range(5)]})
    assert len({str(s.dash) for s in series}) == 5
    assert len({s.shape for s in series}) == 5


def test_a_role_that_is_not_known_is_ours_and_points_run_from_left_to_right():
    series = line_chart.read({"series": [{"role": "odd", "points": [{"x": 2, "y": 0}, {"x": 1, "y": 1}]}]})
    assert series[0].role == "ours"
    assert [p.x for p in series[0].points] == [1, 2]


def test_an_interval_chart_may_be_logarithmic_and_of_any_size():
    rows = [{"label": str(k), "measured": 10.0**-k, "low": 0.0, "high": 10.0 ** (1 - k)} for k in (2, 5, 9)]
    wide, _ = charts.draw({"kind": "interval", "log_x": True, "x": "volume", "rows": rows}, "one")
    assert {"10⁻⁹", "10⁻⁵", "0.0100"} <= set(_texts(wide))


def test_a_matrix_that_holds_no_shares_is_written_in_its_own_numbers():
    wide, _ = charts.draw({**HEATMAP, "values": [[250.0, 3.0], [0.5, 12.5]], "printed": None}, "one")
    assert {"250", "3.00", "0.500", "12.5"} <= set(_texts(wide))


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(5, 20)), min_size=1, max_size=8))
def test_blocks_are_moved_apart_and_no_further_than_they_must(blocks):
    wanted, sizes = [w for w, _ in blocks], [s for _, s in blocks]
    middles = pen.apart(wanted, sizes, 0, 300)
    spans = sorted((m - s / 2, m + s / 2) for m, s in zip(middles, sizes, strict=True))
    assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(spans))
    assert spans[0][0] >= -1e-6
    assert spans[-1][1] <= 300 + 1e-6
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert [wanted[i] for i in order] == sorted(wanted)
    if len(blocks) == 1:
        assert middles[0] == pytest.approx(min(max(wanted[0], sizes[0] / 2), 300 - sizes[0] / 2))


def test_blocks_that_do_not_touch_stay_where_they_want_to_be():
    assert pen.apart([50, 10, 100], [8, 8, 8], 0, 200) == [50, 10, 100]


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=5))
@example([2e-06])
@example([1.0])
@example([5.0, 5.0])
def test_a_logarithmic_scale_holds_its_values_between_its_ticks(values):
    to_x, ticks = pen.scale(values, 0.0, 100.0, log=True)
    assert len(ticks) >= 2
    assert ticks[0] <= min(values) * (1 + 1e-6)
    assert ticks[-1] >= max(values) * (1 - 1e-6)
    assert all(-1e-6 <= to_x(v) <= 100 + 1e-6 for v in values)
    assert to_x(ticks[0]) == pytest.approx(0, abs=1e-9)
    assert to_x(ticks[-1]) == pytest.approx(100)


def test_shares_end_at_all_of_them():
    _, ticks = pen.scale([0.02, 0.98], 0, 300, share=True)
    assert ticks == [0, 0.25, 0.5, 0.75, 1]
    _, low = pen.scale([0.02, 0.3], 0, 300, share=True)
    assert max(low) < 0.5


def test_the_name_of_an_axis_has_as_many_lines_as_it_needs():
    name = "radius of the ball / distance of the nearest adversarial example"
    assert pen.named(name, 600) == [name]
    assert " ".join(pen.named(name, 250)) == name
    assert len(pen.named(name, 250)) == 2
    assert pen.named(None, 250) == []


def test_the_sentinels_are_distinct():
    assert len(set(svg.COLOURS.values())) == len(svg.COLOURS)
