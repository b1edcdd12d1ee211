"""Any torch.optim class by name, its arguments checked against its signature."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from prunus.batches import first_line
from prunus.errors import InputError, NameNotFound


def optimizer_names() -> dict[str, type[torch.optim.Optimizer]]:
    """Lower-case name -> class. LBFGS is left out: its steps call a closure several times."""
    classes = (value for value in vars(torch.optim).values() if inspect.isclass(value))
    found = {
        value.__name__.lower(): value
        for value in classes
        if issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    found.pop("lbfgs", None)
    return found


def check_optimizer(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise NameNotFound for an unknown name or argument, InputError for a value that the class refuses."""
    kind = _class(name)
    check_arguments(f"argument of {kind.__name__}", kind, arguments, skip=("params",))
    for key, value in arguments.items():
        if key in ("lr", "momentum", "weight_decay") and (
            isinstance(value, bool) or not isinstance(value, (int, float))
        ):
            raise InputError(f"{key} of {kind.__name__} is {value!r}; want a number")
    # Classes that work on matrices only, as Muon, refuse vectors: hence two dimensions.
    build(kind, [torch.zeros(1, 1, requires_grad=True)], arguments)


def build_optimizer(name: str, model: nn.Module, arguments: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters; raises as `check_optimizer` does."""
    check_optimizer(name, arguments)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError(f"the model {type(model).__name__} has no trainable parameter; nothing can be trained")
    return build(_class(name), parameters, arguments)


def build(
    kind: type[torch.optim.Optimizer], parameters: Iterable[torch.Tensor], arguments: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Construct, with a refusal of torch's put into one sentence."""
    try:
        return kind(parameters, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{kind.__name__} refuses its arguments {dict(arguments)}: {first_line(error)}") from error


def check_arguments(what: str, function: Any, arguments: Mapping[str, Any], skip: tuple[str, ...]) -> None:
    """Raise NameNotFound, with the near names, for an argument that the signature does not have."""
    signature = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values()):
        return
    known = [name for name in signature if name not in skip]
    for key in arguments:
        if key not in known:
            raise NameNotFound.of(what, key, known)


def _class(name: str) -> type[torch.optim.Optimizer]:
    known = optimizer_names()
    if name.lower() not in known:
        raise NameNotFound.of("optimizer", name, known)
    return known[name.lower()]
