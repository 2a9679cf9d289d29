"""Planned rows as arrays a model can be fed with.

Guarantees: the same slice of an order gives the same arrays on any machine and for any split over
ranks. Labels are already shifted: `labels[r, t]` is the token the model should predict at position
`t`, that is token `t + 1`, or IGNORE where that token carries no loss, lies in another segment, is
padding or was cut. So no shift is needed (or allowed) in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frontload.corpus.rows import PackedRows

if TYPE_CHECKING:
    from frontload.corpus.mixture import Order

IGNORE = -100
Batch = dict[str, NDArray[Any]]


def assemble_batch(order: Order, packs: Mapping[str, PackedRows], start: int, stop: int) -> Batch:
    """Rows `start` to `stop` of an order (less at its end).

    Returns arrays of shape (rows, context): `input_ids` int64, `labels` int64 (shifted, see
    above), `position_ids` int64 (from 0 in every segment, padding included), `segments` uint16
    (0 is padding); and of shape (rows,): `source` uint8, `row` uint32, `num_tokens`,
    `num_supervised`, `num_examples` int64.
    """
    stop = min(stop, len(order))
    source, row = order.source[start:stop], order.row[start:stop]
    take = order.take[start:stop].astype(np.int64)
    shape = (len(row), order.context)
    ids = np.empty(shape, np.int64)
    segments = np.empty(shape, np.uint16)
    targets = np.empty(shape, bool)
    examples = np.empty(len(row), np.int64)
    columns = np.arange(order.context)
    used = columns < take[:, None]
    for index in np.unique(source):
        pack = packs[order.sources[index]]
        at = np.flatnonzero(source == index)
        ids[at] = np.where(used[at], pack.tokens[row[at]], pack.pad_id)
        segments[at] = pack.segments[row[at]]
        targets[at] = pack.supervised[row[at]]
        examples[at] = pack.num_examples[row[at]]
    # A row that goes on with a document begun earlier has one segment more than it begins.
    examples -= segments.max(axis=1)
    examples += segments[np.arange(len(row)), take - 1]
    segments[~used] = 0
    targets &= used
    labels = np.full(shape, IGNORE, np.int64)
    np.copyto(labels[:, :-1], ids[:, 1:], where=targets[:, 1:])
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": _positions(segments, columns),
        "segments": segments,
        "source": source,
        "row": row,
        "num_tokens": take,
        "num_supervised": targets.sum(axis=1),
        "num_examples": examples,
    }


def _positions(segments: NDArray[np.uint16], columns: NDArray[Any]) -> NDArray[np.int64]:
    begins = np.zeros(segments.shape, np.int64)
    changes = segments[:, 1:] != segments[:, :-1]
    np.copyto(begins[:, 1:], columns[1:], where=changes)
    return columns - np.maximum.accumulate(begins, axis=1)
