"""Pruned values that live on behind their masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.masks.tensors import Storage, find


@dataclass
class Hidden:
    """Who hides, and what is hidden.

    sources: names of the sources whose pruned values live on. values: by the tensor's first name, (where, what): a
        boolean tensor of its shape, and one that holds the values at these places.
    """

    sources: frozenset[str] = frozenset()
    values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def shown(self, name: str, tensor: Tensor) -> Tensor:
        """Return the tensor with its hidden values in their places; itself, where there are none."""
        if name not in self.values:
            return tensor
        where, what = (part.to(tensor.device) for part in self.values[name])
        return torch.where(where, what.to(tensor.dtype), tensor.detach())

    def take_(self, name: str, tensor: Tensor, where: Tensor) -> None:
        """Note what a tensor holds at some places."""
        self.values[name] = (where.to(tensor.device), tensor.detach().clone())

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""
        values = {name: (where.clone(), what.clone()) for name, (where, what) in self.values.items()}
        return {"sources": sorted(self.sources), "values": values}

    @classmethod
    def of(cls, state: Mapping[str, Any], storages: dict[str, Storage]) -> Hidden:
        """Read what `state_dict` returned; raises InputError where it does not fit the tensors."""
        hidden = cls(frozenset(state.get("sources", ())))
        for name, (where, what) in state.get("values", {}).items():
            if not where.shape == what.shape == find(storages, name).tensors[0].shape:
                raise InputError(f"the hidden values of {name} are of another shape; load the state it was saved with")
            hidden.values[name] = (where.clone(), what.clone())
        return hidden
