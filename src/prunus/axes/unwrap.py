"""From what a user holds to the module that can be cut: wrappers come off, what has no plain weights is refused."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from prunus.errors import InputError

_COMPILED = "_orig_mod"  # torch.compile's wrapper, known by its child: importing torch._dynamo takes a second
_QUANTISED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.qat",
    "torch.ao.nn.intrinsic.qat",
    "torch.ao.quantization.fake_quantize",
)


def unwrapped(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Return the plain module inside `torch.compile`, `nn.DataParallel`, `DistributedDataParallel`, `AveragedModel`.

    It is the same object that the wrapper holds, with its own names; any other module is returned as it is.
    inplace: whether its tensors are about to change their sizes under the wrapper.
    Raises InputError for what is no module (a function, an exported program) and for a wrapper that cannot follow.
    """
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise InputError(f"got {kind} instead of a torch.nn.Module; pass the module that holds the weights")
    while True:
        if inplace and isinstance(model, DistributedDataParallel):
            raise InputError(
                "DistributedDataParallel keeps gradient buckets of the old sizes, so what it holds cannot be thinned "
                "in place; thin its .module, then wrap that again"
            )
        if _COMPILED in model._modules:
            model = model.get_submodule(_COMPILED)
        elif isinstance(model, (nn.DataParallel, DistributedDataParallel, AveragedModel)):
            model = model.module
        else:
            return model


def check_cuttable(model: nn.Module) -> None:
    """Raise InputError for a module whose weights cannot be cut as they are, with what to do first."""
    if "train" in vars(model):  # torch.export puts a refusal in its place
        raise InputError(
            f"{type(model).__name__} was made by torch.export and cannot change between train and eval; pass the "
            "module that was exported"
        )
    for path, module in model.named_modules():
        name = f"{path} ({type(module).__name__})" if path else type(module).__name__
        _check_kind(name, module)
        _check_pruning_hooks(path, module)
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(f"{path} has no shape yet; run the model once on example inputs, then trace it")
        if tensor.is_meta:
            raise InputError(f"{path} is on the meta device and has no values to score; load the weights first")
        if type(tensor).__name__ == "DTensor":  # by name: importing torch.distributed.tensor is heavy
            raise InputError(f"{path} is sharded over devices; thin the whole model first, then shard it")


def _check_kind(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(f"{name} is a TorchScript module, which cannot be captured; pass the module it was made from")
    if {"FullyShardedDataParallel", "FSDPModule"} & {kind.__name__ for kind in type(module).__mro__}:
        raise InputError(f"{name} is sharded by FSDP; thin the whole model first, then shard it")
    if type(module).__module__.startswith(_QUANTISED):
        raise InputError(f"{name} is quantised; thin the floating-point model first, then quantise it")


def _check_pruning_hooks(path: str, module: nn.Module) -> None:
    """Refuse weights that a hook of `torch.nn.utils.prune` computes anew in each forward: a cut would not last."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            name = f"{path}.{hook._tensor_name}".lstrip(".")
            raise InputError(
                f"{name} is masked by torch.nn.utils.prune; make it permanent first: "
                f"torch.nn.utils.prune.remove(model.get_submodule({path!r}), {hook._tensor_name!r})"
            )


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy, also of a model that holds results of its last forward: they are copied without history.

    What users hang on parameters (`weight.no_decay = True`) goes along, which torch's own copy leaves behind.
    """
    held = pytree.tree_leaves([vars(module) for module in model.modules()])
    memo = {id(x): x.detach().clone() for x in held if isinstance(x, Tensor) and not x.is_leaf}
    copy_of_model = copy.deepcopy(model, memo)
    for own, other in zip(model.parameters(), copy_of_model.parameters(), strict=True):
        vars(other).update(copy.deepcopy(vars(own), memo))
    return copy_of_model
