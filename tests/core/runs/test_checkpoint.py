"""Checkpoints: what goes in comes out, a bad file is refused, and nothing in a file is ever executed."""

import io
import json
import math
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from r2vpo.errors import CheckpointError
from r2vpo.runs.checkpoint import (
    FORMAT,
    FORMAT_VERSION,
    generator_state,
    load_tree,
    restore_generator,
    save_tree,
    write_text_atomically,
)

TREE = {
    "tensors": [
        torch.randn(3, 2),
        torch.randn(3, 2, dtype=torch.float64),
        torch.arange(5),
        torch.tensor([True, False]),
        torch.arange(4, dtype=torch.uint8),
        torch.tensor(2.5),
        torch.empty(0, 3),
        torch.arange(6.0).reshape(2, 3).T,
        torch.ones(2, requires_grad=True),
        torch.tensor([math.inf, -math.inf, math.nan]),
    ],
    "arrays": [
        np.arange(3, dtype=np.int32),
        np.zeros((0, 2)),
        np.array(1.5),
        np.asfortranarray(np.eye(3) + 2),
    ],
    "integer keys": {0: {"step": torch.zeros(2)}, 7: "seven", "7": "text", -1: None},
    "tuples": ((1, 2.5), (), [(3,), []], {}),
    "plain": [None, True, False, 0, -(2**70), 0.1, 1e-300, "", 'ü"\\\n', "{}"],
    "not finite": [math.inf, -math.inf, math.nan],
    "looks like ours": {"tensor": 0, "dict": [["a", 1]]},
}


def assert_same(actual, expected):
    if isinstance(expected, torch.Tensor):
        assert isinstance(actual, torch.Tensor)
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        torch.testing.assert_close(actual, expected.detach(), rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, np.ndarray):
        assert isinstance(actual, np.ndarray)
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(actual, expected)
    else:
        assert type(actual) is type(expected)
        if isinstance(expected, dict):
            assert list(actual) == list(expected)
            for key in expected:
                assert_same(actual[key], expected[key])
        elif isinstance(expected, list | tuple):
            assert len(actual) == len(expected)
            for pair in zip(actual, expected, strict=True):
                assert_same(*pair)
        else:
            assert actual == expected or (math.isnan(actual) and math.isnan(expected))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.zip"


def write_zip(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)


def document(tree):
    return json.dumps({"format": FORMAT, "version": FORMAT_VERSION, "tree": tree})


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", TREE)
def test_round_trip(name, path):
    save_tree(path, {name: TREE[name]})
    assert_same(load_tree(path), {name: TREE[name]})


def test_round_trip_of_everything_together(path):
    save_tree(str(path), TREE)
    assert_same(load_tree(str(path)), TREE)
    assert os.listdir(path.parent) == [path.name]


def test_numpy_scalars_become_plain_numbers(path):
    save_tree(path, {"a": np.float64(0.1), "b": np.int64(3), "c": np.bool_(True)})
    assert_same(load_tree(path), {"a": 0.1, "b": 3, "c": True})


def test_optimizer_state_survives(path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    save_tree(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    loaded = load_tree(path)
    fresh = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    fresh.load_state_dict(loaded["optimizer"])
    assert_same(fresh.state_dict(), optimizer.state_dict())
    assert_same(loaded["model"], dict(model.state_dict()))


def test_what_is_loaded_can_be_changed(path):
    save_tree(path, {"tensor": torch.zeros(2), "array": np.zeros(2)})
    loaded = load_tree(path)
    loaded["tensor"] += 1
    loaded["array"] += 1
    assert_same(load_tree(path)["tensor"], torch.zeros(2))


def test_bfloat16_round_trip(path):
    weight = torch.tensor([[0.1, -2.0, math.nan], [math.inf, 0.0, 3e38]], dtype=torch.bfloat16)
    tree = {"tensors": [weight, weight.T, weight[0, 0], weight[:0]]}
    save_tree(path, tree)
    assert_same(load_tree(path), tree)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({1, 2}, "set"),
        (Path("x"), "PosixPath"),
        (np.array([None]), "array of objects"),
        (lambda: None, "function"),
    ],
)
def test_values_of_other_types_are_refused_by_place(value, name, path):
    with pytest.raises(TypeError, match=rf"cannot store an? {name} at /a/1/b"):
        save_tree(path, {"a": [0, {"b": value}]})
    assert os.listdir(path.parent) == []


def test_keys_of_other_types_are_refused(path):
    with pytest.raises(TypeError):
        save_tree(path, {"a": {(1, 2): 3}})


def test_missing_file(path):
    with pytest.raises(CheckpointError, match=f"no checkpoint at {path}"):
        load_tree(path)


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_tree(tmp_path)


def test_truncated_file(path):
    save_tree(path, TREE)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 22, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            load_tree(path)


def test_damaged_contents(path):
    save_tree(path, {"a": torch.arange(100.0)})
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(torch.arange(100.0).numpy().tobytes()) + 200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        load_tree(path)


def test_damage_anywhere_is_reported_or_harmless(path):
    tree = {"a": torch.arange(3.0), "b": {1: np.arange(2)}, "c": (1, None)}
    save_tree(path, tree)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x81]) + whole[position + 1 :])
        try:
            loaded = load_tree(path)
        except CheckpointError:
            continue
        assert_same(loaded, tree)


@pytest.mark.parametrize(
    "contents", [b"", b"text", np.random.default_rng(0).bytes(5000), npy(np.zeros(3)), pickle.dumps({"a": 1})]
)
def test_files_that_are_no_archive(contents, path):
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match="foreign"):
        load_tree(path)


@pytest.mark.parametrize(
    "members",
    [
        {"data_txt": "hello"},
        {"tree_json": "not json"},
        {"tree_json": "[]"},
        {"tree_json": "{}"},
        {"tree_json": json.dumps({"format": "another", "version": FORMAT_VERSION, "tree": {"dict": []}})},
        {"tree_json": document({"list": []})},
        {"tree_json": document({})},
        {"tree_json": document({"dict": [["a"]]})},
        {"tree_json": document({"dict": [["a", {"unknown": 1}]]})},
        {"tree_json": document({"dict": [["a", {"tensor": 0}]]})},
        {"tree_json": document({"dict": [["a", {"tensor": 0}]]}), "0_npy": b"not an array"},
    ],
    ids=str,
)
def test_archives_of_others(members, path):
    write_zip(path, **members)
    with pytest.raises(CheckpointError):
        load_tree(path)


def test_a_later_format_says_which(path):
    write_zip(path, tree_json=json.dumps({"format": FORMAT, "version": 99, "tree": {"dict": []}}))
    with pytest.raises(CheckpointError, match=f"format 99; this version reads {FORMAT_VERSION}"):
        load_tree(path)


def huge_array_header():
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("tree", "member"),
    [
        ({"dict": 5}, b""),
        ({"dict": [[[1], 2]]}, b""),
        ({"dict": [["a", {"tensor": None}]]}, b""),
        ({"dict": [["a", {"tensor": 0}]]}, npy(np.array(["text"]))),
        ({"dict": [["a", {"array": 0}]]}, huge_array_header()),
    ],
)
def test_malformed_archives(tree, member, path):
    write_zip(path, tree_json=document(tree), **{"0_npy": member})
    with pytest.raises(CheckpointError):
        load_tree(path)


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def object_array_member(path, payload):
    tree = document({"dict": [["a", {"array": 0}]]})
    array = np.array([payload], dtype=object)
    write_zip(path, tree_json=tree, **{"0_npy": npy(array, allow_pickle=True)})


def pickle_in_place_of_an_array(path, payload):
    tree = document({"dict": [["a", {"tensor": 0}]]})
    write_zip(path, tree_json=tree, **{"0_npy": pickle.dumps(payload)})


def pickle_file(path, payload):
    path.write_bytes(pickle.dumps(payload))


def torch_file(path, payload):
    torch.save(payload, path)


@pytest.mark.parametrize("craft", [object_array_member, pickle_in_place_of_an_array, pickle_file, torch_file])
def test_loading_executes_nothing(craft, path, tmp_path):
    marker = tmp_path / "executed"
    craft(path, Payload(marker))
    with pytest.raises(CheckpointError):
        load_tree(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists()


class Killed(BaseException):
    """Like KeyboardInterrupt: no `except Exception` sees it."""


def fail_at(call, original):
    """A stand-in for ``original`` that works until its ``call``-th call."""
    calls = iter(range(call))

    def function(*args, **kwargs):
        if next(calls, None) is None:
            raise Killed
        return original(*args, **kwargs)

    return function


@pytest.mark.parametrize("previous", [{"old": torch.zeros(3)}, None])
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (np, "save", 0),
        (np, "save", 3),
        (zipfile.ZipFile, "writestr", 0),
        (zipfile.ZipFile, "writestr", 2),
        (os, "fsync", 0),
        (Path, "replace", 0),
    ],
)
def test_dying_while_writing_leaves_the_previous_file(owner, name, call, previous, path, monkeypatch):
    if previous is not None:
        save_tree(path, previous)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail_at(call, getattr(owner, name)))
        with pytest.raises(Killed):
            save_tree(path, TREE)
    assert os.listdir(path.parent) == ([path.name] if previous is not None else [])
    if previous is not None:
        assert_same(load_tree(path), previous)


@pytest.mark.parametrize(("write", "contents"), [(save_tree, TREE), (write_text_atomically, "new")])
def test_contents_reach_the_disk_before_the_name(write, contents, path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def recording_fsync(descriptor):
        fsync(descriptor)
        events.append(("fsync", os.fstat(descriptor).st_size))

    def recording_replace(self, target):
        events.append(("replace", self.stat().st_size))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    write(path, contents)
    assert [name for name, _ in events[:2]] == ["fsync", "replace"]
    assert events[0][1] == events[1][1] == path.stat().st_size > 0


def test_text_is_replaced(path):
    write_text_atomically(path, "first")
    write_text_atomically(path, "second\n")
    assert path.read_text() == "second\n"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_dying_while_writing_text_leaves_the_previous_text(name, path, monkeypatch):
    write_text_atomically(path, "first")
    owner = os if name == "fsync" else Path
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail_at(0, getattr(owner, name)))
        with pytest.raises(Killed):
            write_text_atomically(path, "second")
    assert path.read_text() == "first"


def test_dying_while_writing_text_leaves_no_temporary(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail_at(0, os.fsync))
    with pytest.raises(Killed):
        write_text_atomically(path, "text")
    assert os.listdir(path.parent) == []


def test_generator_state_survives_a_checkpoint(path):
    generator = np.random.default_rng(3)
    generator.normal(size=5)
    save_tree(path, {"generator": generator_state(generator)})
    expected = generator.normal(size=4)
    other = np.random.default_rng(9)
    restore_generator(other, load_tree(path)["generator"])
    np.testing.assert_array_equal(other.normal(size=4), expected)
