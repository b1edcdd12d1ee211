"""Names, patterns and types to targets."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from prunus.errors import InputError, NameNotFound
from prunus.granularity import MemberUnits, find_targets, group_targets, weight_targets


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.stem = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
        self.conv2 = nn.Conv2d(8, 8, 1)
        self.fc1 = nn.Linear(8, 6)
        self.head = nn.Linear(4, 10, bias=False)
        self.scale = nn.Parameter(torch.ones(6, 2))
        self.register_parameter("absent", None)
        self.head.weight = self.embed.weight
        self.again = self.fc1


def names(targets):
    return [target.name for target in weight_targets(Net(), "element", targets)]


WEIGHTS = ["stem.0.weight", "conv2.weight", "fc1.weight"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("*", WEIGHTS),
        ("stem.0.weight", ["stem.0.weight"]),
        ("stem", ["stem.0.weight"]),
        ("stem.*", ["stem.0.weight"]),
        ("fc1.bias", ["fc1.bias"]),
        ("again.weight", ["fc1.weight"]),
        ("*.bias", ["stem.0.bias", "stem.1.bias", "conv2.bias", "fc1.bias"]),
        ("head.weight", ["embed.weight"]),
        ("scale", ["scale"]),
        (["fc1", "conv2"], ["conv2.weight", "fc1.weight"]),
        ({"type": "Conv2d"}, ["stem.0.weight", "conv2.weight"]),
        ({"type": "_ConvNd"}, ["stem.0.weight", "conv2.weight"]),
        ({"type": ["Linear", "Conv2d"]}, WEIGHTS),
        ({"type": "BatchNorm2d"}, ["stem.1.weight", "stem.1.bias"]),
        ({"type": "Conv2d", "name": "conv*"}, ["conv2.weight"]),
        ({"exclude": "stem"}, ["conv2.weight", "fc1.weight"]),
        ({"name": "*", "exclude": ["conv2.*", "again"]}, ["stem.0.weight"]),
    ],
)
def test_specs_name_parameters(spec, expected):
    assert names(spec) == expected


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ({"kind": "ffn"}, InputError, "only filter and channel prune groups"),
        ({"exclude": {"kind": "head"}}, InputError, "only filter and channel prune groups"),
        ({"exclude": {"kin": "head"}}, NameNotFound, "did you mean kind"),
        ({"exclude": 7}, InputError, "exclude is 7"),
        ("fc2", NameNotFound, "did you mean fc1"),
        ("stem.1", NameNotFound, "stem.1.weight"),
        (["fc1", "covn2"], NameNotFound, "did you mean conv2"),
        ({"type": "Conv2D"}, NameNotFound, "did you mean Conv2d"),
        ({"type": "Linear", "name": "conv2"}, NameNotFound, "conv2"),
        ({"nam": "fc1"}, NameNotFound, "did you mean name"),
        ({"exclude": "nothing"}, NameNotFound, "nothing"),
        ({"name": "fc1", "exclude": "fc*"}, InputError, "exclude less"),
        ([], InputError, "empty"),
        (7, InputError, "pattern"),
        ([""], InputError, "pattern"),
    ],
)
def test_wrong_specs_are_explained(spec, error, words):
    with pytest.raises(error, match=words):
        names(spec)


def test_a_model_without_weights_has_nothing_to_name():
    with pytest.raises(NameNotFound):
        weight_targets(nn.BatchNorm1d(3), "element")


def test_error_of_a_shape_names_the_parameter():
    with pytest.raises(InputError, match=r"^fc\.weight: 2:4 on a 3-column weight of shape \(5, 3\)"):
        weight_targets(nn.ModuleDict({"fc": nn.Linear(3, 5)}), "2:4")


@dataclass(frozen=True)
class Member:
    param: str
    dim: int
    role: str
    index: torch.Tensor
    is_parameter: bool = True


@dataclass(frozen=True)
class Group:
    name: str
    members: tuple
    kind: str = "channel"
    minimum: int = 1


@dataclass(frozen=True)
class Graph:
    groups: tuple


def each(size):
    return torch.arange(size).unsqueeze(1)


GRAPH = Graph(
    (
        Group(
            "stem",
            (
                Member("stem.0.weight", 0, "out", each(8)),
                Member("stem.0.bias", 0, "out", each(8)),
                Member("stem.1.weight", 0, "scale", each(8)),
                Member("stem.1.running_mean", 0, "buffer", each(8), False),
                Member("conv2.weight", 1, "in", each(8)),
            ),
        ),
        Group("norm", (Member("stem.1.bias", 0, "scale", each(8)),)),
    )
)


def test_filter_scores_the_producer_and_channel_the_reader():
    by_filter = group_targets(GRAPH, "filter", model=Net())
    by_channel = group_targets(GRAPH, "channel", model=Net())
    assert [t.name for t in by_filter] == ["stem", "norm"]
    assert [p.param for p in by_filter[0].scored] == ["stem.0.weight"]
    assert [p.param for p in by_channel[0].scored] == ["conv2.weight"]
    assert [p.param for p in by_filter[1].scored] == ["stem.1.bias"]
    assert len(by_filter[0].parts) == 5
    assert by_filter[0].num_units == 8
    assert by_filter[0].group == "stem"
    assert all(isinstance(part.units, MemberUnits) for part in by_filter[0].parts)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("stem.0.weight", ["stem"]),
        ("stem.0", ["stem"]),
        ({"type": "Conv2d"}, ["stem"]),
        ("stem.1.bias", ["norm"]),
        ({"exclude": "stem.0.weight"}, ["norm"]),
    ],
)
def test_groups_are_named_by_their_scored_parameters(spec, expected):
    assert [t.name for t in group_targets(GRAPH, "filter", spec, model=Net())] == expected


def test_one_excluded_member_protects_the_whole_group():
    members = (Member("stem.0.weight", 0, "out", each(8)), Member("conv2.weight", 0, "out", each(8)))
    graph = Graph((Group("residual", members), *GRAPH.groups[1:]))
    assert [t.name for t in group_targets(graph, "filter", model=Net())] == ["residual", "norm"]
    assert [t.name for t in group_targets(graph, "filter", {"exclude": "conv2"}, model=Net())] == ["norm"]


def test_an_exact_name_is_no_pattern():
    model = nn.ParameterDict({"a[0]": torch.zeros(2, 2), "a0": torch.zeros(2, 2)})
    assert [target.name for target in weight_targets(model, "element", "a[0]")] == ["a[0]"]


def test_frozen_names_and_other_granularities_are_refused():
    with pytest.raises(InputError, match="no prunable group"):
        group_targets(GRAPH, "filter", "fc1", model=Net())
    with pytest.raises(NameNotFound, match="did you mean fc1"):
        group_targets(GRAPH, "filter", "fc2", model=Net())
    with pytest.raises(InputError, match="'filter' or 'channel'"):
        group_targets(GRAPH, "element", model=Net())
    with pytest.raises(InputError, match="model="):
        group_targets(GRAPH, "filter")


KINDS = Graph(
    (
        Group("convolution", (Member("conv2.weight", 0, "out", each(8)),), "channel"),
        Group("wide", (Member("fc1.weight", 0, "out", each(6)),), "ffn"),
        Group("stem", (Member("stem.0.weight", 0, "out", each(8)),), "head"),
        Group("norm", (Member("stem.1.bias", 0, "scale", each(8)),), "hidden"),
    )
)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"kind": "ffn"}, ["wide"]),
        ({"kind": ["hidden", "channel"]}, ["convolution", "norm"]),
        ({"kind": ["head", "ffn"], "name": "stem"}, ["stem"]),
        ({"kind": ["head", "ffn"], "type": "Linear"}, ["wide"]),
        ({"exclude": {"kind": "head"}}, ["convolution", "wide", "norm"]),
        ({"exclude": [{"kind": ["head", "ffn"]}, "conv2"]}, ["norm"]),
        ({"kind": ["head", "ffn"], "exclude": {"kind": "head"}}, ["wide"]),
        ({}, ["convolution", "wide", "stem", "norm"]),
        ({"group": ["stem", "wide"]}, ["wide", "stem"]),
        ({"exclude": {"group": "stem"}}, ["convolution", "wide", "norm"]),
        ({"group": ["stem", "wide"], "exclude": [{"kind": "ffn"}]}, ["stem"]),
        ({"exclude": [{"group": ["norm"]}, {"kind": "head"}, "conv2"]}, ["wide"]),
    ],
)
def test_groups_are_chosen_by_kind_and_by_their_own_names(spec, expected):
    assert [t.name for t in group_targets(KINDS, "filter", spec, model=Net())] == expected


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ({"kind": "fnn"}, NameNotFound, "no kind of group named 'fnn'; did you mean ffn"),
        ({"exclude": {"kind": "heads"}}, NameNotFound, "no kind of group named 'heads'; did you mean head"),
        ({"kind": []}, InputError, "kind is empty"),
        ({"kind": 3}, InputError, "kind is 3; a pattern"),
        ({"kind": "ffn", "exclude": {"kind": "ffn"}}, InputError, "no prunable group"),
        ({"kind": "ffn", "name": "stem"}, InputError, "no prunable group"),
        ({"group": "stm"}, NameNotFound, "no group named 'stm'; did you mean stem"),
        ({"exclude": {"group": "ste*"}}, NameNotFound, "no group named 'ste\\*'; did you mean stem"),
    ],
)
def test_wrong_kinds_are_explained(spec, error, words):
    with pytest.raises(error, match=words):
        group_targets(KINDS, "filter", spec, model=Net())


MIXTURE = Graph(
    (
        Group("fc1", (Member("fc1.weight", 0, "out", each(6)), Member("scale", 0, "scale", each(6))), "expert", 2),
        Group("wide", (Member("conv2.weight", 0, "out", each(8)),), "ffn"),
    )
)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("*", ["wide"]),
        (["fc*", "conv2"], ["wide"]),
        ({"type": ["Linear", "Conv2d"]}, ["wide"]),
        ({"exclude": {"kind": "expert"}}, ["wide"]),
        ({"kind": "expert"}, ["fc1"]),
        ({"group": "fc1"}, ["fc1"]),
        ({"kind": ["expert", "ffn"]}, ["fc1", "wide"]),
        ("fc1", ["fc1"]),
        (["fc1.weight", "conv2"], ["fc1", "wide"]),
    ],
)
def test_whole_experts_go_only_where_kind_or_full_name_asks_for_them(spec, expected):
    found = group_targets(MIXTURE, "filter", spec, model=Net())
    assert [t.name for t in found] == expected
    assert [t.minimum for t in found] == [2 if name == "fc1" else 1 for name in expected]


def test_kinds_need_a_graph():
    with pytest.raises(InputError, match="give its graph"):
        find_targets(Net(), "filter", {"kind": "ffn"})
