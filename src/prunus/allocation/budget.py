"""Budgets: `macs=0.5`, `params<=2e6`, `sparsity=0.9`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from prunus.allocation.counts import check_ratio
from prunus.errors import InputError, NameNotFound

QUANTITIES = ("macs", "params", "bytes", "nnz", "sparsity")

_FORM = re.compile(r"\s*(\w+)\s*(<=|=|:)\s*(\S+)\s*")


@dataclass(frozen=True)
class Budget:
    """What the result may cost.

    quantity: `macs`, `params`, `bytes`, `nnz`, or `sparsity`.
    limit: at most this much; for sparsity at least this much.
    relative: whether the limit is a share of the dense model's figure.
    """

    quantity: str
    limit: float
    relative: bool

    def __str__(self) -> str:
        return f"{self.quantity}{'=' if self.relative or self.quantity == 'sparsity' else '<='}{self.limit:g}"

    def is_met(self, value: float, dense: float) -> bool:
        """Tell whether a model meets the budget.

        value, dense: the quantity of the pruned and of the dense model, in the same unit.
        """
        if self.quantity == "sparsity":
            return value >= self.limit
        return value <= (self.limit * dense if self.relative else self.limit)

    def unused(self, value: float, dense: float) -> float:
        """Return the share of what may be left that a model does not use; negative where it exceeds the budget.

        value, dense: as in `is_met`.
        """
        if self.quantity == "sparsity":
            return (value - self.limit) / (1 - self.limit)
        return 1 - value / (self.limit * dense if self.relative else self.limit)


def parse_budget(spec: str | Mapping[str, float] | Budget) -> Budget:
    """Read a budget.

    spec: `macs=0.5` or {"macs": 0.5}: a number up to 1 is a share of the dense figure, a larger one the
        figure itself (`params<=2e6`); `sparsity=0.9` is the share of zeros to reach.
    Raises NameNotFound for an unknown quantity, InputError for another form or number.
    """
    if isinstance(spec, Budget):
        return spec
    quantity, text = _split(spec)
    if quantity not in QUANTITIES:
        raise NameNotFound.of("budget", quantity, QUANTITIES)
    value = _number(quantity, text)
    if quantity == "sparsity":
        return Budget(quantity, check_ratio("sparsity", value), relative=False)
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"budget {quantity} is {text!r}; a share such as 0.5 or a figure such as 2e6 is wanted")
    return Budget(quantity, value, relative=value <= 1)


def _split(spec: object) -> tuple[str, object]:
    if isinstance(spec, Mapping) and len(spec) == 1:
        quantity, value = next(iter(spec.items()))
        return str(quantity), value
    match = _FORM.fullmatch(spec) if isinstance(spec, str) else None
    if match is None:
        raise InputError(f"budget {spec!r} cannot be read; write macs=0.5, params<=2e6 or sparsity=0.9")
    return match[1], match[3]


def _number(quantity: str, text: object) -> float:
    try:
        if isinstance(text, bool):
            raise ValueError
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(
            f"budget {quantity} is {text!r}; a share such as 0.5 or a figure such as 2e6 is wanted"
        ) from None
