"""Random layers with correlated inputs, and what the solvers are measured against."""

import itertools

import torch


def layer(rows, columns, *, seed=0, tokens=None, dtype=torch.float64):
    """(weight (R, C), X (T, C)); the inputs are correlated and of unlike size."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens or 4 * columns, columns, generator=generator, dtype=torch.float64) @ mixed
    inputs *= 0.2 + torch.rand(columns, generator=generator, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype), inputs


def gram(inputs):
    return inputs.T @ inputs


def mask(rows, columns, density=0.5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, columns, generator=generator) < density


def error(weight, new, inputs):
    """‖X(W'−W)ᵀ‖² / ‖XWᵀ‖² from X itself."""
    change = inputs @ (new.double() - weight.double()).T
    return float(change.square().sum() / (inputs @ weight.double().T).square().sum())


def loss(weight, new, inputs):
    return float((inputs @ (new - weight).mT).square().sum())


def refit(weight, keep, inputs):
    """Least squares on X directly, row by row."""
    new = torch.zeros_like(weight)
    for row, kept in enumerate(keep):
        if kept.any():
            new[row, kept] = torch.linalg.lstsq(inputs[:, kept], inputs @ weight[row]).solution
    return new


def masks_of(columns, kept):
    """Every mask of one row with so many kept, (M, C) bool."""
    found = torch.zeros(0, columns, dtype=torch.bool)
    for at in itertools.combinations(range(columns), kept):
        row = torch.zeros(1, columns, dtype=torch.bool)
        row[0, list(at)] = True
        found = torch.cat([found, row])
    return found


def best_error(weight, inputs, kept):
    """The least loss of all masks with `kept` weights in each row, each refitted."""
    total = 0.0
    for row in weight:
        choices = masks_of(len(row), kept)
        tiled = row.expand(len(choices), -1)
        refits = refit(tiled, choices, inputs)
        total += float(((refits - tiled) @ inputs.T).square().sum(dim=1).min())
    return total
