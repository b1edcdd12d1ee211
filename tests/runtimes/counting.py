"""A device that takes a nanosecond for every multiply-add, so that latencies are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from prunus.costs import Latency, macs
from prunus.runtimes import Device


class Counting(Device):
    """A segment takes its MACs, a whole model (MACs + overhead) ** power; nothing is timed."""

    name = "counting"

    def __init__(self, overhead: float = 0.0, power: float = 1.0) -> None:
        super().__init__()
        self.overhead, self.power = overhead, power
        self.prepared = 0

    @property
    def version(self) -> str:
        return f"{self.overhead}, {self.power}"

    def prepare(self, model: nn.Module, args: Any, kwargs: Any = None) -> Callable[[], object]:
        self.prepared += 1
        is_whole = len(list(model.parameters())) > 1  # segments hold buffers, and the unit one kernel
        cost = macs(model, args, kwargs)
        cost = (cost + self.overhead) ** self.power if is_whole else cost
        return lambda: cost

    def timed(self, calls: Mapping[str, Callable[[], Any]], **_: Any) -> dict[str, Latency]:
        costs = {name: call() for name, call in calls.items()}
        first = next(iter(costs.values()))
        return {
            name: Latency(cost * 1e-6, cost * 1e-6, first / cost if cost else float("inf"), 9, 1, 1, self.name)
            for name, cost in costs.items()
        }
