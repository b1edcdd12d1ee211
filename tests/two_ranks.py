"""Collect on one half of the data in each of two processes, add up, and save what each rank then holds."""

import os
import sys

import torch
from torch import distributed, nn

from prunus.granularity import Piece, granularity
from prunus.statistics import Calibration, collect

STRIDED = ("gradient", "channels_last.weight")
WHICH = ("gram", "input_square", "taylor", "fisher")


class Net(nn.Module):
    """A query and a key that read one tensor, a layer behind them, and one that runs only where it is asked for."""

    def __init__(self, runs_extra=False):
        super().__init__()
        self.query, self.key, self.out = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)
        self.extra, self.runs_extra = nn.Linear(4, 3), runs_extra

    def forward(self, x):
        hidden = torch.tanh(self.query(x) * self.key(x))
        return self.out(hidden) + (self.extra(hidden) if self.runs_extra else 0)


def model(**options):
    torch.manual_seed(0)
    return Net(**options).double()


def batches():
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [(x, x[:, :3].cos()) for x in (*draw, draw[0][:2])]  # the ranks' halves differ in size


def observed(net, data, names=WHICH):
    found = [
        Piece.of(name, value, granularity("filter").units(value.shape))
        for name, value in net.named_parameters()
        if value.dim() > 1
    ]
    loss = nn.functional.mse_loss
    return collect(net, dict.fromkeys(names, found[::-1] if net.runs_extra else found), Calibration(data, loss))


def main(rank, meeting, case, out):
    """Run as `two_ranks.py RANK MEETING CASE OUT`; an error is what is saved where one is raised."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        net = model(runs_extra=case == "torn" and rank == 1)
        seen = observed(net, batches()[rank * 2 : rank * 2 + 2], WHICH if case != "torn" else ("gram",))
        if case == "shapes" and rank == 1:
            seen.sum("gram", "out.weight").resize_(1, 2, 2)
        seen.add_(STRIDED, torch.arange(6.0).reshape(2, 3).T)
        seen.all_reduce_()
        sums, counts = ({key: read(*key) for key in seen} for read in (seen.sum, seen.count))
        torch.save({"sums": sums, "counts": counts}, out)
    except ValueError as error:
        torch.save({"error": str(error)}, out)
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
