"""Write which criterion scores which granularity into docs/concepts/criteria.md, by trying all on a small net."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunus.axes import Graph, trace
from prunus.criteria import collect_for, criterion, criterion_names, score_target
from prunus.errors import InputError
from prunus.granularity import block_target, find_targets
from prunus.plans import named_state
from prunus.statistics import Calibration

PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "criteria.md"
BEGIN, END = "<!-- matrix: python scripts/write_matrix.py -->", "<!-- end of matrix -->"

COLUMNS = {
    "element": "element",
    "vector": "vector(4)",
    "block": "block(4, 4)",
    "pattern": "pattern(4, 4)",
    "n:m": "2:4",
    "kernel": "kernel",
    "filter": "filter",
    "channel": "channel",
    "coupled groups": "filter",
    "experts": "filter",
    "layer": "layer",
}
"""Heading -> granularity; filters and channels are those of single weights, the others those of a traced net."""

SPELLED = {"lp": "lp(3)"}
"""Criteria that take an argument."""


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.norm_b = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions make."""
        y: Tensor = x + self.norm_b(self.b(self.norm_a(self.a(x)).relu()))
        return y


class Net(nn.Module):
    """A small convolutional net in which batch norms scale every unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks, self.head = nn.Sequential(Block(), Block(), Block()), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Classify (N, 4, H, W)."""
        y: Tensor = self.head(self.blocks(self.norm(self.stem(x)).relu()).mean((2, 3)))
        return y


class Mixture(nn.Module):
    """Four experts, of which a router gives every token two."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 8, 16)), nn.Parameter(torch.randn(4, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the experts of each row of (N, 8)."""
        weights = self.router(x).softmax(-1)
        scores, chosen = weights.topk(2, dim=-1)
        gate = torch.zeros_like(weights).scatter(1, chosen, scores)
        y: Tensor = torch.einsum("te,teh,ehd->td", gate, torch.einsum("td,edh->teh", x, self.up).relu(), self.down)
        return y


class MixedNet(nn.Module):
    """The same stem, and a mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.mixture, self.head = Mixture(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Classify (N, 4, H, W)."""
        x = self.norm(self.stem(x)).relu().mean((2, 3))
        y: Tensor = self.head(x + self.mixture(x))
        return y


def traced(net: type[nn.Module]) -> tuple[Graph, Calibration]:
    """Return a net, traced, and its calibration data."""
    torch.manual_seed(0)
    data = [(torch.randn(8, 4, 6, 6), torch.randint(3, (8,))) for _ in range(2)]
    model = net().eval()
    return trace(model, data[0][0]), Calibration(data, functional.cross_entropy)


def traced_nets() -> dict[str, tuple[Graph, Calibration]]:
    """Return the net of each column, and its calibration data."""
    net, mixed = traced(Net), traced(MixedNet)
    return {column: mixed if column == "experts" else net for column in COLUMNS}


def scores_of(graph: Graph, calibration: Calibration, word: str, column: str) -> list[Tensor]:
    """Score all units of a column's targets; raises InputError where a criterion cannot."""
    rank, kind, model = criterion(SPELLED.get(word, word)), COLUMNS[column], graph.model
    if column == "layer":
        targets = [block_target(graph)]
    elif column == "experts":
        targets = find_targets(model, kind, {"kind": "expert"}, graph)
    elif column == "coupled groups":
        targets = find_targets(model, kind, graph=graph)
    else:
        targets = find_targets(model, kind, {"type": "Conv2d"})
    seen = collect_for(model, rank, targets, calibration)
    return [score_target(target, named_state(model), rank, seen) for target in targets]


def reason(graph: Graph, calibration: Calibration, word: str, column: str) -> str | None:
    """Return why a criterion has no scores for a column, without the names of this net, or None where it has."""
    try:
        scores_of(graph, calibration, word, column)
    except InputError as error:
        first = re.sub(r"^([\w.()=]+: )+", "", str(error)).split(";")[0]
        return re.sub(rf"\b{word}\b", "it", first)
    return None


def table() -> str:
    """Return the matrix as Markdown: criteria of equal rows together, and the reasons as notes."""
    nets = traced_nets()
    rows: dict[tuple[str | None, ...], list[str]] = {}
    for word in criterion_names():
        rows.setdefault(tuple(reason(*nets[column], word, column) for column in COLUMNS), []).append(word)
    notes = list(dict.fromkeys(why for row in rows for why in row if why is not None))
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for row, words in rows.items():
        cells = ["yes" if why is None else f"no ({notes.index(why) + 1})" for why in row]
        lines.append(f"| {', '.join(f'`{word}`' for word in words)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {why}" for number, why in enumerate(notes, start=1))])


def written(page: str) -> str:
    """Return the page with the matrix as it is now."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
