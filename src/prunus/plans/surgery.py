"""Cut tensors out of a module: parameters keep their identity, optimizer state and module numbers follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.axes import Surgery
from prunus.errors import InputError
from prunus.plans.changes import Changes, gradient_of

Cut = Mapping[int, NDArray[Any]]

# What tells the shape of a module's weight: itself, the tensor that torch computes it from, or a norm's statistics.
_WEIGHTS = (
    "weight",
    "parametrizations.weight.original",
    "parametrizations.weight.original1",
    "weight_orig",  # before weight_v, which spectral_norm has as well
    "weight_v",
    "running_mean",
)


def cut(tensor: Tensor, edit: Cut) -> Tensor:
    """Return the kept positions of a tensor, dimension by dimension, laid out in memory in the tensor's own order."""
    smaller = tensor
    for dim, positions in edit.items():
        smaller = smaller.index_select(dim, torch.from_numpy(positions).to(tensor.device))
    if tensor.layout is not torch.strided:  # the sparse gradient of an embedding
        return smaller
    strides = _strides_like(tensor, smaller.shape)
    out = torch.empty_strided(smaller.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return out.copy_(smaller)


def _strides_like(tensor: Tensor, shape: torch.Size) -> list[int]:
    """Return dense strides in the order of `tensor`'s, so that channels_last stays what kernels recognise.

    Dimensions of size 1 go behind others of their stride: a one-channel stem in channels_last is (9, 1, 3, 1), and
    as (9, 9, 3, 1) it made the whole net run a fifth slower.
    """
    order = sorted(range(tensor.dim()), key=lambda i: (tensor.stride(i), tensor.shape[i] != 1, -i))
    strides, step = [0] * tensor.dim(), 1
    for dim in order:
        strides[dim] = step
        step *= shape[dim]
    return strides


def keep_mask(shape: torch.Size, edit: Cut) -> Tensor:
    """Return a boolean mask, True where no dimension removes the element."""
    mask = torch.ones(shape, dtype=torch.bool)
    for dim, positions in edit.items():
        line = torch.zeros(shape[dim], dtype=torch.bool)
        line[torch.from_numpy(positions)] = True
        mask &= line.view([-1 if i == dim else 1 for i in range(len(shape))])
    return mask


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer under each of its names, ties included."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


@torch.no_grad()
def thin_(
    model: nn.Module,
    surgery: Surgery,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    also: Sequence[nn.Module] = (),
) -> None:
    """Cut a model's tensors in place, with gradients and optimizer state, and set the numbers that modules hold.

    masks: parameter -> boolean in the shape after the cut; False is zeroed. also: models of the same tensors that are
    cut alike. Everything is computed before anything is set, and an error leaves all of them as they were.
    """
    changes = [_changes(each, surgery, masks or {}) for each in (model, *also)]
    state = named_state(model)
    slots = _cut_optimizer(optimizer, {state[name]: edit for name, edit in surgery.edits.items()})
    Changes.joined([*changes, Changes(slots=slots)]).make_()


def _changes(model: nn.Module, surgery: Surgery, masks: Mapping[str, Tensor]) -> Changes:
    state = named_state(model)
    places = {name: (tensor.data_ptr() or name, tensor.shape, tensor.stride()) for name, tensor in state.items()}
    masked = {places[name]: mask for name, mask in masks.items()}
    smaller: dict[tuple[object, ...], Tensor] = {}
    found: dict[Tensor, tuple[Tensor, Tensor | None]] = {}
    for name, tensor in state.items():
        edit, mask = surgery.edits.get(name), masked.get(places[name])
        if tensor in found or (edit is None and mask is None):
            continue
        if places[name] not in smaller:  # parameters that share memory go on sharing it
            small = cut(tensor.detach(), edit or {})
            smaller[places[name]] = small if mask is None else small.masked_fill_(~mask.to(small.device), 0)
        gradient = gradient_of(tensor)
        found[tensor] = smaller[places[name]], None if gradient is None else cut(gradient, edit or {})
    return Changes(found, numbers=_numbers(model, surgery))


def _cut_optimizer(
    optimizer: torch.optim.Optimizer | None, edits: Mapping[Tensor, Cut]
) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Cut state tensors that extend along a parameter's dimensions: full moments, and factored ones of size 1.

    Raises InputError for state in any other shape, such as LBFGS's flat history, and for another model's optimizer.
    """
    if optimizer is None:
        return []
    if edits and not any(p in edits for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            f"the {type(optimizer).__name__} given holds none of the parameters that are cut; pass this model's own"
        )
    found = []
    for parameter, edit in edits.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or value.numel() <= 1:
                continue
            if isinstance(optimizer, torch.optim.LBFGS) or not _extends_along(value, parameter):
                raise InputError(
                    f"{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for a parameter of shape "
                    f"{tuple(parameter.shape)}, which cannot be cut along; thin first, then build a new optimizer"
                )
            own = {dim: kept for dim, kept in edit.items() if value.shape[dim] == parameter.shape[dim]}
            found.append((optimizer.state[parameter], key, cut(value, own)))
    return found


def _extends_along(value: Tensor, parameter: Tensor) -> bool:
    pairs = zip(value.shape, parameter.shape, strict=False)
    return value.dim() == parameter.dim() and all(own in (1, size) for own, size in pairs)


def _numbers(model: nn.Module, surgery: Surgery) -> list[tuple[nn.Module, str, Any]]:
    """List the attributes that must change: those that operations read, and those that describe the weights."""
    out: list[tuple[nn.Module, str, Any]] = []
    groups: dict[str, int] = {}
    for path, (before, after) in surgery.attributes.items():
        owner, _, attribute = path.rpartition(".")
        module = model.get_submodule(owner)
        if getattr(module, attribute, None) == before:
            out.append((module, attribute, after))
            groups[path] = after
    shapes = {name: _shape_after(tensor, surgery.edits.get(name)) for name, tensor in named_state(model).items()}
    for owner in dict.fromkeys(map(_owner, surgery.edits)):
        prefix = f"{owner}." if owner else ""
        own = {name: shapes[prefix + name] for name in _WEIGHTS if prefix + name in shapes}
        module = model.get_submodule(owner)
        split = groups.get(f"{prefix}groups", getattr(module, "groups", 1))
        out.extend((module, attribute, value) for attribute, value in _described(module, own, split).items())
    return out


def _owner(name: str) -> str:
    """Return the path of the module that a tensor describes; a parametrization describes the one it belongs to."""
    outside, _, inside = name.partition("parametrizations.")
    return outside.rstrip(".") if inside else name.rpartition(".")[0]


def _shape_after(tensor: Tensor, edit: Cut | None) -> tuple[int, ...]:
    return tuple(len(edit[i]) if edit and i in edit else n for i, n in enumerate(tensor.shape))


def _described(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], groups: int) -> dict[str, Any]:
    """Return torch's own numbers about a module as they follow from the shapes of its tensors."""
    weight = next((shapes[name] for name in _WEIGHTS if name in shapes), ())
    if not weight:
        return {}
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.transposed:
            return {"in_channels": weight[0], "out_channels": weight[1] * groups}
        return {"in_channels": weight[1] * groups, "out_channels": weight[0]}
    if isinstance(module, nn.Linear):
        return {"in_features": weight[1], "out_features": weight[0]}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {"num_features": weight[0]}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(weight)}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": weight[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight[0]}
    return {}


def check_same_model(model: nn.Module, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError, naming the first difference, unless the model has the tensors that were traced."""
    have = {name: tuple(tensor.shape) for name, tensor in named_state(model).items()}
    for name, shape in expected.items():
        if name not in have:
            raise InputError(f"the model has no tensor {name}, which the traced one had; trace this model itself")
        if have[name] != shape:
            raise InputError(
                f"{name} has shape {have[name]} where the traced model had {shape}; the plan was made for another "
                "model or has been applied already: trace this model itself"
            )
