"""REAP against the definition: gates and experts computed by hand, whatever way the mixture goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import prunus
import torchvision_ops  # noqa: F401 - transformers imports torchvision
from axes.proving import generic_
from axes.routers import (
    EXPERTS,
    TOP,
    Mix,
    dense,
    dense_batched,
    dispatched,
    scattered,
    sorted_by_expert,
    switch,
)
from criteria_tables import scores_of
from prunus.criteria import collect_for, criterion, score_target
from prunus.errors import InputError
from prunus.granularity import group_targets
from prunus.plans import named_state
from prunus.statistics import Calibration

RAW = "reap(normalise=none, join=first)"
ASKED = {"kind": "expert"}


class Experts(nn.Module):
    """The mixture by itself."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.num_experts, self.mix, self.router = EXPERTS, mix, nn.Linear(8, EXPERTS)
        self.up, self.down = nn.Parameter(torch.randn(EXPERTS, 8, 16)), nn.Parameter(torch.randn(EXPERTS, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self, x, self.router(x))


class Net(nn.Module):
    """Between two maps, beside a residual stream and before a norm: none of which is the experts' own."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.i, self.moe, self.norm, self.o = nn.Linear(5, 8), Experts(mix), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        return self.o(self.norm(x + self.moe(x)))


def gates(mix: Mix, logits: Tensor) -> Tensor:
    """(T, E), zero where a token does not go."""
    if mix in (dense, dense_batched):
        return logits.softmax(1)
    rank = logits.argsort(1, descending=True).argsort(1)
    if mix is switch:
        return logits.softmax(1) * (rank == 0)
    if mix is sorted_by_expert:
        return logits.sigmoid() * (rank == 0)
    best = logits.exp() * (rank < TOP)
    return best / best.sum(1, keepdim=True)


def by_definition(gate: Tensor, outputs: Tensor) -> Tensor:
    """gate (T, E), outputs (T, E, D)."""
    return torch.stack(
        [(gate[:, e] * outputs[:, e].norm(dim=1))[gate[:, e] > 0].mean() for e in range(gate.shape[1])]
    ).nan_to_num(0)


def batches(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(40, 5, generator=generator), torch.randn(24, 5, generator=generator)]


@pytest.mark.parametrize("mix", [dense, dense_batched, switch, dispatched, scattered, sorted_by_expert])
def test_reap_is_the_mean_of_gate_times_norm_over_the_experts_own_tokens(mix: Mix) -> None:
    if mix is sorted_by_expert and not hasattr(functional, "grouped_mm"):
        pytest.skip("this torch has no grouped product")
    model, data = generic_(Net(mix)), batches()
    graph = prunus.trace(model.bfloat16() if mix is sorted_by_expert else model, data[0].to(model.i.weight.dtype))
    if mix is not sorted_by_expert:
        model.double()
    data = [x.to(model.i.weight.dtype) for x in data]
    (target,) = group_targets(graph, "filter", ASKED, model=model)
    rank = criterion(RAW)
    found = score_target(target, named_state(model), rank, collect_for(model, rank, [target], Calibration(data)))

    with torch.no_grad():
        x = model.i(torch.cat(data))
        outputs = torch.einsum("td,edh->teh", x, model.moe.up).relu()
        outputs = torch.einsum("teh,ehd->ted", outputs, model.moe.down)
        expected = by_definition(gates(mix, model.moe.router(x)).double(), outputs.double())
    tolerance = {"rtol": 0.03, "atol": 0.0} if mix is sorted_by_expert else {}
    torch.testing.assert_close(found.double(), expected, **tolerance)


def test_experts_without_tokens_go_first_and_the_model_runs_as_before() -> None:
    model, data = generic_(Net(dispatched)), batches()
    with torch.no_grad():
        model.moe.router.bias.copy_(torch.tensor([0.0, -100, 0, 0, -100, 0]))
        used = model.moe.router(model.i(torch.cat(data))).topk(TOP).indices.unique().tolist()
    before = model(data[0])
    graph = prunus.trace(model, data[0])
    plan = prunus.plan(graph, ratio=1 - len(used) / EXPERTS, criterion="reap", targets=ASKED, data=data)
    assert plan.kept["moe.router"].tolist() == used
    assert TOP < len(used) < EXPERTS
    small = plan.apply(model)
    torch.testing.assert_close(small(data[0]), before)
    assert torch.equal(model(data[0]), before)


@pytest.mark.parametrize("family", ["Mixtral", "GptOss", "DeepseekV3"])
def test_mixtures_of_transformers_are_scored_without_padding(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    from plans.test_plans_experts import FAMILIES, TINY

    count, settings = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**{**TINY, count: 12, **settings})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generic_(model)
    ids = torch.randint(3, 50, (4, 12), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1:, 9:] = 0
    graph = prunus.trace(model, (), {"input_ids": ids, "use_cache": False})
    data = [{"input_ids": ids, "attention_mask": mask, "use_cache": False}]
    (found,) = scores_of(model, RAW, data, granularity="filter", graph=graph, targets=ASKED).values()

    read: dict[str, Any] = {}
    experts = model.get_submodule("model.layers.0.mlp.experts")
    handle = experts.register_forward_pre_hook(lambda _, args: read.update(x=args[0], chosen=args[1], weight=args[2]))
    with torch.no_grad():
        model(**data[0])
        handle.remove()
        x = read["x"].reshape(-1, 16)
        gate = torch.zeros(len(x), 12)
        weight = read["weight"]
        gate.scatter_(1, read["chosen"], weight)
        outputs = torch.stack([_one(experts, x, expert) for expert in range(12)], dim=1)
    real = mask.bool().reshape(-1)
    expected = by_definition(gate[real], outputs[real])
    if family == "DeepseekV3":  # a unit is one expert of each of two groups
        expected = expected.reshape(2, 6).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def _one(experts: nn.Module, x: Tensor, expert: int) -> Tensor:
    """What one expert returns for every token, spelled as the families' own code does."""
    up, down = experts.gate_up_proj[expert], experts.down_proj[expert]
    if hasattr(experts, "gate_up_proj_bias"):  # GptOss: transposed, interleaved, clamped
        both = x @ up + experts.gate_up_proj_bias[expert]
        gate, linear = both[:, ::2].clamp(max=experts.limit), both[:, 1::2].clamp(-experts.limit, experts.limit)
        hidden = (linear + 1) * gate * torch.sigmoid(gate * experts.alpha)
        return hidden @ down + experts.down_proj_bias[expert]
    gate, linear = (x @ up.T).chunk(2, dim=1)
    return (functional.silu(gate) * linear) @ down.T


def test_modules_that_do_more_than_sum_the_experts_are_refused_by_name() -> None:
    class Normed(Experts):
        def forward(self, x: Tensor) -> Tensor:
            return functional.layer_norm(super().forward(x), (8,))

    model, data = generic_(Net(dense)), batches()
    model.moe = generic_(Normed(dense))
    graph = prunus.trace(model, data[0])
    with pytest.raises(InputError, match=r"reap: moe\.router: .*shares do not add up to what Normed returns"):
        prunus.plan(graph, ratio=0.5, criterion="reap", targets=ASKED, data=data)


def test_reap_of_what_is_no_expert_says_what_to_ask_for() -> None:
    model, data = generic_(Net(dense)), batches()
    graph = prunus.trace(model, data[0])
    with pytest.raises(InputError, match=r"no expert of a mixture is its unit.*targets of kind expert"):
        prunus.plan(graph, ratio=0.5, criterion="reap", data=data)
