"""What stands where a residual block was."""

from __future__ import annotations

from typing import Any

from torch import nn


class Skipped(nn.Module):
    """Hands on the input of the block that it replaces.

    takes: the argument that is the input, by position or by name. wraps: whether to return it in a tuple of one.
    """

    def __init__(self, takes: int | str, wraps: bool) -> None:
        super().__init__()
        self.takes, self.wraps = takes, wraps

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what the block took; return its input."""
        if isinstance(self.takes, int):
            x = args[self.takes] if self.takes < len(args) else next(iter(kwargs.values()))
        else:
            x = kwargs[self.takes] if self.takes in kwargs else args[0]
        return (x,) if self.wraps else x

    def extra_repr(self) -> str:
        """Show which argument is handed on."""
        return f"takes={self.takes!r}"
