"""Attention whose scale follows the size of a head: what to multiply so that its scores stay those of the dense size.

`scaled_dot_product_attention` without a scale divides by the root of the d places that a head has. With d' left, the
scores are those of the dense head again if queries (or keys) are multiplied by sqrt(d' / d). A map and a norm can take
that into their own numbers, if everything between them and the attention commutes with a factor. Whether it does is
found by running the operations on factors in place of activations.

Where attention is spelled out, its scale is a number in the capture. The user's code may have computed it from the size
of a head, and then does so again; only running it tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes.context import Context, Stretched
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.rms import sole_parameter, stored_weight
from prunus.axes.trace import GETITEM, Node, Ref, Trace

RESHAPES = ("view", "reshape", "_unsafe_view", "unflatten", "flatten", "squeeze", "unsqueeze")
MOVES = (
    "permute", "transpose", "swapaxes", "t", "mT", "movedim", "expand", "repeat", "tile", "repeat_interleave", "slice",
    "narrow", "select", "split", "chunk", "split_with_sizes", "tensor_split", "unbind", "cat", "stack", "roll", "flip",
)  # fmt: skip
COPIES = ("neg", "to", "_to_copy", "type_as", "contiguous", "clone", "alias", "detach", "dropout")
PASSED = (*RESHAPES, *MOVES, *COPIES, "add", "sub", "mul", "div")

Factors = Mapping[int, Tensor]
"""Per source, by node index: a factor for each of its positions."""


@dataclass(frozen=True)
class _Source:
    """A map or a norm whose result is multiplied, position by position, by what multiplies its parameters.

    params: (state name, dimension, offset) of each. dim: where these positions lie in the result.
    """

    params: tuple[tuple[str, int, float], ...]
    dim: int


class _Mixes(Exception):
    """A factor does not come through an operation."""


def spelled_scale(ctx: Context, index: int) -> tuple[Stretched, ...]:
    """Return what can make up for the scale of an attention that is spelled out; empty where nothing can."""
    node = ctx.trace.nodes[index]
    first = 1 if base_name(node.target) == "baddbmm" else 0
    return _stretched(ctx, node, first) or _stretched(ctx, node, first + 1)


def absorb_scales(ctx: Context, model: nn.Module) -> None:
    """Note, for attentions whose scale follows the size of their heads, which parameters can make up for that.

    `nn.MultiheadAttention` keeps the dense scale by itself once it is thinned.
    """
    for index in ctx.pinned:
        node = ctx.trace.nodes[index]
        if not isinstance(model.get_submodule(node.module), nn.MultiheadAttention):
            found = _stretched(ctx, node, 0) or _stretched(ctx, node, 1)
            if found:
                ctx.absorbed[index] = found


def _stretched(ctx: Context, attention: Node, position: int) -> tuple[Stretched, ...]:
    """Return what multiplies all queries or all keys, and nothing else; empty where nothing does.

    position: which of the tensors that the node reads they are.
    """
    start = list(attention.refs())[position].index
    sources = dict(_sources(ctx, start))
    ones = {i: torch.ones(_size(ctx, i, s), requires_grad=True) for i, s in sources.items()}
    try:
        _Walk(ctx.trace, sources, ones, strict=False).run()[start].sum().backward()
        rows = {i: torch.zeros(()) if one.grad is None else one.grad for i, one in ones.items()}
        twos = {i: torch.where(rows[i] > 0, 2.0, 1.0).expand_as(one) for i, one in ones.items()}
        arrived = _Walk(ctx.trace, sources, twos, strict=True, until=(attention.index, position)).run()[start]
    except (_Mixes, KeyError, TypeError, RuntimeError):
        return ()
    if not bool((arrived == 2).all()):
        return ()
    found = tuple(
        Stretched(name, dim, offset, None if bool((twos[i] == 2).all()) else np.flatnonzero(twos[i].numpy() == 2))
        for i, source in sources.items()
        for name, dim, offset in source.params
    )
    # a tensor has one set of rows that are multiplied
    norms = {name for norm in ctx.rescaled.values() for name in norm.weights}
    return () if any(own.param in norms and own.rows is not None for own in found) else found


def _size(ctx: Context, index: int, source: _Source) -> int:
    return ctx.trace.nodes[index].shape[source.dim]


def _sources(ctx: Context, index: int) -> Iterator[tuple[int, _Source]]:
    """Yield the nearest maps and norms before a node from which a factor could come through to it."""
    pending, seen = [index], set()
    while pending:
        node = ctx.trace.nodes[pending.pop()]
        if node.index in seen or node.kind != "op":
            continue
        seen.add(node.index)
        source = _source(ctx, node)
        if source is not None:
            yield node.index, source
        elif node.target is GETITEM or base_name(node.target) in PASSED:
            pending.extend(ref.index for ref in node.refs())


def _source(ctx: Context, node: Node) -> _Source | None:
    """Read a map or a norm with parameters that nothing else reads."""
    name = base_name(node.target)
    if name == "mul":
        weight = next((w for arg in node.args if (w := stored_weight(ctx, arg)) is not None), None)
        fits = weight is not None and ctx.trace.state[weight[0]].shape == node.shape[-1:]
        return _Source(((weight[0], 0, weight[1]),), -1) if fits and weight else None
    if name == "addmm":
        own, dims, dim = (node.args[2], node.args[0]), (1, 0), -1
    elif name in ("linear", "conv1d", "conv2d", "conv3d"):
        own, dims = (node.args[1], node.arg(2, "bias")), (0, 0)
        dim = -1 if name == "linear" else len(node.shape) - len(ctx.value(node.args[1]).dims) + 1
    elif name in ("layer_norm", "rms_norm") and len(node.args[1]) == 1 and node.arg(2, "weight") is not None:
        own, dims, dim = (node.arg(2, "weight"), node.arg(3, "bias") if name == "layer_norm" else None), (0, 0), -1
    else:
        return None
    given = [(sole_parameter(ctx, arg), d) for arg, d in zip(own, dims, strict=True) if arg is not None]
    named = tuple((param, d, 0.0) for param, d in given if param is not None)
    return _Source(named, dim) if len(named) == len(given) else None


class _Walk:
    """Factors in place of activations: what each result is multiplied by when sources are.

    strict: whether a factor that does not come through unchanged is an error, rather than unknown from there on.
    until: the attention, and which of the tensors that it reads may be multiplied.
    """

    def __init__(
        self,
        trace: Trace,
        sources: Mapping[int, _Source],
        factors: Factors,
        *,
        strict: bool,
        until: tuple[int, int] = (-1, -1),
    ) -> None:
        self.trace, self.sources, self.factors, self.strict, self.until = trace, sources, factors, strict, until
        self.values: dict[int, Any] = {}

    def run(self) -> dict[int, Any]:
        """Return the factors of every result that is multiplied, by node."""
        pending = sorted(self.sources)  # a heap: every result is met before those who read it
        seen: set[int] = set()
        while pending:
            node = self.trace.nodes[heappop(pending)]
            if node.index in seen:
                continue
            seen.add(node.index)
            if node.index == self.until[0]:
                if any(ref.index in self.values for p, ref in enumerate(node.refs()) if p != self.until[1]):
                    raise _Mixes
                continue
            self._put(node, self._spread(node) if node.index in self.sources else self._passed(node))
            for user in self.trace.users.get(node.index, ()) if node.index in self.values else ():
                heappush(pending, user)
        return self.values

    def _put(self, node: Node, factor: Any) -> None:
        untouched = factor is None or (self.strict and isinstance(factor, Tensor) and bool((factor == 1).all()))
        if not untouched:
            self.values[node.index] = factor

    def _spread(self, node: Node) -> Tensor:
        if any(ref.index in self.values for ref in node.refs()):
            self._stopped()
        shape = [1] * len(node.shape)
        shape[self.sources[node.index].dim] = -1
        return self.factors[node.index].view(shape).expand(node.shape)

    def _passed(self, node: Node) -> Any:
        name = base_name(node.target)
        if node.target is GETITEM:
            return self.values[node.args[0].index][node.args[1]]
        schema = getattr(node.target, "_schema", None)
        if node.kind != "op" or name not in PASSED or schema is None or schema.is_mutable:
            return self._stopped()
        if name in COPIES:
            return self.values.get(node.args[0].index)
        if name in RESHAPES:
            return self.values[node.args[0].index].reshape(node.shape)
        if name in MOVES:
            args, kwargs = pytree.tree_map_only(Ref, self._of, (node.args, dict(node.kwargs)))
            return node.target(*args, **kwargs)
        return self._combined(name, node)

    def _combined(self, name: str, node: Node) -> Any:
        """Terms of a sum are multiplied alike; of a product one is, and a divisor is not."""
        left, right = (self._of(arg).expand(node.shape) if isinstance(arg, Ref) else None for arg in node.args[:2])
        if name in ("add", "sub"):
            if left is None or right is None or (self.strict and not torch.equal(left, right)):
                return self._stopped()
            return left + right if not self.strict else left
        if name == "div" and isinstance(node.args[1], Ref) and node.args[1].index in self.values:
            return self._stopped()
        return left if right is None else right if left is None else left * right

    def _stopped(self) -> None:
        if self.strict:
            raise _Mixes

    def _of(self, ref: Ref) -> Tensor:
        found = self.values.get(ref.index)
        return found if isinstance(found, Tensor) else torch.ones(self.trace.nodes[ref.index].shape)
