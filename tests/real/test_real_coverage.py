"""The architectures of the coverage sweep at .5: thinned, proved, checked on other inputs, trained, reloaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

for library in ("torchvision", "timm", "transformers"):
    pytest.importorskip(library) if library != "torchvision" else pytest.importorskip("torchvision_ops")

from benchmarks.coverage.cases import names  # noqa: E402 - after the skips
from benchmarks.coverage.one import run_case  # noqa: E402

# One of each kind of coupling, and quick: what CI has the time for. torchvision has tests of its own.
IN_CI = """
timm/beit_base_patch16_224 timm/coat_lite_tiny timm/convnext_atto timm/dla46_c timm/edgenext_xx_small
timm/efficientvit_b0 timm/eva02_tiny_patch14_224 timm/ghostnet_050 timm/inception_next_atto timm/levit_128s
timm/mixer_s16_224 timm/mobilenetv3_small_050 timm/mobilevit_xxs timm/poolformer_s12 timm/pvt_v2_b0 timm/regnety_002
timm/repvit_m1 timm/res2next50 timm/resnest14d timm/skresnet18 timm/tiny_vit_5m_224 timm/vit_tiny_patch16_224
timm/xcit_nano_12_p16_224 transformers/bart transformers/bert transformers/bloom transformers/clip
transformers/falcon transformers/fnet transformers/gemma2 transformers/gpt2 transformers/llama transformers/mamba2
transformers/patchtst transformers/phi3 transformers/segformer transformers/t5 transformers/vit
transformers/wav2vec2 transformers/whisper
"""
# What benchmarks/results/coverage.md lists as not covered, with the reasons; one that passes has to leave this list.
NOT_COVERED = """
transformers/autoformer transformers/fsmt transformers/groupvit transformers/led transformers/longformer
transformers/reformer transformers/vilt transformers/vjepa2
"""


def marked(case: str) -> Any:
    if case in NOT_COVERED.split():
        return pytest.param(case, marks=pytest.mark.xfail(strict=True))
    return pytest.param(case, marks=pytest.mark.ci_slow) if case in IN_CI.split() else case


def test_every_module_of_timm_has_a_case() -> None:
    timm = pytest.importorskip("timm")
    cases = {name.removeprefix("timm/") for name in names() if name.startswith("timm/")}
    bare = [module for module in timm.list_modules() if not cases & set(timm.list_models(module=module))]
    assert bare == []


@pytest.mark.slow
@pytest.mark.parametrize("case", map(marked, names()))
def test_architecture_is_thinned_rightly(case: str) -> None:
    """A fifth of the parameters goes; what is left computes, trains and reloads as the masked model would."""
    torch.set_num_threads(1)
    found = run_case(case, ratios=(0.5,), until="reload")["ratios"]["0.5"]
    assert found["status"] == "ok", found["reason"]
