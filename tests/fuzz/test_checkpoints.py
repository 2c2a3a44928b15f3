"""Damaged checkpoints: an error of this library, or what was saved; never anything else, and nothing is executed."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2vpo.errors import CheckpointError
from r2vpo.runs.checkpoint import load_tree, save_tree

TREE = {"kind": "x", "weights": torch.arange(6.0).view(2, 3), "list": [1, 2.5, None, "a"], "state": {0: np.arange(4)}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "tree.zip"
    save_tree(path, TREE)
    return path.read_bytes()


def load(path, data, refused):
    path.write_bytes(data)
    try:
        tree = load_tree(path)
    except CheckpointError as error:
        refused(error, data, names=str(path))
        return None
    return tree


def same(tree):
    return (
        torch.equal(tree["weights"], TREE["weights"])
        and np.array_equal(tree["state"][0], TREE["state"][0])
        and {k: tree[k] for k in ("kind", "list")} == {k: TREE[k] for k in ("kind", "list")}
    )


@given(data=st.data())
def test_a_file_that_is_cut_short(refused, tmp_path, whole, data):
    length = data.draw(st.integers(0, len(whole) - 1))
    assert load(tmp_path / "cut.zip", whole[:length], refused) is None


@given(data=st.data())
def test_a_byte_that_changed(refused, tmp_path, whole, data):
    place, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(whole)
    changed[place] ^= value
    tree = load(tmp_path / "changed.zip", bytes(changed), refused)
    assert tree is None or same(tree)  # times and the like in the zip file's own headers are nobody's


@given(data=st.binary(max_size=300))
def test_bytes_of_anything_else(refused, tmp_path, data):
    assert load(tmp_path / "other.zip", data, refused) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(document=JSON)
def test_a_zip_file_of_something_else(refused, tmp_path, document):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tree.json", json.dumps(document))
    assert load(tmp_path / "other.zip", buffer.getvalue(), refused) is None


@given(tree=JSON)
def test_the_format_of_ours_around_something_else(refused, tmp_path, tree):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tree.json", json.dumps({"format": "r2vpo-checkpoint", "version": 1, "tree": tree}))
    load(tmp_path / "other.zip", buffer.getvalue(), refused)
