"""A profile: what the codec measured of one model, once, and never sends again.

Guarantees: a profile is immutable, names the model's weights by fingerprint, and has an id formed
from all it holds, which every container carries; it is read back bit for bit and nothing in it is
executed. Gives up: changing a profile in place; calibrate anew, old contexts keep the old one.

The codec in one paragraph. Pieces (a head of K before rotary embedding, or of V) are joined into
*blocks* of `size` channels. A block's centred values x - mean are multiplied by `forward` (a basis
in which errors weigh alike) and rounded: q = rint(forward (x - mean)), the integers at the finest
*depth*. Each coarser depth divides by 3 and rounds, which is exact nesting: q_d = 3 q_(d-1) + t
with a *trit* t in {-1, 0, 1}. Component k of a block is *born* at the depth from which on it is
worth coding: there its integer is coded with an alphabet of its own, at deeper depths its trit.
Components are sorted by birth, so that depth d codes the first `live[d]` of them. A *part* of a
container holds one depth of one *group* of blocks; a *level* is a prefix of the parts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from frontload.atomic import replacing
from frontload.kvcache.layout import CacheLayout

FORMAT = "frontload-kv-profile"
VERSION = 1
SUBSTEPS = 16  # reconstruction points lie on sixteenths of a step
TABLE_BITS = 12
TABLE_TOTAL = 1 << TABLE_BITS  # probabilities are in 1/4096
LANES = 32  # tokens coded side by side: a tile
ESCAPE_LIMIT = (1 << 15) - 1  # of an integer at the depth of its birth: an escape is an i16
LARGEST_INTEGER = (1 << 19) - 16  # of one at the finest depth: its sixteenths fit three bytes


@dataclass(frozen=True, kw_only=True)
class Transform:
    """From values to integers and back; index b is a block, k a component, j a channel.

    pieces: int32 `[blocks, pieces a block]`; size = pieces a block * head_dim.
    mean, first_mean: float32 `[blocks, size]`; `first_mean` is that of position 0 alone.
    forward: float32 `[blocks, size (k), size (j)]`, in finest steps.
    inverse: int16 `[blocks, size (k), size (j)]`, the exact inverse of `forward` times `scale`:
        x_j = mean_j + scale 3^(finest - d) / 16 * sum_k r_k inverse_kj, with r_k the
        reconstruction point of q_k in sixteenths of a step of depth d.
    scale: float32 `[blocks]`.
    limit: int32 `[blocks, size]`: |q| at the finest depth never exceeds it, so that the sum above
        stays below 2^31 in magnitude and integer arithmetic is exact.
    """

    pieces: np.ndarray
    mean: np.ndarray
    first_mean: np.ndarray
    forward: np.ndarray
    inverse: np.ndarray
    scale: np.ndarray
    limit: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Static distributions; the first axis is the set: 0 as calibrated, 1 safer (heavier tails).

    live: int32 `[blocks, depths]`: components coded at each depth, a non-decreasing count.
    largest: int32 `[blocks, size]`: m, when component k's own alphabet is -m..m and escape.
    start: int32 `[blocks, size]`: where its entries begin in the second axis of `base`; -1 for a
        component that is never born.
    base: uint16 `[sets, entries]`: 2m + 3 cumulative counts from 0 to 4096 for each component, of
        the symbols -m, ..., m, escape in this order; every symbol has a count of at least 1.
    trits: uint16 `[sets, blocks, size, depths, 2 contexts, 2]`: (c1, c2) such that t = -1 has
        counts [0, c1), t = 0 [c1, c2), t = 1 [c2, 4096). Context 0: the coarser integer is 0;
        context 1: it is not, and t's sign is taken relative to it (1 is away from 0).
    offset: uint8 `[blocks, size, depths, 2]`: sixteenths of a step by which the reconstruction
        point of |q| = 1 (index 0) and |q| >= 2 (index 1) lies nearer to 0.
    """

    live: np.ndarray
    largest: np.ndarray
    start: np.ndarray
    base: np.ndarray
    trits: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Part:
    """One depth of one group of blocks: the unit of a container."""

    depth: int
    group: int


@dataclass(frozen=True, kw_only=True)
class Level:
    """A prefix of the parts, and what it cost and lost when the profile was made.

    bits_per_value counts all bytes of chunks, kl is in nats a token, flips is the share of changed
    top-1 tokens; all are measured on contexts kept apart from the tables'.
    """

    parts: int
    bits_per_value: float
    kl: float
    flips: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything that encoder and decoder share about one model."""

    model_fingerprint: str  # hex
    model_name: str
    layout: CacheLayout
    chunk_tokens: int  # what it was calibrated for; any other length works
    calibrated_tokens: int  # the longest context seen in calibration
    group: np.ndarray  # uint8 [blocks]
    parts: tuple[Part, ...]  # depth 0 of every group first, then finer and finer
    head_tokens: int  # the context's first tokens, coded finer ...
    head_depth: int  # ... by so many depths
    levels: tuple[Level, ...]
    code_length: tuple[float, ...]  # mean bits a value of each part, on the levels' contexts
    transform: Transform
    tables: Tables

    @property
    def num_blocks(self) -> int:
        """Blocks of the transform."""
        return self.transform.pieces.shape[0]

    @property
    def block_size(self) -> int:
        """Channels of a block."""
        return self.transform.mean.shape[1]

    @property
    def finest(self) -> int:
        """The deepest depth; depths are 0 to `finest`."""
        return self.tables.live.shape[1] - 1

    def blocks_of(self, group: int) -> np.ndarray:
        """Blocks of a group, in order."""
        return np.flatnonzero(self.group == group)

    def stripes(self, group: int, count: int) -> list[np.ndarray]:
        """A group's blocks cut into `count` runs of nearly equal length, coded independently."""
        return np.array_split(self.blocks_of(group), count)

    def depth_of(self, depth: int, *, head: bool) -> int:
        """The depth that a part of depth `depth` brings the context's first tokens (head) to."""
        return min(depth + self.head_depth, self.finest) if head else depth

    def step_scale(self, depth: int) -> np.ndarray:
        """float32 `[blocks]`: value of one sixteenth step of `depth` times one unit of inverse."""
        factor = 3.0 ** (self.finest - depth) / SUBSTEPS
        return (self.transform.scale.astype(np.float64) * factor).astype(np.float32)

    @cached_property
    def id(self) -> bytes:
        """16 bytes that change with all that decides what bytes mean or how chunks are cut.

        Left out are names and measurements: `model_name`, `calibrated_tokens`, `code_length`, and
        the figures of `levels` (not the parts that each has).
        """
        digest = hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.digest()[:16]

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        text = json.dumps({**self._identity(), **self._measured(), "id": self.id.hex()})
        with replacing(path) as unfinished:
            unfinished.write_bytes(save(self.arrays(), {FORMAT: text, "sha256": _sha256(text)}))

    @staticmethod
    def load(path: Path) -> Profile:
        """Read what `save` wrote.

        Raises:
            ValueError: not a profile, of another version, damaged, or not what kernels may trust.
        """
        from frontload.kvcache.profile_check import check  # it needs the types above

        if not path.is_file():
            raise ValueError(f"{path}: no such profile; `frontload kv calibrate` makes one")
        try:
            with safe_open(path, "np") as file:
                described = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a readable KV profile ({error})") from error
        if FORMAT not in described:
            raise ValueError(f"{path}: a safetensors file, but not a KV profile")
        if _sha256(described[FORMAT]) != described.get("sha256"):
            raise ValueError(
                f"{path}: damaged (its description does not match its checksum); calibrate again"
            )
        try:
            meta = json.loads(described[FORMAT])
            if (version := meta["version"]) != VERSION:
                raise ValueError(f"profile version {version}, this frontload reads {VERSION}")
            profile = _from_parts(meta, arrays)
            matches = profile.id.hex() == meta["id"]
            if matches:
                check(profile)
        except (KeyError, TypeError, AttributeError) as error:  # names changed, fields missing
            raise ValueError(f"{path}: damaged ({error}); calibrate again") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}; calibrate again") from error
        if not matches:
            raise ValueError(f"{path}: its content does not match its id; calibrate again")
        return profile

    def _identity(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "model_fingerprint": self.model_fingerprint,
            "layout": self.layout.to_json(),
            "parts": [[part.depth, part.group] for part in self.parts],
            "head_tokens": self.head_tokens,
            "head_depth": self.head_depth,
            "levels": [level.parts for level in self.levels],
            "chunk_tokens": self.chunk_tokens,
        }

    def _measured(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "calibrated_tokens": self.calibrated_tokens,
            "figures": [[level.bits_per_value, level.kl, level.flips] for level in self.levels],
            "code_length": list(self.code_length),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its name in the file."""
        arrays = {"group": self.group}
        for room in (self.transform, self.tables):
            for field in fields(room):
                array = getattr(room, field.name)
                arrays[f"{type(room).__name__.lower()}.{field.name}"] = np.ascontiguousarray(array)
        return arrays


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _from_parts(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Profile:
    def room(kind: type) -> Any:
        prefix = kind.__name__.lower()
        return kind(**{field.name: arrays[f"{prefix}.{field.name}"] for field in fields(kind)})

    return Profile(
        model_fingerprint=meta["model_fingerprint"],
        model_name=meta["model_name"],
        layout=CacheLayout.from_json(meta["layout"]),
        chunk_tokens=meta["chunk_tokens"],
        calibrated_tokens=meta["calibrated_tokens"],
        group=arrays["group"],
        parts=tuple(Part(depth=depth, group=group) for depth, group in meta["parts"]),
        head_tokens=meta["head_tokens"],
        head_depth=meta["head_depth"],
        levels=tuple(
            Level(parts=parts, bits_per_value=bits, kl=kl, flips=flips)
            for parts, (bits, kl, flips) in zip(meta["levels"], meta["figures"], strict=True)
        ),
        code_length=tuple(meta["code_length"]),
        transform=room(Transform),
        tables=room(Tables),
    )
