"""The same random numbers at the same epoch, whether the run was interrupted or not."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def reseed(seed: int, stage: str, epoch: int, loader: Any = None) -> None:
    """Seed Python, NumPy and torch from (seed, stage, epoch), and the loader's own generators.

    Called at the start of every epoch, so that no hidden state has to survive a kill.
    """
    value = derived_seed(seed, stage, epoch)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)
    for generator in _generators(loader):
        generator.manual_seed(value)


@contextmanager
def random_state(loader: Any = None) -> Iterator[None]:
    """Put Python's, NumPy's and torch's random state back on leaving, and that of the loader's own generators."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    own = [(generator, generator.get_state()) for generator in _generators(loader)]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
        for generator, state in own:
            generator.set_state(state)


def derived_seed(seed: int, stage: str, epoch: int) -> int:
    """A 63-bit seed; far apart for neighbouring epochs."""
    digest = hashlib.sha256(f"{seed}:{stage}:{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators that a DataLoader or its sampler carries: they remember earlier epochs otherwise."""
    holders = [loader, getattr(loader, "sampler", None)]
    found = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in found if isinstance(generator, torch.Generator)]
