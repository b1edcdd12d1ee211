"""Checkpoints and files: whole or absent, and never a surprise."""

import json
import math
import os
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from prunus.errors import FileError, InputError
from prunus.training.checkpoint import load_checkpoint, save_checkpoint
from prunus.training.files import (
    append_line,
    read_json,
    read_lines,
    write_atomically,
    write_json,
    write_lines,
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


def test_optimizer_state_survives_bit_for_bit(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.8, 0.9))
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    content = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict(), "epoch": 3}
    save_checkpoint(tmp_path / "c", content)
    loaded = load_checkpoint(tmp_path / "c")
    assert same(content, loaded)
    optimizer.load_state_dict(loaded["optimizer"])
    assert os.listdir(tmp_path) == ["c"]


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
nested = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(content=nested)
def test_plain_values_survive(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("c") / "c"
    save_checkpoint(path, content)
    assert same(content, load_checkpoint(path))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.int64, torch.uint8])
def test_dtypes_views_ties_and_empty_tensors_survive(tmp_path, dtype):
    base = torch.tensor([[0, 1, 2], [3, 0, 1]]).to(dtype)
    content = {
        "view": base.t(),
        "tied": [base, base],
        "scalar": base[0, 1],
        "empty": base[:0],
        "$tensor": "x",
    }
    save_checkpoint(tmp_path / "c", content)
    assert same(content, load_checkpoint(tmp_path / "c"))


def test_values_without_a_plain_form_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"checkpoint.a\[1\] is a set"):
        save_checkpoint(tmp_path / "c", {"a": [1, {2}]})
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_byte_and_every_truncation_is_found(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, {"w": torch.arange(4.0), "epoch": 1})
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(FileError, match=r"c"):
            load_checkpoint(path)
        path.write_bytes(whole[:position])
        with pytest.raises(FileError, match=r"is damaged"):
            load_checkpoint(path)


def test_foreign_newer_and_missing_files_are_named(tmp_path):
    path = tmp_path / "c"
    with pytest.raises(FileError, match=f"no checkpoint at {path}"):
        load_checkpoint(path)
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(FileError, match=r"not a Prunus checkpoint"):
        load_checkpoint(path)
    metadata = {"format": "prunus-checkpoint", "version": "2", "tree": "{}", "sha256": ""}
    save_file({"w": torch.zeros(1)}, path, metadata)
    with pytest.raises(FileError, match=r"has version 2, this Prunus reads version 1; upgrade Prunus"):
        load_checkpoint(path)
    path.write_bytes(b"junk")
    with pytest.raises(FileError, match=r"is damaged"):
        load_checkpoint(path)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"cannot write .*f: no space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_json_files(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, {"a": [1, "ü"]})
    assert read_json(path) == {"a": [1, "ü"]}
    assert stat.S_ISREG(path.stat().st_mode)
    with pytest.raises(ValueError):
        write_json(path, math.nan)
    path.write_text("{")
    with pytest.raises(FileError, match=r"f.json is damaged"):
        read_json(path)
    with pytest.raises(FileError, match=r"cannot read"):
        read_json(tmp_path / "absent.json")


def test_lines_end_at_the_first_broken_one(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_lines(path) == []
    write_lines(path, [{"n": 1}])
    append_line(path, {"n": 2})
    with path.open("a") as file:
        file.write('{"n": 3')
    assert read_lines(path) == [{"n": 1}, {"n": 2}]
    assert json.loads(path.read_text().splitlines()[1]) == {"n": 2}
    with pytest.raises(FileError, match=r"cannot write"):
        append_line(tmp_path / "absent" / "log.jsonl", {})
