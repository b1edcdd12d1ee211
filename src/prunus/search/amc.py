"""AMC: an agent walks from layer to layer and says how much of each goes; the pruned net's accuracy is its reward.

He et al. 2018, "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", arXiv:1802.03494.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from prunus.errors import InputError, NameNotFound
from prunus.search.ddpg import Agent, Settings, Transition
from prunus.search.meter import Meter, clamped
from prunus.search.problem import Book, Problem, StateFile, check_trials
from prunus.search.space import Choice
from prunus.search.trials import Trial

Reward = Literal["budget", "accuracy"]


@dataclass(frozen=True)
class AMC:
    """Settings of the search.

    trials: episodes. warmup: episodes at full noise, before the agent learns; by default 100, of fewer than 400 trials
        a quarter.
    reward: `budget`, −error, while actions are clamped so that every episode meets the budget; `accuracy`,
        −error · log(1 + cost), for the smallest net without loss: with a target that leaves room, such as `macs=1`.
        The error is 1 − metric, or the metric itself where less is better; the cost is the budget's quantity, of a
        sparsity the density in percent.
    settings: of the agent.
    """

    trials: int = 400
    warmup: int | None = None
    reward: Reward = "budget"
    settings: Settings = field(default_factory=Settings)
    name: ClassVar[str] = "amc"

    def __post_init__(self) -> None:
        check_trials(self.trials, "trials of amc")
        if self.reward not in get_args(Reward):
            raise NameNotFound.of("reward", str(self.reward), get_args(Reward))

    def run(self, problem: Problem, book: Book, seed: int) -> None:
        """Play episodes until there are `trials`; the agent is on disk after each."""
        agent = Agent(NUM_FEATURES, len(problem.knobs), seed, self.settings)
        state, episode = StateFile.beside(book.store), 0
        warmup = min(100, self.trials // 4) if self.warmup is None else self.warmup
        saved = state.load()
        if saved is not None:
            agent.load_state_dict(saved["agent"])
            episode, warmup = int(saved["episodes"]), int(saved["warmup"])  # of fewer trials, where more are asked now
        book.go_on_at(episode + 1)
        look = Look.of(problem.meter)
        for number in range(episode, self.trials):
            choice, steps = _walk(problem.meter, look, agent)
            trial = book.measure(choice, self.trials)
            agent.remember(_episode(steps, float(trial.notes["reward"])))
            if number >= warmup:
                for _ in steps:
                    agent.update()
                agent.decay()
            state.save({"episodes": number + 1, "warmup": warmup, "agent": agent.state_dict()})

    def reward_of(self, problem: Problem, trial: Trial) -> float:
        """Return what an episode earns that ends in a candidate."""
        error = 1 - trial.metric if problem.mode == "max" else trial.metric
        if self.reward == "budget":
            return -error
        if error < 0:
            raise InputError(
                f"the metric is {trial.metric:g}; reward='accuracy' multiplies errors, so it has to be a share up to 1"
            )
        is_share = problem.meter.budget.quantity == "sparsity"
        return -error * math.log1p(100 * trial.share if is_share else trial.value)


NUM_FEATURES = 11


@dataclass(frozen=True)
class Look:
    """What the agent sees of each knob: (t, n, c, h, w, stride, k, cost, reduced, rest, last action), in [0, 1].

    fixed: the first eight, each divided by its largest over the knobs. costs: the share of the dense model that a
    knob's most saves by itself.
    """

    fixed: tuple[tuple[float, ...], ...]
    costs: tuple[float, ...]

    @classmethod
    def of(cls, meter: Meter) -> Look:
        """Look at the knobs."""
        alone = [(*meter.whole[:t], knob.top, *meter.whole[t + 1 :]) for t, knob in enumerate(meter.knobs)]
        costs = tuple(max(0.0, 1 - meter.share(choice)) for choice in alone)
        rows = [(float(t), *knob.features, cost) for t, (knob, cost) in enumerate(zip(meter.knobs, costs, strict=True))]
        largest = [max(column) or 1.0 for column in zip(*rows, strict=True)]
        return cls(tuple(tuple(v / m for v, m in zip(row, largest, strict=True)) for row in rows), costs)

    def state(self, meter: Meter, done: Choice, last: float) -> tuple[float, ...]:
        """Return the eleven features before the next knob is turned; after the last one, the last one's."""
        t = min(len(done), len(self.costs) - 1)
        reduced = 1 - meter.share(done + meter.whole[len(done) :])
        rest = sum(self.costs[len(done) :]) / (sum(self.costs) or 1.0)
        return (*self.fixed[t], min(1.0, max(0.0, reduced)), rest, last)


Step = tuple[tuple[float, ...], float, tuple[float, ...]]


def _walk(meter: Meter, look: Look, agent: Agent) -> tuple[Choice, list[Step]]:
    """Play one episode: the choice, and (state, action, state after) of each step."""
    done: Choice = ()
    action, steps = 0.0, list[Step]()
    for knob in meter.knobs:
        state = look.state(meter, done, action)
        wanted = knob.at(agent.act(state) * knob.top / knob.size)
        count = clamped(meter, done, wanted)
        action = count / (knob.top or 1)  # what was done, not what was wanted: that is what earns the reward
        done = (*done, count)
        steps.append((state, action, look.state(meter, done, action)))
    return done, steps


def _episode(steps: Sequence[Step], reward: float) -> list[Transition]:
    last = len(steps) - 1
    return [Transition(state, action, reward, after, t == last) for t, (state, action, after) in enumerate(steps)]
