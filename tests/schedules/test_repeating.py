"""Schedules that act again at one fraction, at listed times, and by Narang's ramp."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from prunus.errors import InputError
from prunus.schedules import BaiduRNN, Listed, Policy, PruningScheduler, Repeated, schedule
from prunus.schedules.reading import with_whole_times


def test_repeated_acts_at_every_multiple_up_to_its_end() -> None:
    when = Repeated(begin=2, end=7, every=2)
    assert [now for now in range(10) if when.acts(now)] == [2, 4, 6]
    assert [when.fraction(now) for now in (1, 2, 9)] == [0, 1, 1]
    assert (when.last, when.unit) == (6, "epoch")


def test_repeated_in_epochs_may_also_act_after_steps() -> None:
    when = Repeated(begin=1, end=2, steps=2)
    assert [when.acts_within(*time) for time in ((0, 2), (1, 3), (1, 4), (2, 6), (3, 8))] == [0, 0, 1, 1, 0]
    layer = nn.Linear(3, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), 1.0)
    policy = Policy(granularity="element", allocation={"threshold": {"*": 0.45}}, schedule=when)
    zeros = []
    with PruningScheduler(layer, optimizer, [policy]) as scheduler:
        for _ in range(3):  # epochs of three steps, each lowers one weight after the other by .2
            for column in range(3):
                layer.weight.grad = torch.eye(3)[column : column + 1] * 0.2
                optimizer.step()
                zeros.append(int((layer.weight == 0).sum()))
            scheduler.epoch_end()
    # after 3, 6, 9 steps each is at .8, .6, .4; the actions are at step 3 (epoch 1), 4, 6 (and epoch 2), 8
    assert zeros == [0, 0, 0, 0, 0, 0, 0, 2, 2]


def test_repeated_grows_by_equal_steps_from_its_initial_fraction() -> None:
    when = Repeated(0.8, begin=1, end=5, every=2, initial=0.2)
    assert [when.fraction(now) for now in range(7)] == pytest.approx([0, 0.2, 0.2, 0.5, 0.5, 0.8, 0.8])


def test_a_repeated_threshold_catches_what_training_pulls_below_it() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 0.5, 1.0, 2.0]]))
    optimizer = torch.optim.SGD(layer.parameters(), 1.0)
    allocation = {"threshold": {"*": 0.2}}
    policy = Policy(granularity="element", allocation=allocation, schedule={"kind": "repeated", "end": 1})
    with PruningScheduler(layer, optimizer, [policy]) as scheduler:
        assert layer.weight[0].tolist() == [0, 0.5, 1, 2]
        for shrink, wanted in (([0, 0.4, 0, 0], [0, 0, 1, 2]), ([0, 0, 0.9, 0], [0, 0, pytest.approx(0.1), 2])):
            layer.weight.grad = torch.tensor([shrink], dtype=torch.float32)
            optimizer.step()
            scheduler.epoch_end()
            assert layer.weight[0].tolist() == wanted
        assert scheduler.finished


def test_listed_fractions_are_in_force_from_their_time_on() -> None:
    when = Listed([1, 4, 5], [0.1, 0.1, 0.7])
    assert [when.fraction(now) for now in range(7)] == [0, 0.1, 0.1, 0.1, 0.1, 0.7, 0.7]
    assert [now for now in range(7) if when.acts(now)] == [1, 4, 5]
    assert (when.final, when.last) == (0.7, 5)
    assert Listed(["3 steps"]).final is None
    assert Listed(["3 steps"]).fraction(3) == 1
    assert eval(repr(when), {"Listed": Listed, "Time": type(when.times[0])}) == when


@pytest.mark.parametrize(("start", "ramp", "end", "freq"), [(0, 4, 12, 1), (3, 5, 14, 2), (0, 0, 5, 1), (2, 6, 7, 1)])
def test_the_ramp_is_narangs_algorithm(start: int, ramp: int, end: int, freq: int) -> None:
    """Algorithm 1 with its own slopes; `end` is exclusive there. Only the ratios of the thresholds are a schedule."""
    slope = 2 * freq / (2 * (ramp - start) + 3 * (end - ramp))

    def epsilon(now: int) -> float:
        if now < ramp:
            return slope * (now - start + 1) / freq
        return (slope * (ramp - start + 1) + 1.7 * slope * (now - ramp + 1)) / freq

    when = BaiduRNN(begin=start, ramp=ramp, end=end - 1, every=freq, steepness=1.7)
    times = range(start, end, freq)
    assert [when.fraction(now) for now in times] == pytest.approx([epsilon(now) / epsilon(times[-1]) for now in times])
    assert when.fraction(times[-1]) == when.fraction(99) == 1
    assert start == 0 or when.fraction(start - 1) == 0


def test_fractions_of_epochs_become_steps() -> None:
    made = with_whole_times(BaiduRNN(begin="0.5ep", ramp="1ep", end="2ep", every="0.25ep"), 8)
    assert made == BaiduRNN(begin="4 steps", ramp="8 steps", end="16 steps", every="2 steps")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "repeated"}, "schedule.end is missing"),
        ({"kind": "repeated", "begin": 3, "end": 2}, "before schedule.begin"),
        ({"kind": "repeated", "end": 2, "initial": 0.6, "final": 0.5}, "above schedule.final"),
        ({"kind": "repeated", "end": "9 steps", "steps": 1}, "the times in epochs"),
        ({"kind": "repeated", "end": 2, "steps": 0}, "schedule.steps is 0"),
        ({"kind": "listed"}, "at least one is wanted"),
        ({"kind": "listed", "times": [3, 3]}, "each above the last"),
        ({"kind": "listed", "times": ["1ep", "2 steps"]}, "not both"),
        ({"kind": "listed", "times": ["0.5ep"]}, "whole epochs"),
        ({"kind": "listed", "times": [1, 2], "fractions": [0.5]}, "one per time"),
        ({"kind": "listed", "times": [1, 2], "fractions": [0.5, 0.4]}, "none below the one before"),
        ({"kind": "listed", "times": [1], "fractions": [0]}, "one per time"),
        ({"kind": "baidu_rnn", "ramp": 9, "end": 5}, "a time from 0ep to 5ep"),
        ({"kind": "baidu_rnn", "end": 5, "steepness": 0}, "schedule.steepness is 0"),
        ({"kind": "baidu_rnn", "steepnes": 0}, "did you mean steepness"),
    ],
)
def test_wrong_schedules_are_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        schedule(spec)
