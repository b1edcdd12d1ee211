"""What counts: how each quantity of the report was counted, said beside the figures."""

from __future__ import annotations

from prunus.report import formats
from prunus.report.facts import Facts

PARAMETERS = "every parameter: weights, biases, norms and the classifier are in; tied tensors once"
MACS = (
    "multiply-accumulates of the real forward pass of one example, counted operation by operation; "
    "biases, norms and element-wise operations are not in"
)
EFFECTIVE = "MACs whose weight is not zero: what hardware that skips zeros could save, not what was saved here"
FILE = "the weights written with safetensors; a zero takes as much room as any other number"
PEAK = "the most that activations hold at one moment of the forward pass of one example"
ENERGY = "modelled from data movement by the 45 nm table (Horowitz 2014), not measured"


def terms(facts: Facts) -> list[tuple[str, str]]:
    """(quantity, how it was counted). `facts.assumptions` wins over the general wording, by quantity."""
    general = _general(facts)
    said = {key: facts.assumptions.get(key, text) for key, (_, text) in general.items()}
    extra = [(key, text) for key, text in facts.assumptions.items() if key not in general]
    return [(general[key][0], text) for key, text in said.items() if text] + extra


def _general(facts: Facts) -> dict[str, tuple[str, str]]:
    """Quantity -> (its label, its wording); no wording for what the facts do not hold."""
    pruned = facts.pruned
    return {
        "parameters": ("Parameters", PARAMETERS),
        "removed": ("Removed or zero", _removed(facts)),
        "macs": ("MACs", MACS),
        "effective_macs": ("Effective MACs", EFFECTIVE if pruned.effective_macs is not None else ""),
        "file_bytes": ("File", FILE if pruned.file_bytes is not None else ""),
        "peak_activation_bytes": (
            "Peak activations",
            PEAK if pruned.peak_activation_bytes is not None else "",
        ),
        "energy_joules": ("Energy", ENERGY if pruned.energy_joules is not None else ""),
        "latency": ("Latency", _latency(facts)),
        "splits": ("Splits", _splits(facts)),
    }


def _removed(facts: Facts) -> str:
    gone = max(0, facts.dense.parameters - facts.pruned.parameters)
    zero = facts.pruned.parameters - facts.pruned.nonzeros
    return (
        f"{formats.count(gone)} parameters were removed and take no room; {formats.count(zero)} "
        "of those that are left are exactly zero and still take it"
    )


def _latency(facts: Facts) -> str:
    if facts.dense.latency is None or facts.pruned.latency is None:
        return "not measured"
    return (
        "both models alternately in one run; the ratio is the median over the pairs, "
        "so it may differ a little from the ratio of the medians"
    )


def _splits(facts: Facts) -> str:
    if facts.pruned.metrics.test:
        return "choices were made on the validation split; the test split was read once, for this report"
    return "there was no test split; choices and figures come from the validation split"
