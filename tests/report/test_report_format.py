import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intriguing.report import format as fmt


@pytest.mark.parametrize(
    ("value", "unit", "places", "text"),
    [
        (0.0736, "percent", 2, "7.36%"),
        (0.2, "percent", 1, "20.0%"),
        (0.0, "percent", 2, "0%"),
        (1.0, "percent", 2, "100%"),
        (0.0551, "distortion", 3, "0.055"),
        (-0.25, "number", 2, "−0.25"),
        (12345.0, "number", None, "12,345"),
        (0.00012345, "number", None, "0.0001234"),
        (None, "percent", 1, "—"),
        (math.nan, "distortion", 3, "—"),
        (math.inf, "distortion", 3, "∞"),
        (-math.inf, "number", None, "−∞"),
        (True, "number", None, "—"),
        (3.1e-7, "number", None, "3.1×10⁻⁷"),
        (1e-12, "number", None, "10⁻¹²"),
        (-2.5e8, "number", None, "−2.5×10⁸"),
        (792_792.4, "number", None, "792,792"),
        (1e-17, "number", 3, "0.000"),
        (-1e-17, "number", 3, "0.000"),
        (2.8, "ratio", 2, "2.80×"),
        (12.5, "seconds", 1, "12.5\N{NO-BREAK SPACE}s"),
    ],
)
def test_a_number_is_written_as_a_paper_would(value, unit, places, text):
    assert fmt.number(value, unit, places) == text


@pytest.mark.parametrize(
    ("value", "unit", "digit", "text"),
    [
        (0.212, "percent", 0.001, "21.2%"),
        (0.2, "percent", 0.01, "20%"),
        (0.0164, "percent", 0.0001, "1.64%"),
        (0.1, "distortion", 0.1, "0.1"),
        (0.062, "distortion", 0.001, "0.062"),
        (0.06, "percent", None, "6%"),
    ],
)
def test_a_printed_number_keeps_the_digits_of_the_print(value, unit, digit, text):
    assert fmt.printed(value, unit, digit) == text


def test_an_interval_has_an_en_dash_and_no_sign():
    assert fmt.interval(0.071, 0.0762, "percent", 1) == "7.1–7.6"
    assert fmt.interval(-0.01, 0.02, "number", 2) == "−0.01 to 0.02"
    assert fmt.interval(None, 0.1, "percent", 1) == ""
    assert fmt.interval(math.nan, math.nan, "percent", 1) == ""


def test_the_unit_comes_from_the_statement_then_the_name_then_the_size():
    assert fmt.unit_of("mean distortion, random target", [0.06]) == "distortion"
    assert fmt.unit_of("train error", [0.06]) == "percent"
    assert fmt.unit_of("FC10(1)", [0.06]) == "percent"
    assert fmt.unit_of("FC10(1)", [7.5]) == "number"
    assert fmt.unit_of("train error", [0.06], "number") == "number"
    assert fmt.unit_of("train error", [0.06], "plain") == "number"
    assert fmt.unit_of("train error", [0.06], "furlongs") == "percent"


@pytest.mark.parametrize(
    ("name", "values", "unit"),
    [
        ("error under noise of the same norm", [0.02], "percent"),
        ("accuracy at distortion 0.1", [0.4], "percent"),
        ("purity, natural minus random", [-0.02, 0.1], "percent"),
        ("error", [3.0], "number"),
        ("distance found", [0.8], "distortion"),
        ("found", [0.98], "percent"),
        ("contrast normalisation", [3.0], "number"),
        ("operator norm", [3.0], "distortion"),
        ("mean cosine", [0.4], "number"),
        ("ratio", [0.4], "ratio"),
        ("log10 distance", [-3.0], "log10"),
        ("seconds", [0.4], "seconds"),
        ("receiver", [0.2, 1.4], "number"),
        ("receiver", [0.2, 0.4], "percent"),
    ],
)
def test_a_name_says_what_its_numbers_are(name, values, unit):
    assert fmt.unit_of(name, values) == unit


def test_exact_numbers_are_shares_only_by_name_and_never_when_they_are_residuals():
    assert fmt.unit_of("receiver", [0.2], exact=True) == "number"
    assert fmt.unit_of("test error", [0.2], exact=True) == "percent"
    assert fmt.unit_of("largest error", [3e-7, 1e-9], exact=True) == "number"
    assert fmt.unit_of("largest error", [0.0], exact=True) == "percent"


@pytest.mark.parametrize(
    ("unit", "values", "texts"),
    [
        ("number", [2.75, 11, 4], ["2.75", "11.00", "4.00"]),
        ("number", [0.35, 0.71, -0.02], ["0.350", "0.710", "−0.020"]),
        ("number", [1e-6, 8e5], None),
        ("ratio", [1.3, 37, 1200], None),
        ("number", [792_792, 3000], ["792,792", "3,000"]),
        ("distortion", [0.0065, 0.01], ["0.0065", "0.0100"]),
        ("distortion", [0.055, 0.1], ["0.055", "0.100"]),
        ("distortion", [2.75, 7.9e5], None),
        ("log10", [-12.34, -4], ["−12.34", "−4.00"]),
    ],
)
def test_a_column_shares_its_decimals_unless_its_sizes_forbid_it(unit, values, texts):
    places = fmt.decimals(unit, 1, values)
    assert (texts is None) == (places is None)
    assert texts is None or [fmt.number(v, unit, places, sign=False) for v in values] == texts


def test_decimals_below_the_interval_are_noise_and_exact_numbers_deserve_one_more():
    assert fmt.decimals("number", 256, [1.9, 0.7]) == 3
    assert fmt.decimals("number", 256, [1.9, 0.7], spread=0.05) == 2
    assert fmt.decimals("number", 256, [1.9, 0.7], spread=5.0) == 0
    assert fmt.decimals("number", 1, [9.546, 1.18], exact=True) == 3


def test_a_number_alone_keeps_its_own_digits():
    values = [0.0123, 37.2, 1234.5, 0.0, 3e-7, math.nan]
    assert [fmt.own_decimals(v) for v in values] == [4, 1, 0, None, None, None]


def test_a_residual_has_one_digit_and_none_where_there_is_none():
    assert fmt.residual(1 - 2e-7, 1 + 2e-7, "number") == "±\N{THIN SPACE}2×10⁻⁷"
    assert fmt.residual(0.49, 0.51, "percent") == "±\N{THIN SPACE}1"
    assert fmt.residual(1, 1, "number") == ""
    assert fmt.residual(None, 1, "number") == ""


def test_the_second_decimal_needs_a_thousand_images():
    assert fmt.decimals("percent", 256) == 1
    assert fmt.decimals("percent", 10_000) == 2
    assert fmt.decimals("percent", 1_000_000, [0.00003]) == 3
    assert fmt.decimals("distortion", 256) == 3


def test_p_values():
    assert [fmt.p_value(p) for p in (0.0004, 0.034, 0.21, None, math.nan)] == [
        "p < 0.001",
        "p = 0.034",
        "p = 0.21",
        "",
        "",
    ]


def test_nested_settings_become_dotted_names():
    assert fmt.flatten({"a": {"b": 1, "c": [1, 2]}, "d": None}) == [
        ("a · b", "1"),
        ("a · c", "1, 2"),
        ("d", "—"),
    ]


@given(st.floats(), st.sampled_from(["percent", "distortion", "number", "ratio"]), st.sampled_from([None, 0, 3]))
def test_every_float_has_a_text_without_a_hyphen_for_minus(value, unit, places):
    text = fmt.number(value, unit, places)
    assert text
    assert not text.startswith("-")


@given(st.text(st.characters()))
def test_every_string_can_be_written_as_utf8(text):
    fmt.clean(text).encode()


@given(st.lists(st.floats(allow_nan=True), max_size=5), st.booleans())
def test_every_column_has_decimals_that_its_numbers_can_be_written_with(values, exact):
    unit = fmt.unit_of("any", values, exact=exact)
    places = fmt.decimals(unit, 100, values, exact=exact)
    assert places is None or places >= 0
    assert all(fmt.number(v, unit, places) for v in values)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("difference -0.30 points, -1.8 to +1", "difference −0.30 points, −1.8 to +1"),
        ("no more than 2e-14, or 1e-06", "no more than 2×10⁻¹⁴, or 10⁻⁶"),
        ("FC10(1e-4), FC100-100-10 and FC100-100-10'", "FC10(1e-4), FC100-100-10 and FC100-100-10'"),
        ("arXiv:1312.6199, L-BFGS-B, 2013-14", "arXiv:1312.6199, L-BFGS-B, 2013-14"),
    ],
)
def test_prose_has_numbers_as_a_book_prints_them(text, wanted):
    assert fmt.prose(text) == wanted


def test_a_share_too_large_for_a_percentage_is_infinite():
    assert fmt.number(1.79e308, "percent") == "∞"
