"""MACs against closed forms, and effective MACs against densities."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from prunus import costs, zoo
from prunus.errors import InputError


def conv_macs(layer: nn.Conv2d, height: int, width: int, *, batch: int = 1) -> int:
    """By the definition: for each output position and channel, one product per input channel of its group and tap."""
    (pad_y, pad_x), (kernel_y, kernel_x) = layer.padding, layer.kernel_size
    rows = (height + 2 * pad_y - layer.dilation[0] * (kernel_y - 1) - 1) // layer.stride[0] + 1
    columns = (width + 2 * pad_x - layer.dilation[1] * (kernel_x - 1) - 1) // layer.stride[1] + 1
    per_output = layer.in_channels // layer.groups * kernel_y * kernel_x
    return batch * layer.out_channels * rows * columns * per_output


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 3),
        nn.Conv2d(6, 8, 3, bias=False, stride=2, padding=1),
        nn.Conv2d(6, 9, (3, 5), dilation=(2, 1), padding=(0, 2), groups=3),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 1, 1),
    ],
    ids=["plain", "strided", "grouped and dilated", "depthwise", "1x1 to one"],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_convolution_by_its_definition(layer: nn.Conv2d, batch: int) -> None:
    assert costs.macs(layer, torch.randn(batch, 6, 13, 11)) == conv_macs(layer, 13, 11, batch=batch)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_rows_times_weight(shape: tuple[int, ...], bias: bool) -> None:
    rows = torch.Size(shape[:-1]).numel()
    assert costs.macs(nn.Linear(7, 5, bias=bias), torch.randn(shape)) == rows * 7 * 5


def test_published_macs_of_the_zoo() -> None:
    published = {"resnet18": 1.814e9, "mobilenet_v1": 569e6, "mobilenet_v2": 300e6, "vgg16_bn_cifar": 3.13e8}
    for name, wanted in published.items():
        assert costs.macs(zoo.build(name), zoo.example_input(name)) == pytest.approx(wanted, rel=3e-3)


def test_lenet5_by_hand() -> None:
    convolutions = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25
    by_module = costs.macs_by_module(zoo.build("lenet5"), zoo.example_input("lenet5"))
    assert by_module == {
        "": convolutions + 800 * 500 + 500 * 10,
        "conv1": 24 * 24 * 20 * 25,
        "conv2": 8 * 8 * 50 * 20 * 25,
        "fc1": 800 * 500,
        "fc2": 500 * 10,
    }


def test_nested_modules_have_the_names_of_named_modules() -> None:
    model = zoo.build("resnet20")
    by_module = costs.macs_by_module(model, zoo.example_input("resnet20"))
    assert set(by_module) <= set(dict(model.named_modules()))
    assert by_module["layer1.0.conv1"] == 32 * 32 * 16 * 16 * 9
    assert by_module["layer1"] == 6 * 32 * 32 * 16 * 16 * 9


def transformer_macs(tokens: int, dim: int, depth: int) -> int:
    """Per block: four projections, two products of tokens with tokens, and an MLP four times as wide."""
    return depth * (4 * tokens * dim**2 + 2 * tokens**2 * dim + 8 * tokens * dim**2)


@pytest.mark.parametrize("batch", [1, 2])
def test_vit_by_its_formula_attention_included(batch: int) -> None:
    patches, dim, depth = 64, 96, 6
    wanted = patches * dim * 3 * 16 + transformer_macs(patches + 1, dim, depth) + dim * 10
    assert costs.macs(zoo.build("vit_cifar"), zoo.example_input("vit_cifar", batch=batch)) == batch * wanted


def test_gpt_by_its_formula_attention_included() -> None:
    wanted = transformer_macs(64, 128, 4) + 64 * 128 * 256
    assert costs.macs(zoo.build("gpt_tiny"), zoo.example_input("gpt_tiny")) == wanted


class Attend(nn.Module):
    def __init__(self, key_width: int, **options: object) -> None:
        super().__init__()
        self.key_width, self.options = key_width, options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, **self.options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("key_heads", "value_width", "options"),
    [(4, 8, {}), (4, 8, {"is_causal": True}), (4, 6, {}), (2, 8, {"enable_gqa": True})],
    ids=["plain", "causal", "narrow values", "grouped queries"],
)
def test_attention_is_two_products(
    dtype: torch.dtype, key_heads: int, value_width: int, options: dict[str, bool]
) -> None:
    query, key = torch.randn(2, 4, 5, 8, dtype=dtype), torch.randn(2, key_heads, 7, 8, dtype=dtype)
    value = torch.randn(2, key_heads, 7, value_width, dtype=dtype)
    assert costs.macs(Attend(8, **options), (query, key, value)) == 2 * 4 * 5 * 7 * (8 + value_width)


def test_fused_encoder_layer_counts_like_its_parts() -> None:
    dim, tokens, batch = 16, 5, 2
    layer = nn.TransformerEncoderLayer(dim, 4, 4 * dim, batch_first=True)
    assert costs.macs(layer, torch.randn(batch, tokens, dim)) == batch * transformer_macs(tokens, dim, 1)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_count_every_step(kind: type[nn.Module], gates: int, batch_first: bool) -> None:
    layer = kind(6, 10, batch_first=batch_first)
    assert costs.macs(layer, torch.randn(3, 5, 6)) == 15 * gates * 10 * (6 + 10)


def test_matrix_times_vector_counts() -> None:
    class Times(nn.Module):
        def forward(self, matrix: Tensor, vector: Tensor) -> Tensor:
            return torch.addmv(torch.zeros(3), matrix, vector) @ (matrix @ vector)

    assert costs.macs(Times(), (torch.randn(3, 4), torch.randn(4))) == 12 + 12 + 3


def test_keyword_inputs_and_mappings_are_understood() -> None:
    class Named(nn.Linear):
        def forward(self, *, x: Tensor) -> dict[str, Tensor]:
            return {"y": super().forward(x)}

    assert costs.macs(Named(3, 4), (), {"x": torch.randn(2, 3)}) == 24


def halve_(weight: Tensor) -> None:
    """Zero every second element."""
    with torch.no_grad():
        weight.view(-1)[::2] = 0


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "mobilenet_v1", "densenet_cifar", "vit_cifar", "gpt_tiny"])
def test_effective_macs_of_a_dense_model_are_its_macs(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.build(name)
    for parameter in model.parameters():  # a random weight may be exactly zero
        nn.init.constant_(parameter, 0.5)
    x = zoo.example_input(name)
    assert costs.effective_macs(model, x) == costs.macs(model, x) > 0


def test_effective_macs_are_each_layers_macs_times_its_density() -> None:
    model, x = zoo.build("lenet5"), zoo.example_input("lenet5", batch=2)
    halve_(model.conv2.weight)
    with torch.no_grad():
        model.fc1.weight[100:] = 0
        model.fc1.bias.zero_()
    by_module = costs.macs_by_module(model, x)
    wanted = by_module["conv1"] + by_module["conv2"] // 2 + by_module["fc1"] // 5 + by_module["fc2"]
    assert costs.effective_macs(model, x) == wanted
    assert costs.macs(model, x) == by_module[""]


def test_effective_macs_leave_the_products_of_attention() -> None:
    tokens, dim = 65, 96
    model, x = zoo.build("vit_cifar", depth=1), zoo.example_input("vit_cifar")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert costs.effective_macs(model, x) == 2 * tokens**2 * dim


def test_effective_macs_see_a_tied_embedding_as_the_weight_of_the_head() -> None:
    model, x = zoo.build("gpt_tiny"), zoo.example_input("gpt_tiny")
    dense = costs.effective_macs(model, x)
    with torch.no_grad():
        model.tokens.weight[128:] = 0
    assert dense - costs.effective_macs(model, x) == 64 * 128 * 128


def test_effective_macs_ignore_zeros_in_activations() -> None:
    assert costs.effective_macs(nn.Linear(4, 4), torch.zeros(3, 4)) == 3 * 16


def test_effective_macs_see_through_autocast() -> None:
    class Cast(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    layer = Cast(8, 8)
    halve_(layer.weight)
    assert costs.effective_macs(layer, torch.randn(3, 8)) == 3 * 32


def test_effective_macs_see_through_a_parametrization() -> None:
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(32).view(8, 8), requires_grad=False)

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.kept

    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, "weight", Mask())
    assert costs.effective_macs(layer, torch.randn(3, 8)) == 3 * 32


def test_effective_macs_of_a_sparse_lstm() -> None:
    layer = nn.LSTM(6, 10)
    halve_(layer.weight_ih_l0)
    assert costs.effective_macs(layer, torch.randn(3, 5, 6)) == 15 * 40 * (3 + 10)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(zoo.build("resnet20"), nn.BatchNorm1d(10))
    model[0].layer1.eval()
    flags = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    costs.measure(model, torch.randn(2, 3, 32, 32))
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_a_failing_model_gets_its_flags_back() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    with pytest.raises(InputError):
        costs.measure(model, torch.randn(2, 4))
    assert model.training
    assert model[1].training
    assert torch.backends.mha.get_fastpath_enabled()


def test_wrong_inputs_are_one_sentence_with_shapes() -> None:
    for measured in (costs.macs, costs.effective_macs, costs.peak_activation_bytes, costs.energy, costs.measure):
        with pytest.raises(InputError, match=r"Linear does not run on \(2x4 float32\): .*; give inputs") as caught:
            measured(nn.Linear(3, 5), torch.randn(2, 4))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"Linear does not run on \(2x3 float32, mask=int\)"):
        costs.macs(nn.Linear(3, 5), torch.randn(2, 3), {"mask": 1})
    with pytest.raises(InputError, match="type str"):
        costs.macs(nn.Linear(3, 5), "2x3")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 3, {"loss": 1.0}, []])
def test_a_model_that_returns_no_tensor_is_an_error(value: object) -> None:
    class Mute(nn.Module):
        def forward(self, x: Tensor) -> object:
            return value

    with pytest.raises(InputError, match=r"Mute returns .* without a tensor"):
        costs.macs(Mute(), torch.randn(2))
