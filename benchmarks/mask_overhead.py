"""What do masks cost per training step? LeNet-300-100, batch 128: dense, Prunus, torch.nn.utils.prune.

    python benchmarks/mask_overhead.py [--rounds 100] [--steps 20] [--out benchmarks/results/mask_overhead.md]

Every round times all variants one after another, in an order that rotates, and divides by the dense time of the same
round; the table shows the median of these paired ratios, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from prunus.masks import MaskSet

SPARSITY = 0.9
NOTE = (
    "Adam and AdamW that are not fused: their extra time is not the masks' own. On a CPU torch takes the square root "
    "of the second moment through MKL, which is about six times slower where most values are exactly zero, as those of "
    "pruned weights are whoever prunes them. `fused=True` avoids it."
)
# Tiny rates: the loss must not vanish while this runs, or denormal numbers would be timed instead.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD, momentum 0.9": lambda p: torch.optim.SGD(p, 1e-5, momentum=0.9),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, 1e-5, weight_decay=0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-5, weight_decay=0.01),
}


def lenet_300_100() -> nn.Sequential:
    """Build the 266,610 parameters of LeCun et al. 1998."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def keep_masks(model: nn.Module) -> dict[str, Tensor]:
    """Keep the largest tenth of every weight."""
    weights = {name: p.detach().abs() for name, p in model.named_parameters() if p.dim() == 2}
    return {name: size > size.flatten().quantile(SPARSITY) for name, size in weights.items()}


def step_function(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """One training step on fixed data."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(128, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (128,), generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def variants(make_optimizer: Callable[..., torch.optim.Optimizer]) -> dict[str, Callable[[], None]]:
    """Build the step of every variant; the dense one twice, as a control of the measurement itself."""
    steps: dict[str, Callable[[], None]] = {}
    for name in ("dense", "dense again", "Prunus masks", "torch.nn.utils.prune"):
        model = lenet_300_100()
        if name == "torch.nn.utils.prune":
            for layer in model:
                if isinstance(layer, nn.Linear):
                    prune.l1_unstructured(layer, "weight", SPARSITY)
        optimizer = make_optimizer(model.parameters())
        if name == "Prunus masks":
            masks = MaskSet(model)
            masks.attach(optimizer)
            masks.set_("benchmark", keep_masks(model))
        steps[name] = step_function(model, optimizer)
    return steps


def seconds(step: Callable[[], None], num_steps: int) -> float:
    """Time some steps: seconds that this thread ran, without those in which others had the core."""
    start = time.thread_time()
    for _ in range(num_steps):
        step()
    return time.thread_time() - start


def measure(steps: dict[str, Callable[[], None]], rounds: int, num_steps: int) -> dict[str, list[float]]:
    """Time all variants in every round, each round starting with another one."""
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        seconds(steps[name], 20)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(seconds(steps[name], num_steps) / num_steps)
    return times


def rows(label: str, times: dict[str, list[float]]) -> list[str]:
    """Format one optimizer's part of the table."""
    lines = []
    for name, values in times.items():
        ratios = [value / dense for value, dense in zip(values, times["dense"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        over = "" if name == "dense" else f"{100 * (middle - 1):+.1f} %"
        spread = "" if name == "dense" else f"{100 * (low - 1):+.1f} … {100 * (high - 1):+.1f} %"
        lines.append(f"| {label} | {name} | {1e3 * statistics.median(values):.3f} | {over} | {spread} |")
    return lines


def environment() -> str:
    """Say what this was measured on."""
    return (
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s)"
    )


def main() -> None:
    """Measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Masks: cost per training step",
        "",
        f"LeNet-300-100, batch 128, {SPARSITY:.0%} of every weight masked. {environment()}. "
        f"{arguments.rounds} interleaved rounds of {arguments.steps} steps, CPU time; over dense = median of paired "
        "ratios, with the quartiles beside it. The goal is under 3 %.",
        "",
        "| optimizer | variant | ms per step | over dense | quartiles |",
        "|---|---|---|---|---|",
    ]
    for label, make_optimizer in OPTIMIZERS.items():
        lines += rows(label, measure(variants(make_optimizer), arguments.rounds, arguments.steps))
    table = "\n".join([*lines, "", NOTE]) + "\n"
    print(table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
