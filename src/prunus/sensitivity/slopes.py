"""Sorted norms of each target's units: steep slopes hold units that hardly count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunus.errors import InputError
from prunus.sensitivity.plot import by_depth, legend, percent, styles

if TYPE_CHECKING:
    from prunus.sensitivity.curves import Curves


def slopes(curves: Curves) -> Any:
    """Return the graph of L1 norms over their largest against the share of units, largest first.

    Source: Li et al. 2017, arXiv:1608.08710, figure 2a.
    """
    from matplotlib.figure import Figure

    if curves.costs is None:
        raise InputError("slopes need the units' norms, which these curves lack; analyse again")
    names = by_depth(curves)
    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for name, style in styles(names).items():
        norms = curves.costs.targets[name].norms
        axes.plot(np.linspace(0, 1, len(norms)), norms, label=name, lw=1.4, color=style["color"], alpha=0.9)
    axes.set(xlabel="units, largest first", ylabel="L1 norm ÷ the largest of the target", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(linewidth=0.8)
    axes.set_axisbelow(True)
    percent(axes.xaxis)
    legend(axes, names, curves.granularity, has_order=True)
    return figure
