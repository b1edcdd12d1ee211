"""Killed anywhere, a search goes on to the same result, bit for bit."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from prunus.search import AMC, Bayes, Evolve, NetAdapt, search
from prunus.training import load_checkpoint

METHODS = {
    "amc": AMC(trials=8, warmup=3),
    "netadapt": NetAdapt(step=0.2),
    "evolve": Evolve(trials=9, population=3),
    "bayes": Bayes(trials=14),
}


def run(name, store, *, trials=None, method=None):
    """A search on a net of random weights; the process ends at the call of `evaluate` that the environment names."""
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)),
        torch.randn(16, 6),
    )
    wanted, calls = model(x).detach(), []

    def judge(candidate):
        calls.append(candidate)
        if str(len(calls)) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        return -float((candidate(x) - wanted).square().mean()) + 0 * float(torch.rand(()))

    def train(candidate):
        optimizer = torch.optim.SGD(candidate.parameters(), lr=0.05)
        for _ in range(3):
            rows = torch.randint(16, (8,))
            (candidate(x[rows]) - wanted[rows]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    return search(
        model, x[:2], judge, method=METHODS[name] if method is None else method, target="params=0.5", store=store,
        train=train if name == "netadapt" else None, trials=trials,
    )  # fmt: skip


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@pytest.mark.parametrize("name", ["amc", "evolve", "bayes"])
def test_more_trials_are_added_to_those_that_there_are(name, tmp_path):
    if name != "amc":
        pytest.importorskip("optuna")
    whole = run(name, tmp_path / "whole.jsonl")
    few = run(name, tmp_path / "part.jsonl", trials=5)
    assert few.trials == whole.trials[:6]
    assert run(name, tmp_path / "part.jsonl").trials == whole.trials
    assert run(name, tmp_path / "part.jsonl", trials=5).trials == whole.trials, "nothing is lost"


def test_an_agent_that_goes_on_for_more_trials_keeps_its_warmup(tmp_path):
    for trials in (8, 12):
        run("amc", tmp_path / "s.jsonl", trials=trials, method=AMC())
        assert load_checkpoint(tmp_path / "s.jsonl.state")["warmup"] == 2


@pytest.mark.parametrize("kill_at", [2, 6])
@pytest.mark.parametrize("name", METHODS)
def test_killed_and_gone_on_is_the_same_as_never_killed(name, kill_at, tmp_path):
    if name in ("evolve", "bayes"):
        pytest.importorskip("optuna")
    whole = run(name, tmp_path / "whole.jsonl")
    killed = subprocess.run(
        [sys.executable, __file__, name, str(tmp_path / "part.jsonl")],
        env={**os.environ, "KILL_AT": str(kill_at)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "part.jsonl").read_text().count("\n") == kill_at
    again = run(name, tmp_path / "part.jsonl")
    assert again.trials == whole.trials
    assert again.best == whole.best
    assert (tmp_path / "part.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    if name in ("amc", "netadapt"):
        states = [load_checkpoint(tmp_path / f"{which}.jsonl.state") for which in ("part", "whole")]
        assert same(*states)
    if whole.weights is not None:
        assert all(torch.equal(value, again.weights[key]) for key, value in whole.weights.items())
    assert run(name, tmp_path / "part.jsonl").trials == whole.trials, "a finished search is read, not done again"


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2])
