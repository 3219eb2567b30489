"""What a build server and a script read."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import audited
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intriguing.errors import StoreError
from intriguing.gate import Check, Outcome, State, document, gate, junit, write


def _outcome(*checks: Check, state: State = State.FAILED) -> Outcome:
    return Outcome(Path("runs/v2"), None, state, checks, ())


@settings(max_examples=60)
@given(st.text(), st.text(), st.sampled_from(State))
def test_junit_is_well_formed_whatever_the_texts_hold(name, sentence, state):
    root = ElementTree.fromstring(junit(_outcome(Check(name, state, sentence, {}))).encode("utf-8", "replace"))
    [case] = root.iter("testcase")
    assert root.get("tests") == "1"
    # XML itself makes one space or line break of several kinds.
    if name.isalnum():
        assert case.get("name") == name


def test_junit_has_one_case_per_check_and_failures_tell_the_numbers(tmp_path):
    run = audited.folder(tmp_path / "run")
    root = ElementTree.fromstring(junit(gate(run, require=["median_l2 >= 0.4", "median_l2 >= 0.5"])))
    [suite] = root
    assert [suite.get(name) for name in ("tests", "failures", "skipped", "errors")] == ["3", "1", "0", "0"]
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == ["trust", "median_l2 >= 0.4", "median_l2 >= 0.5"]
    assert cases["median_l2 >= 0.4"].find("failure") is None
    failure = cases["median_l2 >= 0.5"].find("failure")
    assert failure.get("message") == "median_l2 is 0.41, 95% interval 0.369 to 0.451, n 400"
    assert failure.get("type") == "failed"


def test_an_untrustworthy_audit_fails_in_junit_and_nothing_in_it_passes(tmp_path):
    run = audited.folder(tmp_path / "run", trust=[audited.RED])
    [suite] = ElementTree.fromstring(junit(gate(run, require=["median_l2 >= 0.4"])))
    trust, condition = suite.iter("testcase")
    assert trust.find("failure").get("type") == "untrustworthy"
    assert condition.find("skipped") is not None
    assert suite.get("skipped") == "1"


def test_json_is_strict_and_says_state_code_and_numbers(tmp_path):
    run = audited.folder(tmp_path / "run")
    outcome = gate(run, require=["far >= 1", "median_l2 >= 0.5"])
    write(outcome, json_file=tmp_path / "new" / "gate.json", junit_file=tmp_path / "new" / "gate.xml")
    read = json.loads((tmp_path / "new" / "gate.json").read_text(), parse_constant=pytest.fail)
    assert (read["schema"], read["kind"], read["state"], read["code"]) == (1, "gate", "failed", 1)
    trust, far, median = read["checks"]
    assert trust["green"] == 1
    assert (far["value"], far["non_finite"]) == (None, {"value": "inf", "high": "inf"})
    assert (median["name"], median["state"], median["value"], median["bound"]) == (
        "median_l2 >= 0.5", "failed", 0.41, 0.5,
    )  # fmt: skip
    assert document(outcome) == read
    ElementTree.parse(tmp_path / "new" / "gate.xml")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match=r"taken/gate\.xml could not be written"):
        write(_outcome(), junit_file=tmp_path / "taken" / "gate.xml")


def test_infinite_bounds_are_kept(tmp_path):
    run = audited.folder(tmp_path / "run")
    read = document(gate(run, require=["far >= inf"]))
    assert read["checks"][1]["non_finite"]["bound"] == str(math.inf)
