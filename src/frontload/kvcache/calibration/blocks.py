"""Which pieces make a block: candidates, their statistics, and the bits that each would take.

Guarantees: the choice depends on the statistics alone, is made at equal predicted loss, and its
table is kept for printing. Gives up: groupings that are not a box of (kinds, layers, heads); all
blocks of a profile have the same shape, which is what kernels want.

Source: reverse water-filling over independent Gaussian components (Cover and Thomas, 10.3.3), in
coordinates where all errors weigh alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.layout import CacheLayout


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """A shape of blocks: so many kinds (2: K with V), neighbouring layers and heads."""

    kinds: int
    layers: int
    heads: int

    def __str__(self) -> str:
        kinds = "K with V" if self.kinds == 2 else "K, V"
        return f"{kinds}, {self.layers} layer(s) x {self.heads} head(s)"

    def pieces(self, layout: CacheLayout) -> np.ndarray:
        """int32 `[blocks, pieces a block]`."""
        grid = np.arange(layout.num_pieces, dtype=np.int32).reshape(
            2 // self.kinds,
            self.kinds,
            layout.num_layers // self.layers,
            self.layers,
            layout.num_heads // self.heads,
            self.heads,
        )
        width = self.kinds * self.layers * self.heads
        return np.ascontiguousarray(grid.transpose(0, 2, 4, 1, 3, 5).reshape(-1, width))


def groupings(layout: CacheLayout, block_channels: int) -> list[Grouping]:
    """Every shape that divides the cache into blocks of at most `block_channels`.

    Raises:
        ValueError: not even one head fits.
    """
    if layout.head_dim > block_channels:
        raise ValueError(
            f"block_channels is {block_channels}, less than one head of {layout.head_dim}; "
            f"give at least {layout.head_dim}"
        )
    return [
        Grouping(kinds=kinds, layers=layers, heads=heads)
        for kinds in (1, 2)
        for layers in _divisors(layout.num_layers)
        for heads in _divisors(layout.num_heads)
        if kinds * layers * heads * layout.head_dim <= block_channels
    ]


def _divisors(count: int) -> list[int]:
    return [d for d in range(1, count + 1) if count % d == 0]


@dataclass(kw_only=True)
class Moments:
    """Sums over tokens of x x^T and x, for the blocks of one grouping."""

    pieces: np.ndarray  # int32 [blocks, pieces a block]
    count: int = 0
    _origin: Tensor | None = field(default=None, repr=False)  # [blocks, 1, size]
    _product: Tensor | float = field(default=0.0, repr=False)
    _sum: Tensor | float = field(default=0.0, repr=False)

    def add(self, pieces: Tensor) -> None:
        """Count the tokens of `[pieces, tokens, head_dim]`.

        Sums run about the first tokens' mean: keys may have offsets hundreds of times as large as
        their spread, which float32 products would swallow.
        """
        index = torch.from_numpy(self.pieces).long().to(pieces.device)
        blocks = pieces[index].transpose(1, 2).reshape(len(index), pieces.shape[1], -1)
        if self._origin is None:
            self._origin = blocks.mean(dim=1, keepdim=True)
        blocks = blocks - self._origin
        self._product = self._product + (blocks.transpose(1, 2) @ blocks).double().cpu()
        self._sum = self._sum + blocks.double().sum(dim=1).cpu()
        self.count += pieces.shape[1]

    @property
    def mean(self) -> np.ndarray:
        """float64 `[blocks, size]`."""
        assert self._origin is not None
        return self._origin[:, 0].double().cpu().numpy() + self._about_origin()

    @property
    def second(self) -> np.ndarray:
        """float64 `[blocks, size, size]`: the mean of x x^T."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]

    @property
    def covariance(self) -> np.ndarray:
        """float64 `[blocks, size, size]`."""
        assert isinstance(self._product, Tensor)
        mean = self._about_origin()
        return self._product.numpy() / self.count - mean[:, :, None] * mean[:, None, :]

    def _about_origin(self) -> np.ndarray:
        assert isinstance(self._sum, Tensor)
        return self._sum.numpy() / self.count


@dataclass(frozen=True, kw_only=True)
class Bases:
    """Directions of each block in which errors weigh alike and values are uncorrelated.

    columns: float64 `[blocks, size (k), size (j)]`: x - mean = sum_k y_k columns_k, with y the
        coordinates: an error e of y costs |e|^2 / 2, in the units of the metric.
    variance: float64 `[blocks, size]`: of y_k, descending.
    """

    columns: np.ndarray
    variance: np.ndarray

    @property
    def size(self) -> int:
        """Channels of a block."""
        return self.columns.shape[2]

    def loss(self, step: float, metric: np.ndarray) -> float:
        """Nats a token that quantizing at `step` costs by a metric `[blocks, size, size]`."""
        return self._loss(step, self._costs(metric))

    def step_for(self, loss: float, metric: np.ndarray) -> float:
        """The step at which `loss` is predicted; at most one that leaves nothing to code."""
        costs = self._costs(metric)
        low, high = 0.0, float(np.sqrt(12 * self.variance.max()))
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._loss(middle, costs) < loss else (low, middle)
        return high

    def bits_per_value(self, step: float) -> float:
        """Predicted rate of an ideal coder at that step."""
        water = step**2 / 12
        return float(0.5 * np.log2(np.maximum(self.variance / water, 1)).mean())

    def _costs(self, metric: np.ndarray) -> np.ndarray:
        """`[blocks, k]`: nats of a squared unit of error in y_k, twice."""
        return np.einsum("bkj,bkj->bk", self.columns @ metric, self.columns)

    def _loss(self, step: float, costs: np.ndarray) -> float:
        return float((np.minimum(self.variance, step**2 / 12) * costs).sum()) / 2


def bases(
    covariance: np.ndarray,
    metric: np.ndarray,
    *,
    ridge: float,
    transform: bool = True,
) -> Bases:
    """Principal components in the metric's coordinates: M = metric^(1/2), eigenvectors of M C M.

    Args:
        covariance: float64 `[blocks, size, size]`, of the values.
        metric: float64 like it, positive semi-definite: an error e costs e^T metric e / 2.
        ridge: this share of the metric's mean eigenvalue is added to all; estimates are noisy.
        transform: False leaves channels as they are, scaled by the metric's diagonal.
    """
    columns, variances = np.empty_like(covariance), np.empty(covariance.shape[:2])
    for b, (values, weights) in enumerate(zip(covariance, metric, strict=True)):
        size = len(values)
        weights = weights + (ridge * np.trace(weights) / size + 1e-30) * np.eye(size)
        if not transform:
            weights, values = np.diag(np.diag(weights)), np.diag(np.diag(values))
        eigenvalue, vector = np.linalg.eigh(weights)
        eigenvalue = np.maximum(eigenvalue, eigenvalue[-1] * 1e-12)
        root = (vector * np.sqrt(eigenvalue)) @ vector.T
        inverse_root = (vector / np.sqrt(eigenvalue)) @ vector.T
        variance, rotation = np.linalg.eigh(root @ values @ root)
        columns[b] = (inverse_root @ rotation[:, ::-1]).T
        variances[b] = np.maximum(variance[::-1], 0)
    return Bases(columns=columns, variance=variances)
