"""The empirical Fisher matrix in blocks, its inverse, and what it says of single weights and of sets of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from prunus.errors import InputError

# Blocks that are solved together: bounds what is needed beside the sum itself.
CHUNK = 4096


class BlockFisher:
    """F = (1/N) Σ_n g_n g_nᵀ + λ·s·I over blocks of consecutive weights, from a stream of per-sample gradients.

    s is the mean of the block's own diagonal of (1/N) Σ g gᵀ, so that λ means the same whatever the loss is scaled by;
    a block without any gradient has the saliency 0.
    numel: how many weights. block: weights per block; damp: λ > 0.
    Memory: numel · block numbers of float64, the last block filled up: 400 bytes per weight by default.
    Source: Singh and Alistarh 2020, arXiv:2004.14340; Kurtic et al. 2022, arXiv:2203.07259. Both begin their recursion
        at I/λ with an absolute λ = 1e-7, which outweighs gradients of size 1e-4.
    """

    def __init__(self, numel: int, *, block: int = 50, damp: float = 1e-7, device: torch.device | str = "cpu") -> None:
        if min(numel, block) < 1 or not damp > 0:
            raise InputError(
                f"BlockFisher(numel={numel}, block={block}, damp={damp}): whole numbers of at least 1 and a damp above "
                "0 are wanted"
            )
        self.numel, self.damp, self.num_added = numel, damp, 0.0
        self._block = min(block, numel)
        number = math.ceil(numel / self._block)
        self.total = torch.zeros(number, self._block, self._block, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, total: Tensor, num_added: float, numel: int, damp: float) -> BlockFisher:
        """Return one that has taken `num_added` gradients, from Σ g gᵀ, (blocks, B, B)."""
        made = cls.__new__(cls)
        made.numel, made.damp, made.num_added = numel, damp, num_added
        made.total, made._block = total, total.shape[1]
        return made

    def add_(self, gradient: Tensor) -> None:
        """Add the gradient of one sample's loss.

        gradient: any shape with `numel` elements; a batch's mean gradient would lose what its samples differ by.
        Raises InputError for another size, and for what is not finite.
        """
        g_NB1 = self._blocks(gradient, "the gradient").unsqueeze(2)
        if not bool(g_NB1.isfinite().all()):
            raise InputError(f"gradient {self.num_added:g} is not finite; look at its sample, or lower the loss scale")
        self.total.baddbmm_(g_NB1, g_NB1.mT)
        self.num_added += 1

    def saliency(self, weights: Tensor) -> Tensor:
        """Score each weight by what its removal costs when the rest of its block makes up for it: w² / (2 [F⁻¹]_qq).

        weights: any shape with `numel` elements. Returns the same shape, float64.
        Raises InputError before any gradient is there.
        """
        w_NB = self._blocks(weights, "the weights")
        scores = torch.cat(
            [
                w_NB[chunk].square() * scale / (2 * inverse.diagonal(dim1=1, dim2=2))
                for chunk, inverse, scale in self._inverted()
            ]
        )
        return scores.flatten()[: self.numel].reshape(weights.shape)

    def update(self, weights: Tensor, pruned: Tensor) -> Tensor:
        """Remove a set of weights and move the others of their blocks: w − F⁻¹_{:,Q} [F⁻¹_QQ]⁻¹ w_Q.

        All of a block's pruned weights go together; one after the other, with the inverse downdated each time, ends in
        the same place.
        weights: any shape with `numel` elements. pruned: bool of the same shape.
        Returns the new weights, same shape and dtype, exactly 0 where pruned.
        Raises InputError before any gradient is there.
        """
        if pruned.shape != weights.shape or pruned.dtype != torch.bool:
            raise InputError(f"pruned is {pruned.dtype} {tuple(pruned.shape)}; bool {tuple(weights.shape)} is wanted")
        w_NB, gone_NB = self._blocks(weights, "the weights"), self._blocks(pruned, "pruned")
        moved = torch.cat([_remove(inverse, w_NB[chunk], gone_NB[chunk]) for chunk, inverse, _ in self._inverted()])
        new = moved.flatten()[: self.numel].reshape(weights.shape).to(weights.dtype)
        return new.masked_fill(pruned, 0.0)

    def _inverted(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield blocks, s · F⁻¹ of them, (n, B, B), and s, (n, 1)."""
        if not self.num_added:
            raise InputError("no gradient was added, so there is no Fisher matrix; add those of single samples first")
        real = torch.full((len(self.total), 1), float(self._block), dtype=torch.float64, device=self.total.device)
        real[-1] = self.numel - (len(real) - 1) * self._block
        identity = torch.eye(self._block, dtype=torch.float64, device=self.total.device)
        for start in range(0, len(self.total), CHUNK):
            chunk = slice(start, start + CHUNK)
            mean = self.total[chunk] / self.num_added
            scale = mean.diagonal(dim1=1, dim2=2).sum(dim=1, keepdim=True) / real[chunk]
            safe = torch.where(scale > 0, scale, torch.ones_like(scale)).unsqueeze(2)
            yield chunk, torch.cholesky_inverse(torch.linalg.cholesky(mean / safe + self.damp * identity)), scale

    def _blocks(self, values: Tensor, name: str) -> Tensor:
        """See values as (blocks, B) in float64, filled up with zeros."""
        if values.numel() != self.numel:
            raise InputError(f"{name} has {values.numel()} elements; BlockFisher was made for {self.numel}")
        filled = self.total.new_zeros(self.total.shape[0] * self._block)
        filled[: self.numel] = values.detach().reshape(-1)
        return filled.reshape(-1, self._block)


def _remove(inverse: Tensor, w_NB: Tensor, gone_NB: Tensor) -> Tensor:
    """w − F⁻¹_{:,Q} [F⁻¹_QQ]⁻¹ w_Q for blocks that lose different positions, (N, B)."""
    both = gone_NB.unsqueeze(2) * gone_NB.unsqueeze(1)
    # Outside Q the system is the identity on zeros, so that all blocks have one size.
    system = inverse * both + torch.diag_embed(1 - gone_NB)
    share: Tensor = torch.linalg.solve(system, (w_NB * gone_NB).unsqueeze(2))
    return w_NB - (inverse @ share).squeeze(2)
