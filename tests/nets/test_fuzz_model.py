"""Whatever a net answers, and whatever is in the images, labels and files: a named error or a right answer."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from intriguing import attacks
from intriguing.errors import IntriguingError, ModelError
from intriguing.nets.doctor import doctor
from intriguing.nets.load import Model
from intriguing.nets.weights import fill, read

FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip
NUMBERS = [0.0, 1.0, -1.0, 0.5, 255.0, 1e30, -1e30, float("nan"), float("inf")]
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)
dtypes = st.sampled_from(DTYPES)


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> Tensor:
    """Draw a tensor of the shape, or of any, whose entries are ordinary, huge or no numbers."""
    size = draw(shapes) if shape is None else shape
    palette = draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3))
    count = math.prod(size)
    values = torch.tensor((palette * count)[:count], dtype=torch.float64).reshape(size)
    dtype = draw(dtypes)
    if not dtype.is_floating_point:
        values = values.nan_to_num(0, 1, 0).clamp(0, 200)  # what a cast of these gives is not defined
    return values.to(dtype)


def pictures() -> Any:
    """Return tensors of any shape, often one that a net of 4 pixels takes."""
    return st.one_of(tensors(), *[tensors(shape) for shape in ((3, 4), (2, 1, 2, 2), (3, 1, 2, 2), (1, 4, 1, 1))])


def answers() -> Any:
    """Return anything a net may give, a batch of 3 in mind."""
    near = st.sampled_from([(3, 4), (3, 1), (3,), (3, 2), (2, 4), (3, 4, 1, 1), (12,), ()]).flatmap(tensors)
    inside = st.one_of(near, tensors())
    return st.one_of(
        inside,
        inside.map(lambda z: SimpleNamespace(logits=z)),
        inside.map(lambda z: {"logits": z}),
        inside.map(lambda z: (z,)),
        inside.map(lambda z: [z, z]),
        st.sampled_from([None, 3, "logits", [], {}, {"logits": None}, SimpleNamespace(logits=3)]),
    )


@FEW
@given(answer=answers(), kind=st.sampled_from(["logits", "probabilities", "labels"]))
def test_any_answer_becomes_logits_or_a_named_error(answer: Any, kind: str) -> None:
    model = Model(lambda x: answer, answers=kind, classes=4 if kind == "labels" else None)
    images = torch.zeros(3, 2)
    try:
        logits = model(images)
    except IntriguingError:
        return
    assert logits.ndim == 2
    assert logits.shape[0] == 3
    assert logits.shape[1] >= 2
    assert logits.is_floating_point()
    try:
        checked = model.check(logits)
    except ModelError:
        assert not bool(logits.isfinite().all())
    else:
        assert bool(checked.isfinite().all())


@FEW
@given(images=pictures(), batch=st.integers(0, 3), box=st.tuples(*[st.sampled_from(NUMBERS)] * 2))
def test_any_images_are_served_or_refused(images: Tensor, batch: int, box: tuple[float, float]) -> None:
    def net(x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.ones(4, 3)

    try:
        model = Model(net, box=box, mean=0.5)
        model.check_inputs(images)
        logits = model.logits(images, batch=batch)
    except IntriguingError:
        return
    assert images.flatten(1).shape[1] == 4
    torch.testing.assert_close(logits, (images.flatten(1).float() - 0.5) @ torch.ones(4, 3), check_dtype=False)


@FEW
@given(
    images=st.one_of(st.just(torch.full((3, 1, 2, 2), 0.5)), pictures()),
    labels=st.one_of(st.sampled_from([torch.tensor([0, 1, 2]), torch.tensor([-1, 0, 9])]), tensors(), tensors((3,))),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    target=st.sampled_from(["top-1", "all", "random"]),
)
def test_any_images_and_labels_are_attacked_or_refused(
    images: Tensor, labels: Tensor, dtype: torch.dtype, target: str
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(dtype)
    try:
        result = attacks.lbfgs(net, images, labels, target=target, budget=20, generator=torch.Generator())
    except IntriguingError:
        return
    assert len(result.status) == len(images)
    assert bool(result.adversarial.isfinite().all())


@FEW
@given(images=pictures(), labels=st.one_of(st.none(), tensors(), tensors((3,))), limit=st.integers(1, 3))
def test_the_doctor_ends_in_a_diagnosis_or_a_named_error(images: Tensor, labels: Tensor | None, limit: int) -> None:
    def net(x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.ones(4, 3)

    try:
        record = doctor(Model(net), images, labels, limit=limit)
    except IntriguingError:
        return
    assert record.state in ("green", "amber", "red", "did not run")
    assert len(record.checks) == 9


def _files() -> dict[str, bytes]:
    state = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.zeros(3)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return {"w.safetensors": save(state), "w.pt": buffer.getvalue()}


FILES = _files()


@FEW
@given(name=st.sampled_from(sorted(FILES)), content=st.binary(max_size=300))
def test_random_bytes_are_no_weights(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="weights: "):
        read(tmp_path / name)


@FEW
@given(
    name=st.sampled_from(sorted(FILES)),
    cut=st.integers(0, 2000),
    at=st.integers(0, 2000),
    flip=st.integers(0, 255),
)
def test_cut_or_changed_weights_are_refused_or_fill_the_net(
    tmp_path: Path, name: str, cut: int, at: int, flip: int
) -> None:
    content = bytearray(FILES[name])
    del content[max(1, len(content) - cut) :]
    content[at % len(content)] ^= flip
    (tmp_path / name).write_bytes(content)
    net = nn.Linear(4, 3)
    try:
        fill(net, read(tmp_path / name), name)
    except ModelError:
        return
    assert all(bool(value.isfinite().all()) for value in net.state_dict().values())
