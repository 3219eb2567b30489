import dataclasses

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
    assert origin.key == results["run"]["hashes"]["cells"]["table-1"]


def test_a_study_that_no_module_holds_is_named_by_its_file_and_a_figure_by_its_cell():
    made = dataclasses.replace(sample_run.STUDY.exhibit("figure-7"), cell=lambda settings: Cell("a.b:c"))
    study = dataclasses.replace(sample_run.STUDY, exhibits=(made,))
    origin = provenance(study, made, {"settings": {"images": 3, "else": 4}}, [])
    assert origin.study == "intriguing.studies.szegedy2014"
    assert origin.builder == ""
    assert origin.functions == ("a.b:c",)
    assert origin.key == ""
