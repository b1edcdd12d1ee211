"""Nested dicts and lists of tensors and plain values, in one safetensors file without pickle.

The tensors lie in the file by number; the nesting is JSON in its metadata, with a checksum over both.
Reading a file from a stranger executes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunus.errors import FileError, InputError
from prunus.training.files import write_atomically

FORMAT = "prunus-checkpoint"
VERSION = 1


def save_checkpoint(path: Path, content: Any) -> None:
    """Write `content` atomically: dicts, lists, tuples, tensors, numbers, strings, booleans and None.

    Equal tensors stay equal bit for bit; a tensor of any device is written from a copy on the CPU.
    Raises InputError for a value of another kind, FileError when the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(content, tensors, "checkpoint"))
    metadata = {"format": FORMAT, "version": str(VERSION), "tree": tree, "sha256": _checksum(tree, tensors)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_checkpoint(path: Path) -> Any:
    """Read what `save_checkpoint` wrote; tensors come back on the CPU.

    Raises FileError, naming the file, when it is missing, damaged, foreign or from a newer version.
    """
    if not path.is_file():
        raise FileError(f"no checkpoint at {path}")
    metadata, tensors = _read(path)
    _check_origin(path, metadata)
    if _checksum(metadata["tree"], tensors) != metadata["sha256"]:
        raise FileError(f"checkpoint {path} is damaged: its checksum does not match; delete it and run again")
    return _unpack(json.loads(metadata["tree"]), tensors)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"checkpoint {path} is damaged: {error}; delete it and run again") from error


def _check_origin(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT or not {"version", "tree", "sha256"} <= metadata.keys():
        raise FileError(f"{path} is a safetensors file but not a Prunus checkpoint")
    if metadata["version"] != str(VERSION):
        found = metadata["version"]
        raise FileError(f"checkpoint {path} has version {found}, this Prunus reads version {VERSION}; upgrade Prunus")


def _checksum(tree: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _pack(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """Plain JSON; a one-key dict that starts with `$` marks what JSON has no word for."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        # A copy: safetensors refuses tensors that share storage, as tied weights do.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"$tensor": name}
    if isinstance(value, dict):
        return {"$dict": [[_pack(k, tensors, where), _pack(v, tensors, f"{where}.{k}")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    [(mark, content)] = value.items()
    if mark == "$tensor":
        return tensors[content]
    if mark == "$dict":
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in content}
    if mark == "$tuple":
        return tuple(_unpack(item, tensors) for item in content)
    return float(content)
