"""Distiller's sensitivity analysis by its names: it returns our curves, which its two writers take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from prunus.errors import InputError, NameNotFound
from prunus.sensitivity import Curves
from prunus.sensitivity import perform_sensitivity_analysis as analyse

GROUPS = ("element", "filter", "channel")
METRICS = ("top1", "top5", "loss")


def perform_sensitivity_analysis(
    model: nn.Module,
    net_params: Iterable[str],
    sparsities: Iterable[float],
    test_func: Callable[..., Sequence[float]],
    group: str = "element",
) -> Curves:
    """Prune each parameter alone to each sparsity, as Distiller does; the model comes back as it was.

    net_params: names of parameters; those that are neither matrices nor convolutions are left out, and matrices too
        where filters or channels are pruned. sparsities: fractions; 0 is measured once, for all.
    test_func: takes `model=`, returns (top1, top5, loss).
    Raises NameNotFound for another group or an unknown parameter, InputError when no parameter is left.
    """
    if group not in GROUPS:
        raise NameNotFound.of("group", group, GROUPS)
    known = dict(model.named_parameters())
    asked = list(net_params)
    for name in asked:
        if name not in known:
            raise NameNotFound.of("parameter", name, known)
    chosen = [name for name in asked if known[name].dim() in ((2, 4) if group == "element" else (4,))]
    if not chosen:
        raise InputError(f"net_params {asked} hold no weight that {group} can prune; name weights of such layers")
    return analyse(
        model,
        lambda pruned: dict(zip(METRICS, test_func(model=pruned), strict=True)),
        granularity=group,
        levels=[float(level) for level in sparsities if level],
        targets=chosen,
    )


def sensitivities_to_csv(sensitivities: Curves, fname: str | os.PathLike[str]) -> None:
    """Write parameter, sparsity, top1, top5, loss; see `Curves.to_csv`."""
    sensitivities.to_csv(fname)


def sensitivities_to_png(sensitivities: Curves, fname: str | os.PathLike[str]) -> None:
    """Draw top5 against sparsity, a line per parameter; see `Curves.plot`."""
    sensitivities.plot(fname, metric="top5")
