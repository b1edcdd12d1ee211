"""Recurrent layers: their groups as written by hand, and the plan proved on them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from axes.proving import Net, check, generic_, groups, removal, thin
from prunus.axes import Graph, trace
from prunus.errors import InputError
from prunus.plans import GraphModel, Plan

KINDS = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN with tanh": nn.RNN,
    "RNN with relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
}
CELLS = {
    "LSTM": nn.LSTMCell,
    "GRU": nn.GRUCell,
    "RNN with tanh": nn.RNNCell,
    "RNN with relu": lambda *a: nn.RNNCell(*a, nonlinearity="relu"),
}


def sequences(width: int = 5) -> Tensor:
    """Three steps of two sequences, time first."""
    return torch.randn(3, 2, width, generator=torch.Generator().manual_seed(7))


def rows(suffix: str, bias: bool = True) -> set[str]:
    """Everything that a cell holds per unit, but for what reads its output."""
    return {f"r.{name}_{suffix}:0" for name in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if bias else ()))}


def all_outputs(self: nn.Module, x: Tensor) -> Tensor:
    return self.e(self.r(self.i(x))[0])


def last_state(self: nn.Module, x: Tensor) -> Tensor:
    state = self.r(self.i(x))[1]
    return self.e((state[0] if isinstance(state, tuple) else state)[-1])


def both_states(self: nn.Module, x: Tensor) -> Tensor:
    h, c = self.r(self.i(x))[1]
    return self.e(h[-1]) + self.e(c[0])


def learned_start(self: nn.Module, x: Tensor) -> Tensor:
    start = self.s.expand(-1, x.shape[1], -1)
    return self.e(self.r(self.i(x), (start, start) if isinstance(self.r, nn.LSTM) else start)[0])


def given_start(self: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    return self.e(self.r(self.i(x), (h, h) if isinstance(self.r, nn.LSTM) else h)[0])


def sigmoid_start(self: nn.Module, x: Tensor) -> Tensor:
    start = self.s.expand(-1, x.shape[1], -1).sigmoid()
    return self.r(self.i(x), (start, start) if isinstance(self.r, nn.LSTM) else start)[0].sum(-1)


def unrolled(self: nn.Module, x: Tensor) -> Tensor:
    state = None
    for step in self.i(x).unbind(0):
        state = self.r(step, state)
    return self.e(state[0] if isinstance(state, tuple) else state)


def network(forward: Callable[..., Tensor], layer: nn.Module, outputs: int, **parts: object) -> Net:
    """A linear map, a recurrent layer, a linear map."""
    return Net(forward, i=nn.Linear(5, 6), r=layer, e=nn.Linear(outputs, 4), **parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_unit_takes_a_row_of_every_gate_and_a_column_of_the_recurrence(kind: str, bias: bool) -> None:
    graph = check(network(all_outputs, KINDS[kind](6, 8, bias=bias), 8), sequences())
    assert groups(graph) == {
        "i": (6, {"i.weight:0", "i.bias:0", "r.weight_ih_l0:1"}),
        "r.weight_ih_l0": (8, rows("l0", bias) | {"r.weight_hh_l0:1", "e.weight:1"}),
    }
    assert not graph.unknown


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_directions_lose_units_of_their_own_but_equally_many(kind: str) -> None:
    model = network(all_outputs, KINDS[kind](6, 8, 2, bidirectional=True, batch_first=True, dropout=0.5), 16)
    graph = check(model, sequences())
    found = groups(graph)
    for name in ("l0", "l0_reverse"):
        own = rows(name) | {f"r.weight_hh_{name}:1", "r.weight_ih_l1:1", "r.weight_ih_l1_reverse:1"}
        assert found[f"r.weight_ih_{name}"] == (8, own)
    for name in ("l1", "l1_reverse"):
        assert found[f"r.weight_ih_{name}"] == (8, rows(name) | {f"r.weight_hh_{name}:1", "e.weight:1"})
    assert graph.equal == (("r.weight_ih_l0", "r.weight_ih_l0_reverse", "r.weight_ih_l1", "r.weight_ih_l1_reverse"),)
    with pytest.raises(InputError, match="equally many"):
        Plan(graph, {"r.weight_ih_l0": torch.arange(3)})


def test_projection_has_a_width_of_its_own() -> None:
    graph = check(network(all_outputs, nn.LSTM(6, 8, 2, proj_size=4), 4), sequences())
    found = groups(graph)
    assert found["r.weight_ih_l0"] == (8, rows("l0") | {"r.weight_hr_l0:1"})
    assert found["r.weight_hr_l0"] == (4, {"r.weight_hr_l0:0", "r.weight_hh_l0:1", "r.weight_ih_l1:1"})
    assert found["r.weight_hr_l1"] == (4, {"r.weight_hr_l1:0", "r.weight_hh_l1:1", "e.weight:1"})
    assert set(graph.equal) == {("r.weight_ih_l0", "r.weight_ih_l1"), ("r.weight_hr_l0", "r.weight_hr_l1")}


@pytest.mark.parametrize("kind", KINDS)
def test_final_states_that_are_read_hold_the_same_units_of_every_layer(kind: str) -> None:
    graph = check(network(last_state, KINDS[kind](6, 8, 2), 8), sequences())
    own = rows("l0") | rows("l1") | {"r.weight_hh_l0:1", "r.weight_hh_l1:1", "r.weight_ih_l1:1", "e.weight:1"}
    assert groups(graph)["r.weight_ih_l0"] == (8, own)


def test_both_final_states_of_an_lstm_may_be_read() -> None:
    check(network(both_states, nn.LSTM(6, 8, 2, bidirectional=True), 8), sequences())


@pytest.mark.parametrize("kind", KINDS)
def test_learned_initial_state_loses_its_units_too(kind: str) -> None:
    model = network(learned_start, KINDS[kind](6, 8, 2), 8, s=nn.Parameter(torch.randn(2, 1, 8)))
    assert "s:2" in groups(check(model, sequences()))["r.weight_ih_l0"][1]


@pytest.mark.parametrize("kind", KINDS)
def test_initial_state_from_outside_keeps_its_width(kind: str) -> None:
    model = network(given_start, KINDS[kind](6, 8, 2), 8)
    graph = check(model, (sequences(), torch.randn(2, 2, 8)))
    assert set(groups(graph)) == {"i"}
    assert "an input of the model" in graph.why("r.weight_ih_l0", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_sum_over_units_that_start_from_something_else_than_zero(kind: str) -> None:
    """A GRU and an LSTM remember what they start from; the plain recurrences forget it at once."""
    model = network(sigmoid_start, KINDS[kind](6, 8), 8, s=nn.Parameter(torch.randn(1, 1, 8)))
    graph = check(model, sequences())
    if kind.startswith("RNN"):
        assert "s:2" in groups(graph)["r.weight_ih_l0"][1]
    else:
        assert re.search(r"sum over it would lose .*aten\.sum", graph.why("r.weight_ih_l0", 0))


@pytest.mark.parametrize("kind", KINDS)
def test_output_freezes_the_last_layer_and_so_the_width_of_all(kind: str) -> None:
    model = Net(lambda s, x: s.r(s.i(x))[0], i=nn.Linear(5, 6), r=KINDS[kind](6, 8, 2))
    graph = check(model, sequences())
    assert set(groups(graph)) == {"i"}
    assert "an output of the model" in graph.why("r.weight_ih_l1", 0)
    assert "sizes it and an axis that is frozen: it is an output" in graph.why("r.weight_ih_l0", 0)


def test_time_keeps_its_steps() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.e(self.r(self.i(x).transpose(0, 2))[0]).mul(2)

    graph = trace(generic_(network(forward, nn.GRU(3, 8), 8)), sequences())
    assert re.search(r"a recurrence runs over it \(aten\.gru\.input at rnn\.py|test_", graph.why("i.weight", 0))


@pytest.mark.parametrize("kind", CELLS)
def test_unrolled_cell(kind: str) -> None:
    graph = check(network(unrolled, CELLS[kind](6, 8), 8), sequences())
    cell = {f"r.{name}:0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    assert groups(graph)["r.weight_ih"] == (8, cell | {"r.weight_hh:1", "e.weight:1"})


def test_sequence_without_a_batch() -> None:
    check(network(all_outputs, nn.LSTM(6, 8), 8), sequences()[:, 0])


def _sizes(graph: Graph, module: nn.Module) -> dict[str, int]:
    return {name: getattr(module, name) for name in ("input_size", "hidden_size", "proj_size")}


def test_the_layer_knows_its_new_numbers_and_reads_its_cut_tensors() -> None:
    model = network(all_outputs, nn.LSTM(6, 8, 2, proj_size=4), 4)
    graph = trace(generic_(model), sequences())
    small = thin(graph, model, 0.5)[1]
    assert _sizes(graph, small.r) == {"input_size": 3, "hidden_size": 4, "proj_size": 2}
    assert all(a is b for a, b in zip(small.r._flat_weights, small.r.parameters(), strict=True))
    small(sequences()).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_multiply_accumulates_of_two_layers_by_hand(kind: str) -> None:
    gates = {"LSTM": 4, "GRU": 3}.get(kind, 1)
    graph = trace(network(all_outputs, KINDS[kind](6, 8, 2), 8), sequences())
    assert graph.size().macs == 3 * 2 * (5 * 6 + gates * 8 * (6 + 8) + gates * 8 * (8 + 8) + 8 * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_graph_form_runs_trains_with_dropout_and_takes_other_batches(kind: str) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.e(self.r(self.i(x).view(3, -1, 6))[0])

    model = network(forward, KINDS[kind](6, 8, 2, dropout=0.5), 8)
    graph = trace(generic_(model), sequences())
    small = copy.deepcopy(Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model))
    assert isinstance(small, GraphModel)
    assert small.eval()(torch.randn(3, 4, 5)).shape == (3, 4, 4)
    assert torch.equal(small(sequences()), small(sequences()))
    small.train()
    assert not torch.equal(small(sequences()), small(sequences()))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}, {"batch_first": False}])
def test_packed_sequences_lose_units_in_the_users_class(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    options = {"batch_first": True, **options}
    first = options["batch_first"]

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.i(x), torch.tensor([3, 5]), batch_first=first, enforce_sorted=False)
        y, state = self.r(packed)
        return self.o(pad_packed_sequence(y, batch_first=first)[0]).sum() + self.h(
            state[0] if isinstance(state, tuple) else state
        )

    width = 16 if options.get("bidirectional") else 8
    model = Net(forward, i=nn.Linear(4, 6), r=kind(6, 8, **options), o=nn.Linear(width, 3), h=nn.Linear(8, 1))
    graph = check(model, torch.randn(2, 5, 4) if first else torch.randn(5, 2, 4))
    assert not graph.unknown
    assert {group.size for group in graph.groups} == {3, 6, 8}  # o loses outputs too, since they are summed


@pytest.mark.parametrize(("padding", "is_free"), [(0.0, True), (1.0, False)])
def test_units_padded_with_zeros_may_be_summed(padding: float, is_free: bool) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
        return pad_packed_sequence(self.r(packed)[0], batch_first=True, padding_value=padding)[0].sum(-1)

    graph = trace(generic_(Net(forward, r=nn.LSTM(4, 8, batch_first=True))), torch.randn(2, 5, 4))
    assert bool(graph.groups) == is_free
