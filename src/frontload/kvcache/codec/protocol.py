"""What every codec of this package can do: ours, CacheGen and the rivals alike.

Guarantees: a codec is told apart by its name, and one of its files can be decoded by a codec built
the same way in another process: whatever is not in the bytes is in the arguments of the
constructor (a profile, the model's layout). Gives up: partial reads and streaming, which only our
container has; the bench compares whole files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from frontload.kvcache.layout import KVTensors


@runtime_checkable
class Codec(Protocol):
    """Tensors of a run of tokens to one self-contained file, and back.

    `encode` is deterministic and accepts any number of tokens from 1 and any start position; it
    cuts long runs into chunks itself, so that `len(encode(kv, level))` is everything that has to be
    stored or sent for that run. `decode` gives back the shape and start of what was encoded, on the
    CPU, in its dtype or in bf16: caches of servers are bf16, and a codec may keep nothing finer.
    """

    @property
    def name(self) -> str:
        """Short and unique among the codecs of a comparison; letters, digits, `-` and `.`."""
        ...

    @property
    def levels(self) -> Sequence[str]:
        """Names of its rate-quality points, from the fewest bytes to the most."""
        ...

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """The file of `kv` at `level`.

        Raises:
            ValueError: `level` is none of `levels`, or `kv` cannot be coded (NaN, another shape).
        """
        ...

    def decode(self, data: bytes) -> KVTensors:
        """The tensors of a file made by `encode`.

        Raises:
            ValueError: `data` is damaged, or not of this codec.
        """
        ...
