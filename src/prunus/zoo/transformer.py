"""A vision transformer and a GPT.

Letters: B batch, T tokens, D model width, H heads, K width of a head. Heads are the -1 of every reshape, so
that a model with fewer heads runs on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.errors import InputError


def _head_width(dim: int, heads: int) -> int:
    if heads < 1 or dim % heads:
        raise InputError(f"dim = {dim} does not divide into heads = {heads}; give a multiple of the heads")
    return dim // heads


class Attention(nn.Module):
    """Multi-head attention with separate query, key and value projections."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head_width = _head_width(dim, heads)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(x_BTD.shape[0], x_BTD.shape[1], -1, self.head_width).transpose(1, 2)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        q, k, v = (self._heads(project(x_BTD)) for project in (self.query, self.key, self.value))
        y_BHTK = F.scaled_dot_product_attention(q, k, v)
        y: Tensor = self.out(y_BHTK.transpose(1, 2).flatten(2))
        return y


class CausalAttention(nn.Module):
    """Multi-head causal attention with one packed projection (query, key, value in this order)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head_width = _head_width(dim, heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(x_BTD.shape[0], x_BTD.shape[1], -1, self.head_width).transpose(1, 2)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D); token t reads tokens 0..t."""
        q, k, v = (self._heads(part) for part in self.qkv(x_BTD).chunk(3, dim=-1))
        y_BHTK = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.out(y_BHTK.transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU network of `4 * dim` hidden units, both residual."""

    def __init__(self, dim: int, attention: nn.Module, *, approximate: str = "none") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate=approximate), nn.Linear(4 * dim, dim))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x_BTD = x_BTD + self.attention(self.norm1(x_BTD))
        y: Tensor = x_BTD + self.mlp(self.norm2(x_BTD))
        return y


class ViT(nn.Module):
    """A vision transformer with a class token and learned positions.

    image_size must be a multiple of patch_size.
    Source: Dosovitskiy et al. 2021, arXiv:2010.11929; the sizes Ti and S of DeiT, arXiv:2012.12877.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1000,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise InputError(f"image_size = {image_size} is not a multiple of patch_size = {patch_size}")
        self.patches = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (image_size // patch_size) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, Attention(dim, heads)) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x_BTD = self.patches(x).flatten(2).transpose(1, 2)
        first = self.class_token.expand(x_BTD.shape[0], -1, -1)
        x_BTD = torch.cat([first, x_BTD], 1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(x_BTD))[:, 0])
        return logits


class GPT(nn.Module):
    """A GPT-2: learned positions, causal pre-norm blocks, and a head that shares the token embedding.

    context: the most tokens it can read.
    Source: Radford et al. 2019, "Language models are unsupervised multitask learners".
    """

    def __init__(
        self, *, vocab_size: int = 256, context: int = 128, dim: int = 128, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, dim)
        self.positions = nn.Embedding(context, dim)
        self.blocks = nn.Sequential(
            *(Block(dim, CausalAttention(dim, heads), approximate="tanh") for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        self.apply(_initialise_)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (B, T), int64, to logits (B, T, vocab_size)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x_BTD = self.tokens(tokens) + self.positions(positions)
        logits: Tensor = self.head(self.norm(self.blocks(x_BTD)))
        return logits


def _initialise_(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def vit_tiny(*, in_channels: int = 3, num_classes: int = 1000, image_size: int = 224) -> ViT:
    """Build ViT-Ti/16: 5,717,416 parameters."""
    return ViT(in_channels=in_channels, num_classes=num_classes, image_size=image_size)


def vit_small(*, in_channels: int = 3, num_classes: int = 1000, image_size: int = 224) -> ViT:
    """Build ViT-S/16: 22,050,664 parameters."""
    return ViT(in_channels=in_channels, num_classes=num_classes, image_size=image_size, dim=384, heads=6)


def vit_cifar(
    *,
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: int = 32,
    dim: int = 96,
    depth: int = 6,
    heads: int = 3,
) -> ViT:
    """Build a small ViT with 4x4 patches for 32x32 images."""
    return ViT(
        in_channels=in_channels, num_classes=num_classes, image_size=image_size, patch_size=4,
        dim=dim, depth=depth, heads=heads,
    )  # fmt: skip


def gpt_tiny(*, vocab_size: int = 256, context: int = 128, dim: int = 128, depth: int = 4, heads: int = 4) -> GPT:
    """Build a small GPT over bytes: about 0.84M parameters."""
    return GPT(vocab_size=vocab_size, context=context, dim=dim, depth=depth, heads=heads)


def gpt2_small(*, vocab_size: int = 50257, context: int = 1024) -> GPT:
    """Build GPT-2 small: 124,439,808 parameters, the tied embedding counted once."""
    return GPT(vocab_size=vocab_size, context=context, dim=768, depth=12, heads=12)
