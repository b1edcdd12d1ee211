"""What one call did, in figures and in words."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.costs import Costs, Latency, compare
from prunus.permuting import Permutation
from prunus.plans import Plan, Proof
from prunus.solvers import Mending, Reconstruction

LANES = 16  # float32 numbers in an AVX-512 register; ONNX Runtime's and OpenVINO's convolutions step by as much


@dataclass(frozen=True)
class PruneReport:
    """What `prune` did: costs before and after on the example inputs, measured latency, the proof, the plan.

    permutation: which channels were put in another order first. mending: what a solver did to each layer, where there
    was one; reconstruction: what training did to each block.
    latency: (dense, pruned), interleaved in one run, or None where it was not asked for.
    """

    plan: Plan
    dense: Costs
    pruned: Costs
    latency: tuple[Latency, Latency] | None
    proof: Proof | None
    permutation: Permutation | None = None
    mending: Mending | None = None
    reconstruction: Reconstruction | None = None

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
            rows.append(("latency (torch, 1 thread)", before, after, f"{self.ratios['latency']:.2f}x"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        if uneven := self._uneven():
            lines.append(uneven)
        if self.permutation:
            lines.append(f"permuted: {self.permutation.summary}")
        if self.mending:
            lines.append(f"mended {len(self.mending.errors)} weights: {self.mending.summary}")
        if self.reconstruction:
            lines.append(f"reconstructed {len(self.reconstruction.errors)} blocks: {self.reconstruction.summary}")
        if self.proof:
            lines.append(f"proved: thinned == masked to {self.proof.max_rel:.1e} (relative, {self.proof.dtype})")
        return "\n".join(lines)

    def _uneven(self) -> str:
        """Say where time was probably left: kernels work on so many channels at once, and one more costs a step."""
        graph = self.plan.graph
        uneven = {
            name: left
            for name, left in self.plan.sizes.items()
            if left % LANES and graph[name].size % LANES == 0 and graph[name].kind == "channel"
        }
        if not uneven:
            return ""
        name, left = next(iter(uneven.items()))
        return (
            f"channel counts that are no multiple of {LANES} now: {len(uneven)}, such as {name} ({left}); "
            f"runtimes are often slower there: try round_to={LANES}"
        )
