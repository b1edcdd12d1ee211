"""The checks behind the schema: each word of a recipe is asked of the room that knows it.

Every function takes what YAML gave and returns it, or raises a ValueError whose text says what is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, get_args

import torch
from pydantic import BaseModel

import prunus.allocation
import prunus.criteria
import prunus.granularity
import prunus.regularizers
import prunus.runtimes
import prunus.schedules
import prunus.solvers
from prunus.axes import Inexact
from prunus.errors import InputError, NameNotFound, RecipeError
from prunus.recipes.resolve import split_name
from prunus.training.evaluate import NAMED_METRICS
from prunus.training.losses import LOSSES
from prunus.training.optimizers import check_optimizer
from prunus.training.rates import check_rate


def short_form(key: str, example: str) -> Callable[[Any], Any]:
    """`adam` may be written for `{name: adam}`."""

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return {key: value}
        if not isinstance(value, (dict, BaseModel)):
            raise InputError(f"want {example}, or a mapping with `{key}`")
        return value

    return expand


def version(value: Any) -> Any:
    """Only version 1 can be read."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 1:
        raise InputError("this recipe is from a newer Prunus, this one reads version 1; upgrade Prunus")
    if value != 1 or isinstance(value, bool):
        raise InputError("want `version: 1`")
    return value


def factory(value: Any) -> Any:
    """`module:function`, well spelt; whether it exists is asked when it is needed."""
    split_name(_text(value, "module:function"))
    return value


def loss(value: Any) -> Any:
    """A loss by name, or module:function."""
    return _name_or_function(value, "loss", LOSSES)


def metric(value: Any) -> Any:
    """A metric by name, or module:function."""
    return _name_or_function(value, "metric", NAMED_METRICS)


def device(value: Any) -> Any:
    """A device that torch knows and this machine has."""
    try:
        torch.empty(0, device=torch.device(_text(value, "a device, such as cpu")))
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"torch cannot use this device here ({first}); want cpu, or one that is here") from error
    return value


def optimizer(name: str, arguments: Mapping[str, Any]) -> None:
    """A torch.optim class that takes these arguments."""
    check_optimizer(name, arguments)


def lr_schedule(name: str, arguments: Mapping[str, Any]) -> None:
    """A learning-rate schedule that takes these arguments."""
    check_rate(name, arguments)


def granularity(value: Any) -> Any:
    """`element`, `filter`, `2:4`, `pattern(4, 8)`, `vector(4, dim=1)`, …"""
    prunus.granularity.granularity(_text(value, "a granularity, such as filter"))
    return value


def solver(value: Any) -> Any:
    """`lstsq`, `admm`, `sparsegpt`, …"""
    prunus.solvers.solver(_text(value, "a solver, such as lstsq"))
    return value


def criterion(value: Any) -> Any:
    """`l1`, `l2`, `random`, …"""
    prunus.criteria.criterion(_text(value, "a criterion, such as l2"))
    return value


def allocation(value: Any) -> Any:
    """`uniform`, `global`, `{per_layer: …}`, `{threshold: …}`, …"""
    prunus.allocation.allocator(value)
    return value


def budget(value: Any) -> Any:
    """`macs=0.5`, `params<=2e6`, `{sparsity: 0.9}`; returned as a text."""
    if isinstance(value, dict) and len(value) == 1:
        value = "{}={}".format(*next(iter(value.items())))
    _check_share(prunus.allocation.parse_budget(_text(value, "a budget, such as macs=0.5")))
    return value


def round_to(value: Any) -> Any:
    """A whole number, or `auto`."""
    if value is not None and value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InputError("want a whole number of at least 1, or auto")
    return value


def budget_device(budget: str | None) -> str | None:
    """The device of a budget, where it is a latency."""
    return None if budget is None else prunus.allocation.parse_budget(budget).device


def shrinks(granularity: str) -> None:
    """Refuse a latency where weights become zeros."""
    if granularity not in prunus.granularity.COUPLED:
        raise InputError(f"{granularity} leaves zeros, which do not become speed; a latency needs filters or heads")


def timed_on(value: Any) -> Any:
    """What a latency is of: torch, onnxruntime, compiled, table:file.csv."""
    return str(prunus.runtimes.device(_text(value, "a device, such as onnxruntime")))


def schedule(value: Any) -> Any:
    """`{kind: agp, final: 0.5, begin: 0ep, end: 3ep}`, …"""
    if not isinstance(value, dict):
        raise InputError("want a mapping, such as {kind: agp, final: 0.5, begin: 0ep, end: 3ep}")
    prunus.schedules.schedule(value)
    return value


def policy(value: Mapping[str, Any]) -> None:
    """The parts of a policy, together."""
    _parse({"policies": [value]})


def permutations(granularities: Sequence[str]) -> None:
    """Channels are put in one order: what is best for one policy may be worse for another."""
    kinds = [prunus.granularity.granularity(text) for text in granularities]
    wanted = [kind.name for kind in kinds if isinstance(kind, prunus.granularity.NM) and kind.permute]
    if len(wanted) > 1:
        raise InputError(f"{len(wanted)} policies put channels in order ({', '.join(wanted)}); let one of them do so")


def inexact(value: Any) -> Any:
    """`forbid`, `compensate` or `allow`."""
    choices = get_args(Inexact)
    if _text(value, ", ".join(choices[:-1]) + f" or {choices[-1]}") not in choices:
        raise NameNotFound.of("policy for statistics", value, choices)
    return value


def coupled(fold_constants: bool, inexact: str, granularities: Sequence[str]) -> None:
    """Words about units that are removed ask for a policy that prunes some."""
    kinds = [prunus.granularity.granularity(text).name for text in granularities]
    asked = ["fold_constants: true"] * fold_constants + [f"inexact: {inexact}"] * (inexact != "forbid")
    if asked and not set(kinds) & set(prunus.granularity.COUPLED):
        raise InputError(f"`{asked[0]}` is about filters and channels, but the policies prune {', '.join(kinds)}")


def stop(value: Any) -> Any:
    """`{sparsity: 0.9}`, `{macs: 0.33}`."""
    if not isinstance(value, dict):
        raise InputError("want one condition, such as `sparsity: 0.9` or `macs: 0.33`")
    _parse({"policies": [_ANY_POLICY], "stop": [value]})
    _check_share(prunus.allocation.parse_budget(value))
    return value


def regularizer(value: Any) -> Any:
    """`group_lasso(1e-4, granularity=filter)`, or `{kind: group_lasso, strength: 1e-4, …}`."""
    if not isinstance(value, (str, dict)):
        raise InputError("want group_lasso(1e-4), or a mapping such as {kind: group_lasso, strength: 1e-4}")
    made = prunus.regularizers.regularizer(value)
    kind = getattr(made, "granularity", None)
    if isinstance(value, dict) and "targets" in value and isinstance(kind, str) and kind != "layer":
        targets(value["targets"])
        prunus.granularity.check_targets(value["targets"], kind)
    return value


def regularizers(values: Sequence[Any]) -> None:
    """Each term of a loss has a name of its own."""
    prunus.regularizers.check_names([prunus.regularizers.regularizer(value) for value in values])


def targets(value: Any) -> Any:
    """A pattern, a list of patterns, or `{kind: ffn, group: name, type: Conv2d, name: pattern, exclude: pattern}`."""
    if not isinstance(value, (str, list, dict)):
        raise InputError("want a pattern, a list of patterns, or a mapping with kind, type, name, exclude")
    prunus.granularity.read(value)
    return value


def ratio(value: Any) -> Any:
    """A fraction in [0, 1)."""
    return prunus.allocation.check_ratio("level", value)


def file_name(value: Any) -> Any:
    """A plain file name: the file goes into the out folder."""
    text = _text(value, "a file name, such as model.prunus")
    if not text or text in (".", "..") or text != PurePath(text).name:
        raise InputError("want a plain file name, such as model.prunus; the folder is `out`")
    return value


def controls(names: Sequence[str], allocations: Sequence[Any]) -> None:
    """A control prunes as much as the policies do; a threshold says how much only for its own criterion."""
    for allocation in allocations:
        if names and getattr(prunus.allocation.allocator(allocation), "is_absolute", False):
            raise InputError("controls: a threshold is in its criterion's own unit, so random scores cannot meet it")


_ANY_POLICY = {"granularity": "element", "schedule": {"kind": "one_shot", "final": 0.5}}


def _check_share(budget: prunus.allocation.Budget) -> None:
    """Refuse figures of a batch that the recipe's author did not choose; of MACs those of one sample are known."""
    if budget.quantity in ("latency", "energy") and not budget.relative:
        where = f"@{budget.device}" if budget.device else ""
        raise InputError(
            f"{budget} would be of a batch of two samples, which recipes count with; give a share of the dense "
            f"model's, such as {budget.quantity}=0.6{where}"
        )


def _parse(settings: dict[str, Any]) -> None:
    """Let the schedules judge; file and path are this room's to say, so only the cause is passed on."""
    try:
        prunus.schedules.parse_settings(settings)
    except RecipeError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _name_or_function(value: Any, what: str, names: tuple[str, ...]) -> Any:
    text = _text(value, f"a {what}: {', '.join(names)}, or module:function")
    if ":" in text:
        split_name(text)
    elif text not in names:
        raise NameNotFound.of(what, text, names)
    return value


def _text(value: Any, wanted: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"want {wanted}")
    return value
