"""First-order criteria against finite differences, closed forms and autograd itself."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from criteria_tables import scores_of
from prunus import plan, trace
from prunus.errors import InputError
from prunus.plans import named_state


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def conv_net(head=True):
    torch.manual_seed(0)
    back = [nn.Flatten(), nn.Linear(6 * 9, 3)] if head else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), *back]
    return nn.Sequential(*layers).double()


def labelled(*shape, number=3, classes=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(shape, generator=generator, dtype=torch.float64),
            torch.randint(classes, shape[:1], generator=generator),
        )
        for _ in range(number)
    ]


def one_by_one(data):
    return [(x[i : i + 1], y[i : i + 1]) for x, y in data for i in range(len(x))]


def gradient(model, data, name):
    total = sum(functional.cross_entropy(model(x), y) for x, y in data) / len(data)
    return torch.autograd.grad(total, named_state(model)[name])[0]


def test_taylor_is_the_limit_of_the_squared_loss_change_when_a_unit_fades():
    """((L(w) − L(w with the unit scaled by 1 − t)) / t)² → score, as t → 0."""
    model, data = small_net(), labelled(7, 5, number=2)
    scores = scores_of(model, "taylor", data, functional.cross_entropy, "filter")["0.weight"]
    weight = model[0].weight
    for unit in range(6):
        slopes = []
        for x, y in data:
            whole = functional.cross_entropy(model(x), y)
            with torch.no_grad():
                kept = weight.clone()
                weight[unit] *= 1 - 1e-6
                slopes.append(float(whole - functional.cross_entropy(model(x), y)) / 1e-6)
                weight.copy_(kept)
        expected = sum(slope**2 for slope in slopes) / len(slopes)
        assert scores[unit].item() == pytest.approx(expected, rel=1e-4)


def test_taylor_of_a_linear_model_squares_the_sum_of_the_unit_per_batch():
    """L = mean_n w·x_n: g is the mean of the batch's rows, so the score is mean_b (w · mean x)²."""
    model = nn.Sequential(nn.Linear(4, 1, bias=False)).double()
    data = [(x, None) for x, _ in labelled(3, 4)]
    scores = scores_of(model, "taylor", data, lambda y, _: y.mean(), "filter")["0.weight"]
    weight = model[0].weight.detach()
    torch.testing.assert_close(scores, torch.stack([(weight @ x.mean(0)).square() for x, _ in data]).mean(0))
    each = scores_of(model, "taylor", data, lambda y, _: y.mean())["0.weight"]
    torch.testing.assert_close(each, torch.stack([(weight * x.mean(0)).square() for x, _ in data]).mean(0))
    assert not torch.allclose(each.sum(), scores)  # the square of the sum is no sum of squares


def test_a_last_short_batch_counts_as_a_batch():
    model = nn.Sequential(nn.Linear(4, 1, bias=False)).double()
    (x, _), (z, _) = labelled(3, 4, number=2)
    scores = scores_of(model, "taylor", [(x, None), (z[:1], None)], lambda y, _: y.mean(), "filter")["0.weight"]
    weight = model[0].weight.detach()
    torch.testing.assert_close(scores, ((weight @ x.mean(0)).square() + (weight @ z[0]).square()) / 2)


@pytest.mark.parametrize("head", [True, False])
def test_taylor_activation_is_autograd_on_the_feature_maps_of_each_sample(head):
    """Two convolutions; the second is read by a linear map, position by position (head) or after pooling."""
    model, data = conv_net(head), labelled(4, 2, 8, 8)
    graph = trace(model, data[0][0])
    found = scores_of(model, "taylor_activation", data, functional.cross_entropy, "filter", graph)
    for target, (start, end) in zip(found, ((3, 3), (5 if head else 7, 0)), strict=True):
        rows = []
        for x, y in one_by_one(data):
            maps = model[:start](x)
            loss = functional.cross_entropy(model[start:](maps), y)
            product = (maps * torch.autograd.grad(loss, maps)[0])[0]
            rows.append(product.reshape(6 if end == 0 else 4, -1).mean(dim=1).abs())
        expected = torch.stack(rows).mean(dim=0)
        torch.testing.assert_close(found[target], expected / expected.norm())


def test_taylor_activation_of_a_unit_is_the_same_before_and_after_max_pooling():
    """Σ z·∂L/∂z passes unchanged through what is homogeneous: the reader's input stands for the feature map."""
    model, data = conv_net(), labelled(4, 2, 8, 8, number=1)
    graph = trace(model, data[0][0])
    found = scores_of(model, "taylor_activation", data, functional.cross_entropy, "filter", graph)
    x, y = data[0]
    before = []
    for i in range(len(x)):
        maps = model[:2](x[i : i + 1])
        loss = functional.cross_entropy(model[2:](maps), y[i : i + 1])
        before.append((maps * torch.autograd.grad(loss, maps)[0]).sum(dim=(0, 2, 3)).abs())
    expected = torch.stack(before).mean(dim=0)
    torch.testing.assert_close(next(iter(found.values())), expected / expected.norm())


def test_taylor_activation_needs_somebody_who_reads_the_units():
    with pytest.raises(InputError, match=r"no weight that reads its units is known, so taylor_activation has nothing"):
        scores_of(small_net(), "taylor_activation", labelled(7, 5), functional.cross_entropy, "filter")


class Tokens(nn.Module):
    """Embeds, widens, narrows; the loss reads all tokens, padding too."""

    def __init__(self):
        super().__init__()
        self.embed, self.wide, self.narrow = nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, ids, attention_mask):
        return self.narrow(self.wide(self.embed(ids)).relu())


def test_padding_is_no_part_of_an_activation():
    torch.manual_seed(0)
    model = Tokens().double()
    ids, mask = torch.randint(9, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    loss = lambda output, _: output.square().mean()  # noqa: E731
    graph = trace(model, (ids, mask))
    data = [{"ids": ids, "attention_mask": mask}]
    found = scores_of(model, "taylor_activation", data, loss, "filter", graph)
    (scores,) = (scores for name, scores in found.items() if "wide" in name)
    rows = []
    for i in range(2):
        z = model.wide(model.embed(ids[i : i + 1])).relu()
        slope = torch.autograd.grad(loss(model.narrow(z), None), z)[0]
        rows.append((z * slope)[0, mask[i].bool()].mean(dim=0).abs())
    expected = torch.stack(rows).mean(dim=0).detach()
    torch.testing.assert_close(scores, expected / expected.norm())


def test_snip_is_the_sensitivity_to_a_gate_on_each_connection():
    """|∂L/∂c| at c = 1 for L(c ⊙ w), by finite differences of the gate."""
    model, data = small_net(), labelled(7, 5, number=2)
    scores = scores_of(model, "snip", data, functional.cross_entropy)
    loss = lambda: sum(functional.cross_entropy(model(x), y) for x, y in data).item() / len(data)  # noqa: E731
    for name in ("0.weight", "2.weight"):
        weight = named_state(model)[name].detach().view(-1)
        for i in range(weight.numel()):
            kept, (high, low) = weight[i].clone(), (1 + 1e-5, 1 - 1e-5)
            weight[i] = kept * high
            above = loss()
            weight[i] = kept * low
            below = loss()
            weight[i] = kept
            assert scores[name].view(-1)[i].item() == pytest.approx(abs(above - below) / 2e-5, rel=1e-4, abs=1e-9)


def test_snip_under_global_ranking_prunes_what_the_paper_prunes():
    model, data = small_net(), labelled(7, 5, number=1)
    graph = trace(model, data[0][0])
    made = graph_plan(graph, data, {"global": {"normalise": "none"}})
    saliency = {name: (gradient(model, data, name) * named_state(model)[name]).abs() for name in made}
    whole = torch.cat([value.flatten() for value in saliency.values()])
    kept = math.ceil(0.25 * len(whole))
    threshold = (whole / whole.sum()).topk(kept).values[-1]
    for name, mask in made.items():
        assert torch.equal(mask, saliency[name] / whole.sum() >= threshold)


def graph_plan(graph, data, allocation):
    made = plan(
        graph, ratio=0.75, granularity="element", criterion="snip", allocation=allocation, data=data,
        loss=functional.cross_entropy,
    )  # fmt: skip
    return made.masks
