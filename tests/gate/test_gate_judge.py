"""Conditions, the comparison with a baseline, and what wins over what."""

import math

import audited
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intriguing.errors import InputError, StoreError, UnknownNameError
from intriguing.gate import State, condition, gate

_NAMES = ["median_l2", "clean_accuracy", "robust_accuracy_l2@0.5", "robust_accuracy_linf@8/255"]
_RELATIONS = {">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, "<": lambda a, b: a < b}


@given(
    st.sampled_from(_NAMES),
    st.sampled_from(sorted(_RELATIONS)),
    st.floats(allow_nan=False),
    st.tuples(*[st.sampled_from(["", " ", "  ", "\t"])] * 4),
    st.floats(allow_nan=False),
)
def test_a_condition_is_read_as_written_and_compares_as_its_sign_says(name, relation, bound, gaps, value):
    a, b, c, d = gaps
    found = condition(f"{a}{name}{b}{relation}{c}{bound!r}{d}", _NAMES)
    assert (found.figure, found.relation, found.bound) == (name, relation, bound)
    assert found.holds(value) == _RELATIONS[relation](value, bound)
    assert not found.holds(math.nan)


@given(st.text(max_size=30))
def test_any_text_is_a_condition_or_a_named_error(text):
    try:
        found = condition(text, _NAMES)
    except InputError:
        return
    assert found.figure in _NAMES
    assert not math.isnan(found.bound)


@pytest.mark.parametrize(
    "text",
    ["", "median_l2", "median_l2 >=", ">= 0.4", "median_l2 = 0.4", "median_l2 == 0.4", "median_l2 => 0.4",
     "median_l2 >= nan", "median_l2 >= many", "median_l2 >= 0.4 0.5", "median_l2 >= 0.4 < 1", "0.4 <= median_l2",
     "median_l2 >= 1/0", "median_l2 >= 0x1", "median_l2 >= 1_0"],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_an_example_or_the_known_names(text):
    with pytest.raises(InputError) as caught:
        condition(text, _NAMES)
    assert "0.4" in str(caught.value) or "1/0" in str(caught.value) or "Known" in str(caught.value)


def test_the_name_of_a_model_before_a_figure_may_hold_spaces():
    assert condition("my net, v2/median_l2 >= 0.4", ["my net, v2/median_l2"]).figure == "my net, v2/median_l2"


def test_a_number_may_be_a_fraction_of_the_256_levels():
    assert condition("robust_accuracy_linf@8/255 >= 1/4", _NAMES).bound == 0.25
    assert condition("median_l2 > 8/255", _NAMES).bound == 8 / 255


def test_a_figure_that_is_not_there_suggests_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"unknown figure 'medan_l2'.*Did you mean 'median_l2'\?"):
        condition("medan_l2 >= 0.4", _NAMES)


@pytest.mark.parametrize(("name", "near"), [("MEDIAN_L2", "median_l2"), ("Median_l", "median_l2")])
def test_capitals_do_not_hide_the_nearest_name(name, near):
    with pytest.raises(UnknownNameError, match=rf"unknown figure '{name}'\. Did you mean '{near}'\? Known: clean_acc"):
        condition(f"{name} >= 0.4", _NAMES)


@pytest.mark.parametrize(("wrong", "right"), [("=>", ">="), ("=<", "<=")])
def test_an_operator_the_wrong_way_round_is_named(wrong, right):
    with pytest.raises(InputError, match=rf"no operator {wrong} in 'median_l2 {wrong} 0\.1'; write {right}$"):
        condition(f"median_l2 {wrong} 0.1", _NAMES)


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("transfer", "an audit of several --model"),
        ("certified_l2", "an audit with --certify"),
        ("tightness_linf", "an audit with --certify and --norm inf"),
    ],
)
def test_a_figure_that_this_audit_was_not_asked_for_says_what_it_takes(name, takes):
    with pytest.raises(InputError, match=rf"this audit has no figure '{name}', which takes {takes}$"):
        condition(f"{name} >= 0.4", _NAMES)


@pytest.mark.parametrize(
    ("require", "code"),
    [
        ([], 0),
        (["median_l2 >= 0.40"], 0),
        (["median_l2 >= 0.41"], 0),
        (["median_l2 > 0.41"], 1),
        (["median_l2 >= 0.42"], 1),
        (["transfer <= 0.3", "clean_accuracy > 0.9"], 0),
        (["transfer <= 0.3", "clean_accuracy > 0.99"], 1),
        (["robust_accuracy_linf@8/255 >= 0.3"], 0),
        # An infinite median lies above every bound; what is not a number meets none.
        (["far >= 1000000"], 0),
        (["far >= inf"], 0),
        (["far <= 5"], 1),
        (["nothing >= 0"], 1),
        (["nothing <= 0"], 1),
        (["nothing < inf"], 1),
    ],
)
def test_all_conditions_must_hold(tmp_path, require, code):
    outcome = gate(audited.folder(tmp_path / "run"), require=require)
    assert outcome.code == code
    assert [check.name for check in outcome.checks] == ["trust", *require]


def test_a_failure_says_value_interval_and_n(tmp_path):
    [_, check] = gate(audited.folder(tmp_path / "run"), require=["median_l2 >= 0.5"]).checks
    assert check.state is State.FAILED
    assert check.sentence == "median_l2 is 0.41, 95% interval 0.369 to 0.451, n 400"
    assert check.numbers["bound"] == 0.5


def test_untrustworthy_wins_over_passed_and_over_failed(tmp_path):
    run = audited.folder(tmp_path / "run", trust=[audited.GREEN, audited.RED])
    for require in ([], ["median_l2 >= 0.1"], ["median_l2 >= 9"], ["median_l2 >= 0.1", "median_l2 >= 9"]):
        outcome = gate(run, require=require)
        assert outcome.code == 3
        assert outcome.state is State.UNTRUSTWORTHY
        assert not any(check.state is State.PASSED for check in outcome.checks)
    met, missed = outcome.checks[1:]
    assert met.state is State.NOT_JUDGED
    assert missed.state is State.FAILED
    assert "zero gradients: 62 of 64 gradients are zero." in outcome.checks[0].sentence


def test_a_usage_error_wins_over_untrustworthy(tmp_path):
    run = audited.folder(tmp_path / "run", trust=[audited.RED])
    with pytest.raises(InputError):
        gate(run, require=["median_l2 is small"])


def test_a_significant_drop_against_the_baseline_fails(tmp_path):
    before = audited.folder(tmp_path / "before")
    after = audited.folder(tmp_path / "after", sizes=audited.distances(factor=0.8))
    outcome = gate(after, baseline=before)
    assert outcome.code == 1
    accuracy, median = outcome.checks[1:]
    assert accuracy.state is State.PASSED
    assert median.name == "median_l2 against the baseline"
    assert median.state is State.FAILED
    assert "a significant drop" in median.sentence
    assert median.numbers["high"] < 0
    assert median.numbers["difference"] == pytest.approx(-0.2 * median.numbers["baseline"])


def test_a_rise_passes_and_so_does_a_drop_within_the_choice_of_images(tmp_path):
    before = audited.folder(tmp_path / "before")
    higher = audited.folder(tmp_path / "higher", sizes=audited.distances(factor=1.3))
    assert gate(higher, baseline=before).code == 0
    # Other distances from the same law: the median falls, but no more than the choice of images explains.
    noisy = audited.folder(tmp_path / "noisy", sizes=audited.distances(seed=2))
    outcome = gate(noisy, baseline=before)
    assert outcome.checks[2].numbers["low"] < 0 < outcome.checks[2].numbers["high"]
    assert outcome.code == 0


def test_a_drop_of_accuracy_alone_fails(tmp_path):
    before = audited.distances()
    after = [0.0 if i % 5 == 1 else d for i, d in enumerate(before)]
    runs = [audited.folder(tmp_path / name, sizes=sizes) for name, sizes in (("a", before), ("b", after))]
    outcome = gate(runs[1], baseline=runs[0])
    assert outcome.code == 1
    assert outcome.checks[1].name == "clean_accuracy against the baseline"
    assert outcome.checks[1].state is State.FAILED


def test_the_same_run_is_no_drop_and_the_order_of_rows_changes_nothing(tmp_path):
    sizes = audited.distances()
    hashes = [f"{i:032x}" for i in range(len(sizes))]
    before = audited.folder(tmp_path / "before", sizes=sizes, hashes=hashes)
    after = audited.folder(tmp_path / "after", sizes=sizes[::-1], hashes=hashes[::-1])
    outcome = gate(after, baseline=before)
    assert outcome.code == 0
    assert all(check.numbers["difference"] == 0 for check in outcome.checks[1:])


def test_an_infinite_median_that_becomes_finite_is_a_drop_and_two_infinite_ones_are_equal(tmp_path):
    far = [math.inf] * 300 + [0.5] * 100
    runs = [audited.folder(tmp_path / n, sizes=s) for n, s in (("a", far), ("b", far), ("c", audited.distances()))]
    assert gate(runs[1], baseline=runs[0]).code == 0
    fallen = gate(runs[2], baseline=runs[0]).checks[2]
    assert fallen.state is State.FAILED
    assert fallen.numbers["difference"] == -math.inf


def test_other_images_are_a_usage_error(tmp_path):
    before = audited.folder(tmp_path / "before")
    other = audited.folder(tmp_path / "other", hashes=[f"{i + 1:032x}" for i in range(audited.N)])
    with pytest.raises(InputError, match="not of the same images"):
        gate(other, baseline=before)


def test_other_attacks_or_budgets_are_a_usage_error(tmp_path):
    before = audited.folder(tmp_path / "before")
    settings = {**audited.SETTINGS, "parameters": {"lbfgs": "LBFGS(budget=50)"}}
    with pytest.raises(InputError, match=r"parameters.*budget=1000.*budget=50"):
        gate(audited.folder(tmp_path / "after", settings=settings), baseline=before)


def test_a_baseline_that_was_searched_without_far_starts_is_a_usage_error(tmp_path):
    before = audited.folder(tmp_path / "before")
    after = audited.folder(tmp_path / "after", settings={**audited.SETTINGS, "starts": 500})
    with pytest.raises(InputError, match=r"starts None against 500.*the same version"):
        gate(after, baseline=before)


def test_a_baseline_that_nobody_can_trust_is_a_usage_error(tmp_path):
    before = audited.folder(tmp_path / "before", trust=[audited.RED])
    with pytest.raises(InputError, match="before is untrustworthy"):
        gate(audited.folder(tmp_path / "after"), baseline=before)


def test_where_the_largest_change_is_attacked_its_median_is_guarded(tmp_path):
    settings = {**audited.SETTINGS, "norm": "inf"}
    runs = [audited.folder(tmp_path / name, settings=settings) for name in "ab"]
    names = [check.name for check in gate(runs[1], baseline=runs[0]).checks]
    assert names == ["trust", "clean_accuracy against the baseline", "median_linf against the baseline"]


def test_a_drop_of_the_certified_radius_fails_where_both_runs_have_one_by_the_same_method(tmp_path):
    """The examples found stay where they were; of 400 images the certificates alone shrink by a tenth."""
    sizes = audited.distances()

    def run(name, factor=0.5, method="crown", radii=None):
        settings = {**audited.SETTINGS, "certify": method}
        radii = [factor * size for size in sizes] if radii is None else radii
        return audited.folder(tmp_path / name, sizes=sizes, settings=settings, certified=radii)

    before = run("before")
    outcome = gate(run("after", 0.45), baseline=before)
    assert outcome.code == 1
    dropped = outcome.checks[-1]
    assert dropped.name == "certified_l2 against the baseline"
    assert dropped.state is State.FAILED
    assert dropped.numbers["difference"] == pytest.approx(-0.1 * dropped.numbers["baseline"])
    assert [check.state for check in outcome.checks[1:3]] == [State.PASSED, State.PASSED]
    assert gate(run("longer", 0.6), baseline=before).code == 0
    with pytest.raises(InputError, match=r"certified by crown and .* by curvature.*--certify-method"):
        gate(run("other", method="curvature"), baseline=before)
    reversed_ = audited.folder(
        tmp_path / "reversed", sizes=sizes[::-1], settings={**audited.SETTINGS, "certify": "crown"},
        hashes=[f"{i:032x}" for i in range(len(sizes))][::-1], certified=[0.5 * size for size in sizes[::-1]],
    )  # fmt: skip
    same = gate(reversed_, baseline=before).checks[-1].numbers
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0), "paired by image, not by place"
    unfinished = run("unfinished", radii=[None, *(0.4 * size for size in sizes[1:])])
    for later in (unfinished, audited.folder(tmp_path / "none", sizes=sizes)):
        names = [check.name for check in gate(later, baseline=before).checks]
        assert "certified_l2 against the baseline" not in names


def test_rows_that_are_missing_or_damaged_are_named(tmp_path):
    before, after = (audited.folder(tmp_path / name) for name in ("before", "after"))
    (before / "rows.parquet").write_bytes(b"no table")
    with pytest.raises(StoreError, match=r"before/rows\.parquet cannot be read"):
        gate(after, baseline=before)
    (before / "rows.parquet").unlink()
    with pytest.raises(StoreError, match=r"before/rows\.parquet is not there"):
        gate(after, baseline=before)
