"""The agent's pieces against closed forms, and its state."""

import copy
import math

import pytest
import torch

from prunus.search.ddpg import Actor, Agent, Critic, Settings, Transition, initialise_, soft_update_, wanted_value
from prunus.search.noise import truncated_normal


def pair():
    generator = torch.Generator().manual_seed(0)
    target, online = Actor(3, 4), Actor(3, 4)
    initialise_(target, generator)
    initialise_(online, generator)
    return target, online


def test_soft_updates_approach_the_online_network_geometrically():
    target, online = pair()
    start, goal = target.last.weight.detach().clone(), online.last.weight.detach().clone()
    for _ in range(7):
        soft_update_(target, online, 0.01)
    torch.testing.assert_close(target.last.weight.detach(), goal + (start - goal) * 0.99**7)


def test_the_critic_is_told_r_minus_b_plus_q_with_gamma_one_and_nothing_after_the_last_step():
    reward, coming = torch.tensor([[0.5], [0.5]]), torch.tensor([[2.0], [3.0]])
    last = torch.tensor([[0.0], [1.0]])
    assert wanted_value(reward, 0.2, coming, last, 1.0).flatten().tolist() == pytest.approx([2.3, 0.3])
    assert wanted_value(reward, 0.2, coming, last, 0.5).flatten().tolist() == pytest.approx([1.3, 0.3])


def test_the_baseline_is_a_moving_average_of_batch_means():
    agent = Agent(2, 1, 0, Settings(hidden=4, batch=64, smoothing=0.5))
    wanted = None
    for reward in (1.0, 3.0, 5.0):
        agent.remember([Transition((0.0, 0.0), 0.5, reward, (0.0, 0.0), True)])
        mean = sum(t.reward for t in agent.replay) / len(agent.replay)
        wanted = mean if wanted is None else wanted + 0.5 * (mean - wanted)
        agent.update()
        assert agent.baseline == pytest.approx(wanted)
    assert wanted == pytest.approx(2.25)  # 1, then 1.5, then 1.5 + (3 - 1.5) / 2


@pytest.mark.parametrize(("mean", "sigma"), [(0.5, 0.5), (0.1, 0.3), (0.97, 0.05)])
def test_the_noise_is_a_normal_distribution_cut_to_the_interval(mean, sigma):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([truncated_normal(mean, sigma, 0.0, 1.0, generator) for _ in range(4000)], dtype=torch.float64)
    assert drawn.min() >= 0
    assert drawn.max() <= 1

    def density(z):
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def below(z):
        return (1 + math.erf(z / math.sqrt(2))) / 2

    a, b = (0 - mean) / sigma, (1 - mean) / sigma
    inside = below(b) - below(a)
    expected = mean + sigma * (density(a) - density(b)) / inside
    spread = sigma * math.sqrt(
        1 + (a * density(a) - b * density(b)) / inside - ((density(a) - density(b)) / inside) ** 2
    )
    assert float(drawn.mean()) == pytest.approx(expected, abs=4 * spread / math.sqrt(len(drawn)))
    assert float(drawn.std()) == pytest.approx(spread, rel=0.05)
    exact = torch.tensor([(below((x - mean) / sigma) - below(a)) / inside for x in drawn.sort().values])
    steps = (torch.arange(len(drawn)) + 0.5) / len(drawn)
    assert float((exact - steps).abs().max()) < 1.63 / math.sqrt(len(drawn))  # Kolmogorov and Smirnov, 1 %


def test_noise_far_from_the_interval_stays_inside():
    generator = torch.Generator().manual_seed(0)
    assert all(0 <= truncated_normal(m, 1e-6, 0, 1, generator) <= 1 for m in (0.0, 1.0) for _ in range(50))


def test_noise_decays_per_episode():
    agent = Agent(2, 1, 0, Settings(hidden=4))
    for _ in range(3):
        agent.decay()
    assert agent.sigma == pytest.approx(0.5 * 0.95**3)


def test_the_memory_holds_a_hundred_transitions_per_step_and_forgets_the_oldest():
    agent = Agent(1, 2, 0, Settings(hidden=4))
    agent.remember([Transition((float(i),), 0.5, 0.0, (0.0,), False) for i in range(250)])
    assert [agent.replay[0].state[0], agent.replay[-1].state[0], len(agent.replay)] == [50.0, 249.0, 200]


def test_networks_have_two_hidden_layers_of_300():
    agent = Agent(11, 5, 0)
    assert sum(p.numel() for p in agent.actor.parameters()) == 11 * 300 + 300 + 300 * 300 + 300 + 301
    assert sum(p.numel() for p in agent.critic.parameters()) == 12 * 300 + 600 + 300 * 300 + 300 + 301
    assert [g["lr"] for o in (agent.actor_optimizer, agent.critic_optimizer) for g in o.param_groups] == [1e-4, 1e-3]


def test_the_critic_learns_the_reward_of_a_single_step_and_the_actor_its_best_action():
    agent = Agent(1, 1, 0, Settings(hidden=32, actor_lr=1e-3, critic_lr=1e-2, memory=500))
    agent.remember([Transition((1.0,), a / 100, 1 - (a / 100 - 0.3) ** 2, (1.0,), True) for a in range(100)])
    for _ in range(600):
        agent.update()
    action = torch.tensor([[0.3], [0.9]])
    said = agent.critic(torch.ones(2, 1), action).detach().flatten()
    assert float(said[0] - said[1]) == pytest.approx(0.36, abs=0.08)
    assert float(agent.actor(torch.ones(1, 1)).detach()) == pytest.approx(0.3, abs=0.1)


def test_an_agent_goes_on_bit_for_bit_from_its_state():
    def fill(agent, count):
        for _ in range(count):
            action = agent.act((0.2, 0.7))
            agent.remember([Transition((0.2, 0.7), action, -abs(action - 0.4), (0.3, 0.6), True)])
            agent.update()
            agent.decay()

    one, two = Agent(2, 1, 3, Settings(hidden=8)), Agent(2, 1, 99, Settings(hidden=8))
    fill(one, 5)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    fill(one, 5)
    fill(two, 5)
    assert one.replay == two.replay
    assert all(torch.equal(a, b) for a, b in zip(one.actor.parameters(), two.actor.parameters(), strict=True))
    assert (one.sigma, one.baseline) == (two.sigma, two.baseline)


def test_critic_reads_the_action():
    critic = Critic(2, 8)
    state = torch.zeros(1, 2)
    assert not torch.equal(critic(state, torch.zeros(1, 1)), critic(state, torch.ones(1, 1)))
