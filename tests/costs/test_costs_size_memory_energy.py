"""Sizes, peak memory and energy, each against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from prunus import costs, zoo


def test_sizes_by_hand() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, -0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 1.0]))
    assert (costs.parameters(layer), costs.nonzeros(layer), costs.weight_bytes(layer)) == (8, 3, 32)
    assert costs.weight_bytes(layer.to(torch.bfloat16)) == 16


class Tied(nn.Module):
    """Three ways to tie: the same Parameter, a second Parameter on the same memory, the same module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.second.weight = self.first.weight
        self.third.weight = nn.Parameter(self.first.weight.detach())
        self.fourth = self.first


def test_tied_weights_count_once() -> None:
    model = Tied()
    assert (costs.parameters(model), costs.nonzeros(model), costs.weight_bytes(model)) == (16, 16, 64)
    single = {"first.weight": torch.zeros(4, 4)}
    assert costs.file_bytes(model) == len(safetensors.torch.save(single))


def test_views_of_one_memory_that_differ_all_count() -> None:
    model = nn.Module()
    memory = torch.randn(8)
    model.left, model.right = nn.Parameter(memory[:4]), nn.Parameter(memory[4:])
    assert costs.parameters(model) == 8
    assert costs.file_bytes(model) == len(safetensors.torch.save({"left": torch.zeros(4), "right": torch.zeros(4)}))


def test_file_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    model = zoo.build("resnet20").to(memory_format=torch.channels_last)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert costs.file_bytes(model) == (tmp_path / "model.safetensors").stat().st_size


class Chain(nn.Module):
    """Three tensors of 400 bytes, made one after the other; `keep` decides what the code holds on to."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.keep = keep
        self.offset = nn.Parameter(torch.ones(1000))  # 4,000 bytes that do not count

    def forward(self, x: Tensor) -> Tensor:
        first = x + self.offset[:100]
        second = first * 2
        if not self.keep:
            del first
        third = second - 1
        return third + first if self.keep else third


def test_peak_counts_input_and_what_is_alive_at_once() -> None:
    x = torch.randn(100)
    # input, first, second, and then third beside them or in the place of first
    assert costs.peak_activation_bytes(Chain(keep=False), x) == 400 * 3
    # input, first, second, third and the sum
    assert costs.peak_activation_bytes(Chain(keep=True), x) == 400 * 5


def test_peak_counts_a_view_with_its_storage_once() -> None:
    class View(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2).view(10, 10).t()[:5]

    assert costs.peak_activation_bytes(View(), torch.randn(100)) == 800


def test_peak_counts_an_input_view_with_its_whole_storage_and_twice_given_once() -> None:
    class Add(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    x = torch.randn(100)
    assert costs.peak_activation_bytes(Add(), (x, x)) == 800
    assert costs.peak_activation_bytes(Add(), (x, torch.randn(100))) == 1200


def test_peak_of_a_sequence_is_its_widest_place() -> None:
    # input 40; 4 -> 1000 -> 4: when ReLU returns, its input and output are both alive
    model = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 10))
    assert costs.peak_activation_bytes(model, torch.randn(1, 10)) == 4 * (10 + 1000 + 1000)


def test_in_place_work_needs_no_more_memory() -> None:
    model = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(inplace=True), nn.Linear(1000, 10))
    assert costs.peak_activation_bytes(model, torch.randn(1, 10)) == 4 * (10 + 1000 + 10)


def test_peak_grows_with_the_batch() -> None:
    model = zoo.build("resnet20")
    one, four = (costs.peak_activation_bytes(model, zoo.example_input("resnet20", batch=batch)) for batch in (1, 4))
    assert four == 4 * one


def test_energy_by_hand() -> None:
    estimate = costs.energy(nn.Linear(100, 10, bias=False), torch.randn(2, 100))
    wanted = {
        "multiply": 2000 * 3.7e-12,
        "add": 2000 * 0.9e-12,
        "weights": 1000 * 640e-12,
        "activations": (200 + 20) * 5e-12,
    }
    assert estimate.breakdown == pytest.approx(wanted)
    assert estimate.joules == pytest.approx(sum(wanted.values()))
    for word in ("45 nm", "3.7 pJ", "0.9 pJ", "640 pJ", "5 pJ", "DRAM", "SRAM", "zero weights cost"):
        assert word in estimate.assumption


def test_energy_of_half_precision_moves_half_the_words() -> None:
    x = torch.randn(2, 100)
    single = costs.energy(nn.Linear(100, 10), x).breakdown
    half = costs.energy(nn.Linear(100, 10).bfloat16(), x.bfloat16()).breakdown
    assert half["weights"] * 2 == pytest.approx(single["weights"])
    assert half["activations"] * 2 == pytest.approx(single["activations"])


def test_skipping_zeros_saves_fetches_and_products_of_weights() -> None:
    layer, x = nn.Linear(100, 10, bias=False), torch.randn(2, 100)
    with torch.no_grad():
        layer.weight[:, 25:] = 0
    full, skipped = costs.energy(layer, x), costs.energy(layer, x, skip_zeros=True)
    for part in ("multiply", "add", "weights"):
        assert skipped.breakdown[part] == pytest.approx(full.breakdown[part] / 4)
    assert skipped.breakdown["activations"] == full.breakdown["activations"]
    assert "zero weights are skipped" in skipped.assumption


def test_energy_of_attention_moves_its_three_inputs() -> None:
    class Attend(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x * 1, x * 2)

    estimate = costs.energy(Attend(), torch.randn(1, 2, 5, 8))
    log_sums = 2 * 5  # the kernel also returns the logarithm of each row's sum
    assert estimate.breakdown["activations"] == pytest.approx((4 * 80 + log_sums) * 5e-12)


def test_measure_agrees_with_the_single_functions_and_goes_through_json() -> None:
    model, x = zoo.build("lenet5"), zoo.example_input("lenet5", batch=2)
    measured = costs.measure(model, x)
    assert measured.parameters == costs.parameters(model) == 431_080
    assert measured.macs == costs.macs(model, x)
    assert measured.effective_macs == costs.effective_macs(model, x)
    assert measured.nonzeros == costs.nonzeros(model)
    assert measured.weight_bytes == costs.weight_bytes(model) == 4 * 431_080
    assert measured.file_bytes == costs.file_bytes(model) > measured.weight_bytes
    assert measured.peak_activation_bytes == costs.peak_activation_bytes(model, x)
    assert measured.energy_joules == costs.energy(model, x).joules
    assert json.loads(json.dumps(measured.to_dict())) == measured.to_dict()
    assert measured.to_dict()["latency"] is None


def test_compare_divides_dense_by_pruned() -> None:
    x = torch.randn(1, 3, 64, 64)
    dense, half = (costs.measure(zoo.build("resnet18", width=width), x) for width in (64, 32))
    ratios = costs.compare(dense, half)
    assert ratios["macs"] == dense.macs / half.macs > 3.5
    assert ratios["parameters"] > 3.5
    assert set(ratios) == {
        field.name for field in dataclasses.fields(costs.Costs) if field.name not in ("energy_assumption", "latency")
    }
    assert all(ratio == 1 for ratio in costs.compare(dense, dense).values())


def test_compare_with_nothing_left() -> None:
    dense = costs.measure(nn.Linear(2, 2), torch.randn(1, 2))
    empty = dataclasses.replace(dense, nonzeros=0, effective_macs=0)
    assert costs.compare(dense, empty)["nonzeros"] == math.inf
    assert costs.compare(empty, empty)["effective_macs"] == 1


def test_an_input_that_is_a_slice_counts_its_own_bytes_alone() -> None:
    everything = torch.zeros(1000, 8)
    model = nn.Linear(8, 8)
    assert costs.peak_activation_bytes(model, everything[:1]) == 64
