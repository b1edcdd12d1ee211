"""`.prunus` files: one safetensors file whose header holds the plan as JSON. Reading one executes nothing."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunus.axes import Scale, Surgery, trace, unwrapped
from prunus.errors import FileError, InputError
from prunus.plans.graph_model import thinned_graph
from prunus.plans.proof import Proof
from prunus.plans.record import Record, Step, as_arrays, attach, example_inputs, record_of
from prunus.plans.surgery import check_same_model, thin_
from prunus.plans.tensors import named_state

FORMAT = 1
_HEADER = "prunus"
_MASK = "prunus.mask/"


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a model's weights, and the plan that thinned it, to one file.

    model: any module; one that Prunus thinned keeps its plan, masks and proof. Tied tensors are written once. Of one
        in `torch.compile`, `nn.DataParallel` or `DistributedDataParallel`, the plain module inside is written.
    The file is complete or absent: it is written beside its place and then renamed.
    Raises FileError where the folder cannot be written.
    """
    path, model = Path(path), unwrapped(model)
    record = record_of(model)
    state = {name: t.detach() for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    tensors, ties = _untied(state)
    header = {"format": FORMAT, "class": _class_name(model), "ties": ties, "plan": None}
    if record is not None:
        header["plan"] = _plan_as_json(record)
        tensors.update({_MASK + name: _pack(mask) for name, mask in record.masks.items()})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, metadata={_HEADER: json.dumps(header)})
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())  # safetensors writes for the owner only
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # where the folder is a file, even looking for the rest fails
            partial.unlink(missing_ok=True)
        raise FileError(f"cannot write {path}: {error}; choose a folder that exists and can be written") from error
    return path


def load(path: str | os.PathLike[str], factory: Callable[[], nn.Module] | nn.Module) -> nn.Module:
    """Rebuild a saved model: build the dense class, cut it as the plan says, load the weights.

    factory: a function without arguments that returns the dense model, or a fresh dense model, which is changed.
    Returns the model in eval mode; no code in the file is run, and nothing is traced unless the result was a graph.
    Raises FileError, naming the tensor, where the file is damaged or the factory builds another model.
    """
    record, weights, name = read(path)
    model = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(model, nn.Module):
        raise InputError(f"the factory returned {type(model).__name__}, not a torch.nn.Module")
    if record is not None:
        model = _cut_like_file(model, record, path)
        attach(model, record)
    _follow_dtypes_(model, weights)
    named = OrderedDict(weights)
    named._metadata = getattr(model.state_dict(), "_metadata", None)  # type: ignore[attr-defined]  # modules' versions
    try:
        model.load_state_dict(named, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise FileError(f"{path} holds {name}, which does not fit {_class_name(model)}: {reason}") from error
    return model.eval()


def read(path: str | os.PathLike[str]) -> tuple[Record | None, dict[str, Tensor], str]:
    """Return what a file holds without building a model: the record, the weights under all their names, the class.

    The record is None where the model was never thinned. Raises FileError where the file is damaged.
    """
    header, tensors = _read(Path(path))
    try:
        record = _plan_from_json(header["plan"], tensors) if header["plan"] is not None else None
        weights = {name: t for name, t in tensors.items() if not name.startswith(_MASK)}
        weights.update({name: weights[first] for name, first in header["ties"].items()})
        return record, weights, str(header["class"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path} is damaged: its header does not hold together at {error}; save it again") from error


def _cut_like_file(model: nn.Module, record: Record, path: Any) -> nn.Module:
    try:
        check_same_model(model, record.shapes)
        return rebuilt(model, record)
    except (InputError, AttributeError, KeyError, IndexError) as error:
        raise FileError(f"{path} was saved from another model: {error}") from error


def rebuilt(model: nn.Module, record: Record, prepare: Callable[[Any], Any] = lambda inputs: inputs) -> nn.Module:
    """Repeat on a dense model, in place, what the record says: cut its class, or capture it and cut its graph.

    prepare: what becomes of the inputs that a graph is captured with.
    Raises InputError where this model's structure does not allow these cuts.
    """
    for step in record.steps:
        if step.form == "class":
            thin_(model, step.surgery)
            continue
        assert step.inputs is not None
        graph = trace(model, *prepare(example_inputs(step.inputs)), inexact=step.policy)
        model = thinned_graph(model, graph, graph.surgery(graph.kept_by(step.surgery.edits)))
    return model


def _follow_dtypes_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the model's floating tensors the dtypes in the file: a bfloat16 model comes back as one."""
    for name, tensor in named_state(model).items():
        if name in weights and tensor.is_floating_point() and weights[name].is_floating_point():
            tensor.data = tensor.data.to(weights[name].dtype)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"{path} is damaged or not a Prunus file: {error}") from error
    if text is None:
        raise FileError(f"{path} is a safetensors file but holds no Prunus header; load it with safetensors instead")
    try:
        header = json.loads(text)
        version = header.get("format")
    except (ValueError, AttributeError) as error:
        raise FileError(f"{path} is damaged: its header is no JSON object") from error
    if version != FORMAT:
        raise FileError(f"{path} has format {header.get('format')}; this version reads {FORMAT}: upgrade prunus")
    return header, tensors


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    tensors, ties = {}, {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and key in first:
            ties[name] = first[key]
            continue
        first[key] = name
        tensors[name] = tensor.contiguous().clone()
    return tensors, ties


def _plan_as_json(record: Record) -> dict[str, Any]:
    pool: dict[tuple[int, ...], int] = {}
    steps = [_step_as_json(step, pool) for step in record.steps]
    return {
        "kept": {name: list(positions) for name, positions in record.kept.items()},
        "sizes": dict(record.sizes),
        "positions": [list(p) for p in pool],
        "steps": steps,
        "shapes": {name: list(shape) for name, shape in record.shapes.items()},
        "masks": {name: list(mask.shape) for name, mask in record.masks.items()},
        "provenance": dict(record.provenance),
        "proof": record.proof.to_dict() if record.proof else None,
        "inexact": record.inexact,
    }


def _step_as_json(step: Step, pool: dict[tuple[int, ...], int]) -> dict[str, Any]:
    """Describe a step; lists of positions go into the pool, since many tensors share one."""
    surgery = step.surgery
    edits = {
        name: {dim: pool.setdefault(tuple(p.tolist()), len(pool)) for dim, p in edit.items()}
        for name, edit in surgery.edits.items()
    }
    scales = {}
    for name, scale in surgery.scales.items():
        rows = None if scale.rows is None else pool.setdefault(tuple(scale.rows.tolist()), len(pool))
        scales[name] = [scale.factor, scale.offset, scale.dim, rows]
    return {
        "edits": edits,
        "attributes": {name: list(pair) for name, pair in surgery.attributes.items()},
        "dropped": {name: list(how) for name, how in surgery.dropped.items()},
        "scales": scales,
        "spared": [list(pair) for pair in sorted(surgery.spared)],
        "form": step.form,
        "inputs": step.inputs,
        "policy": step.policy,
    }


def _plan_from_json(plan: dict[str, Any], tensors: Mapping[str, Tensor]) -> Record:
    return Record(
        steps=tuple(_step_from_json(step, plan["positions"]) for step in plan["steps"]),
        kept={name: tuple(positions) for name, positions in plan["kept"].items()},
        sizes=plan["sizes"],
        shapes={name: tuple(shape) for name, shape in plan["shapes"].items()},
        masks={name: _unpack(tensors[_MASK + name], shape) for name, shape in plan["masks"].items()},
        provenance=plan["provenance"],
        proof=Proof.from_dict(plan["proof"]) if plan["proof"] else None,
        inexact=plan["inexact"],
    )


def _step_from_json(step: dict[str, Any], pool: list[list[int]]) -> Step:
    edits = {n: {d: pool[i] for d, i in edit.items()} for n, edit in step["edits"].items()}
    attributes = {name: (before, after) for name, (before, after) in step["attributes"].items()}
    dropped = {name: (takes, wraps) for name, (takes, wraps) in step["dropped"].items()}
    scales = {
        name: Scale(factor, offset, dim, None if rows is None else np.asarray(pool[rows], dtype=np.int64))
        for name, (factor, offset, dim, rows) in step["scales"].items()
    }
    spared = frozenset((name, dim) for name, dim in step["spared"])
    surgery = Surgery(as_arrays(edits), attributes, scales, dropped, spared=spared)
    return Step(surgery, step["form"], step["inputs"], step["policy"])


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def _unpack(bits: Tensor, shape: list[int]) -> Tensor:
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool).reshape(shape))


def _class_name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
