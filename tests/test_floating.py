from __future__ import annotations

import pytest
import torch

from intriguing.floating import denormals_flushed


def tiny() -> float:
    return (torch.tensor([1e-38]) * 0.01).item()


def test_denormals_are_zero_inside_and_as_before_outside() -> None:
    assert tiny() > 0
    with denormals_flushed():
        assert tiny() == 0
        with denormals_flushed():
            assert tiny() == 0
        assert tiny() == 0, "an inner block must not end the outer one"
    assert tiny() > 0


def test_the_setting_comes_back_after_an_exception() -> None:
    with pytest.raises(RuntimeError), denormals_flushed():
        raise RuntimeError
    assert tiny() > 0
