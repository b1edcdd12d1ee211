"""The YAML that prunes by ratios: text around the lines of the ratios, so that the page can write it, too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from prunus.allocation import RoundTo, check_ratio
from prunus.errors import InputError
from prunus.granularity import COUPLED
from prunus.sensitivity.filling import STEP

if TYPE_CHECKING:
    from prunus.sensitivity.curves import Curves

_MARK = "ratios"


@dataclass(frozen=True)
class Template:
    """A YAML text with a place for ratios: `head`, a line per ratio behind `indent`, `tail`.

    round_to: of the policy in it.
    """

    head: str
    indent: str
    tail: str
    round_to: RoundTo = 1

    def filled(self, ratios: Mapping[str, float]) -> str:
        """Return the text with these ratios; zeros are left out. Raises InputError where nothing is left."""
        rounded = {name: rounded_down(check_ratio(f"ratio of {name}", ratio)) for name, ratio in ratios.items()}
        lines = [f"{self.indent}{key(name)}: {ratio}\n" for name, ratio in rounded.items() if ratio > 0]
        if not lines:
            raise InputError("every ratio is 0, so there is nothing to prune; accept a larger drop")
        return self.head + "".join(lines) + self.tail


def rounded_down(ratio: float) -> float:
    """Return the next lower multiple of 1 / STEP, so that no curve is cut further than it was allowed."""
    return math.floor(ratio * STEP + 1e-6) / STEP


def key(name: str) -> str:
    """Return a target's name as YAML writes it as a key."""
    text = yaml.safe_dump({name: None}).removesuffix(": null\n")
    return text if len(name) < 100 and "\n" not in text else json.dumps(name)


def template(curves: Curves, base: Mapping[str, Any] | None, round_to: RoundTo | None) -> Template:
    """Return the text of a schedule, or of the recipe `base` with its policies replaced."""
    old = _replaced(curves.granularity, base)
    step = old.get("round_to", 1) if round_to is None else round_to
    policy = {
        "name": "sensitivity",
        "granularity": curves.granularity,
        "criterion": curves.criterion,
        "allocation": {"per_layer": {_MARK: 0.5}},
        "schedule": _schedule(old),
        **({"solver": old["solver"]} if "solver" in old else {}),
        **({"round_to": step} if step != 1 and curves.granularity in COUPLED else {}),
    }
    if base is None:
        values: dict[str, Any] = {"version": 1, "policies": [policy]}
    else:
        kept = {name: value for name, value in base.items() if name != "sensitivity"}
        values = {**kept, "prune": {**base["prune"], "policies": [policy]}}
    levels = ", ".join(f"{level:g}" for level in curves.levels)
    note = "# Ratios per layer, cut from a sensitivity analysis:\n"
    note += f"# {curves.metric} at {levels}, each layer pruned alone.\n"
    text = note + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    before, _, tail = text.partition(f"{_MARK}: 0.5\n")
    head, line = before[: before.rfind("\n") + 1], before[before.rfind("\n") + 1 :]
    return Template(head, line, tail, policy.get("round_to", 1))


def _replaced(granularity: str, base: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the policy whose place is taken."""
    policies = [] if base is None else list(base["prune"]["policies"])
    same = [policy for policy in policies if policy["granularity"] == granularity]
    return dict((same or policies or [{}])[0])


def _schedule(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return when to prune; how much, the ratios say, but for geometric rounds, which are spaced by their goal."""
    words = dict(old.get("schedule", {"kind": "one_shot"}))
    return words if "progression" in words else {name: value for name, value in words.items() if name != "final"}
