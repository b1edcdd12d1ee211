"""How long do trace, plan, proof and cut take? ResNet-50, ViT-B/16, a two-layer Llama; Torch-Pruning beside them.

    python benchmarks/structure_time.py [--rounds 3] [--out benchmarks/results/structure_time.md]

Every row is the median of runs in fresh processes, one thread, contenders in turn. Phases of `prunus.trace` are timed
inside the call. Torch-Pruning takes part where it can be imported: `pip install --no-deps torch-pruning==1.6.1`; a run
that takes longer than a minute is stopped and not repeated. Half of every group goes, by magnitude. The second table
is the analysis alone, over models of growing depth.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus import costs

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # torchvision beside a CPU-only torch
import torchvision_ops  # noqa: F401

LIMIT = 60  # seconds for one run
PHASES = ("capture eval", "capture train", "propagate", "groups", "plan", "proof", "cut")
Case = tuple[nn.Module, dict[str, Any]]


def torchvision(name: str, extent: int) -> Callable[[], Case]:
    """Return a function that builds a model of torchvision, with the keyword arguments of its forward."""

    def build() -> Case:
        from torchvision import models

        torch.manual_seed(0)
        return getattr(models, name)(weights=None).eval(), {"x": torch.randn(2, 3, extent, extent)}

    return build


def llama(layers: int, width: int, vocabulary: int) -> Callable[[], Case]:
    """Return a function that builds a Llama with grouped queries, and 16 tokens."""

    def build() -> Case:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers, num_attention_heads=16,
            num_key_value_heads=8, vocab_size=vocabulary, use_cache=False,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval(), {"input_ids": torch.randint(0, vocabulary, (2, 16))}

    return build


MODELS = {
    "ResNet-50": torchvision("resnet50", 224),
    "ViT-B/16": torchvision("vit_b_16", 224),
    "Llama, 2 layers of 1024": llama(2, 1024, 32000),
}
DEPTHS = {
    **{f"ResNet-{n}": torchvision(f"resnet{n}", 64) for n in (18, 34, 50, 101, 152)},
    **{f"Llama, {n} layers of 64": llama(n, 64, 128) for n in (2, 8, 32)},
}


@contextmanager
def timed(times: dict[str, float], phase: str) -> Iterator[None]:
    """Add the seconds that the block takes to a phase, also when it fails."""
    start = time.perf_counter()
    try:
        yield
    finally:
        times[phase] = times.get(phase, 0.0) + time.perf_counter() - start


def trace_timed(model: nn.Module, kwargs: dict[str, Any], times: dict[str, float]) -> Any:
    """Trace with a clock around capture and propagate; what is left of the call is finding groups."""
    from prunus.axes import graph as room

    capture, propagate, inside = room.capture, room.propagate, {}

    def timed_capture(*args: Any, **options: Any) -> Any:
        with timed(inside, "capture train" if options.get("training") else "capture eval"):
            return capture(*args, **options)

    def timed_propagate(*args: Any, **options: Any) -> Any:
        with timed(inside, "propagate"):
            return propagate(*args, **options)

    room.capture, room.propagate = timed_capture, timed_propagate
    with timed(times, "groups"):
        graph = room.trace(model, None, kwargs)
    times.update(inside, groups=times["groups"] - sum(inside.values()))
    return graph


def by_prunus(build: Callable[[], Case]) -> dict[str, float]:
    """Time every phase of thinning one model to half of each group."""
    import prunus

    model, kwargs = build()
    times: dict[str, float] = {}
    graph = trace_timed(model, kwargs, times)
    with timed(times, "plan"):
        plan = prunus.plan(graph, ratio=0.5)
        plan.surgery()
    with timed(times, "proof"):
        plan.prove(model)
    with timed(times, "cut"):
        small = plan.apply(model, inplace=True, prove=False)
    return {**times, "left": count(small) / graph.size().params}


def by_torch_pruning(build: Callable[[], Case]) -> dict[str, float]:
    """Time its graph and its step; heads, which it has to be told, are read from the model's own modules."""
    import torch_pruning

    model, kwargs = build()
    dense, times, heads = count(model), {}, {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = module.num_heads
        if hasattr(module, "q_proj"):
            config = module.config
            heads[module.q_proj] = config.num_attention_heads
            heads[module.k_proj] = heads[module.v_proj] = config.num_key_value_heads
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with timed(times, "graph"):
        pruner = torch_pruning.pruner.BasePruner(
            model, kwargs if "input_ids" in kwargs else kwargs["x"], torch_pruning.importance.MagnitudeImportance(),
            pruning_ratio=0.5, ignored_layers=[last], num_heads=heads, output_transform=logits,
        )  # fmt: skip
    with timed(times, "step"):
        pruner.step()
    try:
        model(**kwargs)
        runs = 1.0
    except Exception:
        runs = 0.0
    return {**times, "left": count(model) / dense, "runs": runs}


def logits(output: Any) -> torch.Tensor:
    """The tensor that is differentiated."""
    return (output if isinstance(output, torch.Tensor) else output.logits).sum()


def by_depth(build: Callable[[], Case]) -> dict[str, float]:
    """Time the analysis alone."""
    model, kwargs = build()
    times: dict[str, float] = {}
    graph = trace_timed(model, kwargs, times)
    return {**times, "nodes": len(graph.trace.nodes), "num groups": len(graph.groups)}


def count(model: nn.Module) -> int:
    """Parameters, ties once."""
    return sum(parameter.numel() for parameter in model.parameters())


CONTENDERS: dict[str, Callable[[Callable[[], Case]], dict[str, float]]] = {
    "prunus": by_prunus,
    "torch_pruning": by_torch_pruning,
    "depth": by_depth,
}


def run(contender: str, model: str) -> dict[str, float] | None:
    """Run one contender in a fresh process; None where it fails."""
    command = [sys.executable, __file__, "--contend", contender, "--model", model]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        print(f"{contender} takes longer than {LIMIT} s on {model}", file=sys.stderr)
        return None
    if done.returncode:
        print(f"{contender} fails on {model}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of every figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]} if runs else {}


def collect(jobs: list[tuple[str, str]], rounds: int) -> dict[tuple[str, str], dict[str, float]]:
    """Run all jobs once per round, one after another, and take medians."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {job: [] for job in jobs}
    for number in range(rounds):
        for job, runs in found.items():
            result = run(*job) if len(runs) == number else None  # what failed once is not tried again
            if result is not None:
                runs.append(result)
    return {job: medians(runs) for job, runs in found.items()}


def report(rounds: int) -> str:
    """Measure everything and return the page."""
    beside = find_spec("torch_pruning") is not None
    jobs = [(c, m) for m in MODELS for c in ("prunus", "torch_pruning") if beside or c == "prunus"]
    found = collect(jobs, rounds)
    deep = collect([("depth", m) for m in DEPTHS], rounds)
    lines = [
        "# Structure: seconds from a model to a smaller one",
        "",
        f"`python benchmarks/structure_time.py --rounds {rounds}`; one thread; median of {rounds} fresh processes,"
        " contenders in turn. Half of every group goes, by magnitude. `left` is the share of parameters left.",
        "",
        *(f"* {name}: {value}" for name, value in costs.environment().items() if name != "threads"),
        "",
        "| Prunus | " + " | ".join(PHASES) + " | all | without proof | left |",
        "|---|" + "---:|" * (len(PHASES) + 3),
    ]
    for name in MODELS:
        row = found["prunus", name]
        total = sum(row[phase] for phase in PHASES)
        cells = [f"{row[phase]:.2f}" for phase in PHASES]
        lines.append(f"| {name} | {' | '.join(cells)} | {total:.1f} | {total - row['proof']:.1f} | {row['left']:.0%} |")
    lines += ["", *(beside_lines(found) if beside else ["Torch-Pruning was not installed in this run."])]
    lines += [
        "",
        "## The analysis grows with the number of operations",
        "",
        "Without capture: propagation through both captures, and finding the groups.",
        "",
        "| model | operations | groups | propagate | groups found | µs per operation |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for (_, name), row in deep.items():
        each = 1e6 * (row["propagate"] + row["groups"]) / row["nodes"]
        lines.append(
            f"| {name} | {row['nodes']:.0f} | {row['num groups']:.0f} | {row['propagate']:.3f} s |"
            f" {row['groups']:.3f} s | {each:.0f} |"
        )
    return "\n".join(lines) + "\n"


def beside_lines(found: dict[tuple[str, str], dict[str, float]]) -> list[str]:
    """The table of Torch-Pruning, which proves nothing, so that its time stands against ours without the proof."""
    lines = [
        "Torch-Pruning 1.6.1, told which layer is the last and how many heads there are; it proves nothing:",
        "",
        "| Torch-Pruning | graph | step | all | left | runs afterwards |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name in MODELS:
        row = found["torch_pruning", name]
        if not row:
            lines.append(f"| {name} | no result within {LIMIT} s | | | | |")
            continue
        lines.append(
            f"| {name} | {row['graph']:.2f} | {row['step']:.2f} | {row['graph'] + row['step']:.1f} |"
            f" {row['left']:.0%} | {'yes' if row['runs'] else 'no'} |"
        )
    return lines


def main() -> None:
    """Print the page; write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contend", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--model", choices={**MODELS, **DEPTHS}, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        torch.set_num_threads(1)
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        print(json.dumps(CONTENDERS[options.contend]({**MODELS, **DEPTHS}[options.model])))
        return
    text = report(options.rounds)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
