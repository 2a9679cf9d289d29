"""What a KVTC-like codec measures of a model beforehand: one global basis each for K and V, plans.

Guarantees: one PCA over all layers and heads concatenated, keys before rotary embedding; for each
budget the groups and bits of least squared error, found exactly. Gives up: models whose
`layers * heads * head_dim` is so large that the basis does not fit (it is square up to the number
of calibration tokens or `max_rank`).

Source: KVTC (arXiv 2511.01815); docs/cachegen.md lists what we chose where we had no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from frontload.kvcache.codec.baselines import offline
from frontload.kvcache.codec.baselines.allocation import Allocation, Option
from frontload.kvcache.codec.baselines.envelope import checked, rows
from frontload.kvcache.codec.baselines.kvtc_quantize import (
    Group,
    quantize,
    restore,
    steps_of,
)
from frontload.kvcache.layout import CacheLayout, KVTensors

KIND = "frontload-kvtc-profile"
BITS = (2, 4, 8)  # and 0: the group is dropped
SCALE_BITS = 16
SAMPLES = 2048  # tokens that distortions are measured on


@dataclass(frozen=True, kw_only=True)
class KVTCSettings:
    """Choices; the published ones where we know them.

    sinks, window: the first and last tokens of a context that stay as they are.
    budgets: the levels, in bits per value of the other tokens, scales included, before DEFLATE.
    scales: "token" sends a bf16 step for each token and group; "group" has one offline step.
    group_sizes: components of a group.
    split: one budget for K and V together, or half for each.
    """

    name: str = "kvtc"
    sinks: int = 4
    window: int = 128
    budgets: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    scales: Literal["token", "group"] = "token"
    group_sizes: tuple[int, ...] = (8, 16, 32, 64)
    split: Literal["joint", "equal"] = "joint"
    max_rank: int = 4096

    def __post_init__(self) -> None:
        if self.sinks < 0 or self.window < 0:
            raise ValueError(f"sinks, window are {self.sinks}, {self.window}; give at least 0")
        if list(self.budgets) != sorted(set(self.budgets)) or min(self.budgets, default=0) <= 0:
            raise ValueError(f"budgets is {self.budgets}; give rising numbers above 0")
        unit = min(self.group_sizes, default=0)
        if unit < 1 or any(size % unit for size in self.group_sizes):
            raise ValueError(f"group_sizes is {self.group_sizes}; give multiples of the smallest")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(fields: dict[str, Any]) -> KVTCSettings:
        """The settings written by `to_json`."""
        lists = {name: tuple(fields[name]) for name in ("budgets", "group_sizes")}
        return KVTCSettings(**{**fields, **lists})


@dataclass(frozen=True, kw_only=True)
class KVTCProfile:
    """What both ends hold.

    mean: float32 `[2, dims]` with dims = layers * heads * head_dim; basis: float32
    `[2, dims, rank]`, orthonormal columns by falling variance; plans: float32 `[groups, 6]` for
    each level, the fields of `Group`.
    """

    settings: KVTCSettings
    layout: CacheLayout
    mean: np.ndarray
    basis: np.ndarray
    plans: tuple[np.ndarray, ...]

    @cached_property
    def digest(self) -> str:
        """Of all that it holds."""
        return offline.digest(self._meta(), self._arrays())

    def groups(self, level: int) -> list[Group]:
        """The coded groups of a level."""
        return [
            Group(
                kind=int(kind),
                first=int(first),
                beyond=int(beyond),
                bits=int(bits),
                half=bool(half),
                step=float(step),
            )
            for kind, first, beyond, bits, half, step in self.plans[level]
        ]

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        offline.save(path, KIND, self._meta(), self._arrays())

    @staticmethod
    def load(path: Path) -> KVTCProfile:
        """Read what `save` wrote.

        Raises:
            ValueError: not such a profile, or damaged.
        """
        meta, arrays = offline.load(path, KIND)
        settings = KVTCSettings.from_json(meta["settings"])
        return KVTCProfile(
            settings=settings,
            layout=CacheLayout.from_json(meta["layout"]),
            mean=arrays["mean"],
            basis=arrays["basis"],
            plans=tuple(arrays[f"plan.{level}"] for level in range(len(settings.budgets))),
        )

    def _meta(self) -> dict[str, Any]:
        return {"settings": self.settings.to_json(), "layout": self.layout.to_json()}

    def _arrays(self) -> dict[str, np.ndarray]:
        plans = {f"plan.{level}": plan for level, plan in enumerate(self.plans)}
        return {"mean": self.mean, "basis": self.basis, **plans}


def calibrate(
    layout: CacheLayout, runs: Sequence[KVTensors], settings: KVTCSettings
) -> KVTCProfile:
    """Basis and plans from `runs`; sinks, which are never transformed, are left out.

    Raises:
        ValueError: no token is left, or a run is not as `layout` says.
    """
    kept = [
        checked(run, layout).tokens(settings.sinks if run.start == 0 else 0, run.num_tokens)
        for run in runs
    ]
    kept = [run for run in kept if run.num_tokens]
    if sum(run.num_tokens for run in kept) < 2:
        raise ValueError("no calibration tokens behind the sinks; give the caches of some contexts")
    wide = np.concatenate([as_wide(run, layout) for run in kept], axis=1)
    mean = wide.mean(axis=1)
    basis = np.stack([_principal(wide[kind] - mean[kind], settings) for kind in range(2)])
    every = np.linspace(0, wide.shape[1] - 1, min(SAMPLES, wide.shape[1])).astype(int)
    sample = (wide[:, every] - mean[:, None]) @ basis
    return KVTCProfile(
        settings=settings,
        layout=layout,
        mean=mean,
        basis=basis,
        plans=_plans(sample, wide.shape[2], settings),
    )


def as_wide(kv: KVTensors, layout: CacheLayout) -> np.ndarray:
    """float32 `[2, tokens, layers * heads * head_dim]`, keys before rotary embedding."""
    vectors = rows(kv, layout, undo_rotary=True)
    return np.ascontiguousarray(vectors.transpose(0, 2, 1, 3)).reshape(2, kv.num_tokens, -1)


def _principal(centred: np.ndarray, settings: KVTCSettings) -> np.ndarray:
    """float32 `[dims, rank]`, the leading principal axes."""
    tokens, dims = centred.shape
    data = torch.from_numpy(centred)
    if tokens >= dims:
        axes = torch.linalg.eigh((data.T @ data).double()).eigenvectors.flip(1).float()
    else:
        axes = torch.linalg.svd(data, full_matrices=False).Vh.T
    return axes[:, : settings.max_rank].contiguous().numpy()


def _plans(sample: np.ndarray, dims: int, settings: KVTCSettings) -> tuple[np.ndarray, ...]:
    """For each budget the groups of K and V, as rows of `Group`'s fields."""
    options = [_options(part, kind, settings) for kind, part in enumerate(sample)]
    rank, most = sample.shape[2], int(max(settings.budgets) * 2 * dims / SCALE_BITS)
    keys, values = (Allocation([option for option, _ in found], rank, most) for found in options)
    steps = {(kind, option): step for kind in range(2) for option, step in options[kind]}
    plans = []
    for budget in settings.budgets:
        units = int(budget * 2 * dims / SCALE_BITS)
        if settings.split == "equal":
            of_keys = of_values = units // 2
        else:
            total = keys.distortion()[: units + 1] + values.distortion()[units::-1]
            of_keys = int(total.argmin())
            of_values = units - of_keys
        chosen = [(0, x) for x in keys.groups(of_keys)] + [(1, x) for x in values.groups(of_values)]
        chosen.sort(key=lambda pair: pair[1].bits)  # integers of a kind: DEFLATE gains up to 3 %
        plan = [
            (kind, x.first, x.beyond, x.bits, x.half, steps[kind, x])
            for kind, x in chosen
            if x.bits
        ]
        plans.append(np.array(plan, np.float32).reshape(-1, 6))
    return tuple(plans)


def _options(
    coefficients: np.ndarray, kind: int, settings: KVTCSettings
) -> list[tuple[Option, float]]:
    """What can be done with each run of components, and the offline step that goes with it."""
    rank, unit = coefficients.shape[1], min(settings.group_sizes)
    energy = (coefficients.astype(np.float64) ** 2).mean(axis=0)
    found = []
    for first in range(0, rank, unit):
        beyond = min(first + unit, rank)
        found.append((_option(first, beyond, 0, False, 0, energy[first:beyond].sum()), 0.0))
        for size in settings.group_sizes:
            if first + size > rank and size > unit:
                continue
            beyond = min(first + size, rank)
            for bits in BITS:
                found.append(_measured(coefficients[:, first:beyond], first, kind, bits, settings))
    return found


def _measured(
    part: np.ndarray, first: int, kind: int, bits: int, settings: KVTCSettings
) -> tuple[Option, float]:
    """The better grid for these components, and the best offline step if there is one."""
    spread = float(np.sqrt((part.astype(np.float64) ** 2).mean())) + 1e-20
    if settings.scales == "token":
        steps = [0.0]
    else:
        top = float(abs(part).max()) / 2 ** (bits - 1)
        steps = list(np.geomspace(spread * 2.0 ** (1.5 - bits), max(top, spread), 12))
    best: tuple[Option, float] | None = None
    for half in (False, True) if bits == BITS[0] else (False,):
        for step in steps:
            step = float(np.float32(step))
            beyond = first + part.shape[1]
            group = Group(kind=kind, first=first, beyond=beyond, bits=bits, half=half, step=step)
            integers, scales = quantize(part, group)
            used = np.full(len(part), step, np.float32) if step else steps_of(scales)
            error = float(((restore(integers, used, group) - part) ** 2).sum(axis=1).mean())
            side = SCALE_BITS if settings.scales == "token" else 0
            cost = -(-(bits * part.shape[1] + side) // SCALE_BITS)
            if best is None or error < best[0].distortion:
                best = _option(first, beyond, bits, half, cost, error), step
    assert best is not None
    return best


def _option(first: int, beyond: int, bits: int, half: bool, cost: int, distortion: float) -> Option:
    return Option(
        first=first, beyond=beyond, bits=bits, half=half, cost=cost, distortion=float(distortion)
    )
