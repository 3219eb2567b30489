import sample_run
import torch

from intriguing.records import Record
from intriguing.report import figures, images

TABLE_1 = sample_run.STUDY.exhibit("table-1")
TABLE_2 = sample_run.STUDY.exhibit("table-2")


def _view(exhibit, picture, cells=(), tensors=None):
    record = Record({"figures": [picture]}, tensors or {})
    return figures.figures(exhibit, "e", record, cells, images.Album(1_000_000, []))[0]


def test_a_distribution_that_names_its_column_gets_print_and_mean_from_the_table():
    series = [{"label": "FC10(1)", "values": [0.1, 0.15]}, {"label": "other", "values": [0.1]}]
    picture = {"kind": "distribution", "column": sample_run.COLUMNS[2], "series": series}
    cell = {"row": "FC10(1)", "column": sample_run.COLUMNS[2], "measured": 0.129}
    view = _view(TABLE_1, picture, [cell])
    assert "paper 0.140" in view["charts"][0]
    assert "ours 0.129" in view["charts"][0]
    assert [style for style, _ in view["key"]] == ["ours", "paper"]


def test_what_a_picture_states_itself_stays():
    series = [{"label": "FC10(1)", "values": [0.1, 0.15], "printed": 0.2}]
    view = _view(TABLE_1, {"kind": "distribution", "column": sample_run.COLUMNS[2], "series": series})
    assert "paper 0.200" in view["charts"][0]


def test_a_heat_map_gets_the_printed_matrix_of_its_table():
    names = ["FC10(1e-4)", "FC10(1)"]
    picture = {"kind": "heatmap", "rows": names, "columns": names, "values": [[1.0, 0.2], [0.7, 1.0]]}
    wide, _ = _view(TABLE_2, picture)["charts"]
    assert "printed in the paper" in wide
    assert "71.9" in wide


def test_a_heat_map_of_names_the_paper_does_not_print_stands_alone():
    picture = {"kind": "heatmap", "rows": ["a"], "columns": ["b"], "values": [[0.2]]}
    assert "printed in the paper" not in _view(TABLE_2, picture)["charts"][0]


def _gallery(count):
    row = {"label": "7 read as 3", "note": "n", "images": [{"tensor": "a", "index": 0}] * count}
    return {"kind": "gallery", "groups": [{"columns": list("vwxyz")[:count], "rows": [row]}]}


def test_the_opening_shows_the_first_three_images_of_a_complete_row():
    tensors = {"a": torch.zeros(1, 1, 8, 8)}
    whole = figures.opening([_view(TABLE_1, _gallery(3), tensors=tensors)], "e")
    assert [name for name, _ in whole["shots"]] == ["v", "w", "x"]
    assert whole["note"] == "n"
    cut = figures.opening([_view(TABLE_1, _gallery(5), tensors=tensors)], "e")
    assert len(cut["shots"]) == 3
    assert cut["note"] == ""


def test_no_gallery_no_opening():
    assert figures.opening([_view(TABLE_1, _gallery(3))], "e") is None
    assert figures.opening([], "e") is None


def test_the_opening_prefers_a_row_that_shows_a_change():
    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(1, 1, 8, 8, generator=generator)
    tensors = {"a": plain, "b": (plain + 0.01).clamp(0, 1), "c": torch.rand(1, 1, 8, 8, generator=generator)}
    rows = [
        {"label": label, "images": [{"tensor": t, "index": 0} for t in names]}
        for label, names in (("two units", "ac"), ("a change", "ab"))
    ]
    view = _view(TABLE_1, {"kind": "gallery", "groups": [{"rows": rows}]}, tensors=tensors)
    found = figures.opening([view], "e")
    assert (found["label"], found["compares"]) == ("a change", True)
    alone = _view(TABLE_1, {"kind": "gallery", "groups": [{"rows": rows[:1]}]}, tensors=tensors)
    assert figures.opening([alone], "e")["label"] == "two units"


def test_cards_and_lines_are_drawn_as_such():
    deck = _view(TABLE_1, {"kind": "cards", "cards": [{"title": "unit 1", "facts": [["a", "b"]]}]})
    assert deck["cards"][0]["facts"] == [("a", "b")]
    assert deck["charts"] is None
    points = [{"x": 1, "y": 0.0}, {"x": 2, "y": 0.1}]
    series = [{"label": "p", "points": points}, {"label": "q", "points": points, "role": "control"}]
    plain = _view(TABLE_1, {"kind": "lines", "series": series})
    assert [style for style, _ in plain["key"]] == ["ours", "control"]
    assert not plain["off_scale"]
    log = _view(TABLE_1, {"kind": "lines", "log_y": True, "series": series[:1]})
    assert (log["key"], log["off_scale"]) == ([], True)


def test_rows_of_many_digits_stand_two_abreast_and_photographs_alone():
    rows = [{"label": "u", "images": [{"tensor": "a", "index": 0}] * 8}]
    for side, channels, across in ((28, 1, 2), (112, 3, 1)):
        picture = {"kind": "gallery", "groups": [{"rows": rows}]}
        view = _view(TABLE_1, picture, tensors={"a": torch.zeros(1, channels, side, side)})
        assert view["tiles"][0]["across"] == across


def test_the_opening_prefers_images_that_their_columns_name():
    tensors = {"a": torch.full((1, 1, 8, 8), 0.5), "b": torch.full((1, 1, 8, 8), 0.51)}
    row = {"label": "r", "images": [{"tensor": t, "index": 0} for t in "ab"]}
    alike = {"rows": [{**row, "label": "alike by chance"}]}
    named = {"columns": ["original", "adversarial"], "rows": [{**row, "label": "a change"}]}
    views = [_view(TABLE_1, {"kind": "gallery", "groups": [alike, named]}, tensors=tensors)]
    assert figures.opening(views, "e")["label"] == "a change"


def test_a_long_gallery_and_further_decks_are_folded_and_lose_nothing():
    tensors = {"a": torch.zeros(1, 1, 8, 8)}
    rows = [{"label": str(k), "images": [{"tensor": "a", "index": 0}]} for k in range(9)]
    group = _view(TABLE_1, {"kind": "gallery", "groups": [{"rows": rows}]}, tensors=tensors)["tiles"][0]
    assert [r["label"] for r in group["rows"] + group["more"]] == [str(k) for k in range(9)]
    assert len(group["more"]) == 3
    deck = {"kind": "cards", "caption": "the same", "cards": [{"title": "unit 1", "facts": [["a", "b"]]}]}
    record = Record({"figures": [deck, deck]}, {})
    first, second = figures.figures(TABLE_1, "e", record, [], images.Album(10**6, []))
    assert (first["folded"], second["folded"]) == (False, True)
    assert (first["repeats"], second["repeats"]) == (False, True)
