"""Errors keep their type and message across processes."""

from __future__ import annotations

import pickle

import pytest

from intriguing.errors import DataError, StoreError, UnknownNameError
from intriguing.run.failure import CellError, Failure, explain


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        DataError("the images are gone"),
        UnknownNameError("net", "FC11", ["FC10"]),  # its arguments are not its message
        StoreError("no space left"),
        ValueError("three is not two"),
        OSError(28, "No space left on device"),
        KeyError("missing"),
    ],
)
def test_an_error_travels(error: Exception) -> None:
    failure = pickle.loads(pickle.dumps(Failure.of(raised(error))))
    back = failure.error()
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back).items() >= vars(error).items()
    assert "test_failure.py" in back.__notes__[0]


class AwkwardError(Exception):
    def __init__(self) -> None:
        super().__init__("awkward")
        self.handle = lambda: None


def test_an_error_that_cannot_be_pickled_arrives_as_text() -> None:
    back = Failure.of(raised(AwkwardError())).error()
    assert type(back) is RuntimeError
    assert str(back) == "AwkwardError: awkward"


def test_our_errors_stay_and_others_become_the_cause() -> None:
    ours, other = DataError("gone"), ValueError("three is not two")
    assert explain("FC10(1)", ours) is ours
    assert ours.__notes__ == ["This happened in the cell 'FC10(1)'."]
    wrapped = explain("FC10(1)", other)
    assert isinstance(wrapped, CellError)
    assert wrapped.__cause__ is other
