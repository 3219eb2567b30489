import dataclasses
import sys
import types

import sample_run

from intriguing.report.provenance import provenance
from intriguing.studies.spec import Cell


def test_the_study_object_and_the_function_are_named_as_python_references():
    study, results, _ = sample_run.sample()
    cells = [c for c in results["cells"] if c["table"] == "table-1"]
    origin = provenance(study, study.exhibit("table-1"), results["run"], cells)
    assert origin.study == "sample_run:STUDY"
    assert origin.exhibit == "STUDY.exhibit('table-1')"
    assert origin.builder == "sample_run:_cell_1"
    assert origin.functions == ("intriguing.experiments.minimal:minimal_distortion",)
    assert origin.cell == "intriguing.experiments.minimal:minimal_distortion"
    assert origin.key == results["run"]["hashes"]["cells"]["table-1"]


def test_a_study_that_no_module_holds_is_named_by_its_file_and_a_figure_by_its_cell():
    made = dataclasses.replace(sample_run.STUDY.exhibit("figure-7"), cell=lambda settings: Cell("a.b:c"))
    study = dataclasses.replace(sample_run.STUDY, exhibits=(made,))
    origin = provenance(study, made, {"settings": {"images": 3, "else": 4}}, [])
    assert origin.study == "intriguing.studies.szegedy2014"
    assert origin.builder == ""
    assert origin.functions == ("a.b:c",)
    assert origin.key == ""


def test_what_a_cell_rests_on_is_named_once_the_nearest_first():
    trained = Cell("p.m:train")
    first, second = (Cell("p.m:attack", {"net": k}, needs={"net": trained}) for k in (1, 2))
    top = Cell("p.m:table", needs={"a": first, "b": second, "net": trained})
    made = dataclasses.replace(sample_run.STUDY.exhibit("figure-7"), cell=lambda settings: top)
    origin = provenance(sample_run.STUDY, made, {}, [{"code": "p.m:helper"}, {"code": "p.m:helper"}])
    assert origin.functions == ("p.m:helper", "p.m:table")
    assert origin.needed == ("p.m:attack", "p.m:train")
    assert origin.everything == ("p.m:helper", "p.m:table", "p.m:attack", "p.m:train")


def test_a_study_held_by_a_package_above_the_exhibits_module_is_found(monkeypatch):
    package, module = types.ModuleType("whole"), types.ModuleType("whole.part")
    package.STUDY = sample_run.STUDY
    monkeypatch.setitem(sys.modules, "whole", package)
    monkeypatch.setitem(sys.modules, "whole.part", module)

    def cell(settings):
        return Cell("a.b:c")

    cell.__module__ = "whole.part"
    made = dataclasses.replace(sample_run.STUDY.exhibit("figure-7"), cell=cell)
    assert provenance(sample_run.STUDY, made, {}, []).study == "whole:STUDY"
