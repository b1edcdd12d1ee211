"""Who does it? One function over many items: in this process, in several of this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.userfiles import findable

T = TypeVar("T")
R = TypeVar("R")

KINDS = ("local", "ray")


@runtime_checkable
class Executor(Protocol):
    """One notion for all of them; an object of the user's with this method will do."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        """Yield (the item's position, the function's result) as the results come, in any order.

        An exception of the function is raised here, and what has not begun is dropped.
        """


@dataclass(frozen=True)
class Here:
    """In this process, one after the other."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        """Yield (position, result) in order."""
        for position, item in enumerate(items):
            yield position, function(item)


@dataclass(frozen=True)
class Processes:
    """In processes of this machine, each started anew, as a fork of a process with threads may hang.

    workers: how many. threads: torch's in each of them; an equal share of the cores by default.
    """

    workers: int
    threads: int | None = None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        """Yield (position, result) as they come.

        Raises InputError where the function cannot be pickled, TrainingError when a process dies.
        """
        todo, packed = list(items), _packed(function)
        threads = self.threads or max(1, num_cores() // self.workers)
        pool = ProcessPoolExecutor(
            max(1, min(self.workers, len(todo))), get_context("spawn"), initializer=_keep, initargs=(packed, threads)
        )
        try:
            places: dict[Future[R], int] = {pool.submit(_call, item): place for place, item in enumerate(todo)}
            for future in as_completed(places):
                yield places[future], future.result()
        except BrokenProcessPool:
            raise TrainingError(
                "a worker process died: it was killed, ran out of memory, or the script that starts workers lacks "
                'if __name__ == "__main__"; what was measured is kept, run again or with workers=1'
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Ray:
    """On a Ray cluster.

    address: as `ray.init` takes it; None is a cluster of this machine's own. threads: torch's in each task, and the
    processors that a task asks for.
    """

    address: str | None = None
    threads: int = 1

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[int, R]]:
        """Yield (position, result) as they come; raises InputError where Ray is not installed."""
        ray = _ray()
        if not ray.is_initialized():
            ray.init(address=self.address)
        packed = ray.put(_packed(function))
        task = ray.remote(num_cpus=self.threads)(_unpack_and_call)
        places = {task.remote(packed, self.threads, item): place for place, item in enumerate(items)}
        try:
            while places:
                for done in ray.wait(list(places), num_returns=1)[0]:
                    yield places.pop(done), ray.get(done)
        finally:
            for left in places:
                ray.cancel(left)


def find_executor(workers: int = 1, executor: str | Executor | None = None) -> Executor:
    """Return the executor that is meant: the given one, the one of a name, or as many processes as asked for.

    Raises InputError for fewer than one worker or something without `map`, NameNotFound for another name.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers is {workers!r}; a whole number of at least 1 is wanted")
    if isinstance(executor, str):
        if executor not in KINDS:
            raise NameNotFound.of("executor", executor, KINDS)
        if executor == "ray":
            _ray()
            return Ray()
    elif executor is not None:
        if not isinstance(executor, Executor):
            raise InputError(f"executor is a {type(executor).__name__}; an object with map(function, items) is wanted")
        return executor
    return Here() if workers == 1 else Processes(workers)


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("executor 'ray' needs Ray, which is not installed; pip install 'prunus[ray]'") from None
    return ray


def _packed(function: Callable[..., Any]) -> bytes:
    """Pickle a function with all that it holds; torch's own pickling keeps tensors tied that share memory."""
    buffer = io.BytesIO()
    try:
        torch.save(function, buffer)
    except Exception as error:
        raise InputError(
            f"what the workers are to do cannot be pickled ({error}); define functions and classes at the top level of "
            "a module, not inside a function or as a lambda, or use workers=1"
        ) from None
    return buffer.getvalue()


def _unpacked(packed: bytes) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = torch.load(io.BytesIO(packed), weights_only=False)
    except Exception as error:
        raise InputError(
            f"a worker cannot load what it is to do ({type(error).__name__}: {error}); define functions and classes in "
            "a module that the workers can import, or use workers=1"
        ) from None
    return function


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's names for what it keeps, and for what it takes from its heap; the most that it accepts is 32 MiB."""

_kept: list[bytes] = []
_function: list[Callable[..., Any]] = []


def _keep(packed: bytes, threads: int) -> None:
    """Receive the function when the process starts; it is loaded at the first call, whose errors reach the caller."""
    torch.set_num_threads(threads)
    _hold_memory()
    findable()
    _kept[:] = [packed]


def _hold_memory() -> None:
    """Let glibc keep what is free at the end of its heap, and take tensors from there.

    By default it may hand memory back after every operation and fetch it anew for the next, as it happens to lie, which
    took a third of the time of some workers.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 2**25)
        library.mallopt(_TRIM_THRESHOLD, 2**30)


def _call(item: Any) -> Any:
    if not _function:
        _function.append(_unpacked(_kept[0]))
    return _function[0](item)


def _unpack_and_call(packed: bytes, threads: int, item: Any) -> Any:
    torch.set_num_threads(threads)
    findable()
    return _unpacked(packed)(item)
