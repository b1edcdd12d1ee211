"""Is a latency budget met? Asked, looked up and measured latency, with counts rounded to the kernels' steps and not.

    python benchmarks/latency_budget.py [--share 0.6] [--out benchmarks/results/latency_budget.md]

One thread, batch 1. Each figure is a ratio to the dense model's time, measured turn by turn with it, by the processor's
time that the pass takes. After the budget was met, dense, rounded and ragged model are timed once more in one run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus import zoo
from prunus.axes import trace
from prunus.costs import environment
from prunus.errors import InputError
from prunus.oneshot import plan
from prunus.runtimes import device

NETS = {"resnet20": 32, "mobilenet_v2": 64, "vgg16_bn_cifar": 32}
HEAD = (
    "| net | runtime | rounded | MACs left | looked up | measured | missed by | again, in one run | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def cases(name: str, side: int, on: str, share: float) -> list[str]:
    """One row with rounded counts, one without."""
    torch.manual_seed(0)
    model, x = zoo.build(name).eval(), torch.randn(1, 3, side, side)
    graph = trace(model, x)
    rows: dict[str, list[str]] = {}
    built: dict[str, nn.Module] = {"dense": model}
    for label, step in (("yes", "auto"), ("no", 1)):
        start = time.perf_counter()
        try:
            made = plan(graph, target=f"latency={share}@{on}", round_to=step)  # type: ignore[arg-type]
        except InputError as error:
            rows[label] = ["", str(error), "", "", "", ""]
            continue
        figures = made.provenance["latency_figures"]
        built[label] = made.apply(model, prove=False)
        rows[label] = [
            f"{graph.size(made.sizes).macs / graph.size().macs:.2f}",
            f"{figures['predicted']:.3f}",
            f"{figures['measured']:.3f} ± {figures['error']:.3f}",
            f"{abs(figures['measured'] / share - 1):.1%}",
            "",
            f"{time.perf_counter() - start:.0f}",
        ]
    for label, ratio in again(built, x, on).items():
        rows[label][4] = ratio
    return [f"| {name} | {on} | {label} | {' | '.join(row)} |" for label, row in rows.items()]


def again(models: dict[str, nn.Module], x: Tensor, on: str) -> dict[str, str]:
    """Time all models in one run; the ratios to the dense one, with their standard errors."""
    found = device(on).measure(models, x, repeats=400, seconds=15)
    return {
        name: f"{1 / one.ratio_to_first:.3f} ± {one.ratio_error / one.ratio_to_first**2:.3f}"
        for name, one in found.items()
        if name != "dense"
    }


def main() -> None:
    """Run all cases, print them, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latency_budget.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [HEAD]
    print(HEAD, flush=True)
    for on in ("onnxruntime", "torch"):
        for name, side in NETS.items():
            for line in cases(name, side, on, options.share):
                lines.append(line)
                print(line, flush=True)
    known = environment()
    about = (
        f"Asked: {options.share:g} of the dense latency. {known['cpu']}, torch {known['torch']}, one thread, batch 1."
    )
    page = f"# A latency budget, asked and met\n\n{about}\n\n" + "\n".join(lines) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
