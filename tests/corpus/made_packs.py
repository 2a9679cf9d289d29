"""Small packs made of random rows, without a tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frontload.corpus.rows import PackedRows, RowWriter


def made_pack(
    directory: Path,
    *,
    source: str = "A",
    rows: int = 20,
    context: int = 16,
    reasoning: bool = True,
    prompts: int = 30,
    seed: int = 0,
) -> PackedRows:
    """Rows of random length holding 1 to 3 examples, the later half of each supervised."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 500, (rows, context))
    segments = np.zeros((rows, context), np.uint16)
    supervised = np.zeros((rows, context), bool)
    examples = np.zeros(rows, np.int64)
    for row in range(rows):
        lengths = rng.integers(2, max(3, context // 3), rng.integers(1, 4))
        begin = 0
        for length in lengths.tolist():
            end = min(begin + length, context)
            if end - begin < 2:
                break
            examples[row] += 1
            segments[row, begin:end] = examples[row]
            supervised[row, begin + (end - begin) // 2 : end] = True
            begin = end
    hashes = rng.integers(1, prompts + 1, examples.sum()).astype(np.uint64)
    with RowWriter(directory, context=context, vocab_size=512, pad_id=0) as writer:
        writer.append(tokens, segments, supervised, examples, hashes if reasoning else hashes[:0])
        return writer.finish(source=source, reasoning=reasoning, identity={}, counters={})
