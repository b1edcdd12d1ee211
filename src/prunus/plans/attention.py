"""`nn.MultiheadAttention` with fewer heads than its width holds, which torch's own forward cannot express."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[Tensor, Tensor | None]


class ThinnedMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention whose projections are narrower than `embed_dim`; parameters and their names are torch's.

    num_heads: heads that are left. head_dim: the dense width of a head, from which the scale follows; the widths that
    are left are read from the weights.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Take and return what `nn.MultiheadAttention.forward` does."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            self._heads(functional.linear(x, *p)) for x, p in zip((query, key, value), self._maps(), strict=True)
        )
        k, v, extra = self._extended(k, v)
        hinted = is_causal and key_padding_mask is None and not need_weights  # torch then leaves the mask out, as here
        mask = None if hinted else self._mask(attn_mask, key_padding_mask, q, extra)
        scale = self.head_dim**-0.5
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * scale
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = functional.dropout(weights, self.dropout, self.training)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout, hinted, scale=scale)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _maps(self) -> list[Pair]:
        """Return weight (rows, inputs) and bias (rows,) of the three projections; q and k have equally many rows."""
        values = self.out_proj.in_features
        if self.in_proj_weight is None:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        else:
            keys = (self.in_proj_weight.shape[0] - values) // 2
            weights = list(torch.split(self.in_proj_weight, [keys, keys, values]))
        rows = [weight.shape[0] for weight in weights]
        biases = [None] * 3 if self.in_proj_bias is None else torch.split(self.in_proj_bias, rows)
        return list(zip(weights, biases, strict=True))

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, heads * width) -> (N, heads, L, width)."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Add the learned and the zero position that the module may have; return how many."""
        extra = 0
        if self.bias_k is not None and self.bias_v is not None:
            rows = (self._heads(b).expand(k.shape[0], -1, -1, -1) for b in (self.bias_k, self.bias_v))
            k, v = (torch.cat([x, row], dim=2) for x, row in zip((k, v), rows, strict=True))
            extra += 1
        if self.add_zero_attn:
            k, v = (functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
            extra += 1
        return k, v, extra

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, extra: int) -> Tensor | None:
        """Add up both masks, as floats that broadcast to (N, heads, L, S)."""
        masks = []
        if attn_mask is not None:
            shape = (1, 1, *attn_mask.shape) if attn_mask.dim() == 2 else (-1, self.num_heads, *attn_mask.shape[1:])
            masks.append(attn_mask.reshape(shape))
        if padding is not None:
            masks.append(padding[:, None, None, :])
        floats = [
            torch.zeros_like(m, dtype=q.dtype).masked_fill(m, -torch.inf) if m.dtype == torch.bool else m for m in masks
        ]
        return functional.pad(sum(floats[1:], floats[0]), (0, extra)) if floats else None
