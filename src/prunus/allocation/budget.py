"""Budgets: `macs=0.5`, `params<=2e6`, `sparsity=0.9`, `latency=0.6@onnxruntime`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prunus.allocation.counts import check_ratio
from prunus.errors import InputError, NameNotFound, naming
from prunus.runtimes import device

QUANTITIES = ("macs", "params", "bytes", "nnz", "sparsity", "energy", "latency")

_FORM = re.compile(r"\s*(\w+)\s*(<=|=|:)\s*([^\s@]+)\s*(?:@\s*(.+?)\s*)?")
_VALUE = re.compile(r"\s*([^\s@]+?)\s*(ms)?\s*(?:@\s*(.+?)\s*)?")


@dataclass(frozen=True)
class Budget:
    """What the result may cost.

    quantity: `macs`, `params`, `bytes`, `nnz`, `sparsity`, `energy` (joules, by the table of `prunus.costs.energy`) or
        `latency` (milliseconds).
    limit: at most this much; for sparsity at least this much.
    relative: whether the limit is a share of the dense model's figure.
    device: for latency, where it is measured, as `prunus.runtimes.device` reads it; else None.
    asked: how the user put it, where the limit is derived from that.
    """

    quantity: str
    limit: float
    relative: bool
    device: str | None = None
    asked: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        if self.asked is not None:
            return self.asked
        unit = "ms" if self.quantity == "latency" and not self.relative else ""
        where = "" if self.device is None else f"@{self.device}"
        sign = "=" if self.relative or self.quantity == "sparsity" else "<="
        return f"{self.quantity}{sign}{self.limit:g}{unit}{where}"

    def is_met(self, value: float, dense: float) -> bool:
        """Tell whether a model meets the budget.

        value, dense: the quantity of the pruned and of the dense model, in the same unit.
        """
        if self.quantity == "sparsity":
            return value >= self.limit
        return value <= (self.limit * dense if self.relative else self.limit)

    def allowed(self, dense: float) -> float:
        """Return the share of the dense model that may be left, by its figure; of a sparsity, the density."""
        if self.quantity == "sparsity":
            return 1 - self.limit
        return self.limit if self.relative else self.limit / dense

    def eased(self, progress: float, dense: float) -> Budget:
        """Return the budget on the way to this one: none at progress 0, this one at 1.

        dense: the dense model's figure.
        """
        if progress >= 1:
            return self
        whole = 0.0 if self.quantity == "sparsity" else 1.0 if self.relative else dense
        return replace(self, limit=whole + (self.limit - whole) * progress)

    def unused(self, value: float, dense: float) -> float:
        """Return the share of what may be left that a model does not use; negative where it exceeds the budget.

        value, dense: as in `is_met`.
        """
        if self.quantity == "sparsity":
            return (value - self.limit) / (1 - self.limit)
        return 1 - value / (self.limit * dense if self.relative else self.limit)


def parse_budget(spec: str | Mapping[str, float | str] | Budget) -> Budget:
    """Read a budget.

    spec: `macs=0.5` or {"macs": 0.5}: a number up to 1 is a share of the dense figure, a larger one the
        figure itself (`params<=2e6`); `sparsity=0.9` is the share of zeros to reach; `latency=0.6@onnxruntime` and
        `latency<=5ms@torch` name the device, which is torch where none is named.
    Raises NameNotFound for an unknown quantity or device, InputError for another form or number.
    """
    if isinstance(spec, Budget):
        return spec
    quantity, written = _split(spec)
    if quantity not in QUANTITIES:
        raise NameNotFound.of("budget", quantity, QUANTITIES)
    text, unit, where = _parts(quantity, written)
    value = _number(quantity, text)
    if quantity == "sparsity":
        return Budget(quantity, check_ratio("sparsity", value), relative=False)
    if not math.isfinite(value) or value <= 0:
        raise _wrong(quantity, text)
    relative = value <= 1 and not unit and not (quantity == "energy" and "<=" in str(spec))
    return Budget(quantity, value, relative, where)


def _split(spec: object) -> tuple[str, object]:
    if isinstance(spec, Mapping) and len(spec) == 1:
        quantity, value = next(iter(spec.items()))
        return str(quantity), value
    match = _FORM.fullmatch(spec) if isinstance(spec, str) else None
    if match is None:
        raise InputError(
            f"budget {spec!r} cannot be read; write macs=0.5, params<=2e6, sparsity=0.9 or latency=0.6@torch"
        )
    return match[1], match[3] if match[4] is None else f"{match[3]}@{match[4]}"


def _parts(quantity: str, written: object) -> tuple[object, str, str | None]:
    """Return the number as it is written, its unit, and the device as it spells itself."""
    match = _VALUE.fullmatch(written) if isinstance(written, str) else None
    text, unit, where = (written, "", None) if match is None else (match[1], match[2] or "", match[3])
    if quantity != "latency":
        if where is not None or unit:
            raise InputError(f"budget {quantity} is {written!r}; only a latency has a device and milliseconds")
        return text, "", None
    with naming("budget latency"):
        return text, unit, str(device(where or "torch"))


def _wrong(quantity: str, text: object) -> InputError:
    figure = "5ms" if quantity == "latency" else "2e6"
    return InputError(f"budget {quantity} is {text!r}; a share such as 0.5 or a figure such as {figure} is wanted")


def _number(quantity: str, text: object) -> float:
    try:
        if isinstance(text, bool):
            raise ValueError
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise _wrong(quantity, text) from None
