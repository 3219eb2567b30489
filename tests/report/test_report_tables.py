from sample_run import STUDY

from intriguing.report import tables


def _cell(row, column, **more):
    return {
        "row": row,
        "column": column,
        "kind": "sampled",
        "measured": 0.1,
        "n": 256,
        "low": 0.05,
        "high": 0.15,
    } | more


def test_rows_and_columns_keep_the_order_in_which_they_come():
    view = tables.table("t", "t", [_cell("b", "y"), _cell("a", "x"), _cell("b", "x")], {})
    assert [name for name, _ in view.rows] == ["b", "a"]
    assert [name for name, _, _ in view.columns] == ["y", "x"]
    assert view.rows[1][1][0] is None


def test_a_printed_value_keeps_its_digits_mark_and_verdict():
    printed = STUDY.exhibit("table-1").printed
    cell = _cell("FC10(1)", "test error", printed=0.2, mark="s", verdict="agrees", n=10_000)
    view = tables.table("table-1", "table-1", [cell], printed).cells[0]
    assert (view.printed, view.mark, view.verdict, view.style) == ("20%", "s", "agrees", "agrees")
    assert (view.measured, view.interval, view.size) == ("10.00%", "5.00–15.00", "n 10,000")


def test_an_exact_cell_says_so_and_has_a_residual_for_an_interval():
    tight = _cell("a", "distance", kind="exact", n=1, low=0.1, high=0.1)
    loose = _cell("b", "distance", kind="exact", n=1, low=0.1 - 2e-7, high=0.1 + 2e-7)
    view = tables.table("t", "t", [tight, loose], {})
    assert [c.size for c in view.cells] == ["exact", "exact"]
    assert [c.measured for c in view.cells] == ["0.100", "0.100"]
    assert [c.interval for c in view.cells] == ["", "±\N{THIN SPACE}2×10⁻⁷"]
    assert (view.sampled, view.exact, view.residual) == (False, True, True)
    assert not tables.table("t", "t", [tight], {}).residual


def test_a_stated_unit_wins_for_its_column_and_a_cell_may_have_its_own():
    cells = [_cell("a", "gain", unit="ratio"), _cell("b", "gain"), _cell("c", "gain", unit="percent")]
    view = tables.table("t", "t", cells, {})
    assert [c.measured for c in view.cells] == ["0.10×", "0.10×", "10.0%"]
    assert [c.interval for c in view.cells] == ["0.05–0.15", "0.05–0.15", "5.0–15.0"]


def test_numbers_of_every_size_are_each_written_with_their_own_digits():
    sizes = [_cell(str(k), "volume", measured=v, low=v / 2, high=2 * v) for k, v in enumerate((3.21e-7, 0.0123, 8.4e5))]
    view = tables.table("t", "t", sizes, {})
    assert [c.measured for c in view.cells] == ["3.21×10⁻⁷", "0.0123", "840,000"]
    assert [c.interval for c in view.cells] == ["1.6×10⁻⁷–6.42×10⁻⁷", "0.0062–0.0246", "420,000–1,680,000"]


def test_a_table_names_the_functions_that_computed_it_and_whether_it_is_compared():
    cells = [_cell("a", "x", code="m:f"), _cell("b", "x", code="m:g"), _cell("c", "x", code="m:f", printed=0.1)]
    view = tables.table("t", "t", cells, {})
    assert view.functions == ("m:f", "m:g")
    assert (view.compared, view.slim) == (True, True)
    assert not tables.table("t", "t", cells[:2], {}).compared


def test_an_empty_cell_is_a_dash_without_a_verdict_of_its_own():
    cell = {"row": "a", "column": "x", "measured": None}
    view = tables.table("t", "t", [cell], {}).cells[0]
    assert (view.measured, view.interval, view.size, view.verdict) == ("—", "", "n —", "not printed")


def test_one_control_has_no_letter_and_several_have():
    control = {"label": "noise", "measured": 0.02, "low": 0.01, "high": 0.04, "n": 256}
    one = tables.table("t", "t", [_cell("a", "x", control=control), _cell("b", "x")], {})
    assert one.controls == (("", "noise"),)
    assert (one.cells[0].control, one.cells[0].control_interval) == ("2.0%", "1.0–4.0")
    assert one.cells[1].control == ""
    two = tables.table(
        "t", "t", [_cell("a", "x", control=control), _cell("b", "x", control={**control, "label": "blur"})], {}
    )
    assert [letter for letter, _ in two.controls] == ["a", "b"]
    assert two.cells[1].control_mark == "b"


def test_footnotes_are_shared():
    cells = [_cell("a", "x", note="one"), _cell("b", "x", note="two"), _cell("c", "x", note="one")]
    view = tables.table("t", "t", cells, {})
    assert view.notes == ("one", "two")
    assert [cell.note for cell in view.cells] == [1, 2, 1]


def test_the_tally_counts_every_cell_once():
    cells = [_cell(str(i), "x", verdict=v) for i, v in enumerate(["differs", "agrees", "agrees", "odd"])]
    assert tables.table("t", "t", cells, {}).tally == (
        ("agrees", "agrees", 2),
        ("differs", "differs", 1),
        ("odd", "none", 1),
    )


def test_no_cells_no_table():
    assert tables.table("t", "t", [], {}) is None


def test_a_grid_formats_shares_lengths_and_counts_by_its_columns():
    extra = {
        "columns": ["net", "test error", "mean distortion", "loss", "images"],
        "rows": [["A", 0.0241, 0.0603, 0.4, 1024], ["B", None, float("nan")]],
    }
    view = tables.grid(extra, "g")
    assert view.rows[0] == ("A", "2.41%", "0.060", "0.4", "1,024")
    assert view.rows[1] == ("B", "—", "—", "—", "—")
    assert view.numeric == (False, True, True, True, True)


def test_a_control_that_is_an_error_is_a_share_beside_a_distortion():
    control = {"label": "error under noise of the same norm", "measured": 0.004, "n": 256}
    length = {"label": "noise of the same norm", "measured": 0.02, "n": 256}
    cells = [_cell("a", "mean distortion", control=control), _cell("b", "mean distortion", control=length)]
    view = tables.table("t", "t", cells, {})
    assert [cell.control for cell in view.cells] == ["0.4%", "0.020"]


def test_texts_of_numbers_line_up_as_numbers():
    view = tables.grid({"columns": ["net", "excess"], "rows": [["A-1", "+1.3"], ["B", "-0.4"], ["C", None]]}, "g")
    assert view.numeric == (False, True)
    assert [row[1] for row in view.rows] == ["+1.3", "−0.4", "—"]
    assert view.rows[0][0] == "A-1"


def test_a_printed_number_that_was_not_measured_is_named():
    entry = {"row": "FC10(1)", "column": "test error", "printed": 0.2}
    assert tables.unmeasured(entry, STUDY.exhibit("table-1").printed) == "FC10(1), test error (20%)"


def test_rows_without_a_common_column_are_tables_of_their_own():
    cells = [_cell("a", "x"), _cell("b", "y"), _cell("c", "x"), _cell("d", "y"), _cell("d", "z")]
    view = tables.table("t", "t", cells, {})
    assert [[name for name, _ in block.rows] for block in view.blocks] == [["a", "c"], ["b", "d"]]
    assert [[name for name, _, _ in block.columns] for block in view.blocks] == [["x"], ["y", "z"]]
    assert sum(len(block.rows) for block in view.blocks) == len(view.rows)
    # A row that shares a column with both joins them.
    joined = tables.table("t", "t", [*cells, _cell("e", "x"), _cell("e", "z")], {})
    assert [[name for name, _ in block.rows] for block in joined.blocks] == [["a", "b", "c", "d", "e"]]


def test_rows_that_the_paper_does_not_print_stand_back_if_there_are_many():
    printed = _cell("a", "x", printed=0.1, mark="s", verdict="agrees")
    few = tables.table("t", "t", [printed, _cell("b", "x"), _cell("c", "x")], {})
    assert [block.folded for block in few.blocks] == [""]
    many = tables.table("t", "t", [_cell("b", "x"), printed, _cell("c", "x"), _cell("d", "x")], {})
    assert [[name for name, _ in block.rows] for block in many.blocks] == [["a"], ["b", "c", "d"]]
    assert [block.folded for block in many.blocks] == ["", "3 more rows that the paper does not print"]
    assert [paper for block in many.blocks for _, paper, _ in block.columns] == [True, False]


def test_the_parts_of_a_row_stand_behind_it():
    names = ["net", "net, one", "net, two", "net, three", "other"]
    view = tables.table("t", "t", [_cell(name, "x") for name in names], {})
    assert [[name for name, _ in block.rows] for block in view.blocks] == [["net", "other"], names[1:4]]
    assert view.blocks[1].folded == "3 more rows in detail"


def test_a_difference_of_shares_is_in_points_and_a_share_of_a_length_is_not():
    cells = [
        _cell("a", "change of the test error", unit="percent", measured=0.004, low=-0.006, high=0.014),
        _cell("b", "change of the test error", unit="percent", measured=-0.005),
        _cell("a", "change of the distance", unit="percent", measured=0.132),
    ]
    view = tables.table("t", "t", cells, {}).cells
    assert [c.measured for c in view] == ["+0.4\N{NO-BREAK SPACE}pts", "13.2%", "−0.5\N{NO-BREAK SPACE}pts"]
    assert view[0].interval == "−0.6 to 1.4"
    minus = tables.table("t", "t", [_cell("a minus b", "error", measured=0.0)], {}).cells[0]
    assert minus.measured == "0\N{NO-BREAK SPACE}pts"


def test_a_control_is_not_written_finer_than_what_it_stands_beside():
    control = {"label": "random sets", "measured": -0.000899, "low": -0.003281, "high": 0.001423, "n": 4096}
    view = tables.table("t", "t", [_cell("a", "cosine", measured=0.46, low=0.42, high=0.5, control=control)], {})
    assert (view.cells[0].control, view.cells[0].control_interval) == ("−0.001", "−0.003 to 0.001")
    rare = {"label": "chance", "measured": 0.0002, "n": 1_000_000}
    shown = tables.table("t", "t", [_cell("a", "share", control=rare)], {}).cells[0].control
    assert shown == "0.02%"
