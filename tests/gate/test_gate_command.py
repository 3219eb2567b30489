"""`intriguing gate`: what it prints, and above all how it leaves."""

import sys

import audited
import pytest

from intriguing import cli, gate


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["intriguing", "gate", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    return call


def test_exit_codes_are_0_passed_1_failed_2_usage_3_untrustworthy(run, tmp_path):
    good = audited.folder(tmp_path / "good")
    worse = audited.folder(tmp_path / "worse", sizes=audited.distances(factor=0.8))
    masked = audited.folder(tmp_path / "masked", trust=[audited.RED])
    other = audited.folder(tmp_path / "other", hashes=[f"x{i}" for i in range(audited.N)])
    assert run(good, "--require", "median_l2 >= 0.40", "--require", "transfer <= 0.3")[0] == 0
    assert run(good, "--require", "median_l2 >= 0.50")[0] == 1
    assert run(worse, "--baseline", good)[0] == 1
    for usage in (
        [good, "--require", "medan_l2 >= 0.5"],
        [good, "--require", "median_l2"],
        [good, "--baseline", other],
        [good, "--baseline", masked],
        [tmp_path / "nowhere"],
        [masked, "--baseline", other],
        [masked, "--require", "no >= 1"],
        [good, "--requir", "median_l2 >= 0.5"],
        [],
    ):
        code, out, err = run(*usage)
        assert (code, out) == (2, ""), usage
        assert len(err.splitlines()) == 1
        assert "Error" in err
    assert run(masked, "--require", "median_l2 >= 0.1")[0] == 3
    assert run(masked, "--require", "median_l2 >= 9")[0] == 3
    assert run(masked, "--baseline", good)[0] == 3


def test_every_check_is_one_line_and_the_last_says_how_it_ended(run, tmp_path):
    folder = audited.folder(tmp_path / "run")
    code, out, err = run(folder, "--require", "median_l2 >= 0.40", "--require", "median_l2 >= 0.50")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 1
    assert err == ""
    assert lines == [
        "passed trust: 1 green",
        "passed median_l2 >= 0.40: median_l2 is 0.41, 95% interval 0.369 to 0.451, n 400",
        "failed median_l2 >= 0.50: median_l2 is 0.41, 95% interval 0.369 to 0.451, n 400",
        f"FAILED {folder}",
    ]


@pytest.mark.parametrize(("trust", "code"), [(audited.GREEN, 0), (audited.RED, 3)])
def test_a_gate_without_conditions_says_that_trust_alone_was_judged(run, tmp_path, trust, code):
    folder = audited.folder(tmp_path / "run", trust=[trust])
    said = "No condition was given (--require, --baseline): only whether the audit can be trusted was judged."
    found, out, _ = run(folder)
    assert (found, out.splitlines()[-2]) == (code, said)
    assert said not in run(folder, "--require", "median_l2 >= 0.4")[1]
    assert said not in run(folder, "--baseline", audited.folder(tmp_path / "before"))[1]


def test_the_list_names_every_figure_with_value_interval_and_meaning(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(audited.folder(tmp_path / "run"), "--list")
    assert code == 0
    for name in audited.figures():
        assert name in out
    line = next(line for line in out.splitlines() if line.startswith("median_l2"))
    assert line.split()[:4] == ["median_l2", "0.41", "0.37–0.45", "400"]
    assert "Half of the images have one nearer." in line


def test_without_a_run_the_list_names_every_figure_there_can_be(run):
    code, out, err = run("--list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for figure in gate.known():
        [line] = [line for line in lines if line.startswith(f"{figure.name} ")]
        assert figure.meaning in line
    [line] = [line for line in lines if line.startswith("transfer ")]
    assert line.endswith("Takes an audit of several --model.")


def test_what_is_not_read_on_a_terminal_has_one_line_per_figure(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    long = "A sentence that is much longer than any terminal is wide, " * 4
    values = audited.figures() | {"median_l2": audited.figure(0.41, meaning=long)}
    _, out, _ = run(audited.folder(tmp_path / "run", values=values), "--list")
    assert len(out.splitlines()) == 1 + len(values)
    [line] = [line for line in out.splitlines() if line.startswith("median_l2 ")]
    assert long.strip() in line


def test_the_list_of_an_untrustworthy_audit_warns(run, tmp_path):
    code, out, err = run(audited.folder(tmp_path / "run", trust=[audited.RED]), "--list")
    assert code == 0
    assert "median_l2" in out
    assert "untrustworthy" in err


def test_the_files_are_written_whatever_the_outcome(run, tmp_path):
    masked = audited.folder(tmp_path / "masked", trust=[audited.RED])
    code, _, _ = run(masked, "--junit", tmp_path / "gate.xml", "--json", tmp_path / "gate.json")
    assert code == 3
    assert "untrustworthy" in (tmp_path / "gate.xml").read_text()
    assert '"code": 3' in (tmp_path / "gate.json").read_text()
