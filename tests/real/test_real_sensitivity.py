"""Real architectures whose forwards are not ours: the naive loop's numbers, without falling back to it."""

import pytest
import torch

from sensitivity_oracle import check, judge

pytest.importorskip("torchvision_ops")
torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

MODELS = {
    "googlenet": lambda: torchvision.models.googlenet(weights=None, init_weights=False, num_classes=5),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=5),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=5),
    "ghostnet": lambda: timm.create_model("ghostnet_050", num_classes=5),
    "xcit": lambda: timm.create_model("xcit_nano_12_p16_224", num_classes=5, img_size=64),
}


@pytest.mark.slow
@pytest.mark.ci_slow
@pytest.mark.parametrize("name", MODELS)
def test_real_models(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    weights = [key for key, parameter in model.named_parameters() if parameter.dim() >= 2]
    images = torch.randn(2, 2, 3, 64, 64)
    check(model, judge(*images), targets=weights[:: max(1, len(weights) // 12)], levels=(0.6,))


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    model = transformers.BertForSequenceClassification(config).eval()
    tokens = [torch.randint(0, 50, (2, length)) for length in (7, 9)]

    @torch.inference_mode()
    def evaluate(model):
        return sum(float(model(input_ids=x, attention_mask=torch.ones_like(x)).logits.double().sum()) for x in tokens)

    check(model, evaluate, levels=(0.5,))
