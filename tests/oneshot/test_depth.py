"""Whole residual blocks by score: influence against explicit inputs and outputs, norms, gradients, budgets, names."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

import prunus
from prunus import zoo
from prunus.criteria import collect_for, criterion, score_target
from prunus.errors import InputError, NameNotFound
from prunus.granularity import block_target, weight_targets
from prunus.plans import named_state
from prunus.schedules.policy import policy as read_policy
from prunus.statistics import Calibration, calibration


class Block(nn.Module):
    """x + MLP(x), over the last dim or, with a convolution, over dim 1; `wraps` returns a tuple of one."""

    def __init__(self, width, hidden, *, is_map=False, wraps=False):
        super().__init__()
        self.a, self.b = (
            (nn.Conv2d(width, hidden, 3, padding=1), nn.Conv2d(hidden, width, 1))
            if is_map
            else (nn.Linear(width, hidden), nn.Linear(hidden, width))
        )
        self.wraps = wraps

    def forward(self, x):
        y = x + self.b(torch.tanh(self.a(x)))
        return (y,) if self.wraps else y


class Net(nn.Module):
    """Four blocks of different sizes between two maps."""

    def __init__(self, *, is_map=False, wraps=False):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1) if is_map else nn.Linear(3, 6)
        self.blocks = nn.ModuleList(Block(6, 2 + 3 * i, is_map=is_map, wraps=wraps) for i in range(4))
        self.last = nn.Conv2d(6, 2, 1) if is_map else nn.Linear(6, 2)

    def forward(self, x, attention_mask=None):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.last(x)


def net(**options):
    torch.manual_seed(3)
    return Net(**options).double().eval()


def tokens(*shape, seed=0):
    return torch.randn(shape or (5, 7, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scored(model, spec, x, data, loss=None):
    target, rank = block_target(prunus.trace(model, x)), criterion(spec)
    return score_target(target, named_state(model), rank, collect_for(model, rank, [target], calibration(data, loss)))


def streams(model, x):
    """What the blocks hand on: the input of the first, then each output."""
    with torch.no_grad():
        found = [model.first(x)]
        for block in model.blocks:
            y = block(found[-1])
            found.append(y[0] if isinstance(y, tuple) else y)
    return found


def cosines(model, x, dim=-1, chosen=None):
    found = streams(model, x)
    values = [functional.cosine_similarity(a, b, dim=dim) for a, b in pairwise(found)]
    return torch.stack([(c if chosen is None else c[chosen]).mean() for c in values])


@pytest.mark.parametrize("wraps", [False, True])
def test_influence_is_one_minus_the_mean_cosine_over_tokens(wraps):
    model, data = net(wraps=wraps), [tokens(), tokens(seed=1)]
    expected = 1 - cosines(model, torch.cat(data))
    torch.testing.assert_close(scored(model, "block_influence", data[0], data), expected)
    kept = {i for i in range(4) if i != int(expected.argmin())}
    plan = prunus.plan(
        prunus.trace(model, data[0]), ratio=0.25, granularity="layer", criterion="block_influence", data=data
    )
    assert plan.dropped == (f"blocks.{int(expected.argmin())}",)
    small, y = plan.apply(model), model.first(data[0])
    for i in sorted(kept):
        y = model.blocks[i](y)
        y = y[0] if wraps else y
    torch.testing.assert_close(small(data[0]), model.last(y))


def test_of_a_map_every_place_is_a_token():
    model, x = net(is_map=True), tokens(2, 3, 5, 4)
    torch.testing.assert_close(scored(model, "block_influence", x, [x]), 1 - cosines(model, x, dim=1))


def test_padding_tokens_do_not_count():
    model, x = net(), tokens()
    mask = torch.ones(5, 7, dtype=torch.int64)
    mask[1, 3:], mask[4, 1:] = 0, 0
    found = scored(model, "block_influence", x, [{"x": x, "attention_mask": mask}])
    torch.testing.assert_close(found, 1 - cosines(model, x, chosen=mask.bool()))


def test_a_block_that_changes_nothing_has_no_influence_though_its_input_be_zero():
    model = net()
    with torch.no_grad():
        model.first.bias.zero_()
        for part in (model.blocks[2].b.weight, model.blocks[2].b.bias):
            part.zero_()
        for i in (0, 1):
            model.blocks[i].a.bias.zero_()
            model.blocks[i].b.bias.zero_()
    x = torch.cat([tokens(), torch.zeros(5, 7, 3, dtype=torch.float64)])
    assert scored(model, "block_influence", x, [x])[2].item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("spec", "p"), [("l1", 1), ("l2", 2), ("linf", float("inf"))])
def test_norms_run_over_all_weights_of_a_block(spec, p):
    model = net()
    weights = [torch.cat([block.a.weight.flatten(), block.b.weight.flatten()]).detach() for block in model.blocks]
    expected = torch.stack([w.abs().pow(p).mean() ** (1 / p) if p < 9 else w.abs().max() for w in weights])
    torch.testing.assert_close(scored(model, spec, tokens(), None), expected)


def test_taylor_sums_over_the_block_before_it_squares():
    model, data = net(), [(tokens(), tokens(5, 7, 2)), (tokens(seed=1), tokens(5, 7, 2, seed=1))]
    expected = torch.zeros(4, dtype=torch.float64)
    for x, y in data:
        model.zero_grad()
        functional.mse_loss(model(x), y).backward()
        for i, block in enumerate(model.blocks):
            terms = [(w * w.grad).sum() for w in (block.a.weight, block.b.weight)]
            expected[i] += torch.stack(terms).sum().detach() ** 2 / 2
    torch.testing.assert_close(scored(model, "taylor", tokens(), data, functional.mse_loss), expected)


def test_random_blocks_go_with_equal_chances():
    graph = prunus.trace(net(), tokens())
    drawn = [
        prunus.plan(graph, ratio=0.25, granularity="layer", criterion=f"random(seed={seed})").dropped[0]
        for seed in range(200)
    ]
    assert all(30 <= drawn.count(f"blocks.{i}") <= 70 for i in range(4))


@pytest.mark.parametrize(("ratio", "count"), [(0.25, 1), (0.5, 2), (0.99, 3)])
def test_a_share_of_the_blocks_goes_and_one_stays(ratio, count):
    plan = prunus.plan(prunus.trace(net(), tokens()), ratio=ratio, granularity="layer", criterion="l1")
    assert len(plan.dropped) == count


@pytest.mark.parametrize("quantity", ["macs", "params", "bytes"])
def test_a_budget_drops_as_few_blocks_as_meet_it(quantity):
    model, data = net(), [tokens()]
    graph = prunus.trace(model, data[0])
    order = scored(model, "block_influence", data[0], data).argsort().tolist()
    full = getattr(graph.size(), quantity)
    sizes = [getattr(graph.size({}, [f"blocks.{i}" for i in order[:n]]), quantity) / full for n in range(4)]
    for number in (1, 2, 3):
        for share in (sizes[number], (sizes[number] + sizes[number - 1]) / 2):
            target = {quantity: share + 1e-9}
            plan = prunus.plan(graph, target=target, granularity="layer", criterion="block_influence", data=data)
            assert set(plan.dropped) == {f"blocks.{i}" for i in order[:number]}
    with pytest.raises(InputError, match=f"budget {quantity}=0.01 is out of reach"):
        prunus.plan(graph, target={quantity: 0.01}, granularity="layer")


def test_blocks_are_named_by_patterns():
    graph = prunus.trace(net(), tokens())
    half = {"ratio": 0.5, "granularity": "layer", "criterion": "l1"}
    assert set(prunus.plan(graph, targets=["blocks.0", "blocks.3"], **half).dropped) < {"blocks.0", "blocks.3"}
    assert set(prunus.plan(graph, protect=["blocks.[01]"], **half).dropped) < {"blocks.2", "blocks.3"}
    assert len(prunus.plan(graph, targets="blocks", **half).dropped) == 2
    with pytest.raises(NameNotFound, match=r"blocks\.3"):
        prunus.plan(graph, targets="block.3", **half)
    with pytest.raises(InputError, match="exclude every residual block"):
        prunus.plan(graph, protect="*", **half)
    with pytest.raises(InputError, match="chosen by name"):
        prunus.plan(graph, targets={"kind": "head"}, **half)


def test_a_real_residual_net_gets_shorter_and_still_computes_the_masked_function():
    model, x = zoo.build("resnet20").eval(), zoo.example_input("resnet20")
    small, report = prunus.prune(
        model, x, ratio=0.25, granularity="layer", criterion="block_influence", data=[x], measure_latency=False
    )
    assert len(report.plan.dropped) == 2
    assert report.proof.passed
    assert report.pruned.parameters < report.dense.parameters
    torch.testing.assert_close(report.plan.apply(model)(x), report.plan.mask(model)(x))
    assert small(x).shape == (1, 10)  # its batch norms are measured anew


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)), {}, "Sequential has no residual block that could be left"),
        (Net(), {"criterion": "wanda", "data": [torch.ones(2, 3)]}, "layers: input_square is observed of single"),
        (Net(), {"criterion": "bn_scale"}, "layers: no batch norm scales its units"),
        (Net(), {"criterion": "apoz", "data": [torch.ones(2, 3)]}, "layers: no weight that reads its units"),
        (Net(), {"criterion": "block_influence"}, "calibration data is missing"),
        (Net(), {"granularity": "filter", "criterion": "block_influence"}, r"no residual block is its unit.*layer"),
    ],
)
def test_what_is_wrong_is_said(model, options, words):
    with pytest.raises(InputError, match=words):
        prunus.plan(prunus.trace(model, torch.ones(2, 3)), ratio=0.5, **{"granularity": "layer", **options})


def test_where_blocks_cannot_go_the_word_is_refused():
    model, x = Net(), torch.ones(2, 3)
    with pytest.raises(InputError, match=r"granularity: layer leaves out whole residual blocks.*prunus\.prune\(model"):
        read_policy({"granularity": "layer", "schedule": {"kind": "one_shot", "final": 0.5}})
    with pytest.raises(InputError, match=r"weight: granularity layer leaves out whole residual blocks"):
        weight_targets(model, "layer")
    with pytest.raises(InputError, match="lstsq mends weights whose inputs are pruned"):
        prunus.prune(model, x, ratio=0.5, granularity="layer", solver="lstsq", data=Calibration([x]))
