"""Wanda and RIA against transcriptions of their papers on explicit inputs, output by output."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import prunus
from criteria_tables import scores_of
from prunus.criteria import criterion
from prunus.errors import InputError, NameNotFound


def naive(word, matrix, x):
    """One output at a time, one weight at a time; matrix (R, C), x (T, C)."""
    size, norm = matrix.abs(), x.square().sum(0).sqrt()
    out = torch.empty_like(matrix)
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            w = size[i, j]
            out[i, j] = w * norm[j] if word == "wanda" else (w / size[:, j].sum() + w / size[i].sum()) * norm[j] ** 0.5
    return out


def rank_rows(matrix):
    return matrix.argsort(dim=1).argsort(dim=1).to(matrix.dtype) / matrix.shape[1]


def rows_of(x, conv):
    """What a convolution's groups read, (groups, T, C), by torch's own unfold."""
    columns = functional.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride)
    return columns.movedim(1, -1).flatten(0, 1).chunk(conv.groups, dim=1)


def double(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WORDS = pytest.mark.parametrize("word", ["wanda", "ria"])


@WORDS
def test_a_linear_map_scores_as_the_paper_writes(word):
    model, data = nn.Sequential(nn.Linear(7, 5)).double(), [double(4, 7, seed=i) for i in range(3)]
    expected = naive(word, model[0].weight.detach(), torch.cat(data))
    found = scores_of(model, f"{word}(compare=layer)", data)["0.weight"]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(scores_of(model, word, data)["0.weight"], rank_rows(expected))


@WORDS
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_scores_its_unfolded_matrix_group_by_group(word, groups):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups).double()
    x = double(3, 4, 7, 7)
    parts = zip(conv.weight.detach().flatten(1).chunk(groups), rows_of(x, conv), strict=True)
    expected = torch.cat([naive(word, *part) for part in parts])
    found = scores_of(nn.Sequential(conv), f"{word}(compare=layer)", [x])["0.weight"]
    torch.testing.assert_close(found.flatten(1), expected)
    found = scores_of(nn.Sequential(conv), word, [x])["0.weight"]
    torch.testing.assert_close(found.flatten(1), rank_rows(expected))


class Transposed(nn.Module):
    """y = x W + b, as transformers' Conv1D has it."""

    def __init__(self, num_in, num_out):
        super().__init__()
        self.weight = nn.Parameter(double(num_in, num_out))
        self.bias = nn.Parameter(torch.zeros(num_out, dtype=torch.float64))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


@WORDS
def test_a_transposed_map_compares_within_its_columns(word):
    model, x = Transposed(7, 5), double(9, 7)
    expected = naive(word, model.weight.detach().T, x)
    torch.testing.assert_close(scores_of(model, f"{word}(compare=layer)", [x])["weight"].T, expected)
    torch.testing.assert_close(scores_of(model, word, [x])["weight"].T, rank_rows(expected))


@WORDS
def test_a_transposed_convolution_compares_within_its_output_channels(word):
    conv, x = nn.ConvTranspose1d(4, 6, 3, groups=2).double(), double(5, 4, 8)
    ranked = scores_of(nn.Sequential(conv), word, [x])["0.weight"]
    plain = scores_of(nn.Sequential(conv), f"{word}(compare=layer)", [x])["0.weight"]
    for half in (slice(0, 2), slice(2, 4)):
        for out in range(3):
            mine, shown = plain[half, out].flatten(), ranked[half, out].flatten()
            torch.testing.assert_close(shown, mine.argsort().argsort().double() / 6)


@WORDS
@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.5, 0.8])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(13, 9), (6, 13)),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
        (Transposed(13, 9), (6, 13)),
    ],
    ids=["linear", "grouped", "transposed"],
)
def test_every_output_loses_the_same_number_up_to_one(word, ratio, layer, shape):
    model = nn.Sequential(layer).double()
    graph = prunus.trace(model, double(*shape))
    mask = prunus.plan(graph, ratio=ratio, granularity="element", criterion=word, data=[double(*shape)]).masks[
        "0.weight"
    ]
    rows = mask.T if isinstance(layer, Transposed) else mask.flatten(1)
    lost = (~rows).sum(dim=1)
    assert int(lost.max() - lost.min()) <= 1
    assert int(lost.sum()) == int(ratio * mask.numel() + 0.5)


@WORDS
def test_n_of_m_keeps_the_best_of_each_group_as_the_paper_scores_them(word):
    model, x = nn.Sequential(nn.Linear(8, 5)).double(), double(9, 8)
    mask = prunus.plan(prunus.trace(model, x), granularity="2:4", criterion=word, data=[x]).masks["0.weight"]
    scores = naive(word, model[0].weight.detach(), x).reshape(5, 2, 4)
    best = torch.zeros(5, 2, 4, dtype=torch.bool).scatter_(2, scores.topk(2, dim=2).indices, True)
    assert torch.equal(mask, best.reshape(5, 8))


@WORDS
def test_padding_tokens_do_not_count(word):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.f = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids, attention_mask):
            return self.f(self.embed(ids))

    model = Tokens().double()
    ids, mask = torch.randint(9, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = scores_of(model, f"{word}(compare=layer)", [{"ids": ids, "attention_mask": mask}])["f.weight"]
    torch.testing.assert_close(found, naive(word, model.f.weight.detach(), model.embed(ids)[mask.bool()].detach()))


@WORDS
def test_units_have_the_sum_of_their_weights(word):
    model, x = nn.Sequential(nn.Linear(7, 5)).double(), double(4, 7)
    whole = naive(word, model[0].weight.detach(), x)
    torch.testing.assert_close(scores_of(model, word, [x], granularity="filter")["0.weight"], whole.sum(1))
    torch.testing.assert_close(scores_of(model, word, [x], granularity="channel")["0.weight"], whole.sum(0))


def test_ria_saves_the_only_weights_of_a_weak_input():
    """|w| and Wanda empty the small column; relative to its column, each of its weights is as large as any."""
    weight = torch.tensor([[5, 0.5, 0.5, 0.01], [0.5, 5, 0.5, 0.01], [0.5, 0.5, 5, 0.01]], dtype=torch.float64)
    model, x = nn.Sequential(nn.Linear(4, 3, bias=False)).double(), torch.eye(4, dtype=torch.float64)
    model[0].weight.data.copy_(weight)
    left = {}
    for word in ("wanda(compare=layer)", "ria(compare=layer)"):
        plan = prunus.plan(prunus.trace(model, x), ratio=0.25, granularity="element", criterion=word, data=[x])
        left[word] = plan.masks["0.weight"].any(dim=0).tolist()
    assert left == {"wanda(compare=layer)": [True, True, True, False], "ria(compare=layer)": [True] * 4}


def test_zero_rows_and_columns_score_zero():
    model = nn.Sequential(nn.Linear(3, 2)).double()
    model[0].weight.data.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 2.0]]))
    found = scores_of(model, "ria(compare=layer, power=0)", [torch.ones(2, 3, dtype=torch.float64)])["0.weight"]
    assert found.tolist() == [[0, 0, 0], [0, pytest.approx(1 + 1 / 3), pytest.approx(1 + 2 / 3)]]


def test_settings_are_checked():
    assert criterion("ria(compare=layer, power=0.3)").name == "ria(compare=layer, power=0.3)"
    with pytest.raises(NameNotFound, match="comparison of ria"):
        criterion("ria(compare=column)")
    with pytest.raises(InputError, match="power of ria"):
        criterion("ria(power=-1)")
