"""The same case through Torch-Pruning at .5, declared as its documentation asks; prints one line of JSON.

    TORCH_PRUNING=folder python -m benchmarks.coverage.peer timm/resnet18

`TORCH_PRUNING` names a folder with the package (`pip install --no-deps --target folder torch-pruning==1.6.1`).

Declared for it: every layer whose outputs reach an output of the model is ignored (found by Prunus' graph, so none is
forgotten); attention projections with their number of heads, and packed gates, by the names that libraries give them;
bare parameters of shape (C, 1, 1) with their channel dimension. No pruners of our own are written for it. Afterwards
`num_heads`, `head_dim` and their like are set as its examples do. Two ways to treat heads are tried, thinner heads and
fewer heads, and the better result counts.

Each parameter carries the positions of its elements while it is cut, so that the dense model can be masked at the very
elements that went. A normalisation whose channels went takes its statistics over those that stay, in the masked model
too: without this every pruned LayerNorm would count as wrong. `norm` marks the cases that hold only so.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

sys.path.append(os.environ.get("TORCH_PRUNING", ""))

from benchmarks.coverage.measure import TOLERANCE, apart, num_parameters, outputs64, redrawn, tensors, train_one_step
from benchmarks.coverage.one import LEAST_REMOVED, Failed, build, verdict_of

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")
KV_HEADS = ("num_key_value_heads", "num_kv_heads")
QUERIES = ("qkv", "qkv_proj", "q_proj", "q", "query", "to_q", "query_key_value", "Wqkv", "c_attn", "q_lin", "to_qkv")
KEYS = ("k_proj", "v_proj", "k", "v", "key", "value", "kv", "to_k", "to_v", "to_kv", "k_lin", "v_lin")
PACKED = {"qkv": 3, "qkv_proj": 3, "query_key_value": 3, "Wqkv": 3, "c_attn": 3, "to_qkv": 3}
LAYERS = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
CLASSES, VOCABULARY = 10, 100  # of the cases; no hidden width is either
ORDER = ("ok", "norm", "little", "wrong", "crash")


def run_case(case: str) -> dict[str, Any]:
    """Try both ways to treat heads; the better one counts."""
    if case.startswith("timm/"):
        import_module("timm.layers").set_fused_attn(False)  # as in its example for timm: the scale stays as it was
    model, inputs = build(case)
    ignored = output_layers(model, inputs)
    tried = [attempt(model, inputs, ignored, whole_heads=whole) for whole in (False, True)]
    return {"case": case, "ratios": {"0.5": min(tried, key=lambda found: ORDER.index(found["status"]))}}


def attempt(dense: nn.Module, inputs: Any, ignored: list[str], *, whole_heads: bool) -> dict[str, Any]:
    """Prune a copy and compare it with the dense model masked at the same elements."""
    found: dict[str, Any] = {"status": "ok", "reason": "", "whole_heads": whole_heads}
    start, stage = time.perf_counter(), "prune"
    try:
        model = copy.deepcopy(dense)
        origins = prune_(model, inputs, ignored, whole_heads=whole_heads)
        found["seconds"] = round(time.perf_counter() - start, 2)
        found["removed"] = 1 - num_parameters(model) / num_parameters(dense)
        stage = "forward"
        new = redrawn(inputs, 5)
        got = outputs64(model, new)
        stage = "compare"
        strict, lenient = (apart(outputs64(masked(dense, model, origins, norms=n), new), got) for n in (False, True))
        if not lenient <= TOLERANCE:
            raise Failed("wrong", f"masked and pruned differ by {lenient:.1e}")
        stage = "train"
        train_one_step(copy.deepcopy(model), inputs)
        if found["removed"] < LEAST_REMOVED:
            raise Failed("little", f"only {found['removed']:.1%} of the parameters went")
        found["status"] = "ok" if strict <= TOLERANCE else "norm"
    except Exception as error:
        found.update(verdict_of(error, stage))
    return found


def prune_(model: nn.Module, inputs: Any, ignored: list[str], *, whole_heads: bool) -> dict[str, Tensor]:
    """Prune a model in place; return, for every parameter, the dense positions of the elements that are left."""
    import torch_pruning as tp

    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
        parameter.origin = torch.arange(parameter.numel()).reshape(parameter.shape)
    declared = declared_heads(model)
    heads = dict(declared)
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs=inputs,
        importance=tp.importance.MagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=0.5,
        ignored_layers=[modules[name] if name in modules else parameters[name] for name in ignored],
        num_heads=heads,
        out_channel_groups={m: 2 for name, m in modules.items() if name.endswith("gate_up_proj") and width(m)},
        in_channel_groups={},
        prune_num_heads=whole_heads,
        prune_head_dims=not whole_heads,
        head_pruning_ratio=0.5 if whole_heads else 0.0,
        unwrapped_parameters=[(p, 0) for p in parameters.values() if p.dim() == 3 and p.shape[1:] == (1, 1)],
        forward_fn=lambda net, given: net(*given[0], **given[1]),
        output_transform=lambda out: sum(y.abs().sum() for y in tensors(out) if y.requires_grad),
    )
    with tracked_positions(tp):
        for group in pruner.step(interactive=True):
            group.prune()
    follow_heads_(model, declared, heads)
    return {name: p.origin for name, p in model.named_parameters() if hasattr(p, "origin")}


def tracked_positions(tp: Any) -> Any:
    """Let its one cutting function cut the positions along."""
    base = tp.pruner.function.BasePruningFunc
    plain: Callable[..., nn.Parameter] = base._prune_parameter_and_grad

    def cut(self: Any, weight: nn.Parameter, keep: Any, dim: int) -> nn.Parameter:
        result = plain(self, weight, keep, dim)
        if hasattr(weight, "origin"):
            result.origin = weight.origin.index_select(dim, torch.as_tensor(keep, dtype=torch.long))
        return result

    return mock.patch.object(base, "_prune_parameter_and_grad", cut)


def output_layers(model: nn.Module, inputs: Any) -> list[str]:
    """Name the layers (and bare parameters) whose outputs reach an output of the model, heads by their width."""
    import prunus

    modules = dict(model.named_modules())
    heads = {name for name, m in modules.items() if width(m) in (CLASSES, VOCABULARY)}
    try:
        reached = {f.param for f in prunus.trace(model, *inputs).frozen if "output of the model" in f.reason}
    except prunus.PrunusError:
        return sorted(heads)
    owners = {name: name.rpartition(".")[0] for name in reached}
    return sorted(heads | {owner if isinstance(modules[owner], LAYERS) else name for name, owner in owners.items()})


def width(module: nn.Module) -> int:
    """Return the number of output channels of a linear layer or a convolution, or 0."""
    return number(module, ("out_features", "out_channels")) if isinstance(module, LAYERS) else 0


def declared_heads(model: nn.Module) -> dict[nn.Module, int]:
    """Find attention projections by the names that libraries give them, and their number of heads."""
    found: dict[nn.Module, int] = {}
    config = getattr(model, "config", None)
    for module in model.modules():
        heads = number(module, HEADS) or (config is not None and hasattr(module, "head_dim") and number(config, HEADS))
        if not heads:
            continue
        if isinstance(module, nn.MultiheadAttention):
            found[module] = heads
        grouped = number(module, KV_HEADS) or (hasattr(module, "num_key_value_groups") and number(config, KV_HEADS))
        for name, child in module.named_children():
            if name in QUERIES and isinstance(child, (nn.Linear, nn.Conv2d)):
                found[child] = heads
            elif name in KEYS and isinstance(child, (nn.Linear, nn.Conv2d)):
                found[child] = grouped or heads
    return found


def number(module: Any, names: tuple[str, ...]) -> int:
    """Return the first of some attributes that is a positive integer, or 0."""
    values = (getattr(module, name, 0) for name in names)
    return next((v for v in values if isinstance(v, int) and v > 0), 0)


def follow_heads_(model: nn.Module, before: dict[nn.Module, int], after: dict[nn.Module, int]) -> None:
    """Set the numbers that attention modules read, as the examples of Torch-Pruning do after pruning."""
    if hasattr(model, "hidden_dim") and hasattr(model, "conv_proj"):
        model.hidden_dim = model.conv_proj.out_channels  # torchvision's ViT, as in its example for torchvision
    for module in model.modules():
        for name, child in module.named_children():
            if child not in before or name not in QUERIES:
                continue
            width = child.weight.shape[0] // PACKED.get(name, 1)
            heads = after[child]
            for attribute in HEADS:
                if number(module, (attribute,)) == before[child]:
                    setattr(module, attribute, heads)
            if number(module, KV_HEADS):
                follow_kv_heads_(module, after, heads)
            for attribute in ("head_dim", "attention_head_size", "dim_per_head"):
                if hasattr(module, attribute):
                    setattr(module, attribute, width // heads)
            for attribute in ("all_head_size", "embed_dim", "inner_dim", "attn_dim", "split_size"):
                if number(module, (attribute,)):
                    setattr(module, attribute, width)


def follow_kv_heads_(module: nn.Module, after: dict[nn.Module, int], heads: int) -> None:
    """Set the numbers of grouped queries."""
    grouped = next((after[c] for n, c in module.named_children() if n in KEYS and c in after), heads)
    for attribute in KV_HEADS:
        if hasattr(module, attribute):
            setattr(module, attribute, grouped)
    if hasattr(module, "num_key_value_groups"):
        module.num_key_value_groups = heads // grouped


@torch.no_grad()
def masked(dense: nn.Module, pruned: nn.Module, origins: dict[str, Tensor], *, norms: bool) -> nn.Module:
    """Return the dense model with zeros where elements went; `norms`: see the top of this file."""
    model = copy.deepcopy(dense)
    for name, parameter in model.named_parameters():
        keep = torch.zeros(parameter.numel(), dtype=torch.bool)
        keep[origins[name].flatten()] = True
        parameter.masked_fill_(~keep.reshape(parameter.shape), 0)
    if norms:
        small = dict(pruned.named_modules())
        for name, module in model.named_modules():
            kept = origins.get(f"{name}.weight")
            if kept is not None and is_norm(module) and kept.numel() < module.weight.numel():
                module.forward = over_kept(small[name], kept, module.weight.numel(), channel_dim(module))
    return model


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module takes statistics over channels."""
    return "norm" in type(module).__name__.lower() and not isinstance(module, nn.modules.batchnorm._BatchNorm)


def channel_dim(norm: nn.Module) -> int:
    """Return the dimension of the channels in what a normalisation takes."""
    first = isinstance(norm, nn.GroupNorm) or "2d" in type(norm).__name__
    return 1 if first or getattr(norm, "data_format", "") == "channels_first" else -1


def over_kept(small: nn.Module, kept: Tensor, size: int, dim: int) -> Callable[[Tensor], Tensor]:
    """Return a forward that normalises the kept channels alone and leaves zeros at the others."""
    double = copy.deepcopy(small).double()

    def forward(x: Tensor) -> Tensor:
        y = double(x.index_select(dim, kept))
        shape = list(y.shape)
        shape[dim] = size
        return y.new_zeros(shape).index_copy(dim, kept, y)

    return forward


def main() -> None:
    """Run one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case")
    parser.add_argument("--screen", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps(run_case(options.case)))


if __name__ == "__main__":
    main()
