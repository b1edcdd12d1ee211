"""Exactly the k lowest scores, whatever their number: streamed, stable, in a few megabytes.

A float's bits, read as an integer with the sign folded in, sort like the float. So the k-th lowest score is
found digit by
digit: one histogram of the high 16 bits of all scores names the bin of the answer, a second one over the
low 16 bits of that bin names the value (float64: four digits). The scores are read in chunks that stay in
the cache and are never concatenated, sorted or copied whole. Everything below the value is taken, then as
many equals as are still wanted, earliest tensor and lowest flat index first: equal scores never over-prune.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import InputError

_CHUNK = 1 << 17  # half a megabyte of float32: a chunk and its keys stay in the second-level cache
_DIGIT_BITS = 16
_BINS = 1 << _DIGIT_BITS


@dataclass(frozen=True)
class _Layout:
    """How a float type is read as a sortable integer."""

    real: torch.dtype
    integer: torch.dtype
    bits: int


_SINGLE = _Layout(torch.float32, torch.int32, 32)
_DOUBLE = _Layout(torch.float64, torch.int64, 64)


def lowest_k(scores: Sequence[Tensor], k: int) -> list[Tensor]:
    """Mark exactly the k lowest of all scores together.

    scores: float tensors of any shapes and float dtypes; contiguous ones are never copied. -inf and inf are
        legal.
    k: 0 <= k <= number of scores.
    Returns boolean tensors of the same shapes and devices with k True in all. Ties (-0.0 equals 0.0):
    earlier tensor first, then lower flat index.
    Raises InputError for NaN, for tensors that are not floats, and for a k out of range.
    """
    flats = [_flat(tensor) for tensor in scores]
    total = sum(flat.numel() for flat in flats)
    k = _checked_count(k, total, "scores")
    if k == 0 or k == total:
        _reject_nan(flats)
        return [torch.full(t.shape, k > 0, dtype=torch.bool, device=t.device) for t in scores]
    layout = _DOUBLE if any(flat.dtype == torch.float64 for flat in flats) else _SINGLE
    threshold, ties = _kth_lowest(flats, k, layout)
    masks = []
    for tensor, flat in zip(scores, flats, strict=True):
        mask, ties = _at_most(flat, threshold, ties, layout)
        masks.append(mask.view(tensor.shape))
    return masks


def lowest_k_per_row(scores: Tensor, k: int) -> Tensor:
    """Mark exactly the k lowest scores of every row.

    scores: (R, C), any float dtype; k: 0 <= k <= C.
    Returns (R, C) bool with k True in each row; ties lowest column first.
    Raises InputError for NaN, a tensor that is not a float matrix, and a k out of range.
    """
    if scores.dim() != 2:
        raise InputError(f"scores have shape {tuple(scores.shape)}; rows are selected from a matrix (rows, columns)")
    _flat(scores[:0])
    num_rows, num_columns = scores.shape
    k = _checked_count(k, num_columns, "columns")
    pruned = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    step = max(1, 8 * _CHUNK // max(1, num_columns))
    for start in range(0, num_rows, step):
        pruned[start : start + step] = _rows_lowest(_widened(scores[start : start + step]), k)
    return pruned


def _flat(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise InputError(f"scores are {tensor.dtype}; floating point is wanted (call .float())")
    return tensor.detach().reshape(-1)


def _checked_count(k: int, total: int, of: str) -> int:
    try:
        count = operator.index(k)
    except TypeError:
        raise InputError(f"k is {k!r}; a whole number between 0 and {total} is wanted") from None
    if not 0 <= count <= total:
        raise InputError(f"k is {count}, but there are {total} {of}; choose 0 <= k <= {total}")
    return count


def _chunks(flats: Sequence[Tensor]) -> Iterator[Tensor]:
    for flat in flats:
        yield from torch.split(flat, _CHUNK)


def _widened(chunk: Tensor) -> Tensor:
    """float16 and bfloat16 as float32: exact, keeps order and ties, and every kernel knows it."""
    return chunk if chunk.dtype in (torch.float32, torch.float64) else chunk.float()


def _reject_nan(flats: Sequence[Tensor]) -> None:
    for number, flat in enumerate(flats):
        if any(bool(chunk.isnan().any()) for chunk in torch.split(flat, _CHUNK)):
            raise InputError(f"score tensor {number} contains NaN; the k lowest are undefined, mend the scores first")


def _keys(chunk: Tensor, layout: _Layout) -> Tensor:
    """Read floats as integers of the same order; adding 0.0 turns -0.0 into 0.0, so that the two tie."""
    bits = (chunk.to(layout.real) + 0.0).view(layout.integer)
    sign = bits >> (layout.bits - 1)
    return bits.bitwise_xor_(sign.bitwise_and_(torch.iinfo(layout.integer).max))


def _float_of(key: int, layout: _Layout) -> float:
    integer = torch.tensor(key, dtype=layout.integer)
    bits = integer ^ ((integer >> (layout.bits - 1)) & torch.iinfo(layout.integer).max)
    return float(bits.view(layout.real))


def _digit_histogram(flats: Sequence[Tensor], layout: _Layout, shift: int, prefix: int | None) -> Tensor:
    """Count the 16-bit digits at `shift` of the keys whose higher bits are `prefix` (None: all keys)."""
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for chunk in _chunks(flats):
        keys = _keys(chunk, layout)
        if prefix is None:
            digits = (keys >> shift).add_(_BINS // 2)
        else:
            digits = (keys[(keys >> (shift + _DIGIT_BITS)) == prefix] >> shift).bitwise_and_(_BINS - 1)
        counts += torch.bincount(digits, minlength=_BINS).cpu()
    return counts


def _kth_lowest(flats: Sequence[Tensor], k: int, layout: _Layout) -> tuple[float, int]:
    """Return the k-th lowest value (1-based) and how many scores equal to it belong to the k lowest."""
    prefix, rank = None, k
    for shift in range(layout.bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        counts = _digit_histogram(flats, layout, shift, prefix)
        if prefix is None:
            _reject_nan_bins(flats, counts, layout)
        cumulative = counts.cumsum(0)
        digit = int(torch.searchsorted(cumulative, rank))
        rank -= int(cumulative[digit] - counts[digit])
        prefix = digit - _BINS // 2 if prefix is None else (prefix << _DIGIT_BITS) + digit
    assert prefix is not None
    return _float_of(prefix, layout), rank


def _reject_nan_bins(flats: Sequence[Tensor], counts: Tensor, layout: _Layout) -> None:
    """NaN keys lie at and beyond the infinities': look at the scores only if such a bin is occupied."""
    infinity = torch.tensor([-math.inf, math.inf], dtype=layout.real)
    low, high = ((_keys(infinity, layout) >> (layout.bits - _DIGIT_BITS)) + _BINS // 2).tolist()
    if int(counts[: low + 1].sum() + counts[high:].sum()):
        _reject_nan(flats)


def _at_most(flat: Tensor, threshold: float, ties: int, layout: _Layout) -> tuple[Tensor, int]:
    """Mark what is below the threshold and the first `ties` equals; return mask and ties still wanted."""
    mask = torch.empty(flat.numel(), dtype=torch.bool, device=flat.device)
    for chunk, out in zip(torch.split(flat, _CHUNK), torch.split(mask, _CHUNK), strict=True):
        wide = chunk.to(layout.real)  # a Python number is rounded to the tensor's type before it is compared
        torch.lt(wide, threshold, out=out)
        if ties:
            ties -= _take_ties_(out, wide == threshold, ties)
    return mask, ties


def _take_ties_(mask: Tensor, equal: Tensor, wanted: int) -> int:
    """Add the first `wanted` of the equals to the mask; return how many were taken."""
    found = int(equal.count_nonzero())
    if found > wanted:
        mask[equal.nonzero().squeeze(1)[:wanted]] = True
        return wanted
    mask |= equal
    return found


def _rows_lowest(rows: Tensor, k: int) -> Tensor:
    if bool(rows.isnan().any()):
        raise InputError("scores contain NaN; the k lowest of a row are undefined, mend the scores first")
    if k in (0, rows.shape[1]):
        return torch.full(rows.shape, k > 0, dtype=torch.bool, device=rows.device)
    threshold = rows.kthvalue(k, dim=1, keepdim=True).values
    below, equal = rows < threshold, rows == threshold
    wanted = k - below.sum(dim=1, keepdim=True)
    return below | (equal & (equal.cumsum(dim=1) <= wanted))
