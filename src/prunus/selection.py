"""Exactly the k lowest scores, whatever their number: streamed, stable, in a few megabytes.

A float's bits, read as an integer with the sign folded in, sort like the float. So the k-th lowest score is
found digit by digit: one histogram of the high 16 bits of all scores names the bin of the answer, a second
one over the low 16 bits of that bin names the value (float64: four digits). The scores are read in chunks
that stay in the cache and are never concatenated, sorted or copied whole. Everything below the value is
taken, then as many equals as are still wanted, earliest tensor and lowest flat index first: equal scores
never over-prune.

The chunks are NumPy views: its comparisons, shifts and boolean indexing are five to ten times faster than
torch's on a CPU, while torch counts bins three times faster. Scores on a GPU come over chunk by chunk.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunus.errors import InputError

_CHUNK = 1 << 17  # half a megabyte of float32: a chunk and its keys stay in the second-level cache
_DIGIT_BITS = 16
_BINS = 1 << _DIGIT_BITS


@dataclass(frozen=True)
class _Layout:
    """How a float type is read as a sortable integer."""

    real: torch.dtype
    integer: type[np.int32] | type[np.int64]
    bits: int


_SINGLE = _Layout(torch.float32, np.int32, 32)
_DOUBLE = _Layout(torch.float64, np.int64, 64)


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


def _chunks(flats: Sequence[Tensor], layout: _Layout) -> Iterator[NDArray[Any]]:
    """Yield the scores piecewise; float16 and bfloat16 as float32, which is exact and keeps order and ties."""
    for flat in flats:
        for chunk in torch.split(flat, _CHUNK):
            yield chunk.to("cpu", layout.real).numpy()


def _widened(rows: Tensor) -> Tensor:
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def _reject_nan(flats: Sequence[Tensor]) -> None:
    for number, flat in enumerate(flats):
        if any(np.isnan(chunk).any() for chunk in _chunks([flat], _DOUBLE)):
            raise InputError(f"score tensor {number} contains NaN; the k lowest are undefined, mend the scores first")


def _keys(chunk: NDArray[Any], layout: _Layout) -> NDArray[Any]:
    """Read floats as integers of the same order; adding 0.0 turns -0.0 into 0.0, so that the two tie."""
    with np.errstate(invalid="ignore"):  # a signalling NaN; it is reported by its bin
        bits = (chunk + chunk.dtype.type(0)).view(layout.integer)
    return _fold(bits, layout)


def _fold(bits: NDArray[Any], layout: _Layout) -> NDArray[Any]:
    """Reverse the order of the negative numbers; its own inverse."""
    sign = bits >> (layout.bits - 1)
    sign &= np.iinfo(layout.integer).max
    sign ^= bits
    return sign


def _float_of(key: int, layout: _Layout) -> Any:
    """Return the float of a key as a scalar of its own type: a Python float would widen every comparison."""
    real = np.float32 if layout.bits == 32 else np.float64
    return _fold(np.array([key], dtype=layout.integer), layout).view(real)[0]


def _digit_histogram(flats: Sequence[Tensor], layout: _Layout, shift: int, prefix: int | None) -> NDArray[Any]:
    """Count the 16-bit digits at `shift` of the keys whose higher bits are `prefix` (None: all keys)."""
    counts = np.zeros(_BINS, dtype=np.int64)
    for chunk in _chunks(flats, layout):
        keys = _keys(chunk, layout)
        if prefix is None:
            keys >>= shift
            keys += _BINS // 2
        else:
            keys = keys[keys >> (shift + _DIGIT_BITS) == prefix] >> shift
            keys &= _BINS - 1
        counts += torch.bincount(torch.from_numpy(keys), minlength=_BINS).numpy()
    return counts


def _kth_lowest(flats: Sequence[Tensor], k: int, layout: _Layout) -> tuple[Any, int]:
    """Return the k-th lowest value (1-based) and how many scores equal to it belong to the k lowest."""
    prefix, rank = None, k
    for shift in range(layout.bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        counts = _digit_histogram(flats, layout, shift, prefix)
        if prefix is None:
            _reject_nan_bins(flats, counts, layout)
        cumulative = counts.cumsum()
        digit = int(np.searchsorted(cumulative, rank))
        rank -= int(cumulative[digit] - counts[digit])
        prefix = digit - _BINS // 2 if prefix is None else (prefix << _DIGIT_BITS) + digit
    assert prefix is not None
    return _float_of(prefix, layout), rank


def _reject_nan_bins(flats: Sequence[Tensor], counts: NDArray[Any], layout: _Layout) -> None:
    """NaN keys lie at and beyond the infinities': look at the scores only if such a bin is occupied."""
    infinities = torch.tensor([-torch.inf, torch.inf], dtype=layout.real).numpy()
    low, high = (_keys(infinities, layout) >> (layout.bits - _DIGIT_BITS)) + _BINS // 2
    if counts[: low + 1].any() or counts[high:].any():
        _reject_nan(flats)


def _at_most(flat: Tensor, threshold: Any, ties: int, layout: _Layout) -> tuple[Tensor, int]:
    """Mark what is below the threshold and the first `ties` equals; return mask and ties still wanted."""
    mask = np.empty(flat.numel(), dtype=np.bool_)
    for number, chunk in enumerate(_chunks([flat], layout)):
        out = mask[number * _CHUNK : (number + 1) * _CHUNK]
        np.less(chunk, threshold, out=out)
        if ties:
            ties -= _take_ties_(out, chunk == threshold, ties)
    return torch.from_numpy(mask).to(flat.device), ties


def _take_ties_(mask: NDArray[np.bool_], equal: NDArray[np.bool_], wanted: int) -> int:
    """Add the first `wanted` of the equals to the mask; return how many were taken."""
    found = int(np.count_nonzero(equal))
    if found > wanted:
        mask[equal.nonzero()[0][:wanted]] = True
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
