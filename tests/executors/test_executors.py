"""One function over many items, wherever it runs: every item once, its own position, errors as they were."""

import os
import platform
import sys
import types
from functools import partial

import pytest
import torch
from torch import nn

from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.executors import Executor, Here, Processes, Ray, find_executor, num_cores


def square(x):
    return x * x


def where(_):
    return os.getpid(), torch.get_num_threads()


def weight_sum(model, x):
    with torch.no_grad():
        model[0].weight.fill_(x)
    return float(model[1].weight.sum())


def fail_at_two(x):
    if x == 2:
        raise ValueError("two")
    return x


def die(x):
    os._exit(9)


def pages_fetched_anew(rounds):
    """Allocate and free 64 MiB in pieces, again and again; page faults after the first time."""
    import resource

    def once():
        pieces = [torch.ones(4 << 20) for _ in range(4)]
        return float(pieces[0][0])

    once()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        once()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_here_keeps_the_order():
    assert list(Here().map(square, [3, 1, 2])) == [(0, 9), (1, 1), (2, 4)]


def test_processes_do_every_item_once_elsewhere_with_a_share_of_the_threads():
    assert sorted(Processes(2).map(square, range(7))) == [(n, n * n) for n in range(7)]
    found = dict(Processes(2, threads=3).map(where, range(4)))
    assert {threads for _, threads in found.values()} == {3}
    assert os.getpid() not in {process for process, _ in found.values()}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_a_worker_keeps_the_memory_that_it_will_need_again():
    assert dict(Processes(1).map(pages_fetched_anew, [10]))[0] < 10 * (64 << 20) / 4096 / 10


def test_tied_tensors_stay_tied_in_another_process():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = nn.Parameter(first.weight.detach().view(2, 2))  # another parameter on the same memory
    assert list(Processes(1).map(partial(weight_sum, nn.Sequential(first, second)), [3.0])) == [(0, 12.0)]


def test_an_error_of_the_function_arrives_as_it_was():
    with pytest.raises(ValueError, match="two"):
        list(Processes(2).map(fail_at_two, range(4)))


def test_what_cannot_be_pickled_is_named():
    with pytest.raises(InputError, match=r"cannot be pickled \(.*<lambda>.*workers=1"):
        list(Processes(2).map(lambda x: x, [1]))


def test_a_worker_that_dies_is_no_hang():
    with pytest.raises(TrainingError, match="a worker process died"):
        list(Processes(2).map(die, [1, 2]))


def test_no_items_need_no_worker():
    assert list(Processes(2).map(square, [])) == []


def test_the_executor_is_found_by_workers_name_or_object():
    assert find_executor() == Here()
    assert find_executor(3) == Processes(3)
    assert find_executor(3, "local") == Processes(3)
    own = Here()
    assert find_executor(3, own) is own
    assert isinstance(own, Executor)
    assert num_cores() >= 1


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_wrong_workers_are_explained(workers):
    with pytest.raises(InputError, match="workers is"):
        find_executor(workers)


def test_wrong_executors_are_explained(monkeypatch):
    with pytest.raises(NameNotFound, match="did you mean ray"):
        find_executor(1, "rya")
    with pytest.raises(InputError, match="executor is a int"):
        find_executor(1, 7)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'prunus\[ray\]'"):
        find_executor(1, "ray")
    with pytest.raises(InputError, match=r"pip install 'prunus\[ray\]'"):
        list(Ray().map(square, [1]))


class StandIn(types.ModuleType):
    """As much of Ray as is called: tasks run at once, the last submitted is done first."""

    def __init__(self):
        super().__init__("ray")
        self.started = []

    def is_initialized(self):
        return bool(self.started)

    def init(self, address=None):
        self.started.append(address)

    def put(self, value):
        return value

    def get(self, reference):
        return reference[0]

    def remote(self, **options):
        def task(function):
            return types.SimpleNamespace(remote=lambda *args: (function(*args), args[-1]))

        return task

    def wait(self, references, num_returns):
        return references[-num_returns:], references[:-num_returns]

    def cancel(self, reference):
        raise AssertionError("nothing is left")


def test_ray_gives_positions_in_the_order_of_arrival(monkeypatch):
    ray = StandIn()
    monkeypatch.setitem(sys.modules, "ray", ray)
    threads = torch.get_num_threads()
    found = list(Ray("here:1", threads=threads).map(square, [1, 2, 3]))
    assert found == [(2, 9), (1, 4), (0, 1)]
    assert ray.started == ["here:1"]
    assert find_executor(1, "ray") == Ray()
