"""KVTC's quantizer: groups of coefficients on grids of 4, 16 or 256 points.

Guarantees: of the steps it tries, each token and group gets the one of least squared error; the
decoder multiplies once. Gives up: entropy-aware rounding (DEFLATE comes afterwards).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the largest magnitude that a grid spans


@dataclass(frozen=True, kw_only=True)
class Group:
    """Components `first` to `beyond` of K (0) or V (1) at `bits`; `step` is 0 if it is sent."""

    kind: int
    first: int
    beyond: int
    bits: int
    half: bool
    step: float


def quantize(part: np.ndarray, group: Group) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[tokens, components]` and uint16 `[tokens]`, steps as bf16 bits.

    Without an offline step each token gets the one of `SHARES`, and the sign, of least error: the
    grid reaches a step further down than up.
    """
    if group.step:
        return _on_grid(part, np.full(len(part), group.step, np.float32), group), _none(part)
    extent = abs(part).max(axis=1) / (2 ** (group.bits - 1) - (0.5 if group.half else 1.0))
    best = np.full(len(part), np.inf, np.float32)
    scales = np.zeros(len(part), np.uint16)
    signs = (1.0,) if group.half else (1.0, -1.0)
    shares = SHARES if group.bits < 8 else SHARES[:1]
    for share in [sign * share for sign in signs for share in shares]:
        candidate = (extent * np.float32(share)).view(np.uint32) + np.uint32(0x8000)
        candidate = (candidate >> np.uint32(16)).astype(np.uint16)
        steps = steps_of(candidate)
        error = ((restore(_on_grid(part, steps, group), steps, group) - part) ** 2).sum(axis=1)
        scales = np.where(error < best, candidate, scales)
        best = np.minimum(error, best)
    return _on_grid(part, steps_of(scales), group), scales


def restore(integers: np.ndarray, steps: np.ndarray, group: Group) -> np.ndarray:
    """float32 `[tokens, components]` from uint8 and float32 `[tokens]`."""
    middle = np.float32(2 ** (group.bits - 1) - 0.5 * group.half)
    return (integers.astype(np.float32) - middle) * steps[:, None]


def steps_of(scales: np.ndarray) -> np.ndarray:
    """float32 from bf16 bits."""
    return (scales.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _none(part: np.ndarray) -> np.ndarray:
    return np.zeros(len(part), np.uint16)


def _on_grid(part: np.ndarray, steps: np.ndarray, group: Group) -> np.ndarray:
    middle = 2 ** (group.bits - 1) - 0.5 * group.half
    safe = np.where(steps == 0, np.float32(1), steps)[:, None]
    return np.rint(part / safe + middle).clip(0, 2**group.bits - 1).astype(np.uint8)
