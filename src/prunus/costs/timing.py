"""Latency, measured: several models in one run, taking turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

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
    """

    median_ms: float
    p90_ms: float
    ratio_to_first: float
    rounds: int
    batch: int
    threads: int
    runtime: str = "torch"


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
    _check(models, repeats=repeats, warmup=warmup, threads=threads)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet(threads))
        for model in models.values():
            stack.enter_context(evaluating(model))
        times = _rounds(list(models.values()), args, kwargs, repeats=repeats, warmup=warmup, seconds=seconds)
    first = next(iter(tensors((args, kwargs))), None)
    batch = first.shape[0] if first is not None and first.dim() else 1
    return {
        name: _summary(times[0], own, batch=batch, threads=threads) for name, own in zip(models, times, strict=True)
    }


def _check(models: Mapping[str, nn.Module], *, repeats: int, warmup: int, threads: int) -> None:
    if not models:
        raise InputError("no model to measure; give at least one by name")
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
    models: Sequence[nn.Module],
    args: tuple[object, ...],
    kwargs: Kwargs,
    *,
    repeats: int,
    warmup: int,
    seconds: float,
) -> list[list[float]]:
    """Milliseconds per model and round."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(max(1, warmup)):  # one at least: it checks that every model runs
        for model in models:
            run(model, args, kwargs)
    end = time.perf_counter() + seconds
    for i in range(repeats):
        if i >= _LEAST_ROUNDS and time.perf_counter() > end:
            break
        # Alternating order: whatever favours the first of a round favours each as often.
        order = range(len(models)) if i % 2 == 0 else reversed(range(len(models)))
        for j in order:
            times[j].append(_once(models[j], args, kwargs))
    return times


def _once(model: nn.Module, args: tuple[object, ...], kwargs: Kwargs) -> float:
    on_gpu = any(tensor.is_cuda for tensor in chain(tensors((args, kwargs)), model.parameters()))
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter_ns()
    model(*args, **(kwargs or {}))
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter_ns() - start) / 1e6


def _summary(first: Sequence[float], own: Sequence[float], *, batch: int, threads: int) -> Latency:
    ordered = torch.tensor(own, dtype=torch.float64)
    return Latency(
        median_ms=statistics.median(own),
        p90_ms=float(torch.quantile(ordered, 0.9)),
        ratio_to_first=statistics.median(a / b for a, b in zip(first, own, strict=True)),
        rounds=len(own),
        batch=batch,
        threads=threads,
    )
