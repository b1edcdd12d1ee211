"""Deep deterministic policy gradient for one continuous action, as AMC uses it.

Lillicrap et al. 2016 (arXiv:1509.02971); He et al. 2018 (arXiv:1802.03494), section 3.3. Legend: B batch, S state.
Random numbers come from the agent's own generator, so that its state resumes bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunus.search.noise import truncated_normal


@dataclass(frozen=True)
class Settings:
    """The numbers of AMC's appendix and its repository.

    tau: share of the online network that moves into the target network per update. gamma: 1, so that early layers
    count as much as late ones. sigma, decay: of the exploration noise. memory: transitions kept per step of an episode.
    smoothing: weight of the newest batch in the baseline.
    """

    hidden: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    gamma: float = 1.0
    batch: int = 64
    memory: int = 100
    sigma: float = 0.5
    decay: float = 0.95
    smoothing: float = 0.5


@dataclass(frozen=True)
class Transition:
    """One step: (S,) before, the action in [0, 1], the episode's reward, (S,) after, whether it was the last."""

    state: tuple[float, ...]
    action: float
    reward: float
    after: tuple[float, ...]
    is_last: bool


class Actor(nn.Module):
    """(B, S) -> (B, 1), an action in [0, 1]."""

    def __init__(self, num_features: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(num_features, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, state_BS: Tensor) -> Tensor:
        """Choose."""
        x = functional.relu(self.second(functional.relu(self.first(state_BS))))
        return torch.sigmoid(self.last(x))


class Critic(nn.Module):
    """(B, S), (B, 1) -> (B, 1): the return expected of an action."""

    def __init__(self, num_features: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(num_features, hidden)
        self.action = nn.Linear(1, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, state_BS: Tensor, action_B1: Tensor) -> Tensor:
        """Judge."""
        x = functional.relu(self.first(state_BS) + self.action(action_B1))
        value: Tensor = self.last(functional.relu(self.second(x)))
        return value


def initialise_(network: nn.Module, generator: torch.Generator) -> None:
    """Fan-in uniform weights, a last layer near 0, so that the first actions lie in the middle."""
    for name, parameter in network.named_parameters():
        fan_in = parameter.shape[1] if parameter.dim() > 1 else parameter.shape[0]
        bound = 3e-3 if name.startswith("last") else 1 / math.sqrt(fan_in)
        with torch.no_grad():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)


@torch.no_grad()
def soft_update_(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move the target network towards the online one: target = tau · online + (1 − tau) · target."""
    for old, new in zip(target.parameters(), online.parameters(), strict=True):
        old.lerp_(new, tau)


def wanted_value(reward_B1: Tensor, baseline: float, next_B1: Tensor, last_B1: Tensor, gamma: float) -> Tensor:
    """Return what the critic is to say, y = r − b + γ·Q′(s′, μ′(s′)), without Q′ after the last step; (B, 1)."""
    return reward_B1 - baseline + gamma * next_B1 * (1 - last_B1)


class Agent:
    """Actor, critic, their targets and optimizers, the replay memory, the noise and the baseline.

    num_features: S. num_steps: actions per episode. seed: of weights, noise and sampling.
    """

    def __init__(self, num_features: int, num_steps: int, seed: int, settings: Settings | None = None) -> None:
        self.settings = settings = settings or Settings()
        self.generator = torch.Generator().manual_seed(seed)
        self.actor, self.actor_target = (Actor(num_features, settings.hidden) for _ in range(2))
        self.critic, self.critic_target = (Critic(num_features, settings.hidden) for _ in range(2))
        for online, target in ((self.actor, self.actor_target), (self.critic, self.critic_target)):
            initialise_(online, self.generator)
            target.load_state_dict(online.state_dict())
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=settings.actor_lr)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=settings.critic_lr)
        self.capacity = settings.memory * num_steps
        self.replay: list[Transition] = []
        self.sigma = settings.sigma
        self.baseline: float | None = None

    @torch.no_grad()
    def act(self, state: Sequence[float]) -> float:
        """Return the actor's action with truncated normal noise, in [0, 1]."""
        mean = float(self.actor(torch.tensor([list(state)]))[0, 0])
        return truncated_normal(mean, self.sigma, 0.0, 1.0, self.generator)

    def remember(self, transitions: Sequence[Transition]) -> None:
        """Put an episode into the memory; the oldest transitions leave."""
        self.replay = [*self.replay, *transitions][-self.capacity :]

    def decay(self) -> None:
        """Lessen the noise, once per episode."""
        self.sigma *= self.settings.decay

    def update(self) -> None:
        """Take one step of critic and actor on a batch out of the memory, then move the targets."""
        order = torch.randperm(len(self.replay), generator=self.generator)[: self.settings.batch]
        batch = [self.replay[index] for index in order.tolist()]
        state, after = (torch.tensor([getattr(t, name) for t in batch]) for name in ("state", "after"))
        action, reward = (torch.tensor([[getattr(t, name)] for t in batch]) for name in ("action", "reward"))
        last = torch.tensor([[float(t.is_last)] for t in batch])
        self._follow(float(reward.mean()))
        with torch.no_grad():
            coming = self.critic_target(after, self.actor_target(after))
            wanted = wanted_value(reward, self.baseline or 0.0, coming, last, self.settings.gamma)
        _step_(self.critic_optimizer, functional.mse_loss(self.critic(state, action), wanted))
        _step_(self.actor_optimizer, -self.critic(state, self.actor(state)).mean())
        soft_update_(self.actor_target, self.actor, self.settings.tau)
        soft_update_(self.critic_target, self.critic, self.settings.tau)

    def _follow(self, reward: float) -> None:
        """Move the baseline towards the mean reward of a batch."""
        before = reward if self.baseline is None else self.baseline
        self.baseline = before + self.settings.smoothing * (reward - before)

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides what the agent does next."""
        networks = {name: dict(getattr(self, name).state_dict()) for name in _NETWORKS}
        optimizers = {name: getattr(self, name).state_dict() for name in _OPTIMIZERS}
        rows = [[*t.state, t.action, t.reward, *t.after, float(t.is_last)] for t in self.replay]
        return {
            **networks,
            **optimizers,
            "generator": self.generator.get_state(),
            "replay": torch.tensor(rows, dtype=torch.float64),
            "sigma": self.sigma,
            "baseline": self.baseline,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name in (*_NETWORKS, *_OPTIMIZERS):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        width = (state["replay"].shape[1] - 3) // 2 if state["replay"].numel() else 0
        self.replay = [
            Transition(tuple(r[:width]), r[width], r[width + 1], tuple(r[width + 2 : -1]), bool(r[-1]))
            for r in state["replay"].tolist()
        ]
        self.sigma, self.baseline = state["sigma"], state["baseline"]


_NETWORKS = ("actor", "actor_target", "critic", "critic_target")
_OPTIMIZERS = ("actor_optimizer", "critic_optimizer")


def _step_(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
