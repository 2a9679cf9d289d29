"""The codec's arithmetic in plain NumPy: what every kernel must reproduce.

Guarantees: `integers` is the only place where floating point decides an integer, and only the
encoder does it; from integers to values everything is exact integer arithmetic, one float32
multiplication, one addition, the rotation and one rounding to bf16, in this order, so that all
machines decode the same bits. Gives up: speed; `kernels` and `gpu` have it.

Source: nested uniform quantizers of step ratio 3; see docs/kv-codec.md.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import SUBSTEPS, Profile
from frontload.kvcache.rotary import rotated, unrotated


def in_blocks(profile: Profile, pieces: Tensor) -> Tensor:
    """`[blocks, tokens, size]` from `[pieces, tokens, head_dim]`."""
    index = torch.from_numpy(profile.transform.pieces).long()
    blocks = pieces[index]  # [blocks, pieces a block, tokens, head_dim]
    return blocks.transpose(1, 2).reshape(len(index), pieces.shape[1], -1)


def means(profile: Profile, start: int, num_tokens: int) -> np.ndarray:
    """float32 `[blocks, tokens, size]`: the mean of every token; position 0 has its own."""
    transform = profile.transform
    mean = np.repeat(transform.mean[:, None], num_tokens, axis=1)
    if start == 0:
        mean[:, 0] = transform.first_mean
    return mean


def integers(profile: Profile, chunk: KVTensors) -> tuple[np.ndarray, int]:
    """int32 `[blocks, tokens, size (k)]` at the finest depth, and how many were saturated.

    The chunk may lie on any device; the arithmetic is the CPU's.
    """
    chunk = chunk.to(device="cpu")
    plain = unrotated(chunk, profile.layout.rotary)
    blocks = in_blocks(profile, plain.pieces())
    centred = blocks - torch.from_numpy(means(profile, chunk.start, chunk.num_tokens))
    forward = torch.from_numpy(profile.transform.forward)
    wanted = torch.round(centred @ forward.transpose(1, 2))
    limit = torch.from_numpy(profile.transform.limit).float()[:, None]  # at most 32767: exact
    kept = torch.clamp(wanted, -limit, limit)
    return kept.int().numpy(), int((kept != wanted).sum())


def coarser(integer: np.ndarray, depths: int = 1) -> np.ndarray:
    """The integers `depths` depths coarser: q -> round(q / 3), each time."""
    for _ in range(depths):
        integer = (integer + 1) // 3  # floor division: -1, 0, 1 -> 0; 2, 3, 4 -> 1
    return integer


def trits(integer: np.ndarray) -> np.ndarray:
    """t in {-1, 0, 1} with q = 3 coarser(q) + t."""
    return integer - 3 * coarser(integer)


def points(profile: Profile, integer: np.ndarray, depth: int) -> np.ndarray:
    """int32 reconstruction points, in sixteenths of a step, of `[blocks, tokens, k]` at `depth`.

    Components that are not live at `depth` are 0.
    """
    offset = profile.tables.offset[:, None, :, depth].astype(np.int32)
    magnitude = abs(integer)
    nearer = np.where(magnitude == 1, offset[..., 0], offset[..., 1])
    point = np.sign(integer) * (SUBSTEPS * magnitude - np.where(magnitude > 0, nearer, 0))
    live = np.arange(profile.block_size) < profile.tables.live[:, depth, None]
    return np.where(live[:, None], point, 0).astype(np.int32)


def values(profile: Profile, point: np.ndarray, depth: int, start: int) -> np.ndarray:
    """float32 `[blocks, tokens, size (j)]` from reconstruction points at `depth`; unrotated."""
    # float64 holds integers up to 2^53 exactly, and its products are an order faster than int64's
    total = np.matmul(point.astype(np.float64), profile.transform.inverse.astype(np.float64))
    assert (abs(total) < 2**31).all(), "a profile's limits keep sums within int32"
    scaled = total.astype(np.int32).astype(np.float32) * profile.step_scale(depth)[:, None, None]
    return scaled + means(profile, start, point.shape[1])


def as_chunk(profile: Profile, value: np.ndarray, start: int) -> KVTensors:
    """bf16 keys (rotated) and values from `[blocks, tokens, size]` float32."""
    layout = profile.layout
    width = profile.transform.pieces.shape[1]
    split = value.reshape(len(value), value.shape[1], width, layout.head_dim)
    pieces = np.empty((layout.num_pieces, value.shape[1], layout.head_dim), np.float32)
    pieces[profile.transform.pieces] = split.transpose(0, 2, 1, 3)
    chunk = KVTensors.from_pieces(torch.from_numpy(pieces), layout, start)
    return rotated(chunk, layout.rotary).to(dtype=torch.bfloat16)


def reconstruct(
    profile: Profile, integer: np.ndarray, part_depths: np.ndarray, start: int
) -> KVTensors:
    """What a reader decodes from finest integers `[blocks, tokens, k]`.

    `part_depths`, int `[blocks]`, is the depth that the reader has of each block; the context's
    first tokens come out `head_depth` deeper.
    """
    num_tokens = integer.shape[1]
    value = np.empty((*integer.shape[:2], profile.block_size), np.float32)
    head = np.arange(start, start + num_tokens) < profile.head_tokens
    reached = np.where(
        head[None],
        np.array([[profile.depth_of(int(d), head=True)] for d in part_depths]),
        np.asarray(part_depths)[:, None],
    )
    for depth in np.unique(reached):
        at_depth = coarser(integer, profile.finest - depth)
        decoded = values(profile, points(profile, at_depth, depth), depth, start)
        value[reached == depth] = decoded[reached == depth]
    return as_chunk(profile, value, start)
