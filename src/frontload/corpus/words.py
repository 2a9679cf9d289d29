"""Words of many texts at once, as 64-bit hashes, with numpy instead of a Python loop.

A word is a run of letters or digits (case ignored; every non-ASCII character counts as a letter),
and so is each other visible character by itself, so that `3+4=7` has five. Measures built on it
(distinct n-grams, near duplicates, self-check words) cost about 50 ns a byte together, where
splitting and hashing in Python costs ten times that.

A word's hash is a polynomial over its bytes, taken from one running sum over the whole buffer:
(S[end] - S[start]) x base^-start modulo 2^64, mixed by splitmix64's finaliser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frontload.corpus.distinct import Hashes

Ints = NDArray[np.int64]

_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 1 << 64)
_SEPARATOR = b"\n"
_BLOCK = 1 << 20


def _byte_kinds() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """For each byte: itself lower-cased, or 0 if invisible; and whether it continues a word."""
    lowered = np.arange(256, dtype=np.uint8)
    lowered[ord("A") : ord("Z") + 1] += 32
    lowered[: ord(" ") + 1] = lowered[0x7F] = 0
    joins = np.array([chr(byte).isalnum() or byte >= 128 for byte in range(256)])
    joins[ord("_")] = True
    return lowered, joins


_LOWERED, _JOINS = _byte_kinds()


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Words of several texts: `hashes[bounds[i]:bounds[i + 1]]` are those of text i."""

    hashes: Hashes
    bounds: Ints

    def counts(self) -> Ints:
        """Words in each text."""
        return np.diff(self.bounds)

    def grams(self, size: int) -> Words:
        """Runs of `size` words that lie within one text."""
        starts, ends = self.bounds[:-1], np.maximum(self.bounds[1:] - size + 1, self.bounds[:-1])
        total = max(len(self.hashes) - size + 1, 0)
        hashes = self.hashes[:total]
        for offset in range(1, size):
            hashes = mix(hashes * np.uint64(_BASE) + self.hashes[offset : offset + total])
        edges = np.zeros(total + 1, np.int64)
        np.add.at(edges, np.minimum(starts, total), 1)
        np.add.at(edges, np.minimum(ends, total), -1)
        inside = np.cumsum(edges[:-1]) > 0
        bounds = np.concatenate([[0], np.cumsum(np.minimum(ends, total).clip(starts) - starts)])
        return Words(hashes=hashes[inside], bounds=bounds.astype(np.int64))

    def count_among(self, wanted: Hashes) -> Ints:
        """How many words of each text are in `wanted` (sorted)."""
        place = np.searchsorted(wanted, self.hashes).clip(max=len(wanted) - 1)
        hits = np.concatenate([[0], np.cumsum(wanted[place] == self.hashes)])
        return hits[self.bounds[1:]] - hits[self.bounds[:-1]]


def find_words(texts: list[bytes]) -> Words:
    """Words of UTF-8 texts; works through them in blocks of about 1 MB."""
    buffer = _SEPARATOR.join([*texts, b""])
    found = [_words_of_block(buffer[first:last], first) for first, last in _blocks(buffer)]
    starts = np.concatenate([block[0] for block in found])
    lengths = np.array([len(text) + len(_SEPARATOR) for text in texts], np.int64)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    hashes = np.concatenate([block[1] for block in found])
    return Words(hashes=hashes, bounds=np.searchsorted(starts, edges))


def _blocks(buffer: bytes) -> Iterator[tuple[int, int]]:
    """Stretches of about 1 MB that end behind a line, so that no word is cut in two.

    A line above 1 MB makes a longer block.
    """
    first = 0
    while first == 0 or first < len(buffer):
        line_end = buffer.find(_SEPARATOR, first + _BLOCK)
        last = len(buffer) if line_end < 0 else line_end + 1
        yield first, last
        first = last or 1


def _words_of_block(block: bytes, offset: int) -> tuple[Ints, Hashes]:
    """Where each word starts (plus `offset`) and its hash."""
    stored = np.frombuffer(_SEPARATOR + block + _SEPARATOR, np.uint8)
    lowered, joins = _LOWERED[stored], _JOINS[stored]
    visible, goes_on = lowered > 0, joins[1:] & joins[:-1]
    starts = np.flatnonzero(visible[1:] & ~goes_on) + 1
    ends = np.flatnonzero(visible[:-1] & ~goes_on) + 1
    powers, inverses = _powers(len(stored))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(lowered * powers, dtype=np.uint64)])
    return starts - 1 + offset, mix((sums[ends] - sums[starts]) * inverses[starts])


def hashes_of(words: list[str]) -> Hashes:
    """Sorted hashes of single words, as `find_words` gives them."""
    found = find_words([word.encode() for word in words])
    assert len(found.hashes) == len(words), "each must be one word"
    return np.sort(found.hashes)


def mix(hashes: Hashes) -> Hashes:
    """splitmix64's finaliser: every output bit depends on every input bit."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


_cached_powers: tuple[Hashes, Hashes] | None = None


def _powers(length: int) -> tuple[Hashes, Hashes]:
    """base^0 .. base^(length - 1) and their inverses, modulo 2^64."""
    global _cached_powers
    if _cached_powers is None or len(_cached_powers[0]) < length:
        size = 1 << max(length - 1, 1).bit_length()
        _cached_powers = (_powers_of(_BASE, size), _powers_of(_INVERSE, size))
    return _cached_powers[0][:length], _cached_powers[1][:length]


def _powers_of(base: int, size: int) -> Hashes:
    steps = np.full(size, base, np.uint64)
    steps[0] = 1
    return np.cumprod(steps, dtype=np.uint64)
