"""What a recipe would do: `prunus run --dry-run`. Data and model are read, nothing is written or trained."""

from __future__ import annotations

from torch import nn

from prunus import oneshot
from prunus.axes import Graph, exactness_of, trace, units_of
from prunus.criteria import criterion
from prunus.errors import naming
from prunus.granularity import unpermuted
from prunus.plans import Plan
from prunus.recipes.opening import Opened
from prunus.recipes.parts import find_parts
from prunus.recipes.policies import final_ratio, of_batch
from prunus.recipes.schema import Policy, Prune, RegularizedLoop
from prunus.recipes.session import TRACED
from prunus.recipes.stages import make_regularizers
from prunus.training import first_inputs


def preview(opened: Opened) -> str:
    """Each policy's targets and what would be left of them, then the cost before and after.

    Which units go depends on the trained weights; how many does not, unless the allocation is global.
    Raises PrunusError as the run itself would: names, patterns, ratios, capture, nothing to prune.
    """
    recipe = opened.recipe
    parts = find_parts(recipe, opened.folders)
    model = parts.build_model().eval()
    example = tuple(x.to(parts.device) for x in first_inputs(parts.data.validation, "data.validation", TRACED))
    graph = trace(model, example, inexact=recipe.prune.inexact)
    policies, plans = recipe.prune.policies, list[Plan]()
    lines = [f"plan of {recipe.name or recipe.model.factory} (nothing is written)"]
    for number, policy in enumerate(policies):
        lines.append(_headline(policy))
        if policy.target is not None and len(policies) > 1:
            lines.append("  as much as meets it with what the other policies prune; the costs below are without it")
            continue
        with naming(f"prune.policies[{number}]"):
            plans.append(_plan(graph, policy))
        lines += [f"  {line}" for line in _changes(graph, plans[-1])]
    lines += _cost(graph, plans, model)
    lines += [line for stage in ("train", "prune") for line in _terms(stage, getattr(recipe, stage), graph, model)]
    return "\n".join([*lines, *_exactness(recipe.prune, graph, plans, model), *_frozen(graph)])


def _terms(stage: str, words: RegularizedLoop, graph: Graph, model: nn.Module) -> list[str]:
    """Which terms the loss of a stage gets, and over how many targets."""
    terms = make_regularizers(words, model, graph)
    found = [] if terms is None else [(item, terms.targets[item.name]) for item in terms.regularizers]
    return [f"{stage} adds {item} over {len(targets)} target{'s' * (len(targets) != 1)}" for item, targets in found]


def _plan(graph: Graph, policy: Policy) -> Plan:
    # Not the same units as in the run for a criterion that observes the model, but as many of them.
    rank = "l1" if criterion(policy.criterion).needs else policy.criterion
    return oneshot.plan(
        graph,
        ratio=None if policy.target is not None else final_ratio(policy),
        target=None if policy.target is None else of_batch(policy.target, graph),
        granularity=unpermuted(policy.granularity),
        criterion=rank,
        allocation=policy.allocation,
        targets=policy.targets,
        round_to=policy.round_to,
        max_ratio=policy.max_ratio,
    )


def _headline(policy: Policy) -> str:
    name = policy.name or policy.granularity
    aim = "" if policy.target is None else f", {policy.target}"
    return f"{name}: {policy.granularity} by {policy.criterion}, {policy.allocation}, {policy.schedule}{aim}"


def _changes(graph: Graph, plan: Plan) -> list[str]:
    groups = [
        f"{name}: keeps {left} of {graph[name].size} {units_of(graph[name])}" for name, left in plan.sizes.items()
    ]
    masks = [f"{name}: {1 - float(mask.double().mean()):.1%} zeros" for name, mask in plan.masks.items()]
    return groups + masks


def _cost(graph: Graph, plans: list[Plan], model: nn.Module) -> list[str]:
    left: dict[str, int] = {}
    for plan in plans:
        for name, size in plan.sizes.items():
            left[name] = min(size, left.get(name, size))
    before, after = graph.size(), graph.size(left)
    zeros = sum(int((~mask).sum()) for plan in plans for mask in plan.masks.values())
    lines = [
        f"{type(model).__name__}: parameters {before.params:,} -> {after.params:,} "
        f"({before.params / after.params:.2f}x fewer), MACs of one sample {before.macs // TRACED:,} -> "
        f"{after.macs // TRACED:,} ({before.macs / max(1, after.macs):.2f}x fewer)"
    ]
    return [*lines, f"and {zeros:,} zeros among the weights"] if zeros else lines


def _exactness(words: Prune, graph: Graph, plans: list[Plan], model: nn.Module) -> list[str]:
    """Say what is not simply removed: what is made up for, and where constants go."""
    names = dict.fromkeys(name for plan in plans for name in plan.sizes if graph[name].exactness != "exact")
    lines = [f"{name} is {exactness_of(graph.context, graph[name])}" for name in names]
    folded = [plan for plan in plans if words.fold_constants and plan.sizes]
    return [f"inexact: {words.inexact}", *lines, *(str(plan.folding(model)) for plan in folded)]


def _frozen(graph: Graph) -> list[str]:
    return [f"frozen: {item.param} dim {item.dim}: {item.reason}" for item in graph.frozen]
