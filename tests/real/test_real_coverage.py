"""The architectures of the coverage sweep at .5: thinned, proved, checked on other inputs, trained, reloaded."""

from __future__ import annotations

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


def test_every_module_of_timm_has_a_case() -> None:
    timm = pytest.importorskip("timm")
    cases = {name.removeprefix("timm/") for name in names() if name.startswith("timm/")}
    bare = [module for module in timm.list_modules() if not cases & set(timm.list_models(module=module))]
    assert bare == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.ci_slow) if case in IN_CI.split() else case for case in names()]
)
def test_architecture_is_thinned_rightly(case: str) -> None:
    """A fifth of the parameters goes; what is left computes, trains and reloads as the masked model would."""
    torch.set_num_threads(1)
    found = run_case(case, ratios=(0.5,), until="reload")["ratios"]["0.5"]
    assert found["status"] == "ok", found["reason"]
