"""Latency: the pairing and the bookkeeping, with models whose time is known."""

from __future__ import annotations

import gc
import itertools
import json
import time
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus import costs, zoo
from prunus.costs.timing import _summary
from prunus.errors import InputError


class Recorder(nn.Module):
    """Writes down who ran, with how many threads, and whether training, recording gradients, collecting garbage."""

    def __init__(self, name: str, log: list[tuple[str, int, bool, bool, bool]]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def forward(self, x: Tensor) -> Tensor:
        state = (torch.get_num_threads(), self.training, torch.is_grad_enabled(), gc.isenabled())
        self.log.append((self.name, *state))
        return x


class Clock:
    """A clock that only models move: a busy machine cannot disturb it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.milliseconds = 0.0
        monkeypatch.setattr(time, "perf_counter_ns", lambda: int(self.milliseconds * 1e6))
        monkeypatch.setattr(time, "perf_counter", lambda: self.milliseconds / 1e3)

    def model(self, *times: float) -> nn.Module:
        """A model whose calls take these milliseconds, one after the other, again and again."""
        return Timed(self, times)


class Timed(nn.Module):
    def __init__(self, clock: Clock, times: tuple[float, ...]) -> None:
        super().__init__()
        self.clock, self.times = clock, itertools.cycle(times)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.milliseconds += next(self.times)
        return x


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_rounds_are_interleaved_in_alternating_order() -> None:
    log: list[tuple[str, int, bool, bool, bool]] = []
    models = {name: Recorder(name, log) for name in "abc"}
    measured = costs.latency(models, torch.zeros(2, 3), repeats=4, warmup=1)
    assert "".join(name for name, *_ in log) == "abc" + "abc" + "cba" + "abc" + "cba"
    assert {name: result.rounds for name, result in measured.items()} == dict.fromkeys("abc", 4)


def test_the_setting_is_as_asked_inside_and_as_before_outside() -> None:
    log: list[tuple[str, int, bool, bool, bool]] = []
    model, before = Recorder("a", log), torch.get_num_threads()
    measured = costs.latency({"a": model}, torch.zeros(5, 3), repeats=2, threads=before + 1)["a"]
    assert set(log) == {("a", before + 1, False, False, False)}
    assert (torch.get_num_threads(), model.training, gc.isenabled()) == (before, True, True)
    assert (measured.batch, measured.threads, measured.runtime) == (5, before + 1, "torch")


def test_times_and_ratios_are_those_of_the_clock(clock: Clock) -> None:
    # The first call of each is the warm-up. A disturbance doubles both times of a round: the ratio does not move.
    models = {"slow": clock.model(99, 20, 40, 20, 40, 30), "fast": clock.model(99, 5, 10, 5, 10, 5)}
    measured = costs.latency(models, torch.zeros(1), repeats=5, warmup=1)
    assert (measured["slow"].median_ms, measured["slow"].ratio_to_first) == (30, 1)
    assert (measured["fast"].median_ms, measured["fast"].ratio_to_first) == (5, 4)


def test_the_summary_by_hand() -> None:
    # Two busy rounds double the first model's time: a ratio of medians would say 3, the pairs say 2.
    first, own = [4.0, 8.0, 4.0, 8.0, 6.0], [2.0, 4.0, 2.0, 4.0, 2.0]
    result = _summary(first, own, batch=1, threads=1)
    assert (result.median_ms, result.ratio_to_first, result.rounds) == (2.0, 2.0, 5)
    assert result.p90_ms == 4.0
    assert _summary([1.0] * 10, [float(i) for i in range(1, 11)], batch=1, threads=1).p90_ms == pytest.approx(9.1)


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 3), (0.031, 4), (0.045, 5), (1, 10)])
def test_the_time_budget_ends_the_rounds_but_not_before_three(clock: Clock, seconds: float, rounds: int) -> None:
    measured = costs.latency({"a": clock.model(10)}, torch.zeros(1), repeats=10, seconds=seconds)
    assert measured["a"].rounds == rounds


@pytest.mark.parametrize(
    ("least", "seconds", "rounds"), [(0.0, 1, 10), (0.145, 1, 15), (0.145, 0.125, 13), (0.05, 1, 10)]
)
def test_rounds_go_on_for_the_least_time_but_not_beyond_the_most(
    clock: Clock, least: float, seconds: float, rounds: int
) -> None:
    call = partial(clock.model(10), torch.zeros(1))
    measured = costs.timed({"a": call}, repeats=10, warmup=0, seconds=seconds, least_seconds=least)
    assert measured["a"].rounds == rounds


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
    assert measured["half"].ratio_to_first > 1


def test_the_environment_is_described_without_this_machines_name() -> None:
    described = costs.environment(dtype=torch.bfloat16)
    assert described["torch"] == torch.__version__
    assert described["prunus"] == prunus.__version__
    assert (described["device"], described["dtype"]) == ("cpu", "bfloat16")
    assert described["threads"] == torch.get_num_threads()
    assert set(described) == {"python", "torch", "prunus", "platform", "cpu", "threads", "device", "dtype"}
    assert all(str(value) for value in described.values())
    json.dumps(described)
