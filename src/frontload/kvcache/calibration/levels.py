"""Head, groups, parts and levels: in which order a context's bytes come, and what each buys.

Guarantees: all groups' depth 0 comes first, a group's depths ascend, and each further part is the
one that is predicted to save the most KL a bit; the levels' figures are measured, not predicted.
Gives up: levels between two parts, and groups that cut through a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedModel

from frontload.kvcache.codec.chunk import Encoded, decode_chunks, encode_chunks
from frontload.kvcache.codec.quantize import coarser, points
from frontload.kvcache.layout import join
from frontload.kvcache.profile import SUBSTEPS, Level, Part, Profile
from frontload.kvcache.quality import Dump, measure, summarize

MOST_HEAD_TOKENS = 8
# A third of the step is worth its bits where errors weigh so much more than elsewhere: the rule
# "refine while the KL saved a bit is above the average's" at nested steps of ratio 3 gives
# 2.46 for one depth and 9 times that for each further one.
HEAD_WEIGHTS = (2.46, 22.0, 199.0)


def head(trace: np.ndarray, *, constant_first: bool) -> tuple[int, int]:
    """(head tokens, head depth) from the Fisher trace of the first positions.

    Args:
        trace: float64 `[positions]`, relative to the mean of later positions.
        constant_first: position 0 equals its mean in all contexts and needs no bits.
    """
    wanted = [sum(weight > least for least in HEAD_WEIGHTS) for weight in trace[:MOST_HEAD_TOKENS]]
    tokens = 0
    while tokens < len(wanted) and (wanted[tokens] > 0 or (tokens == 0 and constant_first)):
        tokens += 1
    counted = wanted[constant_first:tokens]
    return (tokens, int(max(counted))) if counted else (0, 0)


def losses(profile: Profile, coefficients: np.ndarray) -> np.ndarray:
    """float64 `[blocks, depths + 1]`: mean squared error a token in finest steps, undecoded first.

    Args:
        profile: whose transform and tables made them; its parts are not needed.
        coefficients: float32 `[blocks, tokens, k]`, in finest steps.
    """
    integer = np.rint(coefficients).astype(np.int64)
    left = np.empty((len(coefficients), profile.finest + 2))
    left[:, 0] = (coefficients.astype(np.float64) ** 2).sum(axis=2).mean(axis=1)
    for depth in range(profile.finest + 1):
        step = 3.0 ** (profile.finest - depth)
        point = points(profile, coarser(integer, profile.finest - depth), depth)
        error = coefficients - point * (step / SUBSTEPS)
        left[:, depth + 1] = (error.astype(np.float64) ** 2).sum(axis=2).mean(axis=1)
    return left


def split(gain: np.ndarray, bits: np.ndarray, groups: int) -> np.ndarray:
    """uint8 `[blocks]`: blocks by descending gain a bit, cut to groups of about equal bits."""
    order = np.argsort(-gain / np.maximum(bits, 1e-9), kind="stable")
    before = np.concatenate(([0.0], np.cumsum(np.maximum(bits[order], 1e-9))))
    middle = (before[:-1] + before[1:]) / 2 / before[-1]
    group = np.empty(len(gain), np.uint8)
    group[order] = np.minimum((middle * groups).astype(int), groups - 1)
    return _without_gaps(group)


def _without_gaps(group: np.ndarray) -> np.ndarray:
    return np.unique(group, return_inverse=True)[1].astype(np.uint8)


def ordered(left: np.ndarray, bits: np.ndarray, group: np.ndarray) -> tuple[Part, ...]:
    """The parts of a container.

    Args:
        left: float64 `[blocks, depths + 1]`, from `losses`.
        bits: float64 `[blocks, depths]`, of the same tokens.
        group: of each block.
    """
    groups, depths = int(group.max()) + 1, bits.shape[1]
    parts = [Part(depth=0, group=g) for g in range(groups)]
    reached = [0] * groups
    while len(parts) < groups * depths:
        open_groups = [g for g in range(groups) if reached[g] < depths - 1]
        worth = [_worth(left, bits, group == g, reached[g] + 1) for g in open_groups]
        chosen = open_groups[int(np.argmax(worth))]
        reached[chosen] += 1
        parts.append(Part(depth=reached[chosen], group=chosen))
    return tuple(parts)


def _worth(left: np.ndarray, bits: np.ndarray, inside: np.ndarray, depth: int) -> float:
    saved = (left[inside, depth] - left[inside, depth + 1]).sum()
    return float(saved / max(bits[inside, depth].sum(), 1e-9))


def measured(
    profile: Profile,
    model: PreTrainedModel,
    dumps: Sequence[Dump],
    on_progress: Callable[[str], None] = lambda line: None,
) -> Profile:
    """The profile with its levels' bytes and loss on `dumps`, and each part's code length.

    A level is every prefix of the parts that holds depth 0 of all groups; bytes are those of whole
    objects up to the level's end, headers included.
    """
    groups = int(profile.group.max()) + 1
    counts = range(groups, len(profile.parts) + 1)
    blank = tuple(Level(parts=n, bits_per_value=0.0, kl=0.0, flips=0.0) for n in counts)
    profile = replace(profile, levels=blank)
    encoded = [
        encode_chunks(profile, dumped.kv.chunks(profile.chunk_tokens), exact=False)
        for dumped in dumps
    ]
    found = []
    for index in range(len(counts)):
        found.append(_level(profile, index, model, dumps, encoded))
        on_progress(
            f"level {index}, {counts[index]} parts: {found[-1].bits_per_value:.3f} bits a value, "
            f"KL {found[-1].kl:.3g}, flips {found[-1].flips:.2%}"
        )
    return replace(profile, levels=tuple(found), code_length=_code_length(profile, dumps, encoded))


def _level(
    profile: Profile,
    index: int,
    model: PreTrainedModel,
    dumps: Sequence[Dump],
    encoded: Sequence[Sequence[Encoded]],
) -> Level:
    losses = []
    for dumped, chunks in zip(dumps, encoded, strict=True):
        decoded = join(decode_chunks(profile, [chunk.data for chunk in chunks], index))
        losses.append(measure(model, dumped, decoded))
    quality = summarize(losses)
    parts = profile.levels[index].parts
    num_bytes = sum(chunk.ends[parts - 1] for chunks in encoded for chunk in chunks)
    return Level(
        parts=parts,
        bits_per_value=8 * num_bytes / sum(dumped.kv.num_values for dumped in dumps),
        kl=quality.kl,
        flips=quality.flips,
    )


def _code_length(
    profile: Profile, dumps: Sequence[Dump], encoded: Sequence[Sequence[Encoded]]
) -> tuple[float, ...]:
    """Mean bits a value of each part, as drift reports them."""
    chunks = [chunk for dumped in dumps for chunk in dumped.kv.chunks(profile.chunk_tokens)]
    sizes = np.array([chunk.num_values for chunk in chunks])
    reports = [chunk.report for each in encoded for chunk in each]
    bits = np.array([[part.bits_per_value for part in report.parts] for report in reports])
    return tuple(float(x) for x in sizes @ bits / sizes.sum())
