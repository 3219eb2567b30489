"""The study against a table of the paper typed in here once more, and its cells against the functions they name."""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Iterator
from itertools import pairwise

import pytest

from intriguing.nets.zoo import NETS as KNOWN_NETS
from intriguing.studies import STUDIES
from intriguing.studies.spec import Cell, Exhibit, Printed, Settings
from intriguing.studies.szegedy2014 import SZEGEDY_2014

HASHES = {
    "train": "a" * 64,
    "test": "b" * 64,
    "P1": "c" * 64,
    "P2": "d" * 64,
    "photographs/train": "e" * 64,
    "photographs/test": "f" * 64,
}
NAMES = (
    *(f"figure-{number}" for number in range(1, 8)),
    *(f"table-{number}" for number in range(1, 6)),
    *("units", "rotation", "unit-cards", "l1-adam", "feeding", "hard-negatives", "instability", "lipschitz-penalty"),
    *("data-or-architecture", "improbable", "smoothness", "invariance"),
    *(f"erratum-E{number}" for number in range(1, 16)),
)
NETS = ("FC10(1e-4)", "FC10(1e-2)", "FC10(1)", "FC100-100-10", "FC200-200-10", "AE400-10")
SOFTMAX = NETS[:3]

# Table 1: training error, test error, average minimal distortion; fractions and pixel units.
TABLE_1 = {
    "FC10(1e-4)": (0.067, 0.074, 0.062),
    "FC10(1e-2)": (0.10, 0.094, 0.1),
    "FC10(1)": (0.212, 0.20, 0.14),
    "FC100-100-10": (0.0, 0.0164, 0.058),
    "FC200-200-10": (0.0, 0.0154, 0.065),
    "AE400-10": (0.0057, 0.019, 0.086),
}
# Table 2, in thousandths: rows are sources, columns receivers in the order of NETS; then the marks, then the size.
TABLE_2 = {
    "FC10(1e-4)": ((1000, 117, 227, 20, 39, 27), "smmsms", 0.062),
    "FC10(1e-2)": ((871, 1000, 352, 359, 273, 98), "smmsms", 0.1),
    "FC10(1)": ((719, 762, 1000, 481, 470, 344), "smmsms", 0.14),
    "FC100-100-10": ((289, 137, 211, 1000, 66, 20), "smmsms", 0.058),
    "FC200-200-10": ((382, 140, 238, 203, 1000, 27), "smmsms", 0.065),
    "AE400-10": ((234, 160, 248, 94, 66, 1000), "mmmmmm", 0.086),
    "Gaussian noise, std 0.1": ((50, 101, 183, 0, 0, 8), "smmsms", 0.1),
    "Gaussian noise, std 0.3": ((156, 113, 227, 50, 43, 31), "smmsms", 0.3),
}


def exhibits() -> tuple[Exhibit, ...]:
    return SZEGEDY_2014.exhibits


def cells(cell: Cell) -> Iterator[Cell]:
    yield cell
    for need in cell.needs.values():
        yield from cells(need)


def everything(settings: Settings | None = None) -> list[Cell]:
    return [cell for exhibit in exhibits() for cell in cells(exhibit.cell(settings or Settings()))]


def test_the_study_is_registered_with_its_exhibits() -> None:
    assert STUDIES["szegedy2014"] is SZEGEDY_2014
    assert sorted(exhibit.name for exhibit in exhibits()) == sorted(NAMES)


def test_every_exhibit_stands_in_a_part_of_the_page_and_parts_stay_together() -> None:
    parts = [part for part, _ in itertools.groupby(exhibit.part for exhibit in exhibits())]
    assert parts == list(SZEGEDY_2014.parts)
    assert all(SZEGEDY_2014.parts.values())


def test_table_1_as_printed() -> None:
    printed = dict(SZEGEDY_2014.exhibit("table-1").printed)
    for net, values in TABLE_1.items():
        for column, value in zip(("train error", "test error", "mean distortion, random target"), values, strict=True):
            entry = printed.pop((net, column))
            assert entry.value == pytest.approx(value, abs=1e-12), (net, column)
            assert entry.mark == "s"
        # "No net and no sample resisted" is in the running text.
        found = printed.pop((net, "found"))
        assert (found.value, found.mark) == (1.0, "v")
    assert not printed


def test_table_2_as_printed() -> None:
    printed = dict(SZEGEDY_2014.exhibit("table-2").printed)
    for row, (values, marks, size) in TABLE_2.items():
        for receiver, value, mark in zip(NETS, values, marks, strict=True):
            entry = printed.pop((row, receiver))
            assert entry.value == pytest.approx(value / 1000, abs=1e-12), (row, receiver)
            assert entry.mark == mark, (row, receiver)
        entry = printed.pop((row, "average distortion"))
        assert entry.value == pytest.approx(size)
        assert entry.mark == "s"
    assert not printed


def test_figure_7_as_printed() -> None:
    printed = SZEGEDY_2014.exhibit("figure-7").printed
    assert printed["adversarial for FC10(1e-4)", "average distortion"].value == 0.06
    assert printed["adversarial for FC200-200-10", "average distortion"].value == 0.063
    accuracies = {entry.value for (_, column), entry in printed.items() if column == "accuracy"}
    assert accuracies == {0.51}
    assert {entry.mark for entry in printed.values()} == {"m"}


def test_the_last_digits_are_those_of_the_print() -> None:
    first, second = SZEGEDY_2014.exhibit("table-1").printed, SZEGEDY_2014.exhibit("table-2").printed
    assert first["FC100-100-10", "test error"].digit == pytest.approx(0.0001)  # 1.64%
    assert first["FC10(1e-4)", "train error"].digit == pytest.approx(0.001)  # 6.7%
    assert first["FC10(1)", "test error"].digit == pytest.approx(0.01)  # 20%
    assert first["FC10(1e-4)", "mean distortion, random target"].digit == pytest.approx(0.001)  # 0.062
    assert second["Gaussian noise, std 0.1", "FC10(1e-4)"].digit == pytest.approx(0.001)  # 5.0%
    assert second["FC10(1)", "FC200-200-10"].digit == pytest.approx(0.01)  # 47%


def test_every_printed_value_is_in_its_unit() -> None:
    for exhibit in exhibits():
        for place, entry in exhibit.printed.items():
            assert isinstance(entry, Printed)
            if exhibit.name != "table-5":  # norms of layers
                assert 0 <= entry.value <= 1, place
                assert 0 < entry.digit <= 0.1, place
            assert entry.mark in ("v", "s", "m"), place


def test_every_cell_names_a_function_that_takes_its_settings() -> None:
    for cell in everything():
        module, _, name = cell.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        parameters = inspect.signature(function).parameters
        keyword = {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        assert free or set(cell.settings) <= set(keyword), cell.function
        required = {n for n, p in keyword.items() if p.default is inspect.Parameter.empty}
        assert required <= set(cell.settings), cell.function
        assert cell.label, cell.function
        assert set(cell.data) <= set(HASHES)


def test_every_cell_has_the_needs_its_settings_speak_of() -> None:
    table_1 = SZEGEDY_2014.exhibit("table-1").cell(Settings(nets=3))
    keys = [key for row in table_1.settings["rows"] for key in row["keys"]]
    assert len(keys) == 4 + 2 * 3, "one softmax net and autoencoder each, three of each sigmoid net"
    assert {f"{key}/{part}" for key in keys for part in ("net", "random", "all")} <= set(table_1.needs)
    for variant in table_1.settings["variants"]:
        assert {f"{key}/{part}" for key in variant["keys"] for part in ("net", "random")} <= set(table_1.needs)
    for name in ("table-2", "figure-7"):
        cell = SZEGEDY_2014.exhibit(name).cell(Settings())
        assert set(cell.needs) == {f"{net}/{part}" for net in cell.settings["nets"] for part in ("net", "random")}


def test_every_attack_is_of_the_net_it_needs() -> None:
    attacks = [cell for cell in everything() if cell.function == "intriguing.experiments.distortion:attack"]
    assert {cell.settings["target"] for cell in attacks} == {"random", "all"}
    for cell in attacks:
        (trained,) = cell.needs.values()
        assert trained.settings["net"] == cell.settings["net"]
        assert cell.settings["net"] in KNOWN_NETS


def test_the_rows_are_the_papers() -> None:
    table_1 = SZEGEDY_2014.exhibit("table-1").cell(Settings())
    assert [row["name"] for row in table_1.settings["rows"]] == list(NETS)
    table_2 = SZEGEDY_2014.exhibit("table-2").cell(Settings())
    assert table_2.settings["nets"] == list(NETS)
    assert table_2.settings["stds"] == [0.1, 0.3]


def keys(settings: Settings) -> dict[str, str]:
    return {exhibit.name: exhibit.cell(settings).key(HASHES) for exhibit in exhibits()}


def test_the_same_settings_have_the_same_keys() -> None:
    assert keys(Settings()) == keys(Settings())


def test_another_seed_is_another_cell_unless_nothing_is_drawn() -> None:
    before, after = keys(Settings()), keys(Settings(seed=1))
    # An explicit maximum, and convex nets.
    assert {name for name in before if before[name] == after[name]} == {"erratum-E10", "erratum-E15"}


@pytest.mark.parametrize("name", ["table-1", "table-2", "table-3", "table-4", "figure-7", "instability", "erratum-E13"])
def test_other_images_are_other_cells(name: str) -> None:
    exhibit = SZEGEDY_2014.exhibit(name)
    assert exhibit.cell(Settings(images=255)).key(HASHES) != exhibit.cell(Settings()).key(HASHES)


def test_more_nets_change_table_1_alone() -> None:
    before, after = keys(Settings(nets=5)), keys(Settings(nets=2))
    assert {name for name in before if before[name] != after[name]} == {"table-1"}


def test_the_full_study_has_every_arm_and_five_seeds() -> None:
    full = Settings(full=True)
    feeding = SZEGEDY_2014.exhibit("feeding").cell(full).settings
    assert set(feeding["arms"]) == {"none", "input", "higher", "all", "noise", "dropout"}
    assert len(feeding["seeds"]) == 5
    assert SZEGEDY_2014.exhibit("table-4").cell(full).settings["repeats"] == 5
    few = SZEGEDY_2014.exhibit("feeding").cell(Settings()).settings
    assert (few["arms"], len(few["seeds"])) == (["none", "all"], 2)


def trained(settings: Settings) -> dict[str, set[str]]:
    """Return net -> keys of the cells that train it on the whole training set by the paper's recipe."""
    found: dict[str, set[str]] = {}
    for cell in everything(settings):
        if cell.function == "intriguing.training.recipes:train" and "learn" not in cell.settings:
            found.setdefault(cell.settings["net"], set()).add(cell.key(HASHES))
    return found


def test_no_net_is_trained_twice() -> None:
    found = trained(Settings())
    counts = {net: len(keys) for net, keys in found.items()}
    # All exhibits share them; the autoencoder has two rival penalties.
    assert counts == {**dict.fromkeys(SOFTMAX, 1), "FC100-100-10": 5, "FC200-200-10": 5, "AE400-10": 3}
    large = [cell for cell in everything() if cell.function == "intriguing.training.convolutional:train"]
    assert len({cell.key(HASHES) for cell in large}) == 3, "ConvNet, AlexNet and its untrained twin"


def test_softmax_nets_are_convex_so_their_training_does_not_depend_on_the_seed() -> None:
    first, second = trained(Settings(seed=0)), trained(Settings(seed=7))
    for net in NETS:
        assert (first[net] == second[net]) == (net in SOFTMAX), net


def test_the_number_of_attacked_images_is_no_part_of_training() -> None:
    assert trained(Settings(images=16)) == trained(Settings(images=256))


def test_orderings_speak_of_cells_that_are_printed_and_the_print_keeps_them() -> None:
    for exhibit in exhibits():
        for ordering in exhibit.orderings:
            assert len(ordering) >= 2
            values = [exhibit.printed[place].value for place in ordering if place in exhibit.printed]
            assert all(a < b for a, b in pairwise(values)), (exhibit.name, ordering)


def test_every_exhibit_says_what_is_claimed_and_where() -> None:
    for exhibit in exhibits():
        for text in (exhibit.title, exhibit.claim, exhibit.reading, exhibit.source):
            assert text.strip() == text != ""
        assert any(word in exhibit.source for word in ("section", "Table")), exhibit.name
