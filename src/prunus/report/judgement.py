"""The verdict: sentences computed from the facts, never typed.

Each function answers one question with a sentence, or with None where the facts do not speak of it.
"""

from __future__ import annotations

from collections.abc import Callable

from prunus.report import formats, metrics
from prunus.report.facts import Baseline, Facts
from prunus.runtimes import step_for

# A ratio within 2 % of one is what two runs of the same model differ by; it is no gain and no loss.
NOISE = 0.02
# Below this share of zeros among the remaining weights there is no unstructured sparsity to speak of.
FEW_ZEROS = 0.01


def judge(facts: Facts) -> list[str]:
    """All sentences that the facts support; the first is the headline.

    facts: with `ratio` and `difference` computed.
    """
    found = (question(facts) for question in _QUESTIONS)
    return [sentence for sentence in found if sentence]


def _headline(facts: Facts) -> str:
    gained = [
        f"{formats.ratio(facts.ratio.get(key))} {words}"
        for key, words in (("macs", "fewer MACs"), ("parameters", "fewer parameters"))
        if (facts.ratio.get(key) or 1.0) > 1 + NOISE
    ]
    if not gained and (facts.ratio.get("nonzeros") or 1.0) > 1 + NOISE:
        gained = [f"{formats.ratio(facts.ratio['nonzeros'])} fewer non-zero weights"]
    cost = _cost(facts)
    if not gained:
        return f"The run made the model no smaller: MACs, parameters and non-zeros are within 2 %{cost}."
    return f"{_capital(' and '.join(gained))}{cost}."


def _cost(facts: Facts) -> str:
    """`, 0.31 points less top1 on the test split (90.40 % -> 90.09 %)`."""
    name, split = metrics.judged(facts), metrics.judged_split(facts)
    change = facts.difference.get(f"{split}.{name}") if name else None
    if name is None or change is None:
        return ""
    before, after = getattr(facts.dense.metrics, split)[name], getattr(facts.pruned.metrics, split)[name]
    span = f"({metrics.value(name, before)} → {metrics.value(name, after)})"
    return f", {_amount(name, change)} {name} on the {split} split {span}"


def _amount(name: str, change: float) -> str:
    text = metrics.change(name, change)
    if text.startswith("±"):
        return "the same"
    return f"{text[1:]} {'more' if change > 0 else 'less'}"


def _speed(facts: Facts) -> str | None:
    latency, macs = facts.ratio.get("latency_median"), facts.ratio.get("macs")
    dense, pruned = facts.dense.latency, facts.pruned.latency
    if latency is None or dense is None or pruned is None:
        return "Latency was not measured, so nothing is said about speed."
    where = f"on {pruned.runtime}, batch {pruned.batch}, {_plural(pruned.threads, 'thread')}"
    span = f"median {formats.milliseconds(dense.median_ms)} → {formats.milliseconds(pruned.median_ms)} {where}"
    if latency < 1 - NOISE:
        return f"It got slower: {formats.ratio(latency)} the speed of the dense model ({span}){_uneven(facts)}."
    if latency <= 1 + NOISE:
        return f"It got no faster ({span}){_why_not_faster(facts)}."
    return f"It runs {formats.ratio(latency)} as fast ({span}){_efficiency(latency, macs, facts)}."


def _efficiency(latency: float, macs: float | None, facts: Facts) -> str:
    if macs is None or macs <= 1 + NOISE:
        return ""
    share = latency / macs
    text = f"; latency efficiency {formats.percent(share, 0)} (latency ratio / MACs ratio)"
    if share >= 0.9:
        return f"{text}: the saved work became time"
    return f"{text}{_uneven(facts) or ': the rest is time that MACs do not explain, such as calls and memory traffic'}"


def _why_not_faster(facts: Facts) -> str:
    if (facts.ratio.get("macs") or 1.0) <= 1 + NOISE:
        return ": no work was removed, the weights were only set to zero"
    return _uneven(facts) or ": at this size the time goes to calls and memory traffic, not to MACs"


def _uneven(facts: Facts) -> str:
    """Blame channel counts between the steps of a runtime's kernels, where pruning has made such counts."""
    latency = facts.pruned.latency
    channels = [(group, step_for(group.size)) for group in facts.groups if group.kind == "channel"]
    found = [(group, step) for group, step in channels if not group.size % step and group.kept % step]
    if not found or latency is None:
        return ""
    (first, step), counts = found[0], _plural(len(found), "channel count is", "channel counts are")
    named = f"such as {first.name} ({first.size} → {first.kept}, no multiple of {step})"
    why = f"and kernels of {latency.runtime} are often slower there"
    return f": {counts} between the steps of kernels now, {named}, {why}; try round_to: auto"


def _zeros(facts: Facts) -> str | None:
    total, kept = facts.pruned.parameters, facts.pruned.nonzeros
    share = 1 - kept / total if total else 0.0
    if share < FEW_ZEROS:
        return None
    return (
        f"{formats.percent(share, 1)} of the remaining parameters are zero, but unstructured zeros buy no "
        "time here: dense kernels multiply them like any other number. "
        "They make a compressed file smaller; removing whole filters or channels would make the model faster."
    )


def _accuracy(facts: Facts) -> str | None:
    name, split = metrics.judged(facts), metrics.judged_split(facts)
    if name is None or facts.difference.get(f"{split}.{name}") is None:
        return None
    change = facts.difference[f"{split}.{name}"] or 0.0
    worse = -change if metrics.higher_is_better(name) else change
    measured = f"measured on the {split} split against the same dense checkpoint"
    note = "" if split == "test" else "; there was no test split, so this split was also used to judge the run"
    if worse <= 0:
        return f"No {name} was lost, {measured}{note}."
    loss = metrics.change(name, worse)[1:]
    return f"The {name} is within {loss} of the dense model, {measured}{note}."


def _proof(facts: Facts) -> str | None:
    proof = facts.proof
    if proof is None:
        return "Nothing was removed physically, so there was no structure to prove."
    relation = "≤" if proof.passed else ">"
    figure = f"relative error {proof.max_rel:.1e} {relation} {proof.tolerance:.0e} in {proof.dtype}"
    if proof.passed:
        graph = " It is the captured graph, since the class holds fixed numbers." if proof.form == "graph" else ""
        return f"Proved: the thinned model computes what the masked one does ({figure}).{graph}"
    return f"NOT proved: the thinned and the masked model differ ({figure}); do not use the thinned model."


def _random(facts: Facts) -> str | None:
    name, split = metrics.judged(facts), metrics.judged_split(facts)
    control = next((item for item in facts.baselines if item.name == "random"), None)
    if control is None or name is None:
        return None
    ours, theirs = getattr(facts.pruned.metrics, split).get(name), _of(control, split, name)
    if ours is None or theirs is None:
        return None
    gain = ours - theirs if metrics.higher_is_better(name) else theirs - ours
    worth = (
        f"the criterion is worth {metrics.change(name, gain)[1:]}"
        if gain > 0
        else "the criterion is worth nothing here"
    )
    reached = f"{metrics.value(name, theirs)} {name}"
    return f"Pruned at random to the same size and trained alike, it reaches {reached}: {worth}."


def _frozen(facts: Facts) -> str | None:
    touched = [group for group in facts.groups if group.kept < group.size]
    if not facts.groups:
        return None
    text = f"{len(touched)} of {_plural(len(facts.groups), 'prunable group')} lost units"
    rest = f"; {_plural(len(facts.frozen), 'axis', 'axes')} stayed frozen, with reasons below" if facts.frozen else ""
    return f"{text}{rest}."


def _of(control: Baseline, split: str, name: str) -> float | None:
    figures: dict[str, float] = getattr(control.metrics, split) or {}
    return figures.get(name)


def _plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_QUESTIONS: tuple[Callable[[Facts], str | None], ...] = (
    _headline,
    _speed,
    _zeros,
    _accuracy,
    _random,
    _proof,
    _frozen,
)
