"""AMC, NetAdapt, evolution and Bayesian search on toys whose best policy is known."""

import itertools
import math
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from prunus.errors import InputError, NameNotFound
from prunus.search import AMC, Bayes, Evolve, NetAdapt, find_method, search
from prunus.search.amc import NUM_FEATURES, Look
from prunus.search.netadapt import proposal
from prunus.search.problem import Outcome
from search.toys import WEIGHTS, best_by_enumeration, coupled_cost, knobs, linear_cost, run, toy


def test_amc_finds_that_nothing_is_lost_where_accuracy_is_constant():
    problem = toy("macs=1", judge=lambda counts: {"top1": 0.9})
    trials = run(AMC(trials=140, warmup=40, reward="accuracy"), problem).store.trials
    cheapest = problem.meter.share(problem.meter.most)
    assert max(trials[1:], key=lambda t: t.notes["reward"]).share == cheapest
    assert sum(t.share for t in trials[-10:]) / 10 < cheapest + 0.1
    assert sum(t.share for t in trials[1:41]) / 40 > 0.4


def test_amc_learns_which_group_bears_pruning():
    found = knobs(2, 16)
    problem = toy(
        found=found,
        ruler=linear_cost(found, (1.0, 1.0)),
        judge=lambda counts: {"top1": 1 - 0.5 * counts["g0"] / 16 - 0.05 * counts["g1"] / 16},
    )
    trials = run(AMC(trials=120, warmup=40), problem).store.trials[1:]
    best = best_by_enumeration(problem)
    assert all(trial.is_met for trial in trials)
    assert max(trial.metric for trial in trials) >= best - 0.02
    assert sum(t.metric for t in trials[-10:]) / 10 > best - 0.05 > sum(t.metric for t in trials[:40]) / 40


def test_amc_multiplies_the_error_by_the_logarithm_of_the_cost():
    problem = toy("macs=1", judge=lambda counts: {"top1": 0.9})
    trial = run(AMC(trials=1, reward="accuracy"), problem).store.trials[1]
    assert trial.notes["reward"] == pytest.approx(-0.1 * math.log1p(trial.value))
    budgeted = run(AMC(trials=1), toy(judge=lambda counts: {"top1": 0.9})).store.trials[1]
    assert budgeted.notes["reward"] == pytest.approx(-0.1)
    loss = run(AMC(trials=1), toy(judge=lambda counts: {"loss": 0.7}, mode="min")).store.trials[1]
    assert loss.notes["reward"] == pytest.approx(-0.7)


def test_with_rewards_the_dense_model_is_ranked_by_its_own():
    model, example = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(1, 4)
    constant = search(model, example, lambda _: 0.9, method=AMC(trials=12, reward="accuracy"), target="macs=1")
    assert constant.best.share == min(trial.share for trial in constant.trials) < 1
    harmed = search(
        model, example, lambda small: 1 - small[0].weight.eq(0).float().mean().item(),
        method=AMC(trials=12, reward="accuracy"), target="macs=1",
    )  # fmt: skip
    assert harmed.best.number == 0


def test_accuracy_above_one_cannot_be_a_share():
    with pytest.raises(InputError, match="reward='accuracy' multiplies errors"):
        run(AMC(trials=1, reward="accuracy"), toy("macs=1", judge=lambda counts: {"top1": 91.0}))


def test_every_feature_lies_between_0_and_1():
    found = knobs(3, 6)
    meter = toy("macs=0.4", found=found, ruler=coupled_cost(found)).meter
    look = Look.of(meter)
    for choice in itertools.product(*(knob.steps for knob in found)):
        for done in range(4):
            state = look.state(meter, choice[:done], 0.5)
            assert len(state) == NUM_FEATURES
            assert all(0 <= feature <= 1 for feature in state)
    assert look.state(meter, (), 0.0)[8:] == (0.0, 1.0, 0.0)
    assert look.state(meter, meter.most, 1.0)[9] == 0


@pytest.mark.parametrize("cost", [linear_cost, coupled_cost])
def test_each_proposal_is_the_smallest_cut_that_saves_enough(cost):
    found = knobs(4, 6)
    meter = toy("macs=0.2", found=found, ruler=cost(found)).meter
    for choice in itertools.product(*(knob.steps[::2] for knob in found)):
        goal = meter.share(choice) - 0.07
        for at in range(4):
            enough = [
                turned
                for step in found[at].steps
                if step > choice[at]
                and meter.share(turned := (*choice[:at], step, *choice[at + 1 :])) <= max(goal, meter.limit)
            ]
            assert proposal(meter, choice, at, max(goal, meter.limit)) == (enough[0] if enough else None)


def by_hand(problem, step, decay):
    """The algorithm of the paper, written down again: all proposals by trying every count."""
    meter, choice, number, picked = problem.meter, problem.meter.whole, 0, []
    names = [knob.names[0] for knob in problem.knobs]
    while not meter.is_met(choice):
        goal = max(meter.limit, meter.share(choice) - step * decay**number)
        options = []
        for at, knob in enumerate(problem.knobs):
            cuts = [(*choice[:at], count, *choice[at + 1 :]) for count in knob.steps if count > choice[at]]
            options += [next(cut for cut in cuts if meter.share(cut) <= goal)] if meter.share(cuts[-1]) <= goal else []
        scores = [problem.judge(dict(zip(names, option, strict=True)))["top1"] for option in options]
        choice, number = options[scores.index(max(scores))], number + 1
        picked.append(choice)
    return picked


def test_netadapt_walks_as_the_paper_says():
    found = knobs(4, 40, top=36)
    problem = toy(found=found, ruler=linear_cost(found))
    book = run(NetAdapt(step=0.06, decay=0.97), problem)
    rounds = itertools.groupby(book.store.trials[1:], key=lambda trial: trial.notes["round"])
    best = [tuple(max(trials, key=lambda t: t.metric).counts.values()) for _, trials in rounds]
    assert best == by_hand(problem, 0.06, 0.97)
    assert problem.meter.is_met(best[-1])
    assert max(t.metric for t in book.store.trials if t.is_met) > 0.79  # greedy: the best is 0.826


def test_netadapt_keeps_the_most_accurate_and_goes_on_from_its_weights():
    class Bench:
        """Weights are the history of counts, so that what a candidate started from can be seen."""

        def outcomes(self, before, jobs):
            for position, (number, counts) in reversed(list(enumerate(jobs))):
                history = [*(before.weights["history"] if before else []), sum(counts.values())]
                yield position, Outcome({"top1": 1 - number / 1000}, {}, {"history": history})

    book = run(NetAdapt(step=0.2, decay=1.0), toy(bench=Bench()))
    rounds = [list(g) for _, g in itertools.groupby(book.store.trials[1:], key=lambda t: t.notes["round"])]
    assert [trial.number for trial in book.store.trials] == list(range(len(book.store)))
    assert book.weights["history"] == [sum(group[0].counts.values()) for group in rounds]
    assert book.kept == rounds[-1][0].number


@pytest.mark.parametrize("off", [0.85, 1.0, 1.2])
def test_netadapt_goes_on_until_what_is_measured_keeps_to_the_budget(off, tmp_path):
    found, looked = knobs(4, 40, top=36), []
    price = linear_cost(found)

    def excess(counts):  # the whole costs more, or less, than the meter knows
        looked.append(dict(counts))
        left, dense = price(counts)
        return max(0.0, off * left / dense / 0.5 - 1)

    def problem():
        return replace(toy(found=found, ruler=price), excess=excess)

    book = run(NetAdapt(step=0.06, decay=0.97), problem(), tmp_path / "s.jsonl")
    kept = book.store.trials[book.kept]
    assert looked[-1] == dict(kept.counts)
    assert 0.45 < off * kept.share <= 0.5
    again = run(NetAdapt(step=0.06, decay=0.97), problem(), tmp_path / "s.jsonl")
    assert (again.kept, again.store.trials) == (book.kept, book.store.trials)


def test_netadapt_ends_with_the_most_that_may_go_where_the_measure_never_keeps_to_the_budget():
    found = knobs(4, 8, top=6)
    book = run(NetAdapt(), replace(toy("macs=0.5", found=found), excess=lambda counts: 0.1))
    assert list(book.store.trials[book.kept].counts.values()) == [6] * 4


def test_netadapt_says_beforehand_that_its_savings_never_add_up():
    with pytest.raises(InputError, match=r"saves at most 0\.100 of the dense model, but macs=0\.5 asks for 0\.500"):
        run(NetAdapt(step=0.01, decay=0.9), toy())


@pytest.mark.parametrize("limit", [0.9, 0.76, 0.75])
def test_netadapt_takes_smaller_steps_where_no_group_saves_one_by_itself(limit):
    found = knobs(4, 8, top=2)  # at most a quarter of each, a tenth of all by the dearest
    problem = toy(f"macs={limit}", found=found, ruler=linear_cost(found))
    book = run(NetAdapt(step=0.3, decay=1.0), problem)
    kept = book.store.trials[book.kept]
    assert kept.is_met
    cheapest = min(weight for weight in WEIGHTS) / 8 / sum(WEIGHTS)
    assert limit - 0.1 - cheapest < kept.share <= limit + 1e-9


def test_netadapt_says_where_no_group_saves_anything_by_itself():
    found = knobs(2, 4)

    def both(counts):  # a cost that falls only where both groups lose units
        return 8.0 - min(counts["g0"], counts["g1"]), 8.0

    with pytest.raises(InputError, match=r"comes to 1\.000 of the dense model, and no target saves more by itself"):
        run(NetAdapt(), toy("macs=0.7", judge=lambda counts: {"top1": 0.9}, found=found, ruler=both))


@pytest.mark.parametrize(("method", "near"), [(Evolve(trials=150), 0.04), (Bayes(trials=100), 0.04)])
def test_sampled_searches_come_near_the_best(method, near):
    pytest.importorskip("optuna")
    problem = toy()
    trials = run(method, problem).store.trials[1:]
    assert len(trials) == method.trials
    assert all(trial.is_met for trial in trials), "what misses the budget is repaired"
    assert max(trial.metric for trial in trials) >= best_by_enumeration(problem) - near
    assert max(t.metric for t in trials) > trials[0].metric, "the uniform choice, which is tried first, is beaten"
    assert min(trial.share for trial in trials) < 0.45


def test_same_seed_same_trials_other_seed_others():
    pytest.importorskip("optuna")
    for method in (AMC(trials=6, warmup=2), Evolve(trials=25, population=5), Bayes(trials=15)):
        one, two, other = ([t.counts for t in run(method, toy(), seed=seed).store.trials] for seed in (1, 1, 2))
        assert one == two != other


def test_methods_by_name():
    assert find_method("amc", 30) == AMC(trials=30)
    assert find_method(NetAdapt(step=0.1)) == NetAdapt(step=0.1)
    with pytest.raises(NameNotFound, match="no search method named 'amcc'; did you mean amc"):
        find_method("amcc")
    with pytest.raises(InputError, match="trials=5 says nothing to netadapt"):
        find_method("netadapt", 5)
    with pytest.raises(InputError, match="an object with name and run"):
        find_method(AMC)
    for wrong in (0, True, 2.5):
        with pytest.raises(InputError, match="whole number of at least 1"):
            find_method("evolve", wrong)
    with pytest.raises(NameNotFound, match="no reward named 'acc'"):
        AMC(reward="acc")
    with pytest.raises(InputError, match="want 0 < step < 1"):
        NetAdapt(step=0)


def test_without_optuna_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"need Optuna.*prunus\[search\]"):
        run(Evolve(trials=1), toy())


def test_settings_evaluate_back():
    from prunus.search import Settings

    for method in (AMC(), NetAdapt(step=0.1), Evolve(), Bayes()):
        names = {"AMC": AMC, "NetAdapt": NetAdapt, "Evolve": Evolve, "Bayes": Bayes, "Settings": Settings}
        assert eval(repr(method), names) == method
