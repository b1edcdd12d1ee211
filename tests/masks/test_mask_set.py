"""The mask set as an object: names, ties, sources, buffers, errors, and life with the rest of torch."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.errors import InputError, NameNotFound
from prunus.masks import MaskSet

INF, NAN = float("inf"), float("nan")


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def _keep(tensor: Tensor, seed: int = 0) -> Tensor:
    return torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def _masked(model: nn.Module, optimizer: torch.optim.Optimizer, name: str) -> tuple[MaskSet, Tensor]:
    masks = MaskSet(model)
    masks.attach(optimizer)
    keep = _keep(dict(model.named_parameters())[name])
    masks.set_("test", {name: keep})
    return masks, keep


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(10, 6, generator=generator)).square().sum().backward()
        optimizer.step()


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
    first, second = _keep(model[0].weight, 1), _keep(model[0].weight, 2)
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
    keep = _keep(model.a)
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
    model = _net()
    before = copy.deepcopy(model.state_dict())
    masks = MaskSet(model)
    with pytest.raises(error, match=words):
        masks.set_("x", {"3.weight": torch.zeros(3, 8, dtype=torch.bool), name: mask})
    assert masks.masks == {}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_foreign_or_missing_optimizer_is_refused() -> None:
    model = _net()
    with pytest.raises(InputError, match="holds none of the model's parameters"):
        MaskSet(model).attach(torch.optim.SGD(_net().parameters(), 0.1))
    with pytest.raises(InputError, match="cannot attach masks to a float"):
        MaskSet(model).attach(0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("fused", [False, True])
def test_infinite_and_nan_gradients_do_not_resurrect_pruned_weights(value: float, fused: bool) -> None:
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), 0.1, fused=fused)
    _, keep = _masked(layer, optimizer, "weight")
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
    keep = {name: _keep(parameter) for name, parameter in module.items()}
    MaskSet(module).set_("x", keep)
    for name, parameter in module.items():
        assert torch.equal(parameter != 0, keep[name]), name
    assert module["image"].is_contiguous(memory_format=torch.channels_last)


def test_buffers_are_zeroed_at_once_and_after_each_step_and_output_of_a_masked_channel_is_zero() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    kept = torch.tensor([True, False] * 4)
    masks = MaskSet(model)
    masks.attach(optimizer)
    _train(model, optimizer)
    names = ("1.weight", "1.bias", "1.running_mean", "1.running_var")
    masks.set_("bn", dict.fromkeys(names, kept))
    _train(model, optimizer)
    assert model[1].running_mean[~kept].abs().max() == 0
    assert model[1].running_mean[kept].abs().min() > 0
    for mode in (True, False):
        hidden = model.train(mode)[:2](torch.randn(10, 6))
        assert hidden[:, ~kept].abs().max() == 0
        assert hidden[:, kept].abs().max() > 0


def test_state_dict_keys_and_parameter_objects_are_as_before() -> None:
    model = _net()
    keys, parameters = list(model.state_dict()), list(model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    _masked(model, optimizer, "0.weight")
    _train(model, optimizer)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert not model[0]._forward_pre_hooks
    assert not model[0].weight._backward_hooks


def test_deepcopy_in_mid_training_gives_a_free_copy() -> None:
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    masks, keep = _masked(model, optimizer, "0.weight")
    model(torch.randn(10, 6)).sum().backward()
    clone = copy.deepcopy(model)
    assert torch.equal(clone[0].weight, model[0].weight)
    _train(clone, torch.optim.AdamW(clone.parameters(), 0.1))
    assert torch.count_nonzero(clone[0].weight.detach()[~keep]) > 0
    _train(model, optimizer)
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0
    assert list(masks.masks) == ["0.weight"]


def test_saved_masks_come_back_and_junk_is_refused() -> None:
    model = _net()
    masks = MaskSet(model)
    masks.set_("a", {"0.weight": _keep(model[0].weight)})
    masks.set_("b", {"0.weight": _keep(model[0].weight, 7), "3.bias": torch.tensor([True, False, True])})
    other = _net()
    optimizer = torch.optim.Adam(other.parameters(), 0.1)
    _train(other, optimizer)
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
    model = _net()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    _train(model, optimizer)
    dense = copy.deepcopy(optimizer.state_dict())
    _, keep = _masked(model, optimizer, "0.weight")
    optimizer.load_state_dict(dense)
    assert torch.count_nonzero(optimizer.state[model[0].weight]["exp_avg"][~keep]) == 0
    assert torch.count_nonzero(optimizer.state[model[0].weight]["exp_avg"][keep]) > 0


def test_attaching_late_zeroes_the_state_and_detaching_frees_the_weights() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    _train(model, optimizer)
    masks = MaskSet(model)
    keep = _keep(model[0].weight)
    masks.set_("x", {"0.weight": keep})
    masks.attach(optimizer)
    masks.attach(optimizer)
    assert torch.count_nonzero(optimizer.state[model[0].weight]["momentum_buffer"][~keep]) == 0
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    masks.detach()
    _train(model, optimizer)
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) > 0


def test_several_optimizers_and_parameter_groups() -> None:
    model = _net()
    optimizers = [
        torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters()}], 0.2),
        torch.optim.Adam(model[3].parameters(), 0.1),
    ]
    masks = MaskSet(model)
    keep = {name: _keep(p) for name, p in model.named_parameters() if p.dim() == 2}
    for optimizer in optimizers:
        masks.attach(optimizer)
    masks.set_("x", keep)
    for _ in range(3):
        model.zero_grad()
        model(torch.randn(10, 6)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    for name, mask in keep.items():
        assert torch.count_nonzero(dict(model.named_parameters())[name].detach()[~mask]) == 0


def test_parameters_without_gradient_are_zeroed_and_left_in_peace() -> None:
    model = _net()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    _, keep = _masked(model, optimizer, "0.weight")
    before = model[0].weight.detach().clone()
    _train(model, optimizer)
    assert torch.equal(model[0].weight, before)
    assert torch.count_nonzero(before[~keep]) == 0


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradient_accumulation_under_bfloat16_autocast(set_to_none: bool) -> None:
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    _, keep = _masked(model, optimizer, "0.weight")
    for _ in range(3):
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(torch.randn(10, 6)).float().square().mean() / 4
            loss.backward()
        optimizer.step()
        assert torch.count_nonzero(model[0].weight.grad[~keep]) == 0
        optimizer.zero_grad(set_to_none=set_to_none)
        assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0


def test_grad_scaler_unscales_clips_and_skips_as_usual() -> None:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    masks, keep = _masked(model, optimizer, "0.weight")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        optimizer.zero_grad()
        before = model[0].weight.detach().clone()
        scaler.scale(model(torch.randn(10, 6)).square().mean()).backward()
        if step == 2:
            model[0].weight.grad[~keep] = INF
        scaler.unscale_(optimizer)
        masks.mask_gradients_()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(before, model[0].weight.detach()) == (step == 2)
    assert scaler.get_scale() == 512.0
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0


def test_gradients_can_be_masked_before_they_are_clipped() -> None:
    layer = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    masks = MaskSet(layer)
    masks.attach(optimizer)
    masks.set_("x", {"weight": torch.tensor([[True, False, True]])})
    layer.weight.grad = torch.tensor([[3.0, INF, 4.0]])
    masks.mask_gradients_()
    assert nn.utils.clip_grad_norm_(layer.parameters(), 1.0) == 5.0


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.SparseAdam, torch.optim.Adagrad])
def test_sparse_gradients_of_embeddings(optimizer_type: type[torch.optim.Optimizer]) -> None:
    model = nn.Embedding(7, 4, sparse=True)
    optimizer = optimizer_type(model.parameters(), lr=0.1)  # type: ignore[call-arg]
    _, keep = _masked(model, optimizer, "weight")
    before = model.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.tensor([1, 3, 3, 5])).sum().backward()
        optimizer.step()
    assert model.weight.grad.is_sparse
    assert torch.count_nonzero(model.weight.grad.to_dense()[~keep]) == 0
    assert torch.count_nonzero(model.weight.detach()[~keep]) == 0
    moved = torch.zeros(7, 1, dtype=torch.bool).index_fill(0, torch.tensor([1, 3, 5]), True) & keep
    assert torch.equal(model.weight.detach() != before, moved)


def test_attention_output_projection_survives_several_backwards() -> None:
    """torch.nn.utils.prune fails here at the second backward."""
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    _, keep = _masked(model, optimizer, "out_proj.weight")
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.randn(2, 5, 8)
        model(x, x, x)[0].square().sum().backward()
        optimizer.step()
    assert torch.count_nonzero(model.out_proj.weight.detach()[~keep]) == 0


def test_compiled_models_do_not_recompile_when_masks_change() -> None:
    compiled = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal compiled
        compiled += 1
        return graph.forward

    torch._dynamo.reset()
    model = _net()
    fast = torch.compile(model, backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    masks = MaskSet(model)
    masks.attach(optimizer)
    for seed in range(4):
        _train(fast, optimizer, 2)
        keep = _keep(model[0].weight, seed)
        masks.set_("x", {"0.weight": keep})
        torch.testing.assert_close(fast(torch.ones(10, 6)), model(torch.ones(10, 6)))
    _train(fast, optimizer, 2)
    assert compiled == 1
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0


def test_a_model_that_changes_its_type_is_still_masked() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masks, keep = _masked(model, optimizer, "0.weight")
    model.double()
    model(torch.randn(10, 6, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert model[0].weight.dtype is torch.float64
    assert all(held.fits for held in masks._weights)
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0


def test_dense_weights_loaded_into_the_model_are_masked_by_apply() -> None:
    model = _net()
    dense = copy.deepcopy(model.state_dict())
    masks, keep = _masked(model, torch.optim.SGD(model.parameters(), 0.1), "0.weight")
    model.load_state_dict(dense)
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) > 0
    masks.apply_()
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0


def test_closures_get_their_gradients_masked_in_every_call() -> None:
    layer = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=1, max_eval=1)
    masks = MaskSet(layer)
    masks.attach(optimizer)
    keep = torch.tensor([[True, False, True]])
    masks.set_("x", {"weight": keep})

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = layer(torch.tensor([[1.0, NAN, 2.0]])).nan_to_num(1.0).sum() + layer.weight.square().sum()
        loss.backward()
        layer.weight.grad[~keep] = INF
        return loss

    for call in (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        layer.weight.data.copy_(torch.tensor([[1.0, 0.0, 1.0]]))
        call()
        assert torch.isfinite(layer.weight).all()
