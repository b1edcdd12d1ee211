"""The zoo against published sizes, torchvision's own classes, and thinning by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import torchvision_ops  # noqa: F401  before torchvision
from prunus import zoo
from prunus.errors import InputError, NameNotFound

# Published: Han 2015 (LeNets), torchvision's model pages, Howard 2017, DeiT (ViTs), GPT-2's 124M. Caffe's LeNet-5 by
# hand is 500+20 + 25000+50 + 400000+500 + 5000+10. ResNet-20/56: 269,722/853,018 of option A plus two projections.
PARAMETERS = {
    "lenet_300_100": 266_610,
    "lenet5": 431_080,
    "alexnet": 61_100_840,
    "alexnet_cifar": 2_472_266,
    "vgg16_bn": 138_365_992,
    "vgg16_bn_cifar": 14_987_722,
    "resnet20": 269_722 + 2_752,
    "resnet56": 853_018 + 2_752,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "densenet121": 7_978_856,
    "densenet_cifar": 176_122,
    "vit_tiny": 5_717_416,
    "vit_small": 22_050_664,
    "vit_cifar": 683_242,
    "gpt_tiny": 842_496,
    "gpt2_small": 124_439_808,
    "quickstart_net": 177_450,
    "quickstart_net_digits": 44_954,
}
LARGE = {"alexnet", "vgg16_bn", "vit_small", "gpt2_small", "resnet50"}
SMALL = sorted(set(zoo.MODELS) - LARGE)
IMAGE_MODELS = sorted(name for name in zoo.MODELS if not name.startswith("gpt"))


def on_meta(name: str, **kwargs: int) -> nn.Module:
    with torch.device("meta"):
        return zoo.build(name, **kwargs).eval()


def test_every_model_has_a_published_size() -> None:
    assert set(PARAMETERS) == set(zoo.MODELS)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_parameter_count_is_the_published_one(name: str) -> None:
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == PARAMETERS[name]


def test_densenet_100_has_the_papers_size() -> None:
    model = on_meta("densenet_cifar", depth=100)
    assert sum(parameter.numel() for parameter in model.parameters()) == 769_162


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_image_models_take_channels_and_classes(name: str) -> None:
    x = zoo.example_input(name, batch=3, in_channels=2).to("meta")
    assert on_meta(name, in_channels=2, num_classes=7)(x).shape == (3, 7)


@pytest.mark.parametrize("name", ["gpt_tiny", "gpt2_small"])
def test_gpts_give_a_logit_per_token_of_the_vocabulary(name: str) -> None:
    x = zoo.example_input(name, batch=3).to("meta")
    assert on_meta(name, vocab_size=300)(x).shape == (3, 64, 300)


@pytest.mark.parametrize("name", SMALL + [pytest.param(name, marks=pytest.mark.slow) for name in sorted(LARGE)])
def test_models_export_and_the_capture_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    model, x = zoo.build(name).eval(), zoo.example_input(name, batch=2)
    with torch.no_grad():
        captured = torch.export.export(model, (x,), strict=False).module()
        torch.testing.assert_close(captured(x), model(x))


def enliven_(model: nn.Module, x: torch.Tensor) -> None:
    """Weights and norms that carry the signal of x to the end: with the usual initial ones it fades to nothing."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average: after one batch, that batch's
    model.train()(x)
    model.eval()


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v2", "densenet121"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("alexnet", "vgg16_bn", "resnet50")],
)
def test_torchvisions_weights_load_by_name_and_compute_the_same(name: str) -> None:
    pytest.importorskip("torchvision")
    from torchvision import models

    torch.manual_seed(0)
    reference, ours, x = getattr(models, name)(weights=None), zoo.build(name).eval(), torch.randn(4, 3, 96, 96)
    with torch.no_grad():
        enliven_(reference, x)
        ours.load_state_dict(reference.state_dict())
        wanted = reference(x)
        assert (wanted.std(dim=0) > 0.01).all()  # else the images would not matter, and a missing branch would not show
        torch.testing.assert_close(ours(x), wanted)


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "mobilenet_v1", "mobilenet_v2", "quickstart_net"])
def test_half_width_halves_the_channels(name: str) -> None:
    width = {"resnet18": 32, "resnet20": 8, "quickstart_net": 16}.get(name, 0.5)
    convolutions = [m for m in on_meta(name).modules() if isinstance(m, nn.Conv2d)]
    halves = [m for m in on_meta(name, width=width).modules() if isinstance(m, nn.Conv2d)]
    ratios = {(a.out_channels / b.out_channels) for a, b in zip(convolutions, halves, strict=True)}
    # MobileNets round to multiples of 8, and V2 keeps its last 1280 channels.
    assert ratios == {2.0} if not name.startswith("mobilenet") else ratios <= {1.0, 1.5, 5 / 3, 2.0, 3.0}


def zero_and_thin_(layer: nn.Linear, dim: int, kept: torch.Tensor) -> nn.Linear:
    """A linear layer without the rows (dim 0) or columns (dim 1) that are not kept."""
    weight = layer.weight.detach().index_select(dim, kept)
    bias = layer.bias.detach() if dim == 1 else layer.bias.detach()[kept]
    thinned = nn.Linear(weight.shape[1], weight.shape[0])
    thinned.load_state_dict({"weight": weight, "bias": bias})
    return thinned


def test_vit_runs_with_fewer_heads_in_one_block() -> None:
    torch.manual_seed(0)
    model, x = zoo.build("vit_cifar", dim=24, depth=2, heads=3).eval(), zoo.example_input("vit_cifar", batch=2)
    attention = model.blocks[0].attention
    kept = torch.tensor([i for i in range(24) if not 8 <= i < 16])  # without the second head
    with torch.no_grad():
        attention.out.weight[:, 8:16] = 0
        expected = model(x)
        for name in ("query", "key", "value"):
            setattr(attention, name, zero_and_thin_(getattr(attention, name), 0, kept))
        attention.out = zero_and_thin_(attention.out, 1, kept)
        torch.testing.assert_close(model(x), expected)


def test_gpt_runs_with_fewer_heads_in_one_block() -> None:
    torch.manual_seed(0)
    model, x = zoo.build("gpt_tiny", dim=24, depth=2, heads=3).eval(), zoo.example_input("gpt_tiny", batch=2)
    attention = model.blocks[0].attention
    kept = torch.tensor([i for i in range(24) if not 8 <= i < 16])
    with torch.no_grad():
        attention.out.weight[:, 8:16] = 0
        expected = model(x)
        attention.qkv = zero_and_thin_(attention.qkv, 0, torch.cat([kept, kept + 24, kept + 48]))
        attention.out = zero_and_thin_(attention.out, 1, kept)
        torch.testing.assert_close(model(x), expected)


def test_lenet5_runs_with_fewer_filters() -> None:
    torch.manual_seed(0)
    model, x = zoo.build("lenet5").eval(), zoo.example_input("lenet5", batch=2)
    with torch.no_grad():
        model.fc1.weight.view(500, 50, 16)[:, 30:] = 0
        expected = model(x)
        conv2, columns = nn.Conv2d(20, 30, 5), torch.arange(30 * 16)
        conv2.load_state_dict({"weight": model.conv2.weight[:30], "bias": model.conv2.bias[:30]})
        model.conv2, model.fc1 = conv2, zero_and_thin_(model.fc1, 1, columns)
        torch.testing.assert_close(model(x), expected)


def test_gpt_reads_no_later_token() -> None:
    torch.manual_seed(0)
    model, x = zoo.build("gpt_tiny").eval(), zoo.example_input("gpt_tiny")
    changed = x.clone()
    changed[0, 40] = (x[0, 40] + 1) % 256
    with torch.no_grad():
        difference = (model(x) - model(changed)).abs().amax(dim=-1)[0]
    assert difference[:40].max() == 0
    assert difference[40] > 0


def test_gpt_ties_head_and_embedding() -> None:
    model = zoo.build("gpt_tiny")
    assert model.head.weight is model.tokens.weight


def test_unknown_names_get_the_near_ones() -> None:
    with pytest.raises(NameNotFound, match="did you mean resnet18"):
        zoo.build("resnet_18")
    with pytest.raises(NameNotFound, match="did you mean num_classes"):
        zoo.build("lenet5", n_classes=3)
    with pytest.raises(NameNotFound, match="quickstart_net"):
        zoo.example_input("quickstart")


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("densenet_cifar", {"depth": 41}), ("vit_cifar", {"heads": 5}), ("vit_cifar", {"image_size": 30})],
)
def test_sizes_that_do_not_divide_are_refused(name: str, kwargs: dict[str, int]) -> None:
    with pytest.raises(InputError, match=str(next(iter(kwargs.values())))):
        zoo.build(name, **kwargs)


def test_example_input_repeats_and_checks_its_batch() -> None:
    assert torch.equal(zoo.example_input("lenet5", batch=2), zoo.example_input("lenet5", batch=2))
    with pytest.raises(InputError, match="batch = 0"):
        zoo.example_input("lenet5", batch=0)


def test_zoo_never_imports_torchvision() -> None:
    code = "import sys, prunus.zoo; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_quickstart_net_keeps_its_memory_format_through_the_layers() -> None:
    model = zoo.build("quickstart_net")
    with torch.no_grad():
        features = model.concat2(model.residual2(model.down(model.concat1(model.stem(torch.randn(4, 1, 28, 28))))))
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_quickstart_net_for_digits_learns_in_seconds() -> None:
    torch.manual_seed(0)
    data, model = zoo.digits_loaders(batch_size=64), zoo.build("quickstart_net_digits")
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(6):
        for x, y in data.train:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.test)
    assert right / len(data.test.dataset) >= 0.97
