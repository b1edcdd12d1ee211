"""Counts at which kernels step."""

from __future__ import annotations

from prunus.axes import Group

STEPS = (16, 8, 4)
"""Sixteen floats are a register of AVX-512; convolutions leave ONNX Runtime's fast path off a multiple of four."""
LEAST = 4
"""A group is rounded to a step of which it has at least so many."""


def step_of(group: Group) -> int:
    """Return the number of which a group's kept units should be a multiple: 16, 8 or 4 for channels, else 1.

    One channel past a step costs a whole one. Layers of fewer than 16 channels are not rounded, since too little could
    go; linear layers have no steps, and heads are few. A unit of several channels counts as these.
    """
    if group.kind != "channel":
        return 1
    width = max((member.index.shape[1] for member in group.members if member.role == "out"), default=1)
    step = next((step for step in STEPS if group.size * width >= LEAST * step), 1)
    return max(1, step // width)
