import ast
import inspect
import sys

import pytest

from intriguing.report import code, pen
from intriguing.report.provenance import Provenance


def _origin(*functions, exhibit="STUDY.exhibit('t')"):
    return Provenance("m:STUDY", exhibit, "", functions[0], functions, (), "section 4", "")


def test_a_functions_text_is_the_one_in_its_file():
    found = code.source("intriguing.report.pen:apart")
    assert found.text == inspect.getsource(pen.apart).rstrip()
    assert found.file == "report/pen.py"
    assert found.line == inspect.getsourcelines(pen.apart)[1]
    assert found.lines == len(inspect.getsourcelines(pen.apart)[0])
    assert found.summary.startswith("Return middles for blocks")


def test_what_a_function_uses_of_its_module_follows_it_and_nothing_else():
    found = code.source("intriguing.report.pen:wrapped")
    names = [n.name for n in ast.parse(found.text).body]
    assert names == ["wrapped", "clip", "_filled"]


def test_decorators_and_constants_belong_to_it():
    found = code.source("intriguing.report.code:source")
    assert "@functools.cache\ndef _parts(" in found.text
    assert "_ROOT = Path(__file__)" in found.text


@pytest.mark.parametrize(
    "reference",
    [
        "", ":", "intriguing", "intriguing.report.code", "intriguing.report.code:absent", "intriguing.absent:f",
        "os.path:join", "intriguing...errors:f", "intriguing.report/../errors:f", "intriguing.report.pen:WIDE",
    ],
)  # fmt: skip
def test_what_is_not_a_function_of_this_package_has_no_source(reference):
    assert code.source(reference) is None


def test_nothing_is_imported_to_show_it():
    before = set(sys.modules)
    assert code.source("intriguing.experiments.transfer:table_2") is not None
    assert set(sys.modules) == before


def test_anchors_are_unique_even_where_names_are_odd():
    anchors = code.anchors([_origin("a.b:c", "a.b c", "a.b-c"), _origin("a.b:c", "")])
    assert list(anchors) == ["a.b:c", "a.b c", "a.b-c", ""]
    assert len(set(anchors.values())) == 4
    assert anchors["a.b:c"] == "code-a.b-c"
    assert all(" " not in a for a in anchors.values())


def test_a_function_is_listed_once_with_every_section_that_rests_on_it():
    shared, own = "intriguing.report.pen:apart", "intriguing.report.pen:clip"
    sections = {"t1": ("Table 1", _origin(shared)), "t2": ("Table 2", _origin(own, shared, exhibit="e2"))}
    entries = code.entries(sections, code.anchors([o for _, o in sections.values()]))
    assert [e.reference for e in entries] == [shared, own]
    assert [use[:2] for use in entries[0].uses] == [("t1", "Table 1"), ("t2", "Table 2")]
    assert entries[1].uses == (("t2", "Table 2", "m:STUDY, e2"),)
