"""The classes by their names in a schedule file, with what each accepts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from prunus.distiller import pruners, ranked, regularizers
from prunus.distiller.pruners import Pruner
from prunus.distiller.regularizers import DistillerRegularizer
from prunus.errors import InputError, NameNotFound

_Made = TypeVar("_Made")

PRUNERS: Mapping[str, type[Pruner]] = {
    kind.__name__: kind
    for kind in (
        pruners.MagnitudeParameterPruner,
        pruners.SparsityLevelParameterPruner,
        pruners.SensitivityPruner,
        pruners.SplicingPruner,
        pruners.AutomatedGradualPruner,
        pruners.BaiduRNNPruner,
        ranked.StructureParameterPruner,
        ranked.L1RankedStructureParameterPruner,
        ranked.L1RankedStructureParameterPruner_AGP,
        ranked.L2RankedStructureParameterPruner,
        ranked.L2RankedStructureParameterPruner_AGP,
        ranked.ActivationAPoZRankedFilterPruner,
        ranked.ActivationAPoZRankedFilterPruner_AGP,
        ranked.ActivationMeanRankedFilterPruner,
        ranked.ActivationMeanRankedFilterPruner_AGP,
        ranked.GradientRankedFilterPruner,
        ranked.GradientRankedFilterPruner_AGP,
        ranked.RandomRankedFilterPruner,
        ranked.RandomRankedFilterPruner_AGP,
        ranked.BernoulliFilterPruner,
        ranked.BernoulliFilterPruner_AGP,
        ranked.RandomLevelStructureParameterPruner,
        ranked.FMReconstructionChannelPruner,
    )
}
REGULARIZERS: Mapping[str, type[DistillerRegularizer]] = {
    kind.__name__: kind
    for kind in (
        regularizers.L1Regularizer,
        regularizers.GroupLassoRegularizer,
        regularizers.GroupVarianceRegularizer,
    )
}
OLD = {"StructuredAutomatedGradualPruner": "L1RankedStructureParameterPruner_AGP"}
"""Names of older schedule files."""


def pruner(kind: str, options: Mapping[str, Any]) -> Pruner:
    """Make a pruner by its class's name and keywords.

    Old spellings are taken, with a UserWarning.
    Raises NameNotFound for an unknown class, InputError for a keyword that it does not take or one that is missing.
    """
    if kind in OLD:
        warnings.warn(f"{kind} is an old name; write {OLD[kind]}", UserWarning, stacklevel=2)
        kind = OLD[kind]
    found = _looked_up("pruner", kind, PRUNERS)
    if issubclass(found, ranked.Ranked) and "reg_regims" in options:
        options = _without_regimes(kind, options)
    return _made(found, options)


def regularizer(kind: str, options: Mapping[str, Any]) -> DistillerRegularizer:
    """Make a regularizer by its class's name and keywords; raises as `pruner` does."""
    return _made(_looked_up("regularizer", kind, REGULARIZERS), options)


def _looked_up(what: str, kind: str, known: Mapping[str, type[_Made]]) -> type[_Made]:
    if kind not in known:
        raise NameNotFound.of(f"{what} of Distiller's", str(kind), known)
    return known[kind]


def _made(kind: type[_Made], options: Mapping[str, Any]) -> _Made:
    accepted = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in options:
        if key not in accepted:
            raise InputError(f"{kind.__name__} takes no {key!r}; it takes {', '.join(accepted)}")
    for name, field in accepted.items():
        if name not in options and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{kind.__name__} needs {name!r}; it takes {', '.join(accepted)}")
    return kind(**options)


def _without_regimes(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the old `reg_regims: {weight: group type}` of a ranked pruner."""
    regimes = options["reg_regims"]
    group_types = sorted({str(group_type) for group_type in regimes.values()})
    if len(group_types) != 1:
        raise InputError(f"{kind}: reg_regims holds the group types {', '.join(group_types)}; make a pruner for each")
    warnings.warn(
        f"{kind}: reg_regims is an old spelling; write group_type: {group_types[0]} and weights: [...]",
        UserWarning,
        stacklevel=3,
    )
    rest = {key: value for key, value in options.items() if key != "reg_regims"}
    return {**rest, "group_type": group_types[0], "weights": list(regimes)}
