"""Measure what half the width buys: a dense ResNet-18 beside one of half its channels, interleaved in one run.

python benchmarks/latency.py
python benchmarks/latency.py --model resnet50 --batch 8 --threads 2 --channels-last
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from prunus import costs, zoo

FULL_WIDTH = {
    "resnet18": 64,
    "resnet50": 64,
    "resnet20": 16,
    "resnet56": 16,
    "mobilenet_v1": 1.0,
    "mobilenet_v2": 1.0,
    "quickstart_net": 32,
}


def main() -> None:
    """Print the environment, then a row per model."""
    options = arguments()
    x = zoo.example_input(options.model, batch=options.batch)
    models = {"dense": zoo.build(options.model), "half": half_width(options.model)}
    if options.channels_last:
        x = x.to(memory_format=torch.channels_last)
        models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    measured = costs.latency(models, x, repeats=options.repeats, threads=options.threads, seconds=options.seconds)
    for name, value in (costs.environment() | {"threads": options.threads}).items():
        print(f"{name:9} {value}")
    print_table(options, models, x, measured)


def half_width(name: str) -> nn.Module:
    """Build a model of the zoo with half its channels."""
    width = FULL_WIDTH[name]
    return zoo.build(name, width=width // 2 if isinstance(width, int) else width / 2)


def print_table(
    options: argparse.Namespace,
    models: dict[str, nn.Module],
    x: torch.Tensor,
    measured: dict[str, costs.Latency],
) -> None:
    """Print a row per model; the last column is the share of the saved work that became saved time."""
    dense_macs = costs.macs(models["dense"], x)
    print(f"\n{options.model}, batch {options.batch}, float32, {measured['dense'].rounds} rounds")
    print(f"{'model':6} {'MACs':>14} {'median ms':>10} {'p90 ms':>8} {'fewer MACs':>11} {'faster':>7} {'share':>6}")
    for name, model in models.items():
        macs, time = costs.macs(model, x), measured[name]
        fewer = dense_macs / macs
        print(
            f"{name:6} {macs:14,} {time.median_ms:10.2f} {time.p90_ms:8.2f} {fewer:10.2f}x "
            f"{time.ratio_to_first:6.2f}x {time.ratio_to_first / fewer:6.2f}"
        )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=FULL_WIDTH, default="resnet18")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--channels-last", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
