"""The mask set as an object: names, ties, sources, buffers, errors, and life with the rest of torch."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from masks.masking import masked_model, random_keep, small_net, train_steps
from prunus.errors import InputError, NameNotFound
from prunus.masks import MaskSet

INF, NAN = float("inf"), float("nan")


def test_sources_on_one_tensor_intersect_and_are_replaced_one_by_one() -> None:
    layer = nn.Linear(4, 1, bias=False)
    masks = MaskSet(layer)
    a, b = torch.tensor([[True, True, False, False]]), torch.tensor([[True, False, True, False]])
    masks.set_("a", {"weight": a})
    masks.set_("b", {"weight": b})
    assert masks.masks["weight"].tolist() == [[True, False, False, False]]
    assert masks.sparsity() == {"weight": 0.75}
    assert masks.sources == ("a", "b")
    masks.set_("a", {"weight": torch.tensor([[False, True, True, True]])})
    assert masks.masks["weight"].tolist() == [[False, False, True, False]]
    masks.set_("b", {})
    assert masks.masks["weight"].tolist() == [[False, True, True, True]]


def test_a_mask_zeroes_weight_at_once_and_is_copied() -> None:
    layer = nn.Linear(4, 2)
    mask = torch.tensor([[True, False, True, True], [False, True, True, True]])
    masks = MaskSet(layer)
    masks.set_("a", {"weight": mask})
    mask.fill_(True)
    assert (layer.weight == 0).tolist() == [[False, True, False, False], [True, False, False, False]]
    assert masks.sparsity() == {"weight": 0.25}


def test_tied_parameters_share_one_mask_under_any_of_their_names() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    masks = MaskSet(model)
    first, second = random_keep(model[0].weight, 1), random_keep(model[0].weight, 2)
    masks.set_("a", {"0.weight": first, "1.weight": second})
    assert list(masks.masks) == ["0.weight"]
    assert torch.equal(masks.masks["0.weight"], first & second)


def test_two_parameters_over_one_memory_are_both_masked_gradients_and_all() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(3, 3))
            self.b = nn.Parameter(self.a.data)

    model = Twins()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masks = MaskSet(model)
    masks.attach(optimizer)
    keep = random_keep(model.a)
    masks.set_("x", {"b": keep})
    for _ in range(3):
        optimizer.zero_grad()
        ((model.a + 2 * model.b) ** 2 + model.a).sum().backward()
        optimizer.step()
    assert list(masks.masks) == ["a"]
    for parameter in (model.a, model.b):
        assert parameter.detach()[~keep].abs().max() == 0
        assert optimizer.state[parameter]["momentum_buffer"][~keep].abs().max() == 0


def test_a_transposed_tie_is_refused_and_neighbours_in_one_buffer_are_not() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(3, 3))
            self.b = nn.Parameter(self.a.data.t())

    class Neighbours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            flat = torch.randn(12)
            self.a, self.b = nn.Parameter(flat[:6].view(2, 3)), nn.Parameter(flat[6:].view(2, 3))

    with pytest.raises(InputError, match="a and b share memory"):
        MaskSet(Transposed()).set_("x", {"a": torch.ones(3, 3, dtype=torch.bool)})
    model = Neighbours()
    MaskSet(model).set_("x", {"a": torch.zeros(2, 3, dtype=torch.bool)})
    assert torch.count_nonzero(model.a) == 0
    assert torch.count_nonzero(model.b) == 6


@pytest.mark.parametrize(
    ("name", "mask", "error", "words"),
    [
        ("0.wieght", torch.ones(8, 6, dtype=torch.bool), NameNotFound, "did you mean 0.weight"),
        ("0.weight", torch.ones(6, 8, dtype=torch.bool), InputError, r"is \(6, 8\), the tensor \(8, 6\)"),
        ("0.weight", torch.ones(8, 6), InputError, "torch.float32; it must be torch.bool"),
        ("1.num_batches_tracked", torch.ones((), dtype=torch.bool), InputError, "torch.int64; floating"),
    ],
)
def test_wrong_masks_are_refused_and_change_nothing(
    name: str, mask: Tensor, error: type[Exception], words: str
) -> None:
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    masks = MaskSet(model)
    with pytest.raises(error, match=words):
        masks.set_("x", {"3.weight": torch.zeros(3, 8, dtype=torch.bool), name: mask})
    assert masks.masks == {}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_foreign_or_missing_optimizer_is_refused() -> None:
    model = small_net()
    with pytest.raises(InputError, match="holds none of the model's parameters"):
        MaskSet(model).attach(torch.optim.SGD(small_net().parameters(), 0.1))
    with pytest.raises(InputError, match="cannot attach masks to a float"):
        MaskSet(model).attach(0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("fused", [False, True])
def test_infinite_and_nan_gradients_do_not_resurrect_pruned_weights(value: float, fused: bool) -> None:
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), 0.1, fused=fused)
    _, keep = masked_model(layer, optimizer, "weight")
    for step in range(3):
        optimizer.zero_grad()
        layer(torch.randn(5, 6)).square().sum().backward()
        if step == 1:
            layer.weight.grad[~keep] = value
        optimizer.step()
    assert layer.weight.detach()[~keep].abs().max() == 0
    assert torch.isfinite(layer.weight).all()
    assert all(v[~keep].abs().max() == 0 for v in optimizer.state[layer.weight].values() if v.dim() == 2)


def test_nan_gradients_of_kept_weights_are_not_hidden() -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    masks = MaskSet(layer)
    masks.attach(optimizer)
    masks.set_("x", {"weight": torch.tensor([[True, False]])})
    layer.weight.grad = torch.full((1, 2), NAN)
    optimizer.step()
    assert layer.weight[0, 0].isnan()
    assert layer.weight[0, 1] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=16), min_size=1, max_size=12),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.randoms(),
)
def test_kept_bits_are_untouched_and_pruned_bits_are_plus_zero(
    values: list[float], dtype: torch.dtype, random: object
) -> None:
    module = nn.ParameterDict({"w": nn.Parameter(torch.tensor(values, dtype=dtype))})
    before = module["w"].detach().clone()
    keep = torch.tensor([random.random() < 0.5 for _ in values])  # type: ignore[attr-defined]
    MaskSet(module).set_("x", {"w": keep})
    integer = torch.int16 if dtype.itemsize == 2 else torch.int32 if dtype.itemsize == 4 else torch.int64
    assert torch.equal(module["w"].detach().view(integer)[keep], before.view(integer)[keep])
    assert torch.count_nonzero(module["w"].detach().view(integer)[~keep]) == 0


def test_complex_and_empty_tensors_and_memory_formats() -> None:
    module = nn.ParameterDict(
        {
            "complex": nn.Parameter(torch.randn(4, dtype=torch.complex64)),
            "empty": nn.Parameter(torch.empty(0, 3)),
            "image": nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)),
            "strided": nn.Parameter(torch.randn(4, 6)[:, ::2]),
        }
    )
    keep = {name: random_keep(parameter) for name, parameter in module.items()}
    MaskSet(module).set_("x", keep)
    for name, parameter in module.items():
        assert torch.equal(parameter != 0, keep[name]), name
    assert module["image"].is_contiguous(memory_format=torch.channels_last)


def test_buffers_are_zeroed_at_once_and_after_each_step_and_output_of_a_masked_channel_is_zero() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    kept = torch.tensor([True, False] * 4)
    masks = MaskSet(model)
    masks.attach(optimizer)
    train_steps(model, optimizer)
    names = ("1.weight", "1.bias", "1.running_mean", "1.running_var")
    masks.set_("bn", dict.fromkeys(names, kept))
    train_steps(model, optimizer)
    assert model[1].running_mean[~kept].abs().max() == 0
    assert model[1].running_mean[kept].abs().min() > 0
    for mode in (True, False):
        hidden = model.train(mode)[:2](torch.randn(10, 6))
        assert hidden[:, ~kept].abs().max() == 0
        assert hidden[:, kept].abs().max() > 0


def test_state_dict_keys_and_parameter_objects_are_as_before() -> None:
    model = small_net()
    keys, parameters = list(model.state_dict()), list(model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    masked_model(model, optimizer, "0.weight")
    train_steps(model, optimizer)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert not model[0]._forward_pre_hooks
    assert not model[0].weight._backward_hooks


def test_deepcopy_in_mid_training_gives_a_free_copy() -> None:
    model = small_net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    masks, keep = masked_model(model, optimizer, "0.weight")
    model(torch.randn(10, 6)).sum().backward()
    clone = copy.deepcopy(model)
    assert torch.equal(clone[0].weight, model[0].weight)
    train_steps(clone, torch.optim.AdamW(clone.parameters(), 0.1))
    assert torch.count_nonzero(clone[0].weight.detach()[~keep]) > 0
    train_steps(model, optimizer)
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0
    assert list(masks.masks) == ["0.weight"]


def test_saved_masks_come_back_and_junk_is_refused() -> None:
    model = small_net()
    masks = MaskSet(model)
    masks.set_("a", {"0.weight": random_keep(model[0].weight)})
    masks.set_("b", {"0.weight": random_keep(model[0].weight, 7), "3.bias": torch.tensor([True, False, True])})
    other = small_net()
    optimizer = torch.optim.Adam(other.parameters(), 0.1)
    train_steps(other, optimizer)
    restored = MaskSet(other)
    restored.attach(optimizer)
    restored.load_state_dict(masks.state_dict())
    assert all(torch.equal(restored.masks[name], mask) for name, mask in masks.masks.items())
    assert torch.count_nonzero(other[0].weight.detach()[~masks.masks["0.weight"]]) == 0
    moments = optimizer.state[other[0].weight]["exp_avg_sq"]
    assert torch.count_nonzero(moments[~masks.masks["0.weight"]]) == 0
    with pytest.raises(InputError, match="no mapping `sources`"):
        restored.load_state_dict({"weights": {}})
    restored.load_state_dict(MaskSet(other).state_dict())
    assert restored.masks == {}


def test_masked_state_survives_an_optimizer_that_loads_dense_state() -> None:
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    train_steps(model, optimizer)
    dense = copy.deepcopy(optimizer.state_dict())
    _, keep = masked_model(model, optimizer, "0.weight")
    optimizer.load_state_dict(dense)
    assert torch.count_nonzero(optimizer.state[model[0].weight]["exp_avg"][~keep]) == 0
    assert torch.count_nonzero(optimizer.state[model[0].weight]["exp_avg"][keep]) > 0


def test_attaching_late_zeroes_the_state_and_detaching_frees_the_weights() -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train_steps(model, optimizer)
    masks = MaskSet(model)
    keep = random_keep(model[0].weight)
    masks.set_("x", {"0.weight": keep})
    masks.attach(optimizer)
    masks.attach(optimizer)
    assert torch.count_nonzero(optimizer.state[model[0].weight]["momentum_buffer"][~keep]) == 0
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    masks.detach()
    train_steps(model, optimizer)
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) > 0
