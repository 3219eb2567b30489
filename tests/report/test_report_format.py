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
        (-0.25, "plain", 2, "−0.25"),
        (12345.0, "plain", None, "12,345"),
        (0.00012345, "plain", None, "0.0001234"),
        (None, "percent", 1, "—"),
        (math.nan, "distortion", 3, "—"),
        (math.inf, "distortion", 3, "∞"),
        (-math.inf, "plain", None, "−∞"),
        (True, "plain", None, "—"),
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
    assert fmt.interval(-0.01, 0.02, "plain", 2) == "−0.01 to 0.02"
    assert fmt.interval(None, 0.1, "percent", 1) == ""
    assert fmt.interval(math.nan, math.nan, "percent", 1) == ""


def test_the_unit_comes_from_the_statement_then_the_name_then_the_size():
    assert fmt.unit_of("mean distortion, random target", 0.06) == "distortion"
    assert fmt.unit_of("train error", 0.06) == "percent"
    assert fmt.unit_of("FC10(1)", 0.06) == "percent"
    assert fmt.unit_of("FC10(1)", 7.5) == "plain"
    assert fmt.unit_of("train error", 0.06, "plain") == "plain"


def test_the_second_decimal_needs_a_thousand_images():
    assert fmt.decimals("percent", 256) == 1
    assert fmt.decimals("percent", 10_000) == 2
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


@given(st.floats(), st.sampled_from(["percent", "distortion", "plain"]), st.sampled_from([None, 0, 3]))
def test_every_float_has_a_text_without_a_hyphen_for_minus(value, unit, places):
    text = fmt.number(value, unit, places)
    assert text
    assert not text.startswith("-")


@given(st.text(st.characters()))
def test_every_string_can_be_written_as_utf8(text):
    fmt.clean(text).encode()
