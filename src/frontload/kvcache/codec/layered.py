"""Our codec as the bench sees codecs: whole files, one for each level.

Guarantees: a file holds the chunks of a run as `chunk` writes them, each cut where its level ends,
behind its length in 4 bytes. Gives up: dtypes other than bf16, which is what every level decodes to
(the exact one to the values rounded to bf16), and what the layers are for, fetching more of the
same object later; contexts are stored by `container` and `stored`, not by this.
"""

from __future__ import annotations

from dataclasses import dataclass

from frontload.kvcache.codec.chunk import decode_chunk, encode_chunk
from frontload.kvcache.codec.damage import Truncated
from frontload.kvcache.layout import KVTensors, join
from frontload.kvcache.profile import Profile

EXACT = "exact"


@dataclass(frozen=True, kw_only=True)
class Layered:
    """A `Codec`; `chunk_tokens` replaces the profile's."""

    profile: Profile
    name: str = "frontload"
    chunk_tokens: int | None = None
    exact: bool = True  # offer the exact level, too

    @property
    def levels(self) -> list[str]:
        """Numbers of the profile's levels, and `exact`."""
        lossy = [str(i) for i in range(len(self.profile.levels))]
        return [*lossy, EXACT] if self.exact else lossy

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        if level not in self.levels:
            raise ValueError(f"level is {level!r}; one of {', '.join(self.levels)}")
        chunks = kv.chunks(self.chunk_tokens or self.profile.chunk_tokens)
        files = (self._encode(chunk, level) for chunk in chunks)
        return b"".join(len(file).to_bytes(4, "little") + file for file in files)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        chunks, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            if size > len(data) - at - 4:
                raise Truncated(present=len(data), needed=at + 4 + size, of="a chunk")
            chunks.append(decode_chunk(self.profile, data[at + 4 : at + 4 + size]))
            at += 4 + size
        return join(chunks)

    def _encode(self, chunk: KVTensors, level: str) -> bytes:
        encoded = encode_chunk(self.profile, chunk, exact=level == EXACT)
        if level == EXACT:
            return encoded.data
        return encoded.data[: encoded.ends[self.profile.levels[int(level)].parts - 1]]
