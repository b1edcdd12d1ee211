"""Budgets by hand."""

import pytest

from prunus.allocation import Budget, parse_budget
from prunus.errors import InputError, NameNotFound


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("macs=0.5", Budget("macs", 0.5, True)),
        ("params<=2e6", Budget("params", 2e6, False)),
        (" macs <= 12e6 ", Budget("macs", 12e6, False)),
        ("sparsity=0.9", Budget("sparsity", 0.9, False)),
        ({"macs": 0.33}, Budget("macs", 0.33, True)),
        ({"bytes": 4096}, Budget("bytes", 4096, False)),
        ("nnz=1", Budget("nnz", 1, True)),
    ],
)
def test_budgets_read(spec, expected):
    assert parse_budget(spec) == expected
    assert parse_budget(str(expected)) == expected
    assert parse_budget(expected) is expected


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("mac=0.5", NameNotFound, "did you mean macs"),
        ("speed=0.6", NameNotFound, "known: macs, params, bytes, nnz, sparsity, energy, latency"),
        ("macs=half", InputError, "share such as 0.5"),
        ("macs=50%", InputError, "share such as 0.5"),
        ("macs=0", InputError, "share"),
        ("macs=-1", InputError, "share"),
        ("macs=nan", InputError, "share"),
        ({"macs": True}, InputError, "share"),
        ({"macs": None}, InputError, "share"),
        ("sparsity=1", InputError, "remove everything"),
        ("sparsity=90", InputError, "did you mean 0.9"),
        ("macs", InputError, "write macs=0.5"),
        ("", InputError, "write macs=0.5"),
        ({}, InputError, "write macs=0.5"),
        ({"macs": 0.5, "nnz": 0.5}, InputError, "write macs=0.5"),
        (0.5, InputError, "write macs=0.5"),
    ],
)
def test_wrong_budgets_are_explained(spec, error, words):
    with pytest.raises(error, match=words):
        parse_budget(spec)


def test_limits_are_met_at_equality():
    assert parse_budget("macs=0.5").is_met(50, dense=100)
    assert not parse_budget("macs=0.5").is_met(51, dense=100)
    assert parse_budget("params<=200").is_met(200, dense=1000)
    assert not parse_budget("params<=200").is_met(201, dense=1000)
    assert parse_budget("sparsity=0.9").is_met(0.9, dense=0.0)
    assert not parse_budget("sparsity=0.9").is_met(0.89, dense=0.0)
