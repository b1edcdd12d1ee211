"""Recurrent layers: a unit is one row of every gate, one column of the recurrence, one element of the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunus.axes.algebra import Axis, concat, product
from prunus.axes.context import Context, Value, because, frozen
from prunus.axes.rules.factories import is_all_zero
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import rule
from prunus.axes.trace import GETITEM, Node, Ref

PACKED = "it counts steps of sequences"
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class Cell:
    """One direction of one layer.

    hidden: its units. output: what the next step and the next layer see: the same axis, or a projection of it.
    zero: per axis, whether it stays 0 from step to step where units, their rows and biases zeroed, are removed.
    """

    hidden: Axis
    output: Axis
    hidden_zero: bool
    output_zero: bool


@rule("aten.lstm.input", "aten.lstm.data")
def lstm(ctx: Context, node: Node) -> tuple[Value, ...]:
    """x (T, N, I), h_0 (layers*directions, N, P), c_0 (layers*directions, N, H) -> (T, N, directions*P), h_n, c_n.

    A removed unit's c = sigmoid(0)*c_0 + sigmoid(0)*tanh(0) is 0 where c_0 is. P is H unless there is a projection.
    """
    h_0, c_0 = _arguments(node)[1]
    output, cells = _layers(ctx, node, h_0, carried=ctx.value(c_0).zero[-1])
    h_n = _state(ctx, node, h_0, 1, [(cell.output, cell.output_zero) for cell in cells])
    return output, h_n, _state(ctx, node, c_0, 2, [(cell.hidden, cell.hidden_zero) for cell in cells])


@rule(*(f"aten.{name}.{form}" for name in ("gru", "rnn_tanh", "rnn_relu") for form in ("input", "data")))
def recurrence(ctx: Context, node: Node) -> tuple[Value, ...]:
    """x (T, N, I), h_0 (layers*directions, N, H) -> (T, N, directions*H), h_n; only a GRU mixes h_0 into its state."""
    h_0 = _arguments(node)[1]
    output, cells = _layers(ctx, node, h_0, carried=ctx.value(h_0).zero[-1] or base_name(node.target) != "gru")
    return output, _state(ctx, node, h_0, 1, [(cell.hidden, cell.hidden_zero) for cell in cells])


@rule("aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell")
def one_step(ctx: Context, node: Node) -> Value | tuple[Value, ...]:
    """x (N, I), h (N, H), for an LSTM c (N, H) -> the next h, or h and c."""
    x, name = ctx.value(node.args[0]), base_name(node.target).removesuffix("_cell")
    states = [ctx.value(ref) for ref in (node.args[1] if name == "lstm" else node.args[1:2])]
    carried = states[-1].zero[-1] or name.startswith("rnn")
    cell = _cell(ctx, node, GATES[name], x, node.args[2:], states[0].zero[-1], carried)
    for state in states:
        ctx.unify(x.dims[0], state.dims[0], node)
        ctx.unify(cell.hidden, state.dims[1], node)
    _describe(ctx, node, x, cell)
    after = Value((x.dims[0], cell.hidden), (False, cell.hidden_zero))
    return (after, after) if name == "lstm" else after


@rule("aten._pack_padded_sequence")
def pack(ctx: Context, node: Node) -> tuple[Value, Value]:
    """x (T, N, ...) or (N, T, ...) and N lengths -> the steps of all sequences in one dimension, and their numbers."""
    x = ctx.value(node.args[0])
    ctx.freeze((*x.dims[:2], *ctx.value(node.args[1]).dims), PACKED, node)
    assert isinstance(node.value, tuple)
    assert node.value[0]
    assert node.value[1]
    steps = frozen(node.value[0].shape[:1], because(PACKED, node))
    counts = frozen(node.value[1].shape, because(PACKED, node))
    return Value((*steps.dims, *x.dims[2:]), (*steps.zero, *x.zero[2:])), counts


@rule("aten._pad_packed_sequence")
def unpack(ctx: Context, node: Node) -> tuple[Value, Value]:
    """The way back: a number, 0 by default, stands where a sequence has ended."""
    x = ctx.value(node.args[0])
    ctx.freeze((x.dims[0], *ctx.value(node.args[1]).dims), PACKED, node)
    assert isinstance(node.value, tuple)
    assert node.value[0]
    assert node.value[1]
    outer = frozen(node.value[0].shape[:2], because(PACKED, node))
    padded = Value((*outer.dims, *x.dims[1:]), (*outer.zero, *x.zero[1:])).with_zero(node.args[3] == 0)
    return padded, frozen(node.value[1].shape, because(PACKED, node))


def _arguments(node: Node) -> tuple[Any, ...]:
    """Return x, states, weights, biases or not, layers, dropout, training, both ways or not, and batch first or not.

    The last is None where sequences are packed: x is then (steps of all sequences, I).
    """
    return node.args if str(node.target).endswith(".input") else (node.args[0], *node.args[2:], None)


def _layers(ctx: Context, node: Node, h_0: Ref, carried: bool) -> tuple[Value, list[Cell]]:
    """Go through layers and directions; return the last layer's output and every cell."""
    x, (_, _, params, _, num_layers, _, _, bidirectional, batch_first) = ctx.value(node.args[0]), _arguments(node)
    ctx.freeze(x.dims[1 if batch_first else 0], "a recurrence runs over it", node)
    step = len(params) // (num_layers * (2 if bidirectional else 1))
    gates, h_zero = GATES[base_name(node.target)], ctx.value(h_0).zero[-1]
    weights = [params[i : i + step] for i in range(0, len(params), step)]
    cells: list[Cell] = []
    inner = x
    for first in range(0, len(weights), len(weights) // num_layers):
        own = weights[first : first + len(weights) // num_layers]
        layer = [_cell(ctx, node, gates, inner, tensors, h_zero, carried) for tensors in own]
        zero = all(cell.output_zero for cell in layer)
        inner = Value((*x.dims[:-1], concat([c.output for c in layer])), (*(False for _ in x.dims[:-1]), zero))
        cells.extend(layer)
    _describe(ctx, node, x, cells[0])
    for axes in ([cell.hidden for cell in cells], [cell.output for cell in cells]):
        ctx.equal.append(tuple(axes))
    return inner, cells


def _cell(
    ctx: Context, node: Node, gates: int, x: Value, tensors: Sequence[Ref | None], h_zero: bool, carried: bool
) -> Cell:
    """Couple the tensors of one cell: w_ih (gates*H, I), w_hh (gates*H, P), biases (gates*H,), w_hr (P, H).

    h_zero: whether h_0 is zero where units are removed. carried: the same of what goes into the next state as it is.
    """
    matrices: list[Value] = []
    vectors: list[Value] = []
    for ref in tensors:
        value = ctx.optional(ref)
        if value is not None:
            ctx.role(ref, *(("out", "in") if len(value.dims) == 2 else ()))
            (matrices if len(value.dims) == 2 else vectors).append(value)
    w_ih, w_hh, *projection = matrices
    gated = (w_ih, w_hh, *vectors)
    gate, hidden = frozen([gates], because("it counts gates", node)).dims[0], Axis(w_ih.dims[0].size // gates)
    for value in gated:
        ctx.unify(value.dims[0], product([gate, hidden]), node)
    zero = carried and all(value.zero[0] for value in gated)
    output, output_zero = hidden, zero
    for w_hr in projection:
        ctx.contract(hidden, zero, w_hr.dims[1], w_hr.zero[1], node)
        output, output_zero = w_hr.dims[0], w_hr.zero[0]
    ctx.contract(x.dims[-1], x.zero[-1], w_ih.dims[1], w_ih.zero[1], node)
    ctx.contract(output, output_zero and h_zero, w_hh.dims[1], w_hh.zero[1], node)
    ctx.macs.extend((*x.dims[:-1], *value.dims) for value in (w_ih, w_hh, *projection))
    return Cell(hidden, output, zero, output_zero)


def _state(ctx: Context, node: Node, initial: Ref, position: int, made: Sequence[tuple[Axis, bool]]) -> Value:
    """Couple the initial state with the cells, and return the final one.

    Both hold all layers and directions side by side, so that these lose the same units where the initial state is more
    than zeros or the final one is read; else each loses its own.
    """
    x, before, axes = ctx.value(node.args[0]), ctx.value(initial), [axis for axis, _ in made]
    apart = is_all_zero(ctx, initial) and not _is_read(ctx, node, position)
    for axis in axes[:1] if apart else axes:
        ctx.unify(axis, before.dims[2], node)
    batch_first = _arguments(node)[8]
    if batch_first is None:
        ctx.freeze(before.dims[1], PACKED, node)
    else:
        ctx.unify(x.dims[0 if batch_first else 1], before.dims[1], node)
    ctx.freeze(before.dims[0], "it counts layers and directions", node)
    return Value((*before.dims[:2], axes[0]), (False, False, all(zero for _, zero in made)))


def _is_read(ctx: Context, node: Node, position: int) -> bool:
    """Tell whether anything takes result number `position` of an operation."""
    later = ctx.trace.nodes[node.index + 1 :]
    taken = [n.index for n in later if n.target is GETITEM and n.args == (Ref(node.index), position)]
    return any(ref.index in taken for n in later for ref in n.refs())


def _describe(ctx: Context, node: Node, x: Value, cell: Cell) -> None:
    """Name the module's own numbers."""
    ctx.attributes[node.module, "input_size"] = x.dims[-1]
    ctx.attributes[node.module, "hidden_size"] = cell.hidden
    if cell.output is not cell.hidden:
        ctx.attributes[node.module, "proj_size"] = cell.output
