import re

import pytest
import torch

from intriguing.report import cards, images

TENSORS = {"a": torch.zeros(3, 1, 8, 8)}


def test_a_card_parts_top_images_from_named_ones_and_keeps_facts_in_order():
    given = {
        "title": "unit 3",
        "note": "n",
        "facts": [["purity", "7/8"], ["norm", "2"], ["broken"]],
        "images": [
            {"tensor": "a", "index": 0},
            {"tensor": "a", "index": 1, "label": "patch"},
            {"tensor": "a", "index": 9},
        ],
        "histogram": {"edges": [0, 1, 2], "counts": [1, 2]},
    }
    view = cards.card(given, TENSORS, images.Album(10**6, [images.row(TENSORS, given["images"])]))
    assert view["facts"] == [("purity", "7/8"), ("norm", "2")]
    assert [picture is not None for picture in view["top"]] == [True, False]
    assert [label for label, _ in view["named"]] == ["patch"]
    assert view["histogram"] is not None


def test_a_bare_card_has_no_parts():
    view = cards.card({}, {}, images.Album(10**6, []))
    assert (view["title"], view["top"], view["named"], view["facts"], view["histogram"]) == ("", [], [], [], None)


def _heights(drawing):
    shape = re.search(r'class="hill" d="([^"]*)"', drawing)[1]
    return [46 - float(v) for v in re.findall(r"V([\d.]+)H", shape)]


def test_bars_are_as_high_as_their_counts():
    view = cards.histogram({"edges": [0, 1, 2, 3], "counts": [2, 4, 1]})
    assert _heights(view["drawing"]) == pytest.approx([23, 46, 11.5], abs=0.1)
    assert (view["first"], view["last"], view["cut"]) == ("0", "3", "")


def test_a_bin_that_would_flatten_the_others_is_cut_and_said():
    view = cards.histogram({"edges": [0, 1, 2, 3], "counts": [900, 50, 50]})
    high, second, _ = _heights(view["drawing"])
    assert high == 46
    assert second > 23
    assert "90% in one bin" in view["cut"]
    assert 'class="gap"' in view["drawing"]


@pytest.mark.parametrize(
    "given",
    [
        None, [], {}, {"edges": [0, 1], "counts": []}, {"edges": [], "counts": []}, {"edges": [0, 0], "counts": [1]},
        {"edges": [0, float("nan")], "counts": [1]}, {"edges": [0, 1], "counts": [0]},
        {"edges": [0, 1, 2], "counts": [1]},
    ],
)  # fmt: skip
def test_what_is_no_histogram_is_not_drawn(given):
    assert cards.histogram(given) is None


def test_one_bin_is_a_histogram():
    assert _heights(cards.histogram({"edges": [0, 1], "counts": [5]})["drawing"]) == [46]
