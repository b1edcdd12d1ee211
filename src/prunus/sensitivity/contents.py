"""What a storage held at one time, kept while a replay may need it: in memory, or in a file beyond a bound."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, UntypedStorage


@dataclass(eq=False)
class Content:
    """storage: the bytes, None while nobody needs them. is_copy: whether they are ours, so that nobody changes them."""

    storage: UntypedStorage | None = None
    is_copy: bool = False


class View(NamedTuple):
    """A tensor without its bytes: which storage, what it held, and how the tensor lies in it."""

    place: int
    content: Content
    dtype: torch.dtype
    device: torch.device
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor, content: Content) -> View:
        """Describe a tensor."""
        return cls(
            place_of(tensor),
            content,
            tensor.dtype,
            tensor.device,
            tensor.shape,
            tensor.stride(),
            int(tensor.storage_offset()),
        )

    def on(self, storage: UntypedStorage) -> Tensor:
        """Return the tensor that lies in the same way in another storage."""
        return torch.empty(0, dtype=self.dtype, device=self.device).set_(storage, self.offset, self.size, self.stride)

    def fits(self, tensor: Tensor) -> bool:
        """Tell whether a tensor lies in its storage as this one does."""
        found = (tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())
        return found == (self.dtype, self.size, self.stride, self.offset)


def place_of(tensor: Tensor) -> int:
    """Return the number of a tensor's storage, unique while the storage is referred to."""
    return int(tensor.untyped_storage()._cdata)


def copied(storage: UntypedStorage) -> UntypedStorage:
    """Return a copy of a storage, on its device."""
    copy: UntypedStorage = storage.clone()  # type: ignore[no-untyped-call]
    return copy


def default_limit() -> int:
    """Return a quarter of this machine's memory in bytes, 4 GB where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, ValueError, OSError):
        return 2**32


@dataclass(eq=False)
class Keeper:
    """Keeps contents up to a bound in memory; what is more goes to files, which the system reads back as needed.

    limit: bytes. free: storages that are there anyway, such as the model's, and do not count.
    """

    limit: int
    free: Collection[int] = ()
    held: int = 0
    filed: int = 0
    _folder: list[tempfile.TemporaryDirectory[str]] = field(default_factory=list)

    def keep(self, content: Content, storage: UntypedStorage) -> None:
        """Keep what a storage holds; see `freeze` before it changes."""
        if content.storage is not None:
            return
        content.storage = storage
        if storage._cdata in self.free:
            return
        if self.held + storage.nbytes() <= self.limit or storage.device.type != "cpu":
            self.held += storage.nbytes()
        elif storage.nbytes():
            content.storage, content.is_copy = self._in_file(storage), True

    def freeze(self, content: Content) -> None:
        """Make the bytes ours, as their owner is about to change them; nothing where nobody needs them."""
        if content.storage is not None and not content.is_copy:
            content.storage, content.is_copy = copied(content.storage), True

    def close(self) -> None:
        """Forget what is held and remove the files."""
        self.held = 0
        while self._folder:
            with contextlib.suppress(OSError):  # a system that keeps mapped files removes them at exit
                self._folder.pop().cleanup()

    def _in_file(self, storage: UntypedStorage) -> UntypedStorage:
        if not self._folder:
            self._folder.append(tempfile.TemporaryDirectory(prefix="prunus-sensitivity-", ignore_cleanup_errors=True))
        path = os.path.join(self._folder[0].name, str(self.filed))
        copy: UntypedStorage = UntypedStorage.from_file(path, shared=True, nbytes=storage.nbytes())  # type: ignore[assignment]
        copy.copy_(storage)
        self.filed += 1
        with contextlib.suppress(OSError):
            os.unlink(path)  # the mapping lives on; its room is given back with the last reference
        return copy
