"""Masks through what real training loops do: autocast, scalers, clipping, sparse gradients, compilation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from masks.masking import masked_model, random_keep, small_net, train_steps
from prunus.masks import MaskSet

INF, NAN = float("inf"), float("nan")


def test_several_optimizers_and_parameter_groups() -> None:
    model = small_net()
    optimizers = [
        torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters()}], 0.2),
        torch.optim.Adam(model[3].parameters(), 0.1),
    ]
    masks = MaskSet(model)
    keep = {name: random_keep(p) for name, p in model.named_parameters() if p.dim() == 2}
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
    model = small_net()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    _, keep = masked_model(model, optimizer, "0.weight")
    before = model[0].weight.detach().clone()
    train_steps(model, optimizer)
    assert torch.equal(model[0].weight, before)
    assert torch.count_nonzero(before[~keep]) == 0


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradient_accumulation_under_bfloat16_autocast(set_to_none: bool) -> None:
    model = small_net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    _, keep = masked_model(model, optimizer, "0.weight")
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
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    masks, keep = masked_model(model, optimizer, "0.weight")
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
    _, keep = masked_model(model, optimizer, "weight")
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
    _, keep = masked_model(model, optimizer, "out_proj.weight")
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
    model = small_net()
    fast = torch.compile(model, backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    masks = MaskSet(model)
    masks.attach(optimizer)
    for seed in range(4):
        train_steps(fast, optimizer, 2)
        keep = random_keep(model[0].weight, seed)
        masks.set_("x", {"0.weight": keep})
        torch.testing.assert_close(fast(torch.ones(10, 6)), model(torch.ones(10, 6)))
    train_steps(fast, optimizer, 2)
    assert compiled == 1
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0


def test_a_model_that_changes_its_type_is_still_masked() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masks, keep = masked_model(model, optimizer, "0.weight")
    model.double()
    model(torch.randn(10, 6, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert model[0].weight.dtype is torch.float64
    assert all(held.fits for held in masks._weights)
    assert torch.count_nonzero(model[0].weight.detach()[~keep]) == 0


def test_dense_weights_loaded_into_the_model_are_masked_by_apply() -> None:
    model = small_net()
    dense = copy.deepcopy(model.state_dict())
    masks, keep = masked_model(model, torch.optim.SGD(model.parameters(), 0.1), "0.weight")
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
