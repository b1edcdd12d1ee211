"""Import this before torchvision: `import torchvision_ops` makes its models importable beside a CPU-only torch.

torchvision's wheel brings C++ operators that need CUDA's libraries. Where they do not load, the Python side of
torchvision fails on import with `operator torchvision::nms does not exist`. No model for classification runs these
operators; their names only have to be known, so they are declared here without an implementation.

Where torchvision is not installed, nothing happens: use `pytest.importorskip("torchvision")` after this import.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_BOX = "Tensor grad, Tensor rois"
_SIZE = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_INPUT = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_DEFORM = (
    "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, "
    "bool use_mask"
)
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, Tensor rois, {_SIZE}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward({_BOX}, {_SIZE}, {_INPUT}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool(Tensor input, Tensor rois, {_SIZE}) -> (Tensor, Tensor)",
    f"_roi_pool_backward({_BOX}, Tensor argmax, {_SIZE}, {_INPUT}) -> Tensor",
    f"ps_roi_align(Tensor input, Tensor rois, {_SIZE}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward({_BOX}, Tensor channel_mapping, {_SIZE}, int sampling_ratio, {_INPUT}) -> Tensor",
    f"ps_roi_pool(Tensor input, Tensor rois, {_SIZE}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward({_BOX}, Tensor channel_mapping, {_SIZE}, {_INPUT}) -> Tensor",
    f"deform_conv2d({_DEFORM}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def _operators_load(package: Path) -> bool:
    """Whether torchvision's own library can be loaded; loading it again later does no harm."""
    libraries = [*package.glob("_C*.so"), *package.glob("_C*.pyd")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return bool(libraries)


def _declare() -> torch.library.Library | None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _operators_load(Path(spec.origin).parent):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    return library


# Kept for as long as the process runs: torch forgets the declarations of a library that is collected.
LIBRARY = _declare()
