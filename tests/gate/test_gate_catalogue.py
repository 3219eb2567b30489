"""The figures that a gate knows before any audit: held against those that audits have."""

import math

import pytest

import small_audit
from intriguing.gate import known


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """Return the figures of the subject of two audits of two models: certified in L2, and in Linf."""
    folder = tmp_path_factory.mktemp("known")
    place = small_audit.net(folder)
    models = [f"{place}:build", f"{place}:other"]
    options = {"images": 12, "budget": 20, "certify": "interval"}
    found = [
        small_audit.audit(folder / "l2", models, **options),
        small_audit.audit(folder / "linf", models, **options, norm=math.inf),
    ]
    return [audit.figures for audit in found]


def test_every_figure_of_an_audit_is_known_with_its_meaning_and_nothing_else_is(audits):
    held = {name: (entry["meaning"], entry["unit"]) for audit in audits for name, entry in audit.items()}
    own = {name: text for name, text in held.items() if not name.startswith("net.py:other/")}
    assert {figure.name: (figure.meaning, figure.unit) for figure in known()} == own


def test_figures_that_not_every_audit_has_say_what_they_take():
    takes = {figure.name: figure.needs for figure in known()}
    assert takes["median_l2"] == ""
    assert takes["transfer"] == "an audit of several --model"
    assert takes["certified_l2"] == "an audit with --certify"
    assert takes["certified_accuracy_linf@8/255"] == "an audit with --certify and --norm inf"
    assert len(takes) == len(known())
