"""GraSP against finite differences of the gradient's norm, SynFlow against the paper's loop."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from criteria_tables import scores_of
from prunus import plan, trace
from prunus.criteria import criterion
from prunus.errors import InputError, TrainingError
from prunus.plans import named_state

WEIGHTS = ("0.weight", "2.weight")


def net(*sizes):
    torch.manual_seed(0)
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def labelled(number=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(7, 4, generator=generator, dtype=torch.float64), torch.randint(3, (7,), generator=generator))
        for _ in range(number)
    ]


def squared_norm(model, data):
    """‖g‖² of the mean gradient by the weights that may be pruned."""
    loss = sum(functional.cross_entropy(model(x), y) for x, y in data) / len(data)
    slopes = torch.autograd.grad(loss, [named_state(model)[name] for name in WEIGHTS])
    return float(sum(slope.square().sum() for slope in slopes))


def grown_by(model, data, weight, index, shrink):
    """How much ‖g‖² grows when a weight is scaled by 1 − shrink; index may be a row."""
    before, kept = squared_norm(model, data), weight[index].clone()
    weight[index] = kept * (1 - shrink)
    after = squared_norm(model, data)
    weight[index] = kept
    return after - before


def test_grasp_is_half_of_what_the_gradients_squared_norm_loses_as_a_weight_fades():
    """d‖g‖² / dt of w_q → (1 − t) w_q is −2 w_q (Hg)_q: the lowest score keeps the most gradient flow."""
    model, data = net(4, 5, 3), labelled()
    scores = scores_of(model, "grasp", data, functional.cross_entropy)
    for name in WEIGHTS:
        weight = named_state(model)[name].detach().view(-1)
        slopes = [
            (grown_by(model, data, weight, i, 1e-5) - grown_by(model, data, weight, i, -1e-5)) / 2e-5
            for i in range(weight.numel())
        ]
        torch.testing.assert_close(-2 * scores[name].view(-1), torch.tensor(slopes).double(), rtol=1e-5, atol=1e-9)


def test_grasp_removes_first_the_weights_whose_removal_raises_the_gradient():
    """Small weights, so that the first order decides: removing the lowest raises ‖g‖², the highest lowers it."""
    model, data = net(4, 5, 3), labelled()
    for parameter in model.parameters():
        parameter.data *= 0.2
    scores = torch.cat([s.flatten() for s in scores_of(model, "grasp", data, functional.cross_entropy).values()])
    places = [(named_state(model)[name].detach().view(-1), i) for name in WEIGHTS
              for i in range(named_state(model)[name].numel())]  # fmt: skip
    growths = torch.tensor([grown_by(model, data, weight, i, 1) for weight, i in places])
    order = scores.argsort()
    assert growths[order[0]] > 0 > growths[order[-1]]
    assert torch.corrcoef(torch.stack([scores, growths.double()]))[0, 1] < -0.9


def test_grasp_of_a_unit_is_the_limit_for_the_whole_row():
    model, data = net(4, 5, 3), labelled()
    scores = scores_of(model, "grasp", data, functional.cross_entropy, "filter")["0.weight"]
    weight = model[0].weight.detach()
    slopes = [
        (grown_by(model, data, weight, i, 1e-5) - grown_by(model, data, weight, i, -1e-5)) / 2e-5 for i in range(5)
    ]
    torch.testing.assert_close(-2 * scores, torch.tensor(slopes).double(), rtol=1e-5, atol=1e-9)


def test_grasp_runs_through_fused_attention():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    data = [(torch.randn(2, 5, 8), None)]
    scores = scores_of(layer, "grasp", data, lambda y, _: y.square().mean())
    assert scores["self_attn.in_proj_weight"].abs().sum() > 0


def paper(model, shape, density, rounds):
    """Algorithm 1 of the paper, as its code does it: |w| in a copy, a global threshold, each round on fewer weights."""
    net_ = copy.deepcopy(model).double().eval()
    for tensor in net_.state_dict().values():
        tensor.abs_()
    weights = [p for p in net_.parameters() if p.dim() >= 2]
    whole = [w.detach().clone() for w in weights]
    masks = [torch.ones_like(w) for w in weights]
    for k in range(1, rounds + 1):
        for w, full, mask in zip(weights, whole, masks, strict=True):
            w.data = full * mask
        net_.zero_grad()
        net_(torch.ones(1, *shape, dtype=torch.float64)).sum().backward()
        scores = [(w.grad * w.detach() + (mask - 1)) for w, mask in zip(weights, masks, strict=True)]
        flat = torch.cat([s.flatten() for s in scores])
        kept = round(len(flat) * density ** (k / rounds))
        threshold = flat.sort(descending=True).values[kept - 1]
        masks = [(s >= threshold).double() for s in scores]
    return masks


def convnet(bias=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=bias), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, bias=bias),
        nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 10, bias=bias), nn.ReLU(), nn.Linear(10, 3, bias=bias),
    )  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
def test_one_path_of_synflow_holds_the_papers_masks_of_every_density(bias):
    model = convnet(bias)
    scores = scores_of(model, "synflow(rounds=20)", [torch.randn(5, 2, 10, 10)])
    flat = torch.cat([s.flatten() for s in scores.values()])
    assert flat.double().mul(len(flat)).round().sort().values.tolist() == list(range(len(flat)))
    for rounds in (1, 7, 20, 40):
        density = 0.1 ** (rounds / 20)
        masks = paper(model, (2, 10, 10), density, rounds)
        kept = round(len(flat) * density)
        mine = flat >= flat.sort(descending=True).values[kept - 1]
        assert torch.equal(mine, torch.cat([m.flatten() for m in masks]).bool())


def test_a_last_shorter_round_is_the_cut_between_two_rounds():
    """At 0.5 the order of removal cuts inside the 7th round of 20 to a tenth: the paper's 6 rounds, and a rest."""
    model = convnet()
    scores = scores_of(model, "synflow(rounds=20)", [torch.randn(5, 2, 10, 10)])
    flat = torch.cat([s.flatten() for s in scores.values()])
    six = torch.cat([m.flatten() for m in paper(model, (2, 10, 10), 0.1**0.3, 6)]).bool()
    kept = flat >= flat.sort(descending=True).values[round(0.5 * len(flat)) - 1]
    assert torch.equal(kept & six, kept)


def test_synflow_leaves_every_layer_alive_where_magnitude_cuts_one_off():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(20, 20, bias=False) for _ in range(5)])
    model[2].weight.data *= 1e-3
    graph = trace(model, torch.randn(1, 20))
    options = {"ratio": 0.98, "granularity": "element", "allocation": {"global": {"normalise": "none"}}}
    flow = plan(graph, criterion="synflow", data=[torch.randn(1, 20)], **options).masks
    size = plan(graph, criterion="l1", **options).masks
    assert size["2.weight"].sum() == 0
    assert min(mask.sum() for mask in flow.values()) >= 1
    alive = torch.ones(20)
    for name in sorted(flow):
        alive = (flow[name].float() @ alive > 0).float()
    assert alive.sum() >= 1


def test_synflow_of_channels_removes_them_by_their_share_of_the_flow():
    """One round: the score of a filter is Σ |w| · ∂R/∂|w| over it, the flow through that channel."""
    model = convnet()
    scores = scores_of(model, "synflow(rounds=1)", [torch.randn(1, 2, 10, 10)], granularity="filter")
    net_ = copy.deepcopy(model).double().eval()
    for tensor in net_.state_dict().values():
        tensor.abs_()
    net_(torch.ones(1, 2, 10, 10, dtype=torch.float64)).sum().backward()
    flows = {name: (named_state(net_)[name].grad * named_state(net_)[name]).flatten(1).sum(1) for name in scores}
    everywhere = torch.cat(list(flows.values()))
    first = everywhere.argsort()[: round(0.9 * len(everywhere))]
    places = torch.cat(list(scores.values()))
    assert places[first].mul(len(places)).round().tolist() == list(range(len(first)))


def test_synflow_of_a_trained_net_ignores_means_of_batch_norms_and_leaves_it_alone():
    model = convnet()
    fresh = scores_of(model, "synflow(rounds=3)", [torch.randn(1, 2, 10, 10)])
    model[1].running_mean.fill_(1e6)
    before = {name: value.clone() for name, value in named_state(model).items()}
    again = scores_of(model, "synflow(rounds=3)", [torch.randn(1, 2, 10, 10)])
    assert all(torch.equal(again[name], fresh[name]) for name in fresh)
    assert all(torch.equal(value, before[name]) for name, value in named_state(model).items())
    assert model.training


def test_synflow_of_a_deep_wide_net_does_not_overflow():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(60)])
    for layer in model:
        layer.weight.data *= 2
    scores = scores_of(model, "synflow(rounds=2)", [torch.randn(1, 64)])
    assert all(s.isfinite().all() and s.unique().numel() > 1 for s in scores.values())
    assert (64 * model[0].weight.abs().mean().item()) ** 60 > torch.finfo(torch.float32).max
    for layer in model:
        layer.weight.data *= 1e6
    with pytest.raises(TrainingError, match="leaves float64"):
        scores_of(model, "synflow(rounds=2)", [torch.randn(1, 64)])


def test_synflow_wants_data_for_its_shape_and_whole_rounds():
    with pytest.raises(InputError, match="calibration data is missing: synflow"):
        scores_of(convnet(), "synflow", None)
    with pytest.raises(InputError, match="rounds of synflow is 0"):
        criterion("synflow(rounds=0)")
