"""Counts at which kernels step."""

from __future__ import annotations

STEPS = (16, 8, 4)
"""Sixteen floats are a register of AVX-512; convolutions leave ONNX Runtime's fast path off a multiple of four."""
LEAST = 4
"""A layer is rounded to a step of which it has at least so many, so that a third of it can go."""


def step_for(size: int, width: int = 1) -> int:
    """Return the number of which a convolution's kept units should be a multiple: 16, 8 or 4, or 1 below 16 channels.

    size: its units. width: channels that go with each. One channel past a step costs a whole one.
    """
    step = next((step for step in STEPS if size * width >= LEAST * step), 1)
    return max(1, step // width)
