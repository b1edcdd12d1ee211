"""What runs a model, and how long it takes there: torch, eager or compiled, ONNX Runtime, tables from elsewhere."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import nn

from prunus.axes import copied, unwrapped
from prunus.costs import Latency, batch_of, check_rounds, environment, own_clock, timed
from prunus.errors import InputError, NameNotFound
from prunus.granularity.checks import check_size
from prunus.granularity.registry import Registry

Args = tuple[object, ...]
Kwargs = Mapping[str, object] | None


class Device(ABC):
    """A runtime on this machine; batch and dtype are those of the example inputs and of the model.

    A package offers its own by an entry point of the group `prunus.devices`, a class with these methods.
    threads: how many it may use.
    """

    name: str

    def __init__(self, threads: int = 1) -> None:
        check_size(f"{self.name} threads", threads)
        self.threads = threads

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the runtime; part of what a measured figure holds for."""

    @abstractmethod
    def prepare(self, model: nn.Module, args: Args, kwargs: Kwargs = None) -> Callable[[], object]:
        """Return what runs the model once on these inputs, ready to be timed; the model stays as it is.

        Raises InputError where the runtime is not installed or does not take the model.
        """

    @property
    def parts(self) -> Device:
        """What times single segments of a model for it: itself, unless it takes long to prepare one."""
        return self

    def measure(
        self,
        models: Mapping[str, nn.Module],
        args: object,
        kwargs: Kwargs = None,
        *,
        repeats: int = 50,
        warmup: int = 3,
        seconds: float = 10.0,
    ) -> dict[str, Latency]:
        """Measure models against each other in interleaved rounds; arguments as in `prunus.costs.latency`."""
        if not models:
            raise InputError("no model to measure; give at least one by name")
        check_rounds(repeats=repeats, warmup=warmup, threads=self.threads)
        inputs = args if isinstance(args, tuple) else (args,)
        calls = {name: self.prepare(model, inputs, kwargs) for name, model in models.items()}
        return self.timed(calls, repeats=repeats, warmup=warmup, seconds=seconds, batch=batch_of(inputs, kwargs))

    def timed(
        self,
        calls: Mapping[str, Callable[[], object]],
        *,
        repeats: int,
        warmup: int = 3,
        seconds: float,
        least_seconds: float = 0.0,
        batch: int = 1,
    ) -> dict[str, Latency]:
        """Measure what `prepare` returned, in interleaved rounds; one thread by the processor's time that it takes.

        The arguments are those of `prunus.costs.timed`.
        """
        rounds: dict[str, Any] = {"repeats": repeats, "warmup": warmup, "seconds": seconds}
        rounds["least_seconds"] = least_seconds
        clock = own_clock(self.threads)
        return timed(calls, threads=self.threads, batch=batch, runtime=self.name, clock=clock, **rounds)

    @property
    def holds_for(self) -> dict[str, str | int]:
        """What a figure measured here is true of: machine, runtime, versions, threads."""
        known = environment()
        machine = {key: known[key] for key in ("cpu", "platform", "torch")}
        return {
            **machine,
            "host": platform.node(),
            "device": self.name,
            "version": self.version,
            "threads": self.threads,
        }

    def __str__(self) -> str:
        return f"{self.name}(threads={self.threads})" if self.threads != 1 else self.name


class Eager(Device):
    """torch as the model's own code runs it."""

    name = "torch"

    @property
    def version(self) -> str:
        """torch's."""
        return torch.__version__

    def prepare(self, model: nn.Module, args: Args, kwargs: Kwargs = None) -> Callable[[], object]:
        """Return a forward in evaluation mode, without gradients."""
        ready, keywords = copied(unwrapped(model)).eval(), dict(kwargs or {})

        def run() -> object:
            with torch.no_grad():
                return ready(*args, **keywords)

        return run


class Compiled(Device):
    """`torch.compile` for fixed shapes; segments, which would take seconds each to compile, are timed eagerly."""

    name = "compiled"

    @property
    def parts(self) -> Device:
        """Eager torch."""
        return Eager(self.threads)

    @property
    def version(self) -> str:
        """torch's."""
        return torch.__version__

    def prepare(self, model: nn.Module, args: Args, kwargs: Kwargs = None) -> Callable[[], object]:
        """Return a compiled forward in evaluation mode, without gradients; it has run once."""
        ready, keywords = copied(unwrapped(model)).eval(), dict(kwargs or {})

        def forward() -> object:
            return ready(*args, **keywords)

        # torch keeps compiled code by code object, and gives up on one that it has compiled for eight models.
        own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
        compiled = torch.compile(own, dynamic=False)

        def run() -> object:
            with torch.no_grad():
                return compiled()

        try:
            run()
        except Exception as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"torch.compile cannot run {type(ready).__name__} here: {cause}; measure on torch"
            ) from error
        return run


KNOWN: Registry[Device] = Registry("device", "prunus.devices")
register_device = KNOWN.register
_ALIASES = {"torch.compile": "compiled", "eager": "torch", "ort": "onnxruntime"}


def device(spec: str | Device) -> Device:
    """Read a device.

    spec: `torch`, `compiled` (`torch.compile`), `onnxruntime`, with `(threads=2)` where more than one is wanted,
        `table:file.csv` for latencies measured elsewhere, an entry point of `prunus.devices`, or an object.
    Raises NameNotFound for an unknown name, InputError for another form, FileError for a table that cannot be read.
    """
    if isinstance(spec, str) and spec.startswith("table:"):
        from prunus.runtimes.elsewhere import Elsewhere

        return Elsewhere(spec.removeprefix("table:"))
    if isinstance(spec, str):
        name, bracket, rest = spec.partition("(")
        spec = f"{_ALIASES.get(name.strip(), name)}{bracket}{rest}"
        bare = spec.partition("(")[0].strip()
        if bare not in KNOWN.names():
            raise NameNotFound.of("device", bare, [*KNOWN.names(), "table:file.csv"])
    wanted = "a name such as 'onnxruntime' or an object with prepare()"
    return KNOWN.given(spec, Device, wanted)  # type: ignore[type-abstract]
