"""One case through every stage, in a process of its own; prints one line of JSON.

    python -m benchmarks.coverage.one timm/resnet18 [--screen]

Stages: build and trace once; then, at each ratio, plan, apply (Prunus' own proof runs inside), the check written
here, one training step, saving and reloading in a fresh process, export to ONNX. `--screen` stops after training,
at .5 alone. The name of each stage goes to stderr as it begins, so that whoever ends this process knows which it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from benchmarks.coverage.cases import builder
from benchmarks.coverage.measure import (
    TOLERANCE,
    apart,
    generic_,
    in_float64,
    num_parameters,
    outputs64,
    redrawn,
    tensors,
    train_one_step,
)
from torch import Tensor, nn

import prunus
from prunus.axes import Inexact
from prunus.errors import ProofError, PrunusError
from prunus.plans import record_of
from prunus.plans.float64 import float64_code
from prunus.runtimes.onnx import export_onnx

ROOT = Path(__file__).parents[2]
RATIOS = (0.3, 0.5)
SCREEN: dict[str, Any] = {"ratios": RATIOS[-1:], "until": "train"}
LEAST_REMOVED = 0.2
RELOADED = 1e-6  # another process may lay memory out otherwise, which moves the last bits of float32
POLICIES: tuple[Inexact, ...] = ("forbid", "compensate", "allow")
NOT_APPLICABLE = "dense model does not export either"


class Stages:
    """Seconds by stage, and the stage that runs now."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.now = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name what runs, and time it."""
        self.now = name
        print(f"stage: {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)


class Failed(Exception):
    """A stage that ran to its end and shows that the case is not covered."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def build(case: str) -> tuple[nn.Module, Any]:
    """Build a case with generic weights; the same in every process. Returns the model and (args, kwargs)."""
    torch.manual_seed(0)
    model, args, kwargs = builder(case)()
    return generic_(model), (args, kwargs)


def run_case(
    case: str, *, ratios: Sequence[float] = RATIOS, until: str = "onnx", keep: Path | None = None
) -> dict[str, Any]:
    """Take one case through its stages; every failure becomes a status.

    until: the last stage: `train`, `reload` or `onnx`, of which the last is for the last ratio of some cases alone.
    keep: where to leave what another process, which the caller starts, is to load again.
    """
    stages = Stages()
    result: dict[str, Any] = {"case": case, "seconds": stages.seconds, "ratios": {}}
    try:
        with stages.stage("build"):
            model, inputs = build(case)
        result["parameters"] = num_parameters(model)
        with stages.stage("trace"):
            graph, result["inexact"] = traced(model, inputs)
    except Exception as error:
        result["ratios"] = {str(ratio): verdict_of(error, stages.now) for ratio in ratios}
        return result
    result["unknown"] = {op: list(dict.fromkeys(places))[:3] for op, places in graph.unknown.items()}
    result["frozen"] = frozen_by(graph)
    for ratio in ratios:
        result["ratios"][str(ratio)] = run_ratio(case, graph, inputs, ratio, until, keep)
    return result


def is_exported(case: str) -> bool:
    """Tell whether a case is among the fifth, drawn at random, that goes to ONNX, which takes longer than all else."""
    return sha256(case.encode()).digest()[-1] % 5 == 0


def traced(model: nn.Module, inputs: Any) -> tuple[prunus.Graph, str]:
    """Trace under the strictest policy for statistics under which half of every group is a fifth of the parameters."""
    for policy in POLICIES:
        graph = prunus.trace(model, *inputs, inexact=policy)
        groups = [group for group in graph.groups if group.kind != "expert"]  # whole experts go only where asked for
        left = graph.size({group.name: group.size - group.size // 2 for group in groups}).params
        if left <= (1 - LEAST_REMOVED) * graph.size().params:
            return graph, policy
    return prunus.trace(model, *inputs), POLICIES[0]


def run_ratio(
    case: str, graph: prunus.Graph, inputs: Any, ratio: float, until: str, keep: Path | None
) -> dict[str, Any]:
    """Take a traced case through the stages of one ratio."""
    stages, model = Stages(), graph.model
    found: dict[str, Any] = {"status": "ok", "reason": "", "seconds": stages.seconds}
    try:
        with stages.stage("plan"):
            plan = prunus.plan(graph, ratio=ratio, criterion="l2", allocation="uniform")
        with stages.stage("apply"):
            try:
                thinned = plan.apply(model).eval()
            except ProofError as error:  # as `prunus.prune` does: what the class spells out stays whole
                if not error.groups:
                    raise
                found["spared"] = len(error.groups)
                whole = {"group": error.groups}
                plan = prunus.plan(graph, ratio=ratio, criterion="l2", allocation="uniform", protect=whole)
                thinned = plan.apply(model).eval()
        record = record_of(thinned)
        assert record is not None
        assert record.proof is not None
        found.update(form=record.form, proof=record.proof.max_rel, generic=record.proof.generic)
        found["removed"] = 1 - num_parameters(thinned) / num_parameters(model)
        with stages.stage("check"):
            found["check"] = check(plan, model, thinned, inputs)
        with stages.stage("train"):
            train(thinned, model, inputs)
        with tempfile.TemporaryDirectory() as folder:
            if keep is not None:
                leave(thinned, inputs, keep / str(ratio))
            elif until != "train":
                with stages.stage("reload"):
                    found["reload"] = reload_elsewhere(case, thinned, inputs, Path(folder))
            if until == "onnx" and ratio == RATIOS[-1] and is_exported(case):
                with stages.stage("onnx"):
                    found["onnx"] = export(thinned, model, inputs, Path(folder))
        if ratio == RATIOS[-1] and found["removed"] < LEAST_REMOVED:
            raise Failed("little", f"only {found['removed']:.1%} of the parameters can go")
    except Exception as error:
        found.update(verdict_of(error, stages.now))
    return found


def check(plan: prunus.Plan, model: nn.Module, thinned: nn.Module, inputs: Any) -> float:
    """Compare masked and thinned models on inputs that the proof has not seen; return how far apart they are.

    Where a statistic runs over fewer units, thinned is another function than masked: the proof alone can tell.
    """
    record = record_of(thinned)
    assert record is not None
    if record.inexact:
        return 0.0
    if plan.graph.context.inexact == "compensate":  # weights rescaled in float32 are rounded there
        model = copy.deepcopy(model).double()
        thinned = plan.apply(model, prove=record.form == "graph")
    new = redrawn(inputs, 5)
    masked = outputs64(plan.mask(model), new)
    if not masked or not any(float(y.abs().max()) > 0 for y in masked if y.numel()):
        raise Failed("crash", "check: every output is zero, so there is nothing to compare")
    difference = apart(masked, outputs64(thinned, new))
    if not difference <= TOLERANCE and record.form == "graph":
        difference = check_graph(plan, model, thinned, new, masked)
    if not difference <= TOLERANCE:
        raise Failed("wrong", f"masked and thinned differ by {difference:.1e} on new inputs")
    return difference


def check_graph(plan: prunus.Plan, model: nn.Module, thinned: nn.Module, new: Any, masked: list[Tensor]) -> float:
    """Compare a graph whose constants were captured in float32: it in float32, and one captured anew in float64.

    A factor such as sqrt(3 * 16) that the class computes in each forward is a number in the graph, rounded once.
    """
    with torch.no_grad():
        rough = apart(masked, [y.double() for y in tensors(thinned(*new[0], **new[1]))])
    if not rough <= 1e-4:
        return rough
    double = copy.deepcopy(model).double()
    with float64_code():
        graph = prunus.trace(double, *in_float64(new))
        again = prunus.Plan(graph, plan.kept).apply(double)
    return apart(masked, outputs64(again, new))


def train(thinned: nn.Module, model: nn.Module, inputs: Any) -> None:
    """Train a copy of the thinned model for a step."""
    torch.manual_seed(1)
    train_one_step(copy.deepcopy(thinned), inputs)


def reload_elsewhere(case: str, thinned: nn.Module, inputs: Any, folder: Path) -> float:
    """Save, load in a fresh process, and compare the outputs there with those here."""
    leave(thinned, inputs, folder)
    command = [sys.executable, "-m", "benchmarks.coverage.one", case, "--reload", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed("crash", f"reload: {(done.stderr.strip().splitlines() or ['no output'])[-1][:200]}")
    difference = float(done.stdout.split()[-1])
    if difference > RELOADED:
        raise Failed("wrong", f"reloaded outputs differ by {difference:.1e}")
    return difference


@torch.no_grad()
def leave(thinned: nn.Module, inputs: Any, folder: Path) -> None:
    """Write a thinned model, and what it makes of the inputs, for another process."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)  # some models draw numbers in eval mode too
    want = tensors(thinned(*inputs[0], **inputs[1]))
    torch.save({"inputs": inputs, "want": want}, folder / "expected.pt")
    prunus.save(thinned, folder / "thinned.prunus")


@torch.no_grad()
def reload_here(case: str, folder: Path) -> float:
    """Load what another process saved; return how far the outputs are from those that it had."""
    expected = torch.load(folder / "expected.pt", weights_only=False)
    model = prunus.load(folder / "thinned.prunus", lambda: builder(case)()[0])
    torch.manual_seed(0)
    return apart(expected["want"], tensors(model(*expected["inputs"][0], **expected["inputs"][1])))


def export(thinned: nn.Module, model: nn.Module, inputs: Any, folder: Path) -> str:
    """Export to ONNX and compare there; a model that torch cannot export even dense is not counted."""
    try:
        return f"{export_onnx(thinned, *inputs, path=folder / 'thinned.onnx').max_rel:.1e}"
    except Exception as error:
        try:
            export_onnx(model, *inputs, path=folder / "dense.onnx")
        except Exception:
            return NOT_APPLICABLE
        raise error


def verdict_of(error: Exception, stage: str) -> dict[str, str]:
    """Put an exception into words: what Prunus refuses is no crash."""
    root = error
    while root.__cause__ is not None and not isinstance(error, PrunusError):
        root = root.__cause__
    text = " ".join(re.sub(r"\x1b\[\d+m", "", f"{root}").split())[:300]
    if isinstance(error, Failed):
        return {"status": error.status, "reason": text, "stage": stage}
    if isinstance(error, PrunusError) and stage in ("trace", "plan", "apply"):
        return {"status": "refused", "reason": f"{type(error).__name__}: {text}", "stage": stage}
    return {"status": "crash", "reason": f"{stage}: {type(root).__name__}: {text}", "stage": stage}


def frozen_by(graph: prunus.Graph) -> dict[str, int]:
    """Return the commonest reasons why dimensions are frozen, with the parameters that they hold back."""
    held: Counter[str] = Counter()
    for frozen in graph.frozen:
        shape = graph.trace.state[frozen.param].shape
        if len(shape) > 1:
            held[frozen.reason] += torch.Size(shape).numel()
    return dict(held.most_common(8))


def main() -> None:
    """Run one case, or the other half of its reload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case")
    parser.add_argument("--screen", action="store_true")
    parser.add_argument("--reload", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.reload:
        print(reload_here(options.case, options.reload))
    else:
        print(json.dumps(run_case(options.case, **(SCREEN if options.screen else {}))))


if __name__ == "__main__":
    main()
