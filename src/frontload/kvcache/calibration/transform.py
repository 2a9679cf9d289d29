"""From ideal directions to the integers of a profile: rounding, births, order, limits.

Guarantees: what the decoder multiplies with is int16, and `forward` is the exact inverse of that
rounded matrix, so that rounding it costs no reconstruction error (only directions turn a little);
sums of the decoder stay below 2^31. Gives up: components whose variance is far below the finest
step; they are never coded, and only make the matrix whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.calibration.blocks import Bases
from frontload.kvcache.codec import tables
from frontload.kvcache.profile import ESCAPE_LIMIT, LARGEST_INTEGER, SUBSTEPS, Tables, Transform

UNITS = 2047  # the largest entry of an inverse
HOPELESS = 0.02  # squared finest steps: a variance that no depth would code
HEADROOM = 8.0  # how far beyond the largest calibration integer the limit may lie


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Tokens to count symbols on, in blocks: float32 `[blocks, tokens, size]`.

    `first` holds position 0 of every context, whose mean is its own.
    """

    values: np.ndarray
    first: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Built:
    """A transform with its tables, and the coefficients that they were counted on."""

    transform: Transform
    tables: Tables
    coefficients: np.ndarray  # float32 [blocks, tokens, size (k)], in finest steps


def sample_in_blocks(pieces: np.ndarray, values: Tensor, first: Tensor) -> Sample:
    """A sample of a grouping, from `[pieces, tokens, head_dim]` each."""
    index = torch.from_numpy(pieces).long()
    cut = [
        part[index].transpose(1, 2).reshape(len(index), part.shape[1], -1).numpy()
        for part in (values, first)
    ]
    return Sample(values=cut[0], first=cut[1])


def build(
    pieces: np.ndarray, basis: Bases, mean: np.ndarray, sample: Sample, *, step: float, finest: int
) -> Built:
    """Transform and tables whose finest depth has the given step in the basis' coordinates.

    Args:
        pieces: int32 `[blocks, pieces a block]`.
        basis: of these blocks.
        mean: float64 `[blocks, size]`, removed from all tokens but position 0.
        sample: what tables, births and limits are counted on.
        step: of the finest depth.
        finest: the deepest depth; depth 0 has 3^finest times the step.
    """
    first_mean = sample.first.mean(axis=1)
    inverse = np.empty_like(basis.columns, np.int16)
    forward = np.empty_like(basis.columns, np.float32)
    scale = np.empty(len(pieces), np.float32)
    limit = np.empty(mean.shape, np.int32)
    birth = np.empty(mean.shape, np.uint8)
    coefficients = np.empty_like(sample.values)
    for b in range(len(pieces)):
        hopeless = basis.variance[b] < HOPELESS * step**2
        rounded, unit = _rounded(basis.columns[b] * step, hopeless)
        exact = np.linalg.inv(rounded.T * unit)
        forward_32 = exact.astype(np.float32)  # as the encoder has it
        found = (sample.values[b] - mean[b].astype(np.float32)) @ forward_32.T
        born = tables.births(found, finest)
        born[hopeless] = finest + 1
        order = np.argsort(born, kind="stable")
        birth[b], coefficients[b] = born[order], found[:, order]
        forward[b], inverse[b], scale[b] = forward_32[order], rounded[order], unit
        at_first = (sample.first[b] - first_mean[b]) @ forward_32.T
        most = np.maximum(abs(found).max(axis=0), abs(at_first).max(axis=0))
        limit[b] = _limits(most[order], inverse[b], finest - birth[b].astype(np.int64))
    return Built(
        transform=Transform(
            pieces=pieces,
            mean=mean.astype(np.float32),
            first_mean=first_mean.astype(np.float32),
            forward=forward,
            inverse=inverse,
            scale=scale,
            limit=limit,
        ),
        tables=tables.fit(coefficients, birth, finest),
        coefficients=coefficients,
    )


def _rounded(inverse: np.ndarray, hopeless: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Rows as integers of at most `UNITS`, and the value of one unit.

    Rows that are never coded may have any length: they are cut to that of the others, which would
    otherwise be left with few digits.
    """
    length = abs(inverse).max(axis=1)
    longest = length[~hopeless].max() if (~hopeless).any() else length.max()
    inverse = inverse * np.where(hopeless, longest / length, 1.0)[:, None]
    unit = np.float32(longest / UNITS)
    rounded = np.clip(np.rint(inverse / np.float64(unit)), -UNITS, UNITS)
    return rounded.astype(np.float64), unit


def _limits(most: np.ndarray, inverse: np.ndarray, deeper: np.ndarray) -> np.ndarray:
    """int32 `[k]`: beyond the largest integers seen, as far as sums and escapes allow.

    `deeper` counts the depths below that of birth, where the integer must fit an escape; -1 for
    components that are never coded.
    """
    coded = deeper >= 0
    widest = ((2 * ESCAPE_LIMIT + 1) * 3.0**deeper - 1) // 2  # rounds to ESCAPE_LIMIT at birth
    widest = np.where(coded, np.minimum(widest, LARGEST_INTEGER), ESCAPE_LIMIT)
    rows = abs(inverse.astype(np.float64)) * SUBSTEPS * coded[:, None]
    needed = np.ceil(most) + 1
    for headroom in (HEADROOM, 4.0, 2.0, 1.5, 1.2, 1.0):
        wanted = np.minimum(np.ceil(headroom * needed), widest)
        wanted[~coded] = ESCAPE_LIMIT
        if (wanted @ rows).max() < 2**31:
            return wanted.astype(np.int32)
    shrink = (2**31 - 1) / (wanted @ rows).max()
    return np.where(coded, np.maximum(np.floor(wanted * shrink), 1), wanted).astype(np.int32)
