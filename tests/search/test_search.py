"""The whole search on real nets and digits: what it returns can be had, and the model is left alone."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import prunus
from prunus import zoo
from prunus.axes import copied
from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.search import AMC, Evolve, NetAdapt, search
from prunus.training import evaluate, recalibrate_, reseed, train_epoch


class Digits:
    """A small net, trained for a moment; judged with its batch norms measured anew."""

    def __init__(self):
        loaders = zoo.digits_loaders()
        reseed(0, "test", 0)
        self.train, self.seen = list(loaders.train), next(iter(loaders.validation))
        self.model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2),
            nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        for _ in range(6):
            train_epoch(self.model, self.train, optimizer, cross_entropy)
        self.model.eval()

    def judge(self, model):
        recalibrate_(model, self.train[:4])
        return evaluate(model, [self.seen], cross_entropy, metrics=["top1", "loss"])

    def tune(self, model):
        optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
        order = torch.randperm(len(self.train))[:4].tolist()
        train_epoch(model, [self.train[i] for i in order], optimizer, cross_entropy)

    @property
    def example(self):
        return self.seen[0][:2]


@pytest.fixture(scope="module")
def digits():
    return Digits()


def by_round(trial):
    return trial.notes["round"]


METHODS = {
    "amc": {"method": AMC(trials=16, warmup=8)},
    "netadapt": {"method": NetAdapt(step=0.1)},
    "evolve": {"method": Evolve(trials=16, population=4)},
    "bayes": {"method": "bayes", "trials": 16},
}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_finds_a_net_within_the_budget_that_is_proved_and_worth_more_than_chance(digits, name):
    if name in ("evolve", "bayes"):
        pytest.importorskip("optuna")
    before = {key: value.clone() for key, value in digits.model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    result = search(digits.model, digits.example, digits.judge, target="macs=0.5", **METHODS[name])
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers go on undisturbed"
    after = digits.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not digits.model.training

    best = result.best
    assert best.is_met
    assert best.metric == max(t.metric for t in result.trials if t.is_met) > 0.3
    assert result.trials[0].counts == dict.fromkeys(result.sizes, 0)
    assert result.proof is not None
    assert result.proof.max_rel < 1e-10
    plan = result.plan()
    size = plan.graph.size(plan.sizes)
    assert size.macs == best.value
    assert size.macs <= 0.5 * plan.graph.size().macs
    small = plan.apply(digits.model)
    assert digits.judge(small)["top1"] == pytest.approx(best.metric), "masked as judged, thinned as had"


def test_every_point_of_the_front_can_be_had_on_another_trace(digits):
    pytest.importorskip("optuna")
    result = search(
        digits.model, digits.example, digits.judge, method=Evolve(trials=12, population=4), target="macs=0.6"
    )
    graph = prunus.trace(digits.model, digits.example)
    assert len(result.front) >= 3
    assert result.front[-1].number == 0 or result.front[-1].metric >= result.trials[0].metric
    for point in result.front:
        if any(point.counts.values()):
            small = point.plan(graph).apply(digits.model, prove=False)
            assert digits.judge(small)["top1"] == pytest.approx(point.metric)
            assert graph.size(point.plan(graph).sizes).macs == point.value


def test_an_evaluation_that_trains_sees_every_candidate_as_it_was_pruned(digits):
    before = {name: value.clone() for name, value in digits.model.state_dict().items()}

    def judge(model):
        digits.tune(model)
        return digits.judge(model)["loss"]

    found = [
        search(digits.model, digits.example, judge, method=AMC(trials=trials), target="macs=0.5", mode="min")
        for trials in (3, 3)
    ]
    assert found[0].trials == found[1].trials
    assert all(torch.equal(value, before[name]) for name, value in digits.model.state_dict().items())


def test_ratios_give_the_same_counts_as_a_per_layer_allocation(digits):
    result = search(digits.model, digits.example, digits.judge, method=AMC(trials=3), target="macs=0.5")
    made = prunus.plan(result.plan().graph, ratio=0.5, allocation={"per_layer": result.ratios()})
    assert made.sizes == {n: result.sizes[n] - c for n, c in result.best.counts.items() if c}
    assert all(torch.equal(made.kept[name], kept) for name, kept in result.plan().kept.items())


@pytest.mark.parametrize("workers", [1, 2])
def test_netadapt_trains_candidates_and_hands_on_their_weights(digits, workers):
    result = search(
        digits.model, digits.example, digits.judge, method=NetAdapt(step=0.2), target="macs=0.5", train=digits.tune,
        workers=workers,
    )  # fmt: skip
    adapted = copied(digits.model)
    adapted.load_state_dict(dict(result.weights))
    small = result.plan().apply(adapted)
    assert digits.judge(small)["top1"] == pytest.approx(result.best.metric)
    plain = search(digits.model, digits.example, digits.judge, method=NetAdapt(step=0.2), target="macs=0.5")
    assert result.best.metric > plain.best.metric
    kept = [max(found, key=lambda t: t.metric) for _, found in itertools.groupby(result.trials[1:], by_round)]
    assert kept[-1] == result.best
    for earlier, later in itertools.pairwise(kept):
        assert all(set(gone) <= set(later.units[name]) for name, gone in earlier.units.items()), "gone stays gone"
    assert [trial.number for trial in result.trials] == list(range(len(result.trials)))


def test_single_weights_are_searched_for_a_sparsity(digits):
    result = search(
        digits.model, digits.example, digits.judge, granularity="element", method=AMC(trials=6), target="sparsity=0.7"
    )
    zeros = sum(int((~mask).sum()) for mask in result.plan().masks.values())
    total = sum(mask.numel() for mask in result.plan().masks.values())
    assert result.best.value >= 0.7
    assert set(result.sizes) == {"0.weight", "3.weight", "8.weight"}
    assert zeros == sum(result.best.counts.values())
    assert zeros / total >= 0.7 or len(result.plan().masks) < 3
    assert result.proof is None


def test_candidates_are_mended_on_request(digits):
    how = {"method": AMC(trials=4), "target": "macs=0.4", "seed": 1}

    def judge(model):
        return evaluate(model, [digits.seen], cross_entropy, metrics=["top1"])

    plain = search(digits.model, digits.example, judge, **how)
    mended = search(digits.model, digits.example, judge, solver="lstsq", data=digits.train[:4], **how)
    assert [t.counts for t in plain.trials] == [t.counts for t in mended.trials]
    assert sum(t.metric for t in mended.trials) > sum(t.metric for t in plain.trials) + 0.2


def test_a_cost_of_ones_own_replaces_the_budgets(digits):
    def channels(counts):
        return float(24 - sum(counts.values())), 24.0

    result = search(digits.model, digits.example, digits.judge, method=AMC(trials=3), target="macs=0.5", ruler=channels)
    assert sum(result.best.counts.values()) >= 12


def test_a_measured_cost_is_reckoned_with_as_it_was_when_a_search_goes_on(digits, tmp_path):
    clock = iter(range(1, 10**6))

    def watch(counts):
        return float(24 - sum(counts.values())) + next(clock) * 1e-6, 24.0

    how = {"method": AMC(trials=3), "target": "macs=0.5", "ruler": watch, "store": tmp_path / "s.jsonl"}
    first = search(digits.model, digits.example, digits.judge, **how)
    assert search(digits.model, digits.example, digits.judge, **how).trials == first.trials


def test_energy_is_a_budget_as_any_other(digits):
    result = search(digits.model, digits.example, digits.judge, method=AMC(trials=3), target="energy=0.7")
    assert 0.2 < result.best.share <= 0.7


def test_losses_are_searched_for_their_least(digits):
    def judge(model):
        return {"loss": digits.judge(model)["loss"]}

    result = search(digits.model, digits.example, judge, mode="min", method=AMC(trials=5), target="macs=0.5")
    assert result.best.metric == min(t.metric for t in result.trials if t.is_met)
    assert result.front[0].metric >= result.front[-1].metric


def test_pictures_are_the_same_for_the_same_search(digits, tmp_path):
    pytest.importorskip("matplotlib")
    result = search(digits.model, digits.example, digits.judge, method=AMC(trials=3), target="macs=0.5")
    for name in ("a.svg", "b.svg"):
        result.plot(tmp_path / name)
        result.plot_learning(tmp_path / f"learning-{name}")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "<svg" in (tmp_path / "learning-a.svg").read_text()
    with pytest.raises(InputError, match=r"one of \.svg, \.png, \.pdf is wanted"):
        result.plot(tmp_path / "a.txt")


def test_what_does_not_go_together_is_said_before_anything_is_judged(digits):
    def never(model):
        raise AssertionError

    def refused(error, match, **how):
        with pytest.raises(error, match=match):
            search(digits.model, digits.example, never, **{"target": "macs=0.5", "method": "amc", **how})

    refused(NameNotFound, "no search method named 'annealing'", method="annealing")
    refused(NameNotFound, "no budget named 'mcas'; did you mean macs", target="mcas=0.5")
    refused(InputError, "out of reach", target="macs=0.001")
    refused(InputError, "train= is netadapt's", train=digits.tune)
    refused(InputError, "give train= or solver=", train=digits.tune, method="netadapt", solver="lstsq", data=[1])
    refused(InputError, "give data=", solver="lstsq")
    zeros = {"granularity": "element", "target": "sparsity=0.5"}
    refused(InputError, "train= needs candidates that are thinned", train=digits.tune, method="netadapt", **zeros)
    refused(InputError, "leaves no ratios to search", granularity="2:4")
    refused(NameNotFound, "no mode named 'least'", mode="least")
    with pytest.raises(TypeError, match="target"):
        search(digits.model, digits.example, never)


def test_what_fails_in_the_users_functions_is_named(digits):
    def judge(model):
        return 1 / int((next(model.parameters()) != 0).all())

    def broken(model):
        raise ValueError("no data")

    before = [p.clone() for p in digits.model.parameters()]
    with pytest.raises(TrainingError, match=r"evaluate failed with \d+ units pruned: ZeroDivisionError"):
        search(digits.model, digits.example, judge, target="macs=0.5")
    assert all(torch.equal(a, b) for a, b in zip(before, digits.model.parameters(), strict=True))
    with pytest.raises(TrainingError, match="train failed on candidate 1: ValueError: no data"):
        search(digits.model, digits.example, digits.judge, method="netadapt", target="macs=0.5", train=broken)
