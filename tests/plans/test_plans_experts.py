"""Plans that remove whole experts: proved, in the user's class, saved, trained; transformers' mixtures as they are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import prunus
import torchvision_ops  # noqa: F401 - transformers imports torchvision
from axes.proving import assert_same, generic_, outputs
from axes.routers import EXPERTS, TOP, Mixture, closed, dense, dispatched, without
from prunus.axes import trace
from prunus.plans import GraphModel, verify
from prunus.plans.float64 import float64_code

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "vocab_size": 50,
    "pad_token_id": 0,
}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
}
GROUPED = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("num_local_experts", {}),
    "Qwen2Moe": ("num_experts", {"num_experts_per_tok": 2}),
    "Qwen3Moe": ("num_experts", {"num_experts_per_tok": 2, "norm_topk_prob": True}),
    "Olmoe": ("num_experts", {"num_experts_per_tok": 2}),
    "DeepseekV3": ("n_routed_experts", {"num_experts_per_tok": 2, **LATENT, **GROUPED}),
    "GptOss": ("num_local_experts", {"num_experts_per_tok": 2}),
}

ROUTERS = {"GptOss": "router"}


def tokens() -> Tensor:
    return torch.randint(3, 50, (4, 12), generator=torch.Generator().manual_seed(5))


class Shut(TorchFunctionMode):
    """Gives minus infinity to some experts wherever a linear map makes as many numbers as there are experts."""

    def __init__(self, experts: int, gone: Sequence[int]) -> None:
        super().__init__()
        self.experts, self.gone = experts, torch.tensor(gone)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is functional.linear and args[1].shape[0] == self.experts:
            return out.index_fill(-1, self.gone, -torch.inf)
        return out


@pytest.mark.parametrize("family", FAMILIES)
def test_families_lose_experts_as_if_their_logits_were_minus_infinity(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    count, settings = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**{**TINY, count: 12, **settings})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generic_(model)
    inputs = {"input_ids": tokens(), "use_cache": False}
    graph = trace(model, (), inputs)
    assert [g.name.rpartition(".")[2] for g in graph.groups if g.kind == "expert"] == [ROUTERS.get(family, "gate")]
    size = 6 if family == "DeepseekV3" else 12  # two groups of six, where a unit is one of each
    for share in (3, 2):
        gone = [expert for expert in range(12) if expert % size % share == 0]
        plan = without(graph, [expert for expert in gone if expert < size])
        proof, form = plan.prove(model)
        assert (proof.passed, form) == (True, "class")
        small = plan.apply(model, prove=False)
        assert getattr(small.config, count) == 12 - len(gone)
        masked = copy.deepcopy(model)
        for name, bias in masked.named_buffers():
            if name.endswith("e_score_correction_bias"):
                bias[gone] = -torch.inf  # the sigmoid of minus infinity is 0, which a bias may still lift
        with float64_code():
            with Shut(12, gone):
                want = outputs(masked, (), inputs)
            assert_same(want, outputs(small, (), inputs))
            assert float((want[0] - outputs(model, (), inputs)[0]).abs().max()) > 1e-3


def test_class_that_spells_its_experts_becomes_a_graph(tmp_path: Path) -> None:
    def spelled(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
        scores, chosen = logits.topk(TOP, dim=-1)
        hot = functional.one_hot(chosen, 6).to(x.dtype)
        hidden = torch.einsum("td,edh->teh", x, m.up).relu()
        return torch.einsum("te,teh,ehd->td", (hot * scores.unsqueeze(-1)).sum(1), hidden, m.down)

    model, x = generic_(Mixture(spelled)), torch.randn(40, 5)
    plan = without(trace(model, x), [0, 4])
    small = plan.apply(model)
    assert isinstance(small, GraphModel)
    assert_same(outputs(closed(model, [0, 4]), (x,)), outputs(small, (x,)))
    again = prunus.load(prunus.save(small, tmp_path / "m.prunus"), lambda: Mixture(spelled))
    torch.testing.assert_close(again(x), small(x))


def test_thinned_mixture_saves_loads_and_trains(tmp_path: Path) -> None:
    model, x = generic_(Mixture(dispatched)), torch.randn(40, 5)
    small = without(trace(model, x), [1, 3]).apply(model, fold_constants=True)
    assert_same(outputs(closed(model, [1, 3]), (x,)), outputs(small, (x,)))
    path = prunus.save(small, tmp_path / "m.prunus")
    again = prunus.load(path, lambda: Mixture(dispatched))
    torch.testing.assert_close(again(x), small(x))
    again(x).square().sum().backward()
    assert again.up.grad is not None
    assert again.up.grad.shape == (4, 8, 16)
    verdict = verify(model, path, x)  # which knows of zeros alone
    assert verdict.problem is not None
    assert "a router runs over fewer units" in verdict.problem


def test_experts_stay_unless_they_are_asked_for_and_never_fewer_than_are_chosen() -> None:
    graph = trace(generic_(Mixture(dispatched)), torch.randn(40, 5))
    assert set(prunus.plan(graph, ratio=0.5).sizes) == {"i", "up"}
    assert prunus.plan(graph, ratio=0.5, targets={"kind": "expert"}).sizes == {"router": 3}
    assert prunus.plan(graph, ratio=0.9, targets="router").sizes == {"router": TOP}
    both = prunus.plan(graph, ratio=0.5, targets={"kind": ["expert", "feature"]})
    assert set(both.sizes) == {"router", "i", "up"}
    assert both.prove(graph.model)[0].passed
    assert "router: keeps 3 of 6 experts (exact: no router can choose what is removed; 4 members" in both.explain()


def test_counts_beside_the_tensors_follow_only_where_all_mixtures_lose_alike() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_experts = EXPERTS
            self.a, self.i, self.b = Mixture(dense), nn.Linear(3, 5), Mixture(dense)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.i(self.a(x)))

    model = generic_(Two())
    graph = trace(model, torch.randn(40, 5))
    alike = without(graph, [0, 4]).apply(model)
    assert (alike.num_experts, alike.a.num_experts, alike.b.num_experts) == (4, 4, 4)
    kept = {"a.router": torch.arange(4), "b.router": torch.arange(3)}
    apart = prunus.Plan(graph, kept).apply(model)
    assert (apart.num_experts, apart.a.num_experts, apart.b.num_experts) == (EXPERTS, 4, 3)
    assert model.num_experts == EXPERTS
