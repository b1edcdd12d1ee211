"""torchvision's architectures: thinned, proved, trained for one step, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import torchvision_ops  # noqa: F401 - has to come before torchvision
from axes.proving import assert_same, generic_, outputs, redrawn
from prunus.axes import Graph, trace
from prunus.oneshot import plan
from prunus.plans import load, record_of, save

models = pytest.importorskip("torchvision.models")

# name -> (arguments, extent of the image). Aux heads run in training alone, so the examples never reach them.
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "alexnet": ({}, 96),
    "convnext_tiny": ({}, 64),
    "densenet121": ({}, 64),
    "efficientnet_b0": ({}, 64),
    "googlenet": ({"aux_logits": False, "init_weights": False}, 96),
    "inception_v3": ({"aux_logits": False, "init_weights": False}, 128),
    "mnasnet0_5": ({}, 64),
    "mobilenet_v2": ({}, 64),
    "mobilenet_v3_small": ({}, 64),
    "regnet_x_400mf": ({}, 64),
    "regnet_y_400mf": ({}, 64),
    "resnet18": ({}, 64),
    "resnext50_32x4d": ({}, 64),
    "shufflenet_v2_x0_5": ({}, 64),
    "squeezenet1_1": ({}, 64),
    "swin_t": ({}, 64),
    "vgg11_bn": ({}, 64),
    "vit_b_16": ({"image_size": 64}, 64),
}
# One of each kind of coupling, and small: what CI has the time for.
IN_CI = (
    "densenet121", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_1", "swin_t",
)  # fmt: skip
TRACES: dict[str, tuple[nn.Module, Graph, Tensor]] = {}


def build(name: str) -> nn.Module:
    return getattr(models, name)(weights=None, num_classes=10, **MODELS[name][0])


def traced(name: str) -> tuple[nn.Module, Graph, Tensor]:
    """Build and trace once; a model at a time, since some are large."""
    if name not in TRACES:
        TRACES.clear()
        torch.manual_seed(0)
        model = generic_(build(name)) if name not in ("convnext_tiny", "swin_t", "vit_b_16") else build(name)
        if name == "vit_b_16":
            nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero: every output would be equal
        x = torch.randn(2, 3, MODELS[name][1], MODELS[name][1])
        TRACES[name] = model, trace(model, x), x
    return TRACES[name]


def train_one_step(model: nn.Module, x: Tensor) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    sum(y.float().square().mean() for y in pytree.tree_leaves(model(x))).backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.ci_slow) if name in IN_CI else name for name in MODELS]
)
def test_torchvision_model_is_thinned_rightly(name: str, ratio: float, tmp_path: Path) -> None:
    """A fifth of the parameters goes; the rest computes, trains and reloads as the masked model would."""
    model, graph, x = traced(name)
    made = plan(graph, ratio=ratio)
    small = made.apply(model).eval()
    record = record_of(small)
    assert record is not None
    assert record.proof is not None
    assert record.proof.passed
    new = redrawn((x,), 5)
    assert_same(outputs(made.mask(model), new), outputs(small, new))
    dense, left = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert left == graph.size(made.sizes).params
    if ratio == 0.5:
        assert left <= 0.8 * dense
    path = save(small, tmp_path / "small.prunus")
    again = load(path, lambda: build(name))
    with torch.no_grad():
        assert torch.equal(small(x), again(x))
    train_one_step(small, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("googlenet", marks=pytest.mark.ci_slow), "inception_v3"])
def test_heads_that_run_in_training_alone_still_fit(name: str) -> None:
    """The examples, run in eval mode, never reach the aux heads; what feeds them must not lose channels unseen."""
    torch.manual_seed(0)
    extent = 96 if name == "googlenet" else 299
    model = getattr(models, name)(weights=None, num_classes=10, aux_logits=True, init_weights=False)
    x = torch.randn(2, 3, extent, extent)
    small = plan(trace(model, x), ratio=0.3).apply(model)
    train_one_step(small, x)
