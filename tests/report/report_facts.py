"""Facts for the tests of this room: a realistic run and the smallest legal one."""

from __future__ import annotations

import copy
import math
from typing import Any

_DENSE: dict[str, Any] = {
    "parameters": 148_298,
    "nonzeros": 148_298,
    "macs": 9_146_880,
    "effective_macs": 9_146_880,
    "weight_bytes": 593_192,
    "file_bytes": 604_712,
    "peak_activation_bytes": 401_408,
    "energy_joules": 1.42e-4,
    "latency": {"median_ms": 0.842, "p90_ms": 0.911, "batch": 1, "threads": 1, "runtime": "torch"},
    "metrics": {
        "validation": {"top1": 0.9102, "top5": 0.9974, "loss": 0.2481},
        "test": {"top1": 0.9071, "top5": 0.9969, "loss": 0.2563},
    },
}
_PRUNED: dict[str, Any] = {
    "parameters": 40_118,
    "nonzeros": 40_118,
    "macs": 2_561_126,
    "effective_macs": 2_561_126,
    "weight_bytes": 160_472,
    "file_bytes": 171_992,
    "peak_activation_bytes": 200_704,
    "energy_joules": 3.9e-5,
    "latency": {
        "median_ms": 0.428,
        "p90_ms": 0.47,
        "batch": 1,
        "threads": 1,
        "runtime": "torch",
        "ratio_to_dense": 1.96,
    },
    "metrics": {
        "validation": {"top1": 0.9081, "top5": 0.9971, "loss": 0.2544},
        "test": {"top1": 0.9046, "top5": 0.9966, "loss": 0.2621},
    },
}


def realistic() -> dict[str, Any]:
    """A run like the quickstart's."""
    return {
        "schema": "prunus-report/1",
        "name": "quickstart on Fashion-MNIST",
        "created": "2026-11-22T14:03:11+00:00",
        "recipe": {
            "version": 1,
            "name": "quickstart",
            "model": "prunus.zoo:quickstart_net",
            "data": "prunus.zoo:fashion_mnist_loaders",
            "loss": "cross_entropy",
            "metrics": ["top1", "top5"],
            "prune": {"epochs": 5, "policies": [{"granularity": "filter", "criterion": "l2"}]},
        },
        "environment": {"python": "3.11.2", "torch": "2.13.0+cpu", "cpu": "x86_64, AVX-512", "threads": 2},
        "seeds": [0],
        "model": {"name": "prunus.zoo:quickstart_net"},
        "data": {"name": "Fashion-MNIST", "sizes": {"train": 55_000, "validation": 5_000, "test": 10_000}},
        "dense": copy.deepcopy(_DENSE),
        "pruned": copy.deepcopy(_PRUNED),
        "proof": {
            "max_abs": 3.1e-14,
            "max_rel": 4.4e-15,
            "tolerance": 1e-10,
            "dtype": "float64",
            "passed": True,
        },
        "sensitivity": _sensitivity(),
        "history": _history(),
        "groups": [
            {"name": f"stage{stage}.{kind}", "kind": "channel", "size": 16 * 2**stage, "kept": 8 * 2**stage}
            for stage in range(3)
            for kind in ("stream", "block.conv1")
        ]
        + [{"name": "head.branch", "kind": "channel", "size": 24, "kept": 24}],
        "masks": [],
        "frozen": [
            {"name": "input", "dim": 1, "reason": "an input of the model"},
            {"name": "classifier.weight", "dim": 0, "reason": "an output of the model"},
        ],
        "assumptions": {"energy_joules": "45 nm (Horowitz 2014): 640 pJ per 32-bit word from DRAM"},
        "baselines": [{"name": "random", "metrics": {"validation": {"top1": 0.889}, "test": {"top1": 0.8852}}}],
        "artifacts": {"model": "model.prunus", "recipe": "recipe.yaml", "log": "log.jsonl"},
    }


def minimal() -> dict[str, Any]:
    """Masks only: no sensitivity, no test split, no latency, no proof, no history."""
    figures = {"parameters": 266_610, "nonzeros": 266_610, "macs": 266_200}
    return {
        "schema": "prunus-report/1",
        "name": "lenet",
        "created": "2026-11-22T14:03:11+00:00",
        "model": {"name": "lenet_300_100"},
        "data": {"name": "digits"},
        "dense": figures | {"metrics": {"validation": {"top1": 0.88}}},
        "pruned": figures | {"nonzeros": 26_661, "metrics": {"validation": {"top1": 0.885}}},
    }


def _sensitivity() -> dict[str, Any]:
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    names = [f"stage{s}.{k}" for s in range(3) for k in ("stream", "block.conv1")] + ["head.branch"]
    curves = {
        name: [0.9102 - (0.02 + 0.09 * (7 - number)) * level**3 for level in levels]
        for number, name in enumerate(names)
    }
    return {
        "metric": "top1",
        "split": "validation",
        "granularity": "filter",
        "levels": levels,
        "curves": curves,
        "dense": 0.9102,
    }


def _history() -> list[dict[str, Any]]:
    stages = ["train"] * 5 + ["prune"] * 5 + ["fine_tune"] * 2
    left = [1.0] * 5 + [0.72, 0.45, 0.31, 0.28, 0.28, 0.28, 0.28]
    found = []
    for number, (stage, share) in enumerate(zip(stages, left, strict=True)):
        loss = 0.21 + 0.45 * math.exp(-0.6 * number) + (0.06 if number in (6, 7) else 0.0)
        found.append(
            {
                "stage": stage,
                "epoch": number + 1 - stages.index(stage),
                "loss": loss,
                "lr": 1e-3,
                "seconds": 11.3,
                "validation": {"top1": 0.925 - 0.3 * (loss - 0.2), "loss": loss + 0.03},
                "sparsity": 1 - share**0.5 if stage != "train" else 0.0,
                "macs": round(share * 9_146_880),
            }
        )
    return found
