"""CacheGen's quantizer: settings, and the step from a tensor to integers and back.

Guarantees: every value is decoded within half a step of what it was, the step being that of its
row; the decoder repeats the encoder's arithmetic exactly. Gives up: nothing.

Deltas are taken against the *decoded* anchor. The decoder has no other, so a delta against the
original anchor would add the anchor's own rounding error to the nine tokens that refer to it.

Source: CacheGen (arXiv 2310.07240v6); docs/cachegen.md says what the record leaves open.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from frontload.kvcache.codec.baselines.rangecoder import ESCAPED

ANCHOR_LARGEST = 127  # 8 bits, symmetric
TOKEN_LEVELS = (0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.0625, 0.045, 0.03, 0.02)
OFFLINE_LEVELS = (4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.0625, 0.045)


@dataclass(frozen=True, kw_only=True)
class CacheGenSettings:
    """Every choice of the codec; the defaults are the published ones and our readings of gaps.

    group_tokens: tokens of a group, the first of which is its anchor; 0 codes every token as it is.
    anchors: "token" quantizes an anchor to 8 bits of its vector's own largest magnitude, "layer"
        to 8 bits of an offline magnitude of the layer, "level" with the step rule of the deltas.
    deltas: what a bin of size 1 at multiplier 1 is: "token", the largest magnitude of the delta's
        own vector (sent as bf16); "layer", the typical delta of the layer's K or V, offline;
        "model", one offline step for all layers and for K and V.
    vector: values that share a scale: all heads of a "layer", or a "head".
    bins: of the first, middle and last third of the layers.
    levels: multipliers of the bins, from the coarsest.
    undo_rotary: code keys before rotary embedding.
    """

    name: str = "cachegen"
    group_tokens: int = 10
    anchors: Literal["token", "layer", "level"] = "token"
    deltas: Literal["token", "layer", "model"] = "token"
    vector: Literal["layer", "head"] = "layer"
    bins: tuple[float, float, float] = (0.5, 1.0, 1.5)
    levels: tuple[float, ...] = TOKEN_LEVELS
    undo_rotary: bool = False
    chunk_tokens: int = 1500

    def __post_init__(self) -> None:
        if self.group_tokens < 0 or self.group_tokens == 1:
            raise ValueError(f"group_tokens is {self.group_tokens}; give 0 or at least 2")
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens is {self.chunk_tokens}; give at least 1")
        if len(self.bins) != 3 or min(self.bins) <= 0:
            raise ValueError(f"bins is {self.bins}; give three sizes above 0")
        levels = self.levels
        if not levels or levels[-1] <= 0 or list(levels) != sorted(set(levels), reverse=True):
            raise ValueError(f"levels is {levels}; give falling multipliers above 0")

    def ratio(self, layer: int, num_layers: int, level: int) -> float:
        """The step of a layer's deltas, in units of `deltas`."""
        return self.bins[3 * layer // num_layers] * self.levels[level]

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(fields: dict[str, Any]) -> CacheGenSettings:
        """The settings written by `to_json`."""
        lists = {name: tuple(fields[name]) for name in ("bins", "levels")}
        return CacheGenSettings(**{**fields, **lists})


PUBLISHED = CacheGenSettings()


@dataclass(frozen=True, kw_only=True)
class TensorQuantizer:
    """Of K or V of one layer at one level; tensors are float32 `[tokens, channels]` of a chunk.

    ratio: step of a delta in its unit. anchor_unit: 1/127 of the layer's magnitude; delta_unit: the
    typical delta. Units that the settings do not use have no effect. vectors: scales of a token.
    """

    settings: CacheGenSettings
    ratio: float
    anchor_unit: float
    delta_unit: float
    vectors: int

    def is_anchor(self, tokens: int) -> np.ndarray:
        """bool `[tokens]`."""
        group = self.settings.group_tokens
        return np.arange(tokens) % group == 0 if group else np.zeros(tokens, np.bool_)

    def has_scale(self, tokens: int) -> np.ndarray:
        """bool `[tokens]`: whose scales are sent."""
        of_deltas = self.settings.deltas == "token"
        of_anchors = (
            of_deltas if self.settings.anchors == "level" else (self.settings.anchors == "token")
        )
        return np.where(self.is_anchor(tokens), of_anchors, of_deltas)

    def quantize(self, tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int32 `[tokens, channels]`, and uint16 `[tokens with scales, vectors]` (bf16 bits)."""
        anchor = self.is_anchor(len(tensor))
        scales = np.zeros((len(tensor), self.vectors), np.uint16)
        integers = np.empty(tensor.shape, np.int32)
        anchor_scales = self._scales(tensor, self._share(is_anchor=True))
        anchor_steps = self._steps(anchor_scales, is_anchor=True)
        reference = self._reference(_divide(tensor, anchor_steps), anchor_steps, anchor)
        integers[anchor] = _divide(tensor, anchor_steps)[anchor]
        scales[anchor] = anchor_scales[anchor]
        delta = tensor - reference
        delta_scales = self._scales(delta, self._share(is_anchor=False))
        delta_steps = self._steps(delta_scales, is_anchor=False)
        integers[~anchor] = _divide(delta, delta_steps)[~anchor]
        scales[~anchor] = delta_scales[~anchor]
        return integers, scales[self.has_scale(len(tensor))]

    def restore(self, integers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The tensor that a reader decodes."""
        anchor = self.is_anchor(len(integers))
        every = np.zeros((len(integers), self.vectors), np.uint16)
        every[self.has_scale(len(integers))] = scales
        anchor_steps = self._steps(every, is_anchor=True)
        delta_steps = self._steps(every, is_anchor=False)
        steps = np.where(anchor[:, None, None], anchor_steps, delta_steps)
        reference = self._reference(integers, anchor_steps, anchor)
        return _multiply(integers, steps) + np.where(anchor[:, None], np.float32(0), reference)

    def anchors(self, tensor: np.ndarray) -> np.ndarray:
        """int32 `[tokens, channels]`: every token as if it were an anchor, for calibration."""
        scales = self._scales(tensor, self._share(is_anchor=True))
        return _divide(tensor, self._steps(scales, is_anchor=True))

    def largest(self, *, is_anchor: bool) -> int | None:
        """The integer that no magnitude can exceed; None where the step does not follow it."""
        share = self._share(is_anchor=is_anchor)
        return None if share is None else int(np.floor(1 / share + 0.5))

    def _share(self, *, is_anchor: bool) -> float | None:
        """Of a vector's largest magnitude, which makes a step; None if the step is offline."""
        if is_anchor and self.settings.anchors != "level":
            return 1 / ANCHOR_LARGEST if self.settings.anchors == "token" else None
        return self.ratio if self.settings.deltas == "token" else None

    def _scales(self, tensor: np.ndarray, share: float | None) -> np.ndarray:
        """uint16 `[tokens, vectors]`: steps as bf16, rounded up so that no integer overflows."""
        vectors = tensor.reshape(len(tensor), self.vectors, -1)
        step = abs(vectors).max(axis=-1) * np.float32(share or 0)
        return ((step.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)

    def _steps(self, scales: np.ndarray, *, is_anchor: bool) -> np.ndarray:
        """float32 `[tokens, vectors, 1]`."""
        if self._share(is_anchor=is_anchor) is not None:
            return (scales.astype(np.uint32) << np.uint32(16)).view(np.float32)[..., None]
        offline = self.settings.anchors == "layer" and is_anchor
        step = self.anchor_unit if offline else self.delta_unit * self.ratio
        return np.full((*scales.shape, 1), step, np.float32)

    def _reference(
        self, integers: np.ndarray, anchor_steps: np.ndarray, anchor: np.ndarray
    ) -> np.ndarray:
        """float32 `[tokens, channels]`: each token's decoded anchor, or 0."""
        if not self.settings.group_tokens:
            return np.zeros(integers.shape, np.float32)
        decoded = _multiply(integers[anchor], anchor_steps[anchor])
        return np.repeat(decoded, self.settings.group_tokens, axis=0)[: len(integers)]


def _divide(tensor: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Rounded multiples of the steps; a vector of zeros has step 0 and gives zeros."""
    vectors = tensor.reshape(len(tensor), steps.shape[1], -1)
    multiple = np.divide(vectors, steps, out=np.zeros_like(vectors), where=steps > 0)
    return np.rint(multiple).clip(-ESCAPED, ESCAPED).astype(np.int32).reshape(tensor.shape)


def _multiply(integers: np.ndarray, steps: np.ndarray) -> np.ndarray:
    vectors = integers.reshape(len(integers), steps.shape[1], -1).astype(np.float32) * steps
    return vectors.reshape(integers.shape)
