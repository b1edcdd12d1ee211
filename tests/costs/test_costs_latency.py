"""Latency: the pairing and the bookkeeping, with models whose time is known."""

from __future__ import annotations

import gc
import json
import time

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus import costs, zoo
from prunus.costs.timing import _summary
from prunus.errors import InputError


class Sleep(nn.Module):
    """Sleeps, and writes down who ran, with how many threads, and whether it was training or recording gradients."""

    def __init__(self, name: str, log: list[tuple[str, int, bool, bool]], *, milliseconds: float = 0) -> None:
        super().__init__()
        self.name, self.log, self.milliseconds = name, log, milliseconds

    def forward(self, x: Tensor) -> Tensor:
        self.log.append((self.name, torch.get_num_threads(), self.training, torch.is_grad_enabled()))
        time.sleep(self.milliseconds / 1000)
        return x


def test_rounds_are_interleaved_in_alternating_order() -> None:
    log: list[tuple[str, int, bool, bool]] = []
    models = {name: Sleep(name, log) for name in "abc"}
    measured = costs.latency(models, torch.zeros(2, 3), repeats=4, warmup=1)
    assert "".join(name for name, *_ in log) == "abc" + "abc" + "cba" + "abc" + "cba"
    assert {name: result.rounds for name, result in measured.items()} == dict.fromkeys("abc", 4)


def test_the_setting_is_as_asked_inside_and_as_before_outside() -> None:
    log: list[tuple[str, int, bool, bool]] = []
    model, before = Sleep("a", log), torch.get_num_threads()
    measured = costs.latency({"a": model}, torch.zeros(5, 3), repeats=2, threads=before + 1)["a"]
    assert set(log) == {("a", before + 1, False, False)}
    assert (torch.get_num_threads(), model.training, gc.isenabled()) == (before, True, True)
    assert (measured.batch, measured.threads, measured.runtime) == (5, before + 1, "torch")


def test_times_and_ratios_of_sleeps() -> None:
    log: list[tuple[str, int, bool, bool]] = []
    models = {"slow": Sleep("slow", log, milliseconds=20), "fast": Sleep("fast", log, milliseconds=5)}
    measured = costs.latency(models, torch.zeros(1), repeats=5, warmup=0)
    assert 20 <= measured["slow"].median_ms <= measured["slow"].p90_ms
    assert measured["slow"].ratio_to_first == 1
    assert 2 < measured["fast"].ratio_to_first <= 4.2


def test_the_summary_by_hand() -> None:
    # Two busy rounds double the first model's time: a ratio of medians would say 3, the pairs say 2.
    first, own = [4.0, 8.0, 4.0, 8.0, 6.0], [2.0, 4.0, 2.0, 4.0, 2.0]
    result = _summary(first, own, batch=1, threads=1)
    assert (result.median_ms, result.ratio_to_first, result.rounds) == (2.0, 2.0, 5)
    assert result.p90_ms == 4.0
    assert _summary([1.0] * 10, [float(i) for i in range(1, 11)], batch=1, threads=1).p90_ms == pytest.approx(9.1)


def test_the_time_budget_ends_the_rounds_but_not_before_three() -> None:
    log: list[tuple[str, int, bool, bool]] = []
    measured = costs.latency({"a": Sleep("a", log, milliseconds=5)}, torch.zeros(1), repeats=100, seconds=0)
    assert measured["a"].rounds == 3
    assert costs.latency({"a": Sleep("a", log)}, torch.zeros(1), repeats=2, seconds=0)["a"].rounds == 2


def test_a_failure_restores_everything() -> None:
    model, before = nn.Linear(3, 3), torch.get_num_threads()
    with pytest.raises(InputError, match="Linear does not run"):
        costs.latency({"a": model}, torch.zeros(2, 4), threads=before + 1)
    assert (torch.get_num_threads(), model.training, gc.isenabled()) == (before, True, True)


@pytest.mark.parametrize(("name", "value"), [("repeats", 0), ("warmup", -1), ("threads", 0)])
def test_numbers_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} = {value}"):
        costs.latency({"a": nn.Identity()}, torch.zeros(1), **{name: value})


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="no model"):
        costs.latency({}, torch.zeros(1))


def test_a_quarter_of_the_work_takes_less_time() -> None:
    models = {"dense": zoo.build("resnet18"), "half": zoo.build("resnet18", width=32)}
    measured = costs.latency(models, torch.randn(1, 3, 96, 96), repeats=7)
    assert measured["half"].ratio_to_first > 1.2


def test_the_environment_is_described_without_this_machines_name() -> None:
    described = costs.environment(dtype=torch.bfloat16)
    assert described["torch"] == torch.__version__
    assert described["prunus"] == prunus.__version__
    assert (described["device"], described["dtype"]) == ("cpu", "bfloat16")
    assert described["threads"] == torch.get_num_threads()
    assert set(described) == {"python", "torch", "prunus", "platform", "cpu", "threads", "device", "dtype"}
    assert all(str(value) for value in described.values())
    json.dumps(described)
