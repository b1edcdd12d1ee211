"""Searches without a model: knobs whose cost and accuracy are sums, so that the best choice is found by enumeration."""

import itertools
from functools import partial

from prunus.allocation import parse_budget
from prunus.search import AMC
from prunus.search.meter import Meter
from prunus.search.problem import Book, Problem
from prunus.search.space import Knob
from prunus.search.trials import TrialStore

WEIGHTS = (4.0, 1.0, 3.0, 2.0)
HARM = (0.30, 0.02, 0.05, 0.20)


def knobs(num=4, size=8, step=1, top=None):
    """`num` knobs of `size` units; all but one may go, in steps."""
    last = size - 1 if top is None else top
    return tuple(Knob((f"g{i}",), size, tuple(range(0, last + 1, step)), (float(size),) * 6) for i in range(num))


def linear_cost(found, weights=WEIGHTS):
    """A ruler: what is left costs `weights` per group."""

    def ruler(counts):
        left = sum(w * (1 - counts[k.names[0]] / k.size) for k, w in zip(found, weights, strict=True))
        return left, float(sum(weights))

    return ruler


def coupled_cost(found):
    """A ruler like that of a net: each group times the next one."""

    def ruler(counts):
        left = [k.size - counts[k.names[0]] for k in found]
        full = [k.size for k in found]
        chain = sum(a * b for a, b in itertools.pairwise((3, *left, 10)))
        return float(chain), float(sum(a * b for a, b in itertools.pairwise((3, *full, 10))))

    return ruler


def linear_accuracy(found, harm=HARM):
    """A judge: every group that goes costs `harm`, in proportion."""

    def judge(counts):
        return {"top1": 1 - sum(h * counts[k.names[0]] / k.size for k, h in zip(found, harm, strict=True))}

    return judge


def toy(target="macs=0.5", judge=None, found=None, ruler=None, bench=None, mode="max"):
    """A problem on knobs alone."""
    found = knobs() if found is None else found
    ruler = linear_cost(found) if ruler is None else ruler
    meter = Meter(parse_budget(target), found, ruler)
    return Problem(meter, judge or linear_accuracy(found), mode, bench)


def best_by_enumeration(problem):
    """The highest judged metric of all choices within the budget."""
    every = itertools.product(*(knob.steps for knob in problem.knobs))
    names = [knob.names[0] for knob in problem.knobs]
    met = [choice for choice in every if problem.meter.is_met(choice)]
    return max(problem.judge(dict(zip(names, choice, strict=True)))["top1"] for choice in met)


def run(method, problem, store=None, seed=0):
    """Run a method on a toy; the book holds its trials."""
    reward = partial(method.reward_of, problem) if isinstance(method, AMC) else None
    book = Book(problem, TrialStore(store, "toy"), reward=reward)
    method.run(problem, book, seed)
    return book
