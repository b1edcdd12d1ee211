"""What one call did, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prunus.costs import Costs, Latency, compare
from prunus.permuting import Permutation
from prunus.plans import Plan, Proof
from prunus.runtimes import step_for
from prunus.solvers import Mending, Reconstruction


@dataclass(frozen=True)
class PruneReport:
    """What `prune` did: costs before and after on the example inputs, measured latency, the proof, the plan.

    permutation: which channels were put in another order first. mending: what a solver did to each layer, where there
    was one; reconstruction: what training did to each block.
    latency: (dense, pruned), interleaved in one run, or None where it was not asked for.
    spared: groups that were to lose units but are kept whole, with what their proof said.
    """

    plan: Plan
    dense: Costs
    pruned: Costs
    latency: tuple[Latency, Latency] | None
    proof: Proof | None
    permutation: Permutation | None = None
    mending: Mending | None = None
    reconstruction: Reconstruction | None = None
    spared: Mapping[str, str] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, float]:
        """Dense divided by pruned, per quantity; latency as the median of paired rounds."""
        ratios = compare(self.dense, self.pruned)
        return {**ratios, "latency": self.latency[1].ratio_to_first} if self.latency else ratios

    def __str__(self) -> str:
        rows = [("", "dense", "pruned", "ratio")]
        for name in ("parameters", "nonzeros", "macs", "file_bytes", "peak_activation_bytes"):
            before, after = getattr(self.dense, name), getattr(self.pruned, name)
            rows.append((name.replace("_", " "), f"{before:,}", f"{after:,}", f"{self.ratios[name]:.2f}x"))
        if self.latency:
            before, after = (f"{latency.median_ms:.3g} ms" for latency in self.latency)
            threads = self.latency[1].threads
            where = f"latency ({self.latency[1].runtime}, {threads} thread{'s' * (threads != 1)})"
            rows.append((where, before, after, f"{self.ratios['latency']:.2f}x"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        if met := self.plan.provenance.get("latency"):
            lines.append(f"budget: {met}")
        if uneven := self._uneven():
            lines.append(uneven)
        if self.permutation:
            lines.append(f"permuted: {self.permutation.summary}")
        if self.mending:
            lines.append(f"mended {len(self.mending.errors)} weights: {self.mending.summary}")
        if self.reconstruction:
            lines.append(f"reconstructed {len(self.reconstruction.errors)} blocks: {self.reconstruction.summary}")
        if self.spared:
            first, why = next(iter(self.spared.items()))
            lines.append(f"kept whole: {len(self.spared)} groups, such as {first}: {why.partition('. Units')[0]}")
        if self.proof:
            lines.append(f"proved: thinned == masked to {self.proof.max_rel:.1e} (relative, {self.proof.dtype})")
        return "\n".join(lines)

    def _uneven(self) -> str:
        """Say where time was probably left: kernels work on so many channels at once, and one more costs a step."""
        graph = self.plan.graph
        channels = {name: step_for(graph[name].size) for name in self.plan.sizes if graph[name].kind == "channel"}
        uneven = {
            name: (self.plan.sizes[name], step)
            for name, step in channels.items()
            if self.plan.sizes[name] % step and not graph[name].size % step
        }
        if not uneven:
            return ""
        name, (left, step) = next(iter(uneven.items()))
        return (
            f"channel counts between the steps of kernels now: {len(uneven)}, such as {name} ({left}, no multiple of "
            f"{step}); runtimes are often slower there: try round_to='auto'"
        )
