"""Which tensors of a model can be masked, under which names, and which share their storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prunus.errors import InputError, NameNotFound
from prunus.masks.bits import maskable


@dataclass(frozen=True)
class Storage:
    """One stored tensor, with every name and every tensor object that stands for it.

    tensors: more than one when two `nn.Parameter` objects share their memory; each has its own gradient.
    """

    name: str
    tensors: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, name: str, tensor: Tensor) -> None:
        """Note one more name, and the tensor behind it unless it is known."""
        self.names.append(name)
        if all(tensor is not known for known in self.tensors):
            self.tensors.append(tensor)


def storages(model: nn.Module) -> dict[str, Storage]:
    """Find the storage behind every parameter and buffer name; ties are one `Storage`."""
    found: dict[object, Storage] = {}
    by_name: dict[str, Storage] = {}
    for name, tensor in _named_tensors(model):
        storage = found.setdefault(_key(tensor), Storage(name))
        storage.add(name, tensor)
        by_name[name] = storage
    return by_name


def checked_mask(storage: Storage, name: str, mask: Tensor) -> Tensor:
    """Return the mask on the tensor's device, or say what is wrong with it."""
    tensor = storage.tensors[0]
    if mask.dtype is not torch.bool:
        raise InputError(f"the mask of {name} is {mask.dtype}; it must be torch.bool, True = kept")
    if mask.shape != tensor.shape:
        raise InputError(f"the mask of {name} is {tuple(mask.shape)}, the tensor {tuple(tensor.shape)}")
    if not maskable(tensor.dtype):
        raise InputError(f"{name} is {tensor.dtype}; floating point tensors of at most 8 bytes can be masked")
    return mask.detach().to(tensor.device, copy=True)


def find(by_name: dict[str, Storage], name: str) -> Storage:
    """Look a parameter or buffer up, or raise NameNotFound with the near names."""
    if name not in by_name:
        raise NameNotFound.of("parameter or buffer", name, by_name)
    return by_name[name]


def check_overlap(by_name: dict[str, Storage], storage: Storage) -> None:
    """Raise InputError where another tensor sees the same memory in another layout (a transposed tie)."""
    address, begin, end = _extent(storage.tensors[0])
    for name, other in by_name.items():
        other_address, other_begin, other_end = _extent(other.tensors[0])
        apart = other is storage or address is None or address != other_address
        if not apart and begin < other_end and other_begin < end:
            raise InputError(
                f"{storage.name} and {name} share memory in different layouts, which one mask cannot serve; "
                "tie them as one nn.Parameter"
            )


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _address(tensor: Tensor) -> int | None:
    """Return where the memory begins; None for tensors without memory (empty, or on the meta device)."""
    if tensor.is_meta or tensor.layout is not torch.strided:
        return None
    return tensor.untyped_storage().data_ptr() or None


def _extent(tensor: Tensor) -> tuple[int | None, int, int]:
    """Return address, first byte, last byte + 1: an LSTM's flat buffer holds many tensors."""
    last = sum(int(size - 1) * int(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = int(tensor.storage_offset()) * tensor.element_size()
    return _address(tensor), begin, begin + (last + 1) * tensor.element_size()


def _key(tensor: Tensor) -> object:
    address = _address(tensor)
    if address is None:
        return id(tensor)
    return (address, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
