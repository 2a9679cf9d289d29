"""Measure a model once: the profile that its contexts are coded with.

Guarantees: the same model, contexts, settings and machine give the same profile; levels carry the
bytes and the loss that were measured, with real objects, on contexts which nothing but the step was
fitted to. Gives up: speed (a forward and a few backward passes a context) and models that do not
let gradients reach their cache.

    profile = calibrate(model, contexts, CalibrationSettings(), print)

Order: one pass over the calibration contexts (`statistics`), grouping and basis (`blocks`,
`metrics`), the step by search on held-out contexts, tables (`transform`), head, groups and parts
(`levels`), and what each level costs and loses on held-out contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from transformers import PreTrainedModel

from frontload.kvcache.calibration import levels
from frontload.kvcache.calibration.blocks import Bases, Grouping, bases, groupings
from frontload.kvcache.calibration.deltas import delta_gain
from frontload.kvcache.calibration.metrics import Metric, metric_of
from frontload.kvcache.calibration.statistics import Statistics, collect
from frontload.kvcache.calibration.transform import Built, Sample, build, sample_in_blocks
from frontload.kvcache.codec import tables
from frontload.kvcache.codec.quantize import integers, reconstruct
from frontload.kvcache.fingerprint import fingerprint
from frontload.kvcache.huggingface import layout_of
from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.profile import Part, Profile
from frontload.kvcache.quality import Context, Dump, dump, evaluate
from frontload.strict import Strict

Report = Callable[[str], None]
_TRIAL_TOKENS = 2_048  # that tables are counted on while the step is searched
_TRIALS = 5
_NEAR = 1.1  # the search ends within this factor of the wanted KL


class CalibrationSettings(Strict):
    """How a profile is made; the last six are for measuring what each idea is worth."""

    block_channels: Annotated[int, Field(ge=1, le=2048)] = 256
    grouping: tuple[int, int, int] | None = None  # (kinds, layers, heads) a block; None: the best
    chunk_tokens: Annotated[int, Field(ge=1, le=65_536)] = 1024
    finest: Annotated[int, Field(ge=0, le=7)] = 3
    groups: Annotated[int, Field(ge=1, le=16)] = 2
    step: Annotated[float, Field(gt=0)] | None = None  # of depth 0; None: found for `target_kl`
    target_kl: Annotated[float, Field(gt=0)] = 0.03  # of depth 0, nats a scored token
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25  # share of the contexts
    draws: Annotated[int, Field(ge=1)] = 4  # probes of the loss a context
    sample_values: Annotated[int, Field(ge=1)] = 2**28  # kept to count symbols on
    seed: int = 0
    metric: Metric = "fisher"
    ridge: Annotated[float, Field(ge=0)] = 1e-3
    rotary: bool = True
    mean: bool = True
    transform: bool = True
    head: bool = True


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """All that a profile is made of but its step."""

    settings: CalibrationSettings
    blank: Callable[[Built], Profile]
    pieces: np.ndarray
    basis: Bases
    mean: np.ndarray
    sample: Sample
    head: tuple[int, int]
    first_step: float  # of depth 0: where the wanted KL is predicted

    def profile(self, step: float, *, tokens: int | None = None) -> tuple[Profile, Built]:
        """One group; tables counted on all tokens of the sample or about so many."""
        finest = self.settings.finest
        built = build(
            self.pieces,
            self.basis,
            self.mean,
            replace(self.sample, values=_thinned(self.sample.values, tokens)),
            step=step / 3**finest,
            finest=finest,
        )
        return replace(self.blank(built), head_tokens=self.head[0], head_depth=self.head[1]), built


def calibrate(
    model: PreTrainedModel,
    contexts: Sequence[Context],
    settings: CalibrationSettings | None = None,
    on_progress: Report = lambda line: None,
) -> Profile:
    """A profile of `model` for contexts like these.

    Load the model in float32 for exact gradients; `on_progress` is told each step in a line.

    Raises:
        ValueError: fewer than two contexts, one longer than the model allows or with a prefix of
            one token, or settings that this model's cache cannot have.
    """
    settings = settings or CalibrationSettings()
    layout = _layout(model, settings)
    _check(contexts, layout)
    fitted, held_out = hold_out(contexts, settings.held_out)
    recipe = _recipe(model, fitted, layout, settings, on_progress)
    dumps = dump(model, held_out)
    step = settings.step or _find_step(recipe, model, dumps, on_progress)
    profile, built = recipe.profile(step)
    profile = _in_order(profile, built, settings.groups)
    on_progress(str(delta_gain(profile, _beginnings(dumps, _TRIAL_TOKENS))))
    return levels.measured(profile, model, dumps, on_progress)


def hold_out(contexts: Sequence[Context], share: float) -> tuple[list[Context], list[Context]]:
    """(to fit, to measure on): taken out evenly, so that runs of a domain are on both sides."""
    every = min(max(2, round(1 / share)), len(contexts))
    return (
        [context for i, context in enumerate(contexts) if i % every != every - 1],
        list(contexts[every - 1 :: every]),
    )


def _beginnings(dumps: Sequence[Dump], tokens: int) -> list[KVTensors]:
    """About so many tokens, as many of each context."""
    each = max(2, tokens // len(dumps))
    return [dumped.kv.tokens(0, min(each, dumped.kv.num_tokens)) for dumped in dumps]


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
        if context.prefix_tokens < 2:
            raise ValueError(
                f"contexts: number {i} has a prefix of {context.prefix_tokens} token; position 0 "
                "has statistics of its own, so give prefixes of at least 2"
            )


def _shapes(layout: CacheLayout, settings: CalibrationSettings) -> list[Grouping]:
    shapes = groupings(layout, settings.block_channels)
    if settings.grouping is None:
        return shapes
    kinds, layers, heads = settings.grouping
    wanted = Grouping(kinds=kinds, layers=layers, heads=heads)
    if wanted not in shapes:
        raise ValueError(
            f"grouping: {wanted} does not divide 2 x {layout.num_layers} layers x "
            f"{layout.num_heads} heads of {layout.head_dim} into blocks of at most "
            f"{settings.block_channels} channels; it can be "
            + "; ".join(f"{s.kinds, s.layers, s.heads}" for s in shapes)
        )
    return [wanted]


def _recipe(
    model: PreTrainedModel,
    contexts: Sequence[Context],
    layout: CacheLayout,
    settings: CalibrationSettings,
    on_progress: Report,
) -> _Recipe:
    shapes = _shapes(layout, settings)
    found = collect(
        model,
        contexts,
        layout,
        shapes,
        draws=settings.draws,
        sample_values=settings.sample_values,
        seed=settings.seed,
        on_progress=on_progress,
    )
    shape, basis = _choose(model, contexts, found, shapes, layout, settings, on_progress)
    sample = sample_in_blocks(shape.pieces(layout), found.sample, found.first)
    mean = found.values[shape].mean
    if not settings.mean:
        mean, sample = np.zeros_like(mean), replace(sample, first=np.zeros_like(sample.first))
    head = levels.head(found.weights(), constant_first=found.constant_first and settings.mean)
    on_progress(f"head: {head[0]} token(s), {head[1]} depth(s) finer")
    return _Recipe(
        settings=settings,
        blank=_blank(model, contexts, layout, settings),
        pieces=shape.pieces(layout),
        basis=basis,
        mean=mean,
        sample=sample,
        head=head if settings.head else (0, 0),
        first_step=basis.step_for(settings.target_kl / found.prefix_tokens, found.fisher(shape)),
    )


def _choose(
    model: PreTrainedModel,
    contexts: Sequence[Context],
    found: Statistics,
    shapes: Sequence[Grouping],
    layout: CacheLayout,
    settings: CalibrationSettings,
    on_progress: Report,
) -> tuple[Grouping, Bases]:
    """The grouping that is predicted to need the fewest bits a tenth below depth 0's loss.

    Predictions are compared in nats, so that they are the Fisher metric's, whatever makes the
    basis.
    """
    best: tuple[float, Grouping, Bases] | None = None
    loss = settings.target_kl / 10 / found.prefix_tokens
    for shape in shapes:
        moments = found.values[shape]
        basis = bases(
            moments.covariance if settings.mean else moments.second,
            metric_of(settings.metric, found, shape, layout, model, contexts),
            ridge=settings.ridge,
            transform=settings.transform,
        )
        bits = basis.bits_per_value(basis.step_for(loss, found.fisher(shape)))
        on_progress(f"{shape!s:34} {basis.size:5} channels  {bits:.3f} bits a value predicted")
        if best is None or bits < best[0]:
            best = (bits, shape, basis)
    assert best is not None
    return best[1], best[2]


def _blank(
    model: PreTrainedModel,
    contexts: Sequence[Context],
    layout: CacheLayout,
    settings: CalibrationSettings,
) -> Callable[[Built], Profile]:
    # only the last component: where a model lies is nobody's business who decodes with the profile
    name, weights = Path(model.config.name_or_path).name or type(model).__name__, fingerprint(model)
    parts = tuple(Part(depth=depth, group=0) for depth in range(settings.finest + 1))

    def filled(built: Built) -> Profile:
        return Profile(
            model_fingerprint=weights,
            model_name=name,
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

    return filled


def _find_step(
    recipe: _Recipe, model: PreTrainedModel, dumps: Sequence[Dump], on_progress: Report
) -> float:
    """The step of depth 0 at which the measured KL is near the wanted one.

    From the predicted step: KL grows with a power of the step, which the last two trials give.
    """
    target = recipe.settings.target_kl
    step, exponent, last = recipe.first_step, 1.5, None
    for _ in range(_TRIALS):
        profile, _ = recipe.profile(step, tokens=_TRIAL_TOKENS)
        kl = evaluate(model, dumps, partial(_at_depth_0, profile)).kl
        on_progress(f"step {step:.4g}: KL {kl:.4g} at depth 0, wanted {target:.4g}")
        if 1 / _NEAR < kl / target < _NEAR:
            break
        if last is not None and kl != last[1]:
            slope = np.log(kl / last[1]) / np.log(step / last[0])
            exponent = float(np.clip(slope, 0.5, 3.0))
        last = (step, kl)
        step *= float(np.clip(target / max(kl, 1e-12), 1e-3, 1e3)) ** (1 / exponent)
    return step


def _thinned(values: np.ndarray, tokens: int | None) -> np.ndarray:
    """About so many tokens of `[blocks, tokens, size]`, evenly spread over all contexts."""
    return values[:, :: max(1, values.shape[1] // (tokens or values.shape[1]))]


def _at_depth_0(profile: Profile, kv: KVTensors) -> KVTensors:
    depths = np.zeros(profile.num_blocks, np.int64)
    return reconstruct(profile, integers(profile, kv)[0], depths, kv.start)


def _in_order(profile: Profile, built: Built, groups: int) -> Profile:
    coefficients = _thinned(built.coefficients, _TRIAL_TOKENS)
    left = levels.losses(profile, coefficients)
    bits = tables.code_lengths(profile.tables, np.rint(coefficients).astype(np.int32))
    middle = bits.shape[1] // 2
    group = levels.split(left[:, middle] - left[:, middle + 1], bits[:, middle], groups)
    return replace(profile, group=group, parts=levels.ordered(left, bits, group))
