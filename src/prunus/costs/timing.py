"""Latency, measured: several models in one run, taking turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import Any

import torch
from torch import nn

from prunus.costs._forward import Args, Kwargs, as_args, evaluating, run, tensors
from prunus.errors import InputError

_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of one batch.

    median_ms, p90_ms: over the rounds, in milliseconds.
    ratio_to_first: how many times faster than the first model of the run: the median over the rounds of its time
        divided by this model's time in the same round.
    rounds: how many were measured. batch: the first dimension of the first tensor. runtime: what ran it.
    ratio_error: the standard error of ratio_to_first, were the rounds independent; infinite after one round.
    """

    median_ms: float
    p90_ms: float
    ratio_to_first: float
    rounds: int
    batch: int
    threads: int
    runtime: str = "torch"
    ratio_error: float = 0.0


def latency(
    models: Mapping[str, nn.Module],
    args: Args,
    kwargs: Kwargs = None,
    *,
    repeats: int = 50,
    warmup: int = 3,
    threads: int = 1,
    seconds: float = 10.0,
) -> dict[str, Latency]:
    """Measure models against each other on the same inputs, in interleaved rounds.

    Each round times every model once, in alternating order. All run in evaluation mode without gradients; training
    flags and torch's number of threads are restored.

    models: by name; the first is what the others are compared with.
    args: a tensor or a tuple of positional arguments.
    repeats: rounds to measure, at least 1. warmup: rounds before that, not measured.
    seconds: stop after this time, but not before three rounds (or `repeats`, if that is less).
    Raises InputError when there is no model, a number is out of range, or a model does not run on the inputs.
    """
    args = as_args(args)
    if not models:
        raise InputError("no model to measure; give at least one by name")
    check_rounds(repeats=repeats, warmup=warmup, threads=threads)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet(threads))
        for model in models.values():
            stack.enter_context(evaluating(model))
        for model in models.values():
            run(model, args, kwargs)  # warms up, too; an error of the model's own is told in one sentence
        calls = {name: partial(_forward, model, args, kwargs) for name, model in models.items()}
        rounds: dict[str, Any] = {"repeats": repeats, "warmup": max(0, warmup - 1), "seconds": seconds}
        return timed(calls, threads=threads, batch=batch_of(args, kwargs), **rounds)


def timed(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 50,
    warmup: int = 3,
    threads: int = 1,
    seconds: float = 10.0,
    least_seconds: float = 0.0,
    batch: int = 1,
    runtime: str = "torch",
    clock: Callable[[], int] | None = None,
) -> dict[str, Latency]:
    """Measure whatever runs when it is called, as `latency` measures models.

    calls: by name; the first is what the others are compared with.
    least_seconds: more rounds than `repeats`, until so much time is over: what disturbs a machine for a moment then
        disturbs few of them. batch, runtime: what the result says of itself.
    clock: nanoseconds; `time.perf_counter_ns` by default.
    """
    with _quiet(threads):
        limits: dict[str, Any] = {"repeats": repeats, "seconds": seconds, "least_seconds": least_seconds}
        times = _rounds(list(calls.values()), clock, warmup=warmup, **limits)
    return {
        name: _summary(times[0], own, batch=batch, threads=threads, runtime=runtime)
        for name, own in zip(calls, times, strict=True)
    }


def own_clock(threads: int) -> Callable[[], int]:
    """Return a clock that stands still while other processes have the processor, where one thread does all the work.

    On a machine that is shared, a long pass is interrupted more often than a short one, so that ratios of wall-clock
    time grow too large. With more threads, or where the system counts too coarsely, it is the wall clock.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    return time.thread_time_ns if threads == 1 and fine else time.perf_counter_ns


def batch_of(args: Args, kwargs: Kwargs = None) -> int:
    """Return the first dimension of the first tensor, 1 where there is none."""
    first = next(iter(tensors((args, kwargs))), None)
    return first.shape[0] if first is not None and first.dim() else 1


def check_rounds(*, repeats: int, warmup: int, threads: int) -> None:
    """Raise InputError for numbers that measure nothing."""
    for name, value, least in (("repeats", repeats, 1), ("warmup", warmup, 0), ("threads", threads, 1)):
        if value < least:
            raise InputError(f"{name} = {value}; latency needs at least {least}")


@contextlib.contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """So many threads, and no garbage collection in the middle of a measurement."""
    threads_before, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if collecting:
            gc.enable()


def _rounds(
    calls: Sequence[Callable[[], object]],
    clock: Callable[[], int] | None,
    *,
    repeats: int,
    warmup: int,
    seconds: float,
    least_seconds: float,
) -> list[list[float]]:
    """Milliseconds per call and round."""
    now = clock or time.perf_counter_ns
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(warmup):
        for call in calls:
            call()
    began = time.perf_counter()
    for i in count():
        over = time.perf_counter() - began
        if (i >= repeats and over >= least_seconds) or (i >= min(repeats, _LEAST_ROUNDS) and over > seconds):
            break
        # Alternating order: whatever favours the first of a round favours each as often.
        order = range(len(calls)) if i % 2 == 0 else reversed(range(len(calls)))
        for j in order:
            start = now()
            calls[j]()
            times[j].append((now() - start) / 1e6)
    return times


def _forward(model: nn.Module, args: tuple[object, ...], kwargs: Kwargs) -> None:
    on_gpu = any(tensor.is_cuda for tensor in chain(tensors((args, kwargs)), model.parameters()))
    if on_gpu:
        torch.cuda.synchronize()
    model(*args, **(kwargs or {}))
    if on_gpu:
        torch.cuda.synchronize()


def _summary(
    first: Sequence[float], own: Sequence[float], *, batch: int, threads: int, runtime: str = "torch"
) -> Latency:
    ordered = torch.tensor(own, dtype=torch.float64)
    ratios = [a / b for a, b in zip(first, own, strict=True)]
    return Latency(
        median_ms=statistics.median(own),
        p90_ms=float(torch.quantile(ordered, 0.9)),
        ratio_to_first=statistics.median(ratios),
        rounds=len(own),
        batch=batch,
        threads=threads,
        runtime=runtime,
        ratio_error=_error(ratios),
    )


def _error(values: Sequence[float]) -> float:
    """Return the standard error of the median, by the middle half of the values: 1.253 σ / √n, σ = IQR / 1.349."""
    if len(values) < 2:
        return math.inf
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return 1.253 * (high - low) / 1.349 / math.sqrt(len(values))
