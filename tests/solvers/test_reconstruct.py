"""Blocks trained to compute what they did: error on unseen data, zeros, the untouched rest, what is found and left."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

import prunus
from prunus import zoo
from prunus.errors import InputError, NameNotFound
from prunus.solvers import find_blocks, reconstruct_
from prunus.statistics import Calibration, recalibrate_


class Attention(nn.Module):
    """Takes keywords only, writes into what it reads, and returns weights beside its output."""

    def __init__(self, width=8):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, *, hidden, scale, unused=None):
        hidden.add_(1)
        weights = (self.q(hidden) @ self.k(hidden).mT * scale["by"]).softmax(-1)
        return {"output": self.o(weights @ self.v(hidden)), "weights": None}


class Layer(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.attention, self.norm = Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, x):
        x = x + self.attention(hidden=self.norm(x), scale={"by": 0.3})["output"]
        return x + self.mlp(x)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.ModuleList([Layer(), Layer()]), nn.Linear(8, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def pruned_copy(model, density=0.6, but=("none",)):
    generator, pruned = torch.Generator().manual_seed(0), copy.deepcopy(model)
    masks = {
        name: torch.rand(value.shape, generator=generator) < density
        for name, value in model.named_parameters()
        if value.dim() > 1 and not any(part in name for part in but)
    }
    with torch.no_grad():
        for name, mask in masks.items():
            pruned.get_parameter(name).mul_(mask)
    return pruned, masks


def transformer(**options):
    torch.manual_seed(0)
    model = Transformer().eval()
    return model, *pruned_copy(model, **options)


def tokens(number=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Calibration([torch.randn(16, 6, 8, generator=generator) for _ in range(number)])


def first(data):
    return next(data.read(torch.device("cpu")))


def output_error(model, reference, data):
    with torch.no_grad():
        pairs = [(model(x), reference(x)) for x in data.data]
        return float(sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_attentions_and_mlps_come_nearer_to_the_dense_ones_on_unseen_data():
    model, pruned, masks = transformer()
    dense, unseen = state(model), tokens(2, seed=2)
    before = output_error(pruned, model, unseen)
    done = reconstruct_(pruned, model, masks, tokens(), held_out=unseen, lr=3e-3)
    blocks = ["layers.0.attention", "layers.0.mlp", "layers.1.attention", "layers.1.mlp", "head"]
    assert list(done.errors) == list(done.held_out) == blocks
    assert all(after < before for before, after in (*done.errors.values(), *done.held_out.values()))
    assert output_error(pruned, model, unseen) < 0.7 * before
    assert all(not pruned.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert same(dense, model.state_dict())
    assert "mean output error on held-out data" in done.summary
    assert "layers.0.mlp: held out" in str(done)


def test_the_errors_are_those_of_the_block_on_its_inputs_now_and_its_outputs_then():
    model, pruned, masks = transformer()
    data = tokens()
    done = reconstruct_(pruned, model, masks, data, blocks=["layers.1.attention"], steps=20)
    with torch.no_grad():
        changes = energy = 0.0
        for x in data.data:
            read, wanted = pruned.layers[0](x), model.layers[0](x)  # the first layer was left
            new, old = (
                net.layers[1].attention(hidden=net.layers[1].norm(x), scale={"by": 0.3})["output"]
                for net, x in ((pruned, read), (model, wanted))
            )
            changes += float((new - old).square().sum())
            energy += float(old.square().sum())
    before, after = done.errors["layers.1.attention"]
    assert after < 0.9 * before
    assert after == pytest.approx(changes / energy, rel=1e-5)


def test_a_linear_block_ends_at_least_squares():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4)).double()
    pruned, masks = pruned_copy(model)
    data = Calibration([torch.randn(64, 6, dtype=torch.float64)])
    reconstruct_(pruned, model, masks, data, blocks=["0"], steps=2000, lr=1e-2)
    x, keep = data.data[0], masks["0.weight"]
    goal = model(x).detach()
    with_bias = torch.cat([x, x.new_ones(64, 1)], dim=1)
    for row in range(4):
        kept = torch.cat([keep[row], torch.tensor([True])])
        best = torch.linalg.lstsq(with_bias[:, kept], goal[:, row : row + 1]).solution.flatten()
        found = torch.cat([pruned[0].weight[row][keep[row]], pruned[0].bias[row : row + 1]]).detach()
        torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-4)


def test_padding_does_not_count():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))

        def forward(self, x, attention_mask):
            return self.mlp(x)

    torch.manual_seed(0)
    model, real = Net(), torch.tensor([[1, 1, 0], [1, 0, 0]])
    x = torch.randn(2, 3, 4)
    garbage = torch.where(real.bool()[:, :, None], x, torch.full_like(x, 7.0))
    found = []
    for inputs in (x, garbage):
        pruned, masks = pruned_copy(model)
        reconstruct_(pruned, model, masks, Calibration([{"x": inputs, "attention_mask": real}]), steps=5)
        found.append(state(pruned))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


def test_one_seed_gives_one_result_whatever_torch_draws():
    results = []
    for seed in (3, 3, 4):
        model, pruned, masks = transformer()
        torch.manual_seed(len(results))
        reconstruct_(pruned, model, masks, tokens(), steps=10, seed=seed)
        results.append(state(pruned))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_a_block_with_nothing_pruned_is_left_as_it_was():
    model, pruned, masks = transformer(but=("layers.0.attention",))
    before = state(pruned.layers[0].attention)
    done = reconstruct_(pruned, model, masks, tokens(), blocks=["layers.*.attention"], steps=5)
    assert list(done.errors) == ["layers.1.attention"]
    assert done.left["layers.0.attention"] == "nothing in it is pruned"
    assert done.left["head.weight"] == "no named block holds it"
    assert same(before, pruned.layers[0].attention.state_dict())


def test_a_block_that_gets_no_better_is_put_back():
    model, pruned, masks = transformer()
    before = state(pruned)
    done = reconstruct_(pruned, model, masks, tokens(), steps=2, lr=1e6)
    assert all(a == b for a, b in done.errors.values())
    assert same(before, pruned.state_dict())


def test_modes_gradients_and_buffers_are_put_back():
    model, pruned, masks = transformer()
    pruned.train()
    pruned.head.weight.grad = torch.ones_like(pruned.head.weight)
    pruned.head.bias.requires_grad_(False)
    reconstruct_(pruned, model, masks, tokens(), steps=3)
    assert pruned.layers[0].training
    assert bool((pruned.head.weight.grad == 1).all())
    assert not pruned.head.bias.requires_grad
    assert pruned.layers[0].mlp[0].weight.grad is None


def test_a_parameter_that_a_module_outside_shares_is_not_trained():
    model, pruned, masks = transformer()
    model.layers[1].mlp[0].weight = model.layers[0].mlp[0].weight
    shared = pruned.layers[1].mlp[0].weight = pruned.layers[0].mlp[0].weight
    before = shared.detach().clone()
    masks = {name: mask for name, mask in masks.items() if name != "layers.1.mlp.0.weight"}
    reconstruct_(pruned, model, masks, tokens(), blocks=["layers.*.mlp"], steps=5)
    assert torch.equal(shared, before)


def images(number, seed):
    generator = torch.Generator().manual_seed(seed)
    return [functional.interpolate(torch.randn(8, 3, 4, 4, generator=generator), size=16) for _ in range(number)]


def test_residual_blocks_of_a_thinned_resnet_and_the_proof_still_holds():
    torch.manual_seed(0)
    model, data = zoo.build("resnet20"), images(4, 0)
    recalibrate_(model, data)
    model.eval()
    dense, x, unseen = state(model), data[0][:1], Calibration(images(4, 1))
    settings = {"ratio": 0.4, "measure_latency": False, "data": data}
    plain, _ = prunus.prune(model, x, **settings)
    small, report = prunus.prune(model, x, reconstruct=30, **settings)
    assert output_error(small, model, unseen) < 0.8 * output_error(plain, model, unseen)
    assert report.proof.max_rel < 1e-10
    assert [value.shape for value in small.parameters()] == [value.shape for value in plain.parameters()]
    assert same(dense, model.state_dict())
    blocks = [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(3)]
    assert [name for name in report.reconstruction.errors if name.startswith("layer")] == blocks
    assert "reconstructed" in str(report)


def test_what_a_solver_chose_is_trained_on_and_its_zeros_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    data = [torch.randn(64, 16) for _ in range(4)]
    settings = {"ratio": 0.6, "granularity": "element", "criterion": "solver", "solver": "sparsegpt", "data": data}
    small, report = prunus.prune(model, data[0], reconstruct=50, measure_latency=False, **settings)
    assert prunus.sparsity(small[0].weight) == pytest.approx(0.6, abs=0.002)
    ((before, after),) = report.reconstruction.errors.values()
    assert after < before
    assert report.mending is not None


def flat(*widths):
    return nn.Sequential(*[each for a, b in pairwise(widths) for each in (nn.Linear(a, b), nn.ReLU())])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (flat(4, 4, 4), ["0-3"]),
        (flat(4, 4, 4, 4, 4, 4), ["0-3", "4-9"]),
        (nn.Sequential(flat(4, 4, 4), nn.Linear(4, 4)), ["0", "1"]),
        (nn.Sequential(flat(4, 4, 4, 4, 4)), ["0.0-3", "0.4-7"]),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False),
            ["layers.0", "layers.1"],
        ),
        (nn.Sequential(nn.MultiheadAttention(4, 2).out_proj), ["0"]),
    ],
    ids=[
        "a small run",
        "runs, the last with three",
        "a block beside a layer",
        "runs inside",
        "encoder layers",
        "one layer",
    ],
)
def test_blocks_that_are_found(model, expected):
    weights = [name for name, value in model.named_parameters() if value.dim() > 1]
    blocks = find_blocks(model.eval(), weights, first(Calibration([torch.randn(3, 2, 4)])))
    assert [block.name for block in blocks] == expected
    assert all(any(block.holds(name) for block in blocks) for name in weights)


def test_a_module_that_runs_twice_is_no_block_but_the_one_around_it_is():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = flat(4, 4, 4)

        def forward(self, x):
            return self.mlp(self.mlp(x))

    model = nn.ModuleDict({"again": Again()})
    model.forward = lambda x: model["again"](x)
    blocks = find_blocks(model, ["again.mlp.0.weight", "again.mlp.2.weight"], first(Calibration([torch.ones(2, 4)])))
    assert [block.name for block in blocks] == ["again"]
    pruned, masks = pruned_copy(model["again"])
    with pytest.raises(InputError, match="block mlp runs 2 times"):
        reconstruct_(pruned, model["again"], masks, Calibration([torch.ones(2, 4)]), blocks=["mlp"])
    with pytest.raises(InputError, match="no block of Again to reconstruct"):
        reconstruct_(pruned, model["again"], masks, Calibration([torch.ones(2, 4)]))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"blocks": ["layer.0"]}, NameNotFound, "no module named 'layer.0'; did you mean"),
        ({"steps": 0}, InputError, "reconstruction: steps is 0"),
        ({"lr": float("nan")}, InputError, "reconstruction: lr is nan"),
        ({"masks": {"heads.weight": torch.ones(3, 8) > 0}}, NameNotFound, "did you mean head.weight"),
        ({"masks": {"head.weight": torch.ones(3, 8)}}, InputError, r"mask of head.weight is torch.float32 \(3, 8\)"),
    ],
)
def test_what_is_wrong_is_said(options, error, words):
    model, pruned, masks = transformer()
    with pytest.raises(error, match=words):
        reconstruct_(pruned, model, **{"masks": masks, "calibration": tokens(), **options})


def test_half_precision_and_missing_data_are_named():
    model, pruned, masks = transformer()
    with pytest.raises(InputError, match="float32 is wanted for Adam"):
        reconstruct_(pruned.bfloat16(), model.bfloat16(), masks, Calibration([torch.randn(2, 3, 8).bfloat16()]))
    with pytest.raises(InputError, match="reconstruct= trains blocks on what they read; give data="):
        prunus.prune(model, torch.randn(2, 3, 8), ratio=0.3, reconstruct=5)
