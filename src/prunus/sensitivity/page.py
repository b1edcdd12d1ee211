"""The interactive page: one HTML file with everything that the ratios and the costs are computed from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.axes import Polynomial
from prunus.errors import FileError, InputError
from prunus.palette import palette
from prunus.quality import Mode, sign_of
from prunus.sensitivity.costs import Costs
from prunus.sensitivity.cutting import check_drop
from prunus.sensitivity.filling import STEP
from prunus.sensitivity.plot import is_share
from prunus.sensitivity.schedule_text import Template, key

if TYPE_CHECKING:
    from prunus.sensitivity.curves import Curves

MISSING_EXTRA = "the page needs Jinja2, which is not installed; run: pip install 'prunus[report]'"


def write_page(
    curves: Curves,
    path: str | os.PathLike[str],
    *,
    metric: str,
    mode: Mode,
    max_drop: float | None,
    template: Template,
    title: str,
) -> None:
    """Write the page; see `Curves.page`."""
    facts = page_facts(curves, metric=metric, mode=mode, max_drop=max_drop, template=template)
    text = _render(curves, facts, title or f"What each layer can bear: {metric}")
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"page {path} cannot be written: {error.strerror}; name another path") from None


def page_facts(
    curves: Curves, *, metric: str, mode: Mode, max_drop: float | None, template: Template
) -> dict[str, Any]:
    """Return what the page computes from, as plain data; infinite and missing metrics are None."""
    costs, sign = curves.known_costs("the page"), sign_of(mode)
    values, dense = curves.values[metric], curves.dense[metric]
    worst = max((sign * (dense - v) for vs in values.values() for v in vs if math.isfinite(v)), default=0.0)
    start = 0.1 * max(worst, 0.0) if max_drop is None else check_drop(max_drop)
    groups = list(costs.sizes or {})
    return {
        "metric": metric,
        "sign": sign,
        "share": is_share(metric, [dense, *(v for vs in values.values() for v in vs)]),
        "dense": dense,
        "levels": list(curves.levels),
        "worst": worst,
        "start": start,
        "step": STEP,
        "roundTo": template.round_to,
        "coupled": costs.coupled,
        "groups": [[name, (costs.sizes or {})[name]] for name in groups],
        "params": _indexed(costs.params, groups),
        "macs": _indexed(costs.macs, groups),
        "samples": costs.samples,
        "latency": _latency(costs, groups),
        "equal": _equal(costs, list(values)),
        "recipe": {"head": template.head, "indent": template.indent, "tail": template.tail},
        "targets": [
            {
                "name": name,
                "key": key(name),
                "group": groups.index(name) if name in groups else -1,
                "values": [v if math.isfinite(v) else None for v in found],
                "approximate": list(curves.approximate.get(name, ())),
                "shares": [count / costs.targets[name].units for count in costs.measured(name, curves.levels)],
                **_cost(costs, name),
            }
            for name, found in values.items()
        ],
    }


def _cost(costs: Costs, name: str) -> dict[str, Any]:
    target = costs.targets[name]
    kept = ("units", "elements", "minimum", "rounds", "step", "order", "stage", "gone")
    return {field: getattr(target, field) for field in kept}


def _indexed(polynomial: Polynomial, groups: Sequence[str]) -> list[list[Any]]:
    """Return terms with groups by number, [factor, [group, …]]."""
    numbers = {name: number for number, name in enumerate(groups)}
    return [[factor, [numbers[name] for name in names]] for factor, names in polynomial]


def _equal(costs: Costs, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return the targets of each set that loses equally many units, and whether all of its members are among them."""
    sets = [[targets.index(name) for name in names if name in targets] for names in costs.equal]
    wholes = [len(found) == len(names) for found, names in zip(sets, costs.equal, strict=True)]
    return [{"targets": found, "whole": whole} for found, whole in zip(sets, wholes, strict=True) if found]


def _latency(costs: Costs, groups: Sequence[str]) -> dict[str, Any] | None:
    """Return the estimate with groups by number."""
    if costs.latency is None:
        return None
    numbers = {name: number for number, name in enumerate(groups)}
    parts = [
        {"axes": [[numbers[name] for name in names] for names in part.axes], "counts": part.counts, "ms": part.ms}
        for part in costs.latency.parts
    ]
    return {"on": costs.latency.device, "batch": costs.latency.batch, "checked": costs.latency.checked, "parts": parts}


def _render(curves: Curves, facts: Mapping[str, Any], title: str) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise InputError(MISSING_EXTRA) from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # Inside a script element only `<` could end it, and in JSON every `<` lies in a string.
    data = json.dumps(facts, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
    text: str = environment.from_string(_read("page.html.j2")).render(
        title=title,
        granularity=curves.granularity,
        criterion=curves.criterion,
        metric=facts["metric"],
        css=palette() + _read("page.css"),
        script=_read("page_model.js") + _read("page_view.js"),
        data=data,
    )
    return text


def _read(name: str) -> str:
    return (resources.files("prunus.sensitivity") / "templates" / name).read_text(encoding="utf-8")
