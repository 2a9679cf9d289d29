"""One chunk of a KV cache to one object, and any prefix of the object back to a cache.

Guarantees: decoding gives the bits of `quantize.reconstruct` at every level, and the cache's own
bits at the exact one. Gives up: sources other than bf16 are exact only up to their rounding to
bf16.

    encoded = encode_chunk(profile, chunk)
    chunk = decode_chunk(profile, encoded.data)  # exact
    coarse = decode_chunk(profile, encoded.data[: encoded.ends[2]])  # the level of three parts
"""

from __future__ import annotations

from frontload.kvcache.codec.decoding import decode_chunk, decode_chunks
from frontload.kvcache.codec.drift import Drift, Encoded, PartDrift
from frontload.kvcache.codec.encoding import encode_chunk, encode_chunks

__all__ = [
    "Drift",
    "Encoded",
    "PartDrift",
    "decode_chunk",
    "decode_chunks",
    "encode_chunk",
    "encode_chunks",
]
