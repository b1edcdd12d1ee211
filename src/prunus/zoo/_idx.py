"""The idx files of MNIST and Fashion-MNIST: reading, finding, fetching.

An idx file is: two zero bytes, the type (8 = unsigned byte), the number of dimensions, each dimension as a
big-endian uint32, then the values.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import tempfile
import urllib.request
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunus.errors import FileError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# sha256 of the decompressed files: the same bytes are served compressed in several ways.
_FASHION_SHA256 = {
    FILES[0]: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    FILES[1]: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    FILES[2]: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    FILES[3]: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
ADDRESSES = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
_TIMEOUT_SECONDS = 20


def read_idx(path: Path) -> Tensor:
    """Read one idx file of unsigned bytes, gzipped or plain.

    Returns uint8 in the file's own shape.
    Raises FileError when the file is missing, damaged, of another type, or not as long as its header says.
    """
    data = _read_bytes(path)
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise FileError(f"{path} is no idx file of unsigned bytes; delete it and fetch the data set again")
    header = 4 + 4 * data[3]
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, min(header, len(data)), 4)]
    wanted = header + math.prod(shape)
    if len(data) != wanted:
        raise FileError(f"{path} has {len(data)} bytes where its header asks for {wanted}; fetch the data set again")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy())


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path} cannot be read ({error}); fetch the data set again") from error


def find(folders: Iterable[Path]) -> dict[str, Path] | None:
    """Find the first folder that holds all four files, each gzipped or plain; None when there is none."""
    for folder in folders:
        paths = {name: _existing(folder, name) for name in FILES}
        found = {name: path for name, path in paths.items() if path is not None}
        if len(found) == len(FILES):
            return found
    return None


def _existing(folder: Path, name: str) -> Path | None:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    return None


def download(folder: Path, *, addresses: Iterable[str] = ADDRESSES) -> dict[str, Path]:
    """Fetch the four files of Fashion-MNIST into a folder, from the first address that serves them.

    Each file appears under its name only when it is whole and its sha256 is right.
    Raises OSError when no address gives what is wanted; the message says what went wrong at each.
    """
    return {name: _download_one(folder, name, tuple(addresses)) for name in FILES}


def _download_one(folder: Path, name: str, addresses: tuple[str, ...]) -> Path:
    target, problems = folder / f"{name}.gz", []
    if target.is_file():
        return target
    for address in addresses:
        try:
            _write_atomically(target, _checked(name, _get(f"{address}/{name}.gz")))
            return target
        except OSError as error:
            problems.append(f"{address}: {error}")
    raise OSError("; ".join(problems))


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
        data: bytes = response.read()
    return data


def _checked(name: str, data: bytes) -> bytes:
    try:
        content = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f"{name}.gz came damaged ({error})") from error
    if hashlib.sha256(content).hexdigest() != _FASHION_SHA256[name]:
        raise OSError(f"{name}.gz came with other content than Fashion-MNIST's")
    return data


def _write_atomically(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(partial, target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
