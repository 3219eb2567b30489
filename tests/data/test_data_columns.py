"""Which columns are read, and what a table must hold."""

from __future__ import annotations

import json
import math

import making
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from intriguing import data
from intriguing.errors import DataError

PNGS = [making.encoded(making.pixels(i)) for i in range(3)]
GREY = (torch.stack([torch.from_numpy(making.pixels(i)) for i in range(3)]).float() / 255).unsqueeze(1)


def load(path, **options):
    return data.load(str(path.parent), path.stem, **options)


def features(**columns):
    return json.dumps({"info": {"features": columns}})


def test_images_labels_and_names_come_through(tmp_path):
    found = load(making.parquet(tmp_path / "train.parquet", PNGS, [1, 0, 1]))
    assert torch.equal(found.images, GREY)
    assert found.labels.tolist() == [1, 0, 1]
    assert found.classes == ("a", "b")


def test_declared_feature_types_decide_whatever_the_names(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": png, "path": None} for png in PNGS], kind)
    table = pa.table({"image": [5, 6, 7], "depth": cells, "label": [0, 0, 0], "kind": [1, 0, 1]})
    declared = features(
        image={"_type": "Value"}, depth={"_type": "Image"}, kind={"_type": "ClassLabel", "names": ["x", "y"]}
    )
    pq.write_table(table.replace_schema_metadata({"huggingface": declared}), tmp_path / "train.parquet")
    found = load(tmp_path / "train.parquet")
    assert torch.equal(found.images, GREY)
    assert found.labels.tolist() == [1, 0, 1]
    assert found.classes == ("x", "y")


def test_a_plain_binary_column_will_do(tmp_path):
    found = load(making.parquet(tmp_path / "train.parquet", PNGS, [1, 0, 1], kind=pa.binary()))
    assert torch.equal(found.images, GREY)


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("floats", [False, True])
def test_nested_numbers_are_images(tmp_path, axis, floats):
    array = np.stack([making.pixels(i, 4, 5, colour=True) for i in range(2)])
    truth = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    stored = np.moveaxis(array, 3, axis)
    if floats:
        stored = np.moveaxis(truth.numpy(), 1, axis)
    kind = pa.list_(pa.list_(pa.list_(pa.float32() if floats else pa.int64())))
    found = load(making.parquet(tmp_path / "train.parquet", stored.tolist(), [0, 1], kind=kind))
    assert torch.equal(found.images, truth)


def test_nested_grey_of_fixed_size(tmp_path):
    kind = pa.list_(pa.list_(pa.float64(), 2), 2)
    found = load(making.parquet(tmp_path / "t.parquet", [[[0.0, 1.0], [0.5, 0.25]]], [0], kind=kind))
    assert found.images.tolist() == [[[[0.0, 1.0], [0.5, 0.25]]]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (math.nan, "NaN or infinity in row 1"),
        (math.inf, "NaN or infinity in row 1"),
        (1.5, r"\[0, 1\].*in row 1"),
        (None, "missing in row 1"),
    ],
)
def test_float_pixels_out_of_range_are_named_by_row(tmp_path, bad, message):
    images = [[[0.0, 1.0]], [[0.5, bad]], [[0.5, 0.5]]]
    path = making.parquet(tmp_path / "t.parquet", images, [0, 1, 0], kind=pa.list_(pa.list_(pa.float32())))
    with pytest.raises(DataError, match=message):
        load(path)


@pytest.mark.parametrize("bad", [-1, 256])
def test_integer_pixels_out_of_range_are_named_by_row(tmp_path, bad):
    path = making.parquet(tmp_path / "t.parquet", [[[0, 255]], [[0, bad]]], [0, 1])
    with pytest.raises(DataError, match="between 0 and 255, they do not in row 1"):
        load(path)


def test_nested_images_must_agree_in_size_and_say_where_channels_are(tmp_path):
    ragged = making.parquet(tmp_path / "r.parquet", [[[0, 1]], [[0, 1, 2]]], [0, 1])
    with pytest.raises(DataError, match="must all have one size"):
        load(ragged)
    unclear = making.parquet(tmp_path / "u.parquet", np.zeros((2, 3, 4, 3), int).tolist(), [0, 1])
    with pytest.raises(DataError, match="which axis"):
        load(unclear)


@pytest.mark.parametrize(("label", "message"), [(2, "got 2 in row 1"), (-1, "got -1 in row 1")])
def test_labels_out_of_range_are_named_by_row(tmp_path, label, message):
    with pytest.raises(DataError, match=message):
        load(making.parquet(tmp_path / "t.parquet", PNGS, [0, label, 1]))


def test_missing_labels_are_named_by_row(tmp_path):
    with pytest.raises(DataError, match="labels are missing in row 2"):
        load(making.parquet(tmp_path / "t.parquet", PNGS, [0, 1, None]))


def test_labels_too_large_for_any_class(tmp_path):
    path = making.parquet(tmp_path / "t.parquet", PNGS, pa.array([0, 1, 2**64 - 1], pa.uint64()))
    with pytest.raises(DataError, match="labels are out of range"):
        load(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "no class names.*ClassLabel.*class_names"),
        ("{not json", "'class_names' is not JSON"),
        ("[]", "class names must be a list"),
        ("[1, 2]", "class names must be a list"),
        ('["a", "a"]', "more than once"),
    ],
)
def test_class_names_must_be_there_and_make_sense(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        load(making.parquet(tmp_path / "t.parquet", PNGS, [0, 1, 1], names))


def test_two_lists_of_names_may_not_contradict(tmp_path):
    path = making.parquet(tmp_path / "t.parquet", PNGS, [0, 1, 1])
    table = pq.read_table(path)
    declared = features(label={"_type": "ClassLabel", "names": ["x", "y"]})
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, "huggingface": declared}), path)
    with pytest.raises(DataError, match="'class_names' differ"):
        load(path)


def test_names_are_kept_as_plain_data(tmp_path):
    names = ["<script>alert(1)</script>", "../../etc", "\x1b[31m", "{x}", "é", "\ud800"]
    found = load(making.parquet(tmp_path / "t.parquet", PNGS, [0, 1, 5], json.dumps(names)))
    assert found.classes == (*names[:5], "?")


def test_a_choice_by_name_is_noted(tmp_path):
    path = making.parquet(tmp_path / "t.parquet", PNGS, [0, 1, 1], coarse=pa.array([0, 0, 0]))
    assert "'coarse'" in load(path).notes["label column"]


def test_an_unclear_choice_is_an_error(tmp_path):
    path = making.parquet(tmp_path / "t.parquet", PNGS, [0, 1, 1], coarse=pa.array([0, 0, 0]))
    table = pq.read_table(path).rename_columns(["image", "fine", "coarse"])
    pq.write_table(table, path)
    with pytest.raises(DataError, match="label column is not clear, 'fine', 'coarse'"):
        load(path)


@pytest.mark.parametrize(("columns", "what"), [({"label": [0]}, "image"), ({"image": [b"x"]}, "label")])
def test_a_missing_column_is_an_error_that_lists_the_rest(tmp_path, columns, what):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=f"no {what} column.*it has: "):
        load(tmp_path / "t.parquet")


def test_no_rows(tmp_path):
    path = making.parquet(tmp_path / "t.parquet", PNGS, [0, 1, 1])
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match="holds no rows"):
        load(path)


def test_a_path_in_a_file_from_elsewhere_is_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(PNGS[0])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    with pytest.raises(DataError, match=r"row 0 of .* holds no image bytes"):
        load(making.parquet(tmp_path / "t.parquet", cells, [0], kind=kind))


def test_metadata_that_is_no_table_of_features(tmp_path):
    path = making.parquet(tmp_path / "t.parquet", PNGS, [0, 1, 1])
    table = pq.read_table(path)
    for text in ("{", '{"info": {"features": [1]}}'):
        pq.write_table(table.replace_schema_metadata({"huggingface": text}), path)
        with pytest.raises(DataError, match="huggingface"):
            load(path)


def test_a_damaged_image_is_named_by_its_row(tmp_path):
    broken = bytearray(PNGS[1])
    broken[50] ^= 4
    path = making.parquet(tmp_path / "t.parquet", [PNGS[0], bytes(broken), PNGS[2]], [0, 1, 1])
    with pytest.raises(DataError, match=r"row 1 of .*t\.parquet' is damaged"):
        load(path)
