"""Pooling and resizing: channels pass, space keeps its extent."""

from __future__ import annotations

import re

from prunus.axes.context import Context, Value, because, frozen
from prunus.axes.rules.registry import Result, rule
from prunus.axes.trace import Meta, Node

POOLS = [f"aten.{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)]
WITH_INDICES = [f"aten.{kind}{n}d_with_indices" for kind in ("max_pool",) for n in (1, 2, 3)]
RESIZES = [
    f"aten.{prefix}upsample_{kind}"
    for prefix in ("", "_")
    for kind in (
        "nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d",
        "nearest_exact1d", "nearest_exact2d", "nearest_exact3d", "bilinear2d_aa", "bicubic2d_aa",
    )
]  # fmt: skip
ALL = [*POOLS, *WITH_INDICES, *RESIZES]


@rule(*ALL)
def pool(ctx: Context, node: Node) -> Result:
    """(N, C, space) -> (N, C, other space). A maximum over zeros is 0: implicit padding never wins."""
    x = ctx.value(node.args[0])
    digits = re.search(r"(\d)d", node.op)
    assert digits
    space = len(x.dims) - int(digits.group(1))
    ctx.freeze(x.dims[space:], "it is a spatial extent", node)
    values = []
    for meta in node.value if isinstance(node.value, tuple) else (node.value,):
        assert isinstance(meta, Meta)
        after = frozen(meta.shape[space:], because("it is a spatial extent", node))
        values.append(Value((*x.dims[:space], *after.dims), (*x.zero[:space], *after.zero)))
    return tuple(values) if isinstance(node.value, tuple) else values[0]
