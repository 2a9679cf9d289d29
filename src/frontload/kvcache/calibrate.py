"""Measure a model once: the profile that its contexts are coded with.

Guarantees: the same model, contexts, settings and machine give the same profile; levels carry the
loss that was measured on contexts which nothing else was fitted to; memory is bounded by
`sample_values`, the block statistics, and one context. Gives up: speed (a forward and a few
backward passes a context) and models that do not let gradients reach their cache.

    profile = calibrate(model, contexts, CalibrationSettings(), print)

Order: prefix caches and Fisher gradients of calibration contexts, grouping, basis, step by
bisection on held-out contexts, tables, head, groups and parts, levels on held-out contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from frontload.kvcache import levels
from frontload.kvcache.blocks import Bases, Grouping, Moments, bases, groupings
from frontload.kvcache.codec import tables
from frontload.kvcache.codec.chunk import Encoded, decode_chunks, encode_chunks
from frontload.kvcache.codec.quantize import integers, reconstruct
from frontload.kvcache.fingerprint import fingerprint
from frontload.kvcache.fisher import gradients, unrotated
from frontload.kvcache.huggingface import layout_of, prefill
from frontload.kvcache.layout import CacheLayout, KVTensors, join
from frontload.kvcache.profile import Level, Part, Profile
from frontload.kvcache.quality import Context, Dump, dump, evaluate, measure, summarize
from frontload.kvcache.transform import Built, Sample, build, sample_in_blocks
from frontload.strict import Strict

Report = Callable[[str], None]
HEAD_POSITIONS = 16  # whose sensitivity is looked at one by one
_TRIAL_TOKENS = 2_048  # that tables are counted on while the step is searched
_TRIALS = 4


class CalibrationSettings(Strict):
    """How a profile is made. What is False or "none" is for measuring what it is worth."""

    block_channels: Annotated[int, Field(ge=1, le=2048)] = 256
    grouping: tuple[int, int, int] | None = None  # (kinds, layers, heads); None: the best
    chunk_tokens: Annotated[int, Field(ge=1)] = 1024
    finest: Annotated[int, Field(ge=0, le=7)] = 3
    groups: Annotated[int, Field(ge=1, le=16)] = 2
    step: Annotated[float, Field(gt=0)] | None = None  # of depth 0; None: found for `target_kl`
    target_kl: Annotated[float, Field(gt=0)] = 0.03  # of depth 0, nats a scored token
    draws: Annotated[int, Field(ge=1)] = 4
    ridge: Annotated[float, Field(ge=0)] = 0.01
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    sample_values: Annotated[int, Field(ge=1)] = 2**28  # kept to count symbols on
    seed: int = 0
    rotary: bool = True
    mean: bool = True
    transform: bool = True
    metric: Literal["fisher", "layers", "none"] = "fisher"
    head: bool = True


@dataclass(kw_only=True)
class Statistics:
    """What one pass over the calibration contexts leaves behind."""

    values: dict[Grouping, Moments]
    gradients: dict[Grouping, Moments]
    trace: np.ndarray  # float64 [HEAD_POSITIONS + 1]: summed squared gradient, the rest last
    counted: np.ndarray  # tokens behind each entry of `trace`
    sample: Tensor  # float32 [pieces, tokens, head_dim], of positions from 1 on
    first: Tensor  # float32 [pieces, contexts, head_dim], of position 0
    contexts: int
    scored: int  # predictions that the gradients belong to, in all contexts
    prefix_tokens: float  # mean of the contexts


def calibrate(
    model: PreTrainedModel,
    contexts: Sequence[Context],
    settings: CalibrationSettings | None = None,
    on_progress: Report = lambda line: None,
) -> Profile:
    """A profile of `model` for contexts like these.

    Load the model in float32 for exact gradients; `on_progress` is told each step in a line.

    Raises:
        ValueError: fewer than two contexts, one longer than the model allows, or settings that
            this model's cache cannot have.
    """
    settings = settings or CalibrationSettings()
    layout = _layout(model, settings)
    _check(contexts, layout)
    fitted, held_out = _hold_out(contexts, settings.held_out)
    shapes = _shapes(layout, settings)
    found = collect(model, fitted, layout, shapes, settings, on_progress)
    shape, basis = choose(found, shapes, settings, layout, on_progress)
    sample = sample_in_blocks(shape.pieces(layout), found.sample, found.first)
    dumps = dump(model, held_out)
    finest = settings.finest

    def made(step: float, tokens: int | None = None) -> tuple[Profile, Built]:
        part = replace(sample, values=sample.values[:, : tokens or None])
        mean = found.values[shape].mean if settings.mean else np.zeros(sample.values[:, 0].shape)
        first = part.first if settings.mean else np.zeros_like(part.first)
        built = build(
            shape.pieces(layout),
            basis,
            mean,
            replace(part, first=first),
            step=step / 3**finest,
            finest=finest,
        )
        return _unmeasured(model, contexts, layout, settings, built), built

    head_tokens, head_depth = _head(found, settings)
    on_progress(f"head: {head_tokens} token(s), {head_depth} depth(s) finer")
    step = settings.step or _find_step(
        lambda step: replace(
            made(step, _TRIAL_TOKENS)[0], head_tokens=head_tokens, head_depth=head_depth
        ),
        model,
        dumps,
        basis.step_for(2 * settings.target_kl / found.prefix_tokens),
        settings.target_kl,
        on_progress,
    )
    profile, built = made(step)
    profile = replace(profile, head_tokens=head_tokens, head_depth=head_depth)
    profile = _in_order(profile, built, settings.groups)
    return _measured(profile, model, dumps, on_progress)


def _layout(model: PreTrainedModel, settings: CalibrationSettings) -> CacheLayout:
    layout = layout_of(model)
    if settings.rotary:
        return layout
    return replace(layout, rotary=None, rotary_note="switched off in the calibration settings")


def _check(contexts: Sequence[Context], layout: CacheLayout) -> None:
    if len(contexts) < 2:
        raise ValueError(f"contexts: {len(contexts)} given; one is held out, so give at least 2")
    for i, context in enumerate(contexts):
        if layout.max_tokens is not None and len(context.ids) > layout.max_tokens:
            raise ValueError(
                f"contexts: number {i} has {len(context.ids)} tokens, the model takes "
                f"{layout.max_tokens}; give shorter ones"
            )


def _hold_out(contexts: Sequence[Context], share: float) -> tuple[list[Context], list[Context]]:
    """Contexts are taken out evenly, so that every domain that comes in a run is on both sides."""
    every = max(2, round(1 / share))
    held_out = list(contexts[every - 1 :: every]) or [contexts[-1]]
    fitted = [c for i, c in enumerate(contexts) if i % every != every - 1]
    return (fitted if len(fitted) < len(contexts) else list(contexts[:-1])), held_out


def _shapes(layout: CacheLayout, settings: CalibrationSettings) -> list[Grouping]:
    shapes = groupings(layout, settings.block_channels)
    if settings.grouping is None:
        return shapes
    kinds, layers, heads = settings.grouping
    wanted = Grouping(kinds=kinds, layers=layers, heads=heads)
    if wanted not in shapes:
        raise ValueError(
            f"grouping {wanted} does not divide {layout.num_layers} layers of {layout.num_heads} "
            f"heads of {layout.head_dim} into blocks of {settings.block_channels} channels"
        )
    return [wanted]


def collect(
    model: PreTrainedModel,
    contexts: Sequence[Context],
    layout: CacheLayout,
    shapes: Sequence[Grouping],
    settings: CalibrationSettings,
    on_progress: Report,
) -> Statistics:
    """One pass: second moments of values and gradients, and a sample of tokens."""
    generator = torch.Generator().manual_seed(settings.seed)
    tokens = sum(context.prefix_tokens - 1 for context in contexts)
    every = max(1, -(-tokens * layout.values_per_token // settings.sample_values))
    found = Statistics(
        values={shape: Moments(pieces=shape.pieces(layout)) for shape in shapes},
        gradients={shape: Moments(pieces=shape.pieces(layout)) for shape in shapes},
        trace=np.zeros(HEAD_POSITIONS + 1),
        counted=np.zeros(HEAD_POSITIONS + 1),
        sample=torch.empty(0),
        first=torch.empty(0),
        contexts=len(contexts),
        scored=sum(int(context.scored.sum()) for context in contexts),
        prefix_tokens=tokens / len(contexts) + 1,
    )
    kept, first = [], []
    for i, context in enumerate(contexts):
        kv, state = prefill(model, context.ids[: context.prefix_tokens].tolist())
        pieces = unrotated(kv.to(dtype=torch.bfloat16), layout)  # as a server's cache holds it
        kept.append(pieces[:, 1 + i % every :: every].cpu())
        first.append(pieces[:, :1].cpu())
        _add(found.values, pieces[:, _ordinary(context) :])
        if settings.metric != "none":
            drawn = gradients(
                model, context, pieces, layout, state, draws=settings.draws, generator=generator
            )
            _add_gradients(found, context, drawn, settings.draws)
        on_progress(f"context {i + 1} of {len(contexts)}: {context.prefix_tokens} tokens")
    found.sample, found.first = torch.cat(kept, dim=1), torch.cat(first, dim=1)
    return found


def _ordinary(context: Context) -> int:
    """The first position that statistics look at: those before may be sinks."""
    return min(levels.MOST_HEAD_TOKENS, max(1, context.prefix_tokens // 4))


def _add(moments: dict[Grouping, Moments], pieces: Tensor) -> None:
    for moment in moments.values():
        moment.add(pieces)


def _add_gradients(
    found: Statistics, context: Context, drawn: Iterable[Tensor], draws: int
) -> None:
    for gradient in drawn:
        weighed = gradient / draws**0.5
        _add(found.gradients, weighed[:, _ordinary(context) :])
        energy = weighed.double().square().sum(dim=(0, 2)).cpu().numpy()
        found.trace[:HEAD_POSITIONS][: len(energy)] += energy[:HEAD_POSITIONS]
        found.trace[-1] += energy[HEAD_POSITIONS:].sum()
    found.counted[:HEAD_POSITIONS][: context.prefix_tokens] += 1
    found.counted[-1] += max(0, context.prefix_tokens - HEAD_POSITIONS)


def choose(
    found: Statistics,
    shapes: Sequence[Grouping],
    settings: CalibrationSettings,
    layout: CacheLayout,
    on_progress: Report,
) -> tuple[Grouping, Bases]:
    """The grouping that is predicted to need the fewest bits at a tenth of depth 0's loss."""
    best: tuple[float, Grouping, Bases] | None = None
    loss = 2 * settings.target_kl / found.prefix_tokens / 10
    for shape in shapes:
        basis = bases(
            found.values[shape].covariance if settings.mean else found.values[shape].second,
            _metric(found, shape, settings),
            ridge=settings.ridge,
            transform=settings.transform,
        )
        bits = basis.bits_per_value(basis.step_for(loss))
        on_progress(f"{shape!s:34} {basis.columns.shape[1]:5} channels  {bits:.3f} bits a value")
        if best is None or bits < best[0]:
            best = (bits, shape, basis)
    assert best is not None
    return best[1], best[2]


def _metric(found: Statistics, shape: Grouping, settings: CalibrationSettings) -> np.ndarray:
    """float64 `[blocks, size, size]`: an error e of one token costs e^T metric e / 2 nats.

    Per scored prediction, if all prefix tokens have such errors.
    """
    size = found.values[shape].covariance.shape[1:]
    if settings.metric == "none":
        return np.broadcast_to(np.eye(size[0]), found.values[shape].covariance.shape)
    moments = found.gradients[shape]
    # `second` is a mean over tokens and draws of what all predictions of a context sum up to
    fisher = moments.second * (settings.draws * found.contexts / found.scored)
    if settings.metric == "fisher":
        return fisher
    return np.einsum("b,jk->bjk", np.trace(fisher, axis1=1, axis2=2) / size[0], np.eye(size[0]))


def _head(found: Statistics, settings: CalibrationSettings) -> tuple[int, int]:
    later = found.trace[-1] / max(found.counted[-1], 1)
    if not settings.head or later == 0:
        return 0, 0
    trace = found.trace[:-1] / np.maximum(found.counted[:-1], 1) / later
    spread = found.first.var(dim=1, unbiased=False).mean()
    constant = bool(spread < 1e-4 * found.sample.var(dim=1).mean())
    return levels.head(trace, constant_first=constant and settings.mean)


def _unmeasured(
    model: PreTrainedModel,
    contexts: Sequence[Context],
    layout: CacheLayout,
    settings: CalibrationSettings,
    built: Built,
) -> Profile:
    parts = tuple(Part(depth=depth, group=0) for depth in range(settings.finest + 1))
    return Profile(
        model_fingerprint=fingerprint(model),
        model_name=model.config.name_or_path or type(model).__name__,
        layout=layout,
        chunk_tokens=settings.chunk_tokens,
        calibrated_tokens=max(context.prefix_tokens for context in contexts),
        group=np.zeros(len(built.coefficients), np.uint8),
        parts=parts,
        head_tokens=0,
        head_depth=0,
        levels=(),
        code_length=(),
        transform=built.transform,
        tables=built.tables,
    )


def _find_step(
    trial: Callable[[float], Profile],
    model: PreTrainedModel,
    dumps: Sequence[Dump],
    step: float,
    target: float,
    on_progress: Report,
) -> float:
    """The step of depth 0 at which the measured KL is near `target`, from a predicted one."""
    for _ in range(_TRIALS):
        profile = trial(step)
        kl = evaluate(model, dumps, lambda kv, p=profile: _roundtrip(p, kv, p.parts[:1])).kl
        on_progress(f"step {step:.4g}: KL {kl:.4g} at depth 0, wanted {target:.4g}")
        if 0.9 < kl / target < 1.1:
            break
        step *= float(np.clip(target / max(kl, 1e-12), 1 / 16, 16.0)) ** 0.6
    return step


def _roundtrip(profile: Profile, kv: KVTensors, parts: Sequence[Part]) -> KVTensors:
    integer, _ = integers(profile, kv)
    return reconstruct(profile, integer, levels.depths_after(parts, profile.group), kv.start)


def _in_order(profile: Profile, built: Built, groups: int) -> Profile:
    left = levels.losses(profile, built.coefficients)
    bits = tables.code_lengths(profile.tables, np.rint(built.coefficients).astype(np.int32))
    middle = bits.shape[1] // 2
    group = levels.split(left[:, middle] - left[:, middle + 1], bits[:, middle], groups)
    return replace(profile, group=group, parts=levels.ordered(left, bits, group))


def _measured(
    profile: Profile, model: PreTrainedModel, dumps: Sequence[Dump], on_progress: Report
) -> Profile:
    """The profile with its levels' bytes and loss, and the code length of every part."""
    groups = int(profile.group.max()) + 1
    counts = range(groups, len(profile.parts) + 1)
    profile = replace(
        profile,
        levels=tuple(Level(parts=n, bits_per_value=0.0, kl=0.0, flips=0.0) for n in counts),
    )
    encoded = [
        encode_chunks(profile, dumped.kv.chunks(profile.chunk_tokens), exact=False)
        for dumped in dumps
    ]
    values = sum(dumped.kv.num_values for dumped in dumps)
    found = []
    for index, count in enumerate(counts):
        decoded = [
            join(decode_chunks(profile, [chunk.data for chunk in chunks], index))
            for chunks in encoded
        ]
        quality = summarize(
            [measure(model, dumped, kv) for dumped, kv in zip(dumps, decoded, strict=True)]
        )
        num_bytes = sum(chunk.ends[count - 1] for chunks in encoded for chunk in chunks)
        found.append(
            Level(
                parts=count,
                bits_per_value=8 * num_bytes / values,
                kl=quality.kl,
                flips=quality.flips,
            )
        )
        on_progress(
            f"level {index}, {count} parts: {found[-1].bits_per_value:.3f} bits a value, "
            f"KL {quality.kl:.3g}, flips {quality.flips:.2%}"
        )
    return replace(profile, levels=tuple(found), code_length=_code_length(profile, dumps, encoded))


def _code_length(
    profile: Profile, dumps: Sequence[Dump], encoded: Sequence[Sequence[Encoded]]
) -> tuple[float, ...]:
    """Mean bits a value of each part: what drift is told by."""
    sizes = np.array(
        [chunk.num_values for dumped in dumps for chunk in dumped.kv.chunks(profile.chunk_tokens)]
    )
    bits = np.array(
        [
            [part.bits_per_value for part in chunk.report.parts]
            for chunks in encoded
            for chunk in chunks
        ]
    )
    return tuple((bits * sizes[:, None]).sum(axis=0) / sizes.sum())
