"""What an error costs, as one matrix a block: the full Fisher metric, or less to compare it with.

Guarantees: every metric is positive semi-definite and, but for "none" and "thirds", in nats: an
error e of one token costs e^T metric e / 2. Gives up: couplings between blocks and between tokens.

- `fisher`: the empirical Fisher information of the block.
- `attention`: the covariance of queries on keys (turned by the distances that keys are read from)
  and the output projection's metric on values, both in shape only; sizes are those of `layers`.
- `layers`: one number for the keys and one for the values of each layer: the Fisher trace.
- `thirds`: CacheGen's rule; steps of 0.5, 1 and 1.5 for the thirds of the layers, and nothing else.
- `none`: all errors weigh alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from frontload.kvcache.calibration.blocks import Grouping
from frontload.kvcache.calibration.statistics import Statistics
from frontload.kvcache.layout import CacheLayout
from frontload.kvcache.quality import Context

Metric = Literal["fisher", "attention", "layers", "thirds", "none"]
DISTANCES = 8  # of queries from keys, spread evenly over the prefix


def metric_of(
    kind: Metric,
    found: Statistics,
    shape: Grouping,
    layout: CacheLayout,
    model: PreTrainedModel,
    contexts: Sequence[Context],
) -> np.ndarray:
    """float64 `[blocks, size, size]`; block-diagonal by pieces unless it is the Fisher metric.

    Raises:
        ValueError: `attention` for a model whose layers have no `q_proj` and `o_proj`.
    """
    if kind == "fisher":
        return found.fisher(shape)
    whole = np.broadcast_to(np.eye(layout.head_dim), (layout.num_pieces, *[layout.head_dim] * 2))
    if kind == "attention":
        whole = _attention(model, layout, contexts)
    if kind == "thirds":
        scale = np.repeat(_thirds(layout), layout.num_heads)
    elif kind == "none":
        scale = np.ones(layout.num_pieces)
    else:
        scale = _by_layer(found, shape, layout)
    return _joined(whole * scale[:, None, None], shape.pieces(layout))


def _joined(pieces: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Block-diagonal `[blocks, size, size]` of `[pieces, head_dim, head_dim]`."""
    blocks, width = index.shape
    head_dim = pieces.shape[1]
    joined = np.zeros((blocks, width, head_dim, width, head_dim))
    for place in range(width):
        joined[:, place, :, place] = pieces[index[:, place]]
    return joined.reshape(blocks, width * head_dim, width * head_dim)


def _by_layer(found: Statistics, shape: Grouping, layout: CacheLayout) -> np.ndarray:
    """float64 `[pieces]`: the mean Fisher diagonal of the piece's tensor (K or V of its layer)."""
    diagonal = np.diagonal(found.fisher(shape), axis1=1, axis2=2)
    by_piece = np.empty(layout.num_pieces)
    index = shape.pieces(layout)
    by_piece[index] = diagonal.reshape(*index.shape, layout.head_dim).mean(axis=2)
    by_tensor = by_piece.reshape(-1, layout.num_heads).mean(axis=1)
    return np.repeat(by_tensor, layout.num_heads)


def _thirds(layout: CacheLayout) -> np.ndarray:
    """float64 `[2 * layers]`: 1 / bin^2 with CacheGen's bins (arXiv 2310.07240, section 5.1)."""
    bins = np.array([0.5, 1.0, 1.5])[3 * np.arange(layout.num_layers) // layout.num_layers]
    return np.tile(bins**-2.0, 2)


def _attention(
    model: PreTrainedModel, layout: CacheLayout, contexts: Sequence[Context]
) -> np.ndarray:
    """float64 `[pieces, head_dim, head_dim]`, each of trace `head_dim`."""
    layers = _projections(model, layout)
    keys = torch.zeros(layout.num_layers, layout.num_heads, layout.head_dim, layout.head_dim)
    keys = keys.double()
    for context in contexts:
        with _queries(layers, layout) as seen, torch.no_grad():
            model(torch.from_numpy(context.ids).to(model.device)[None], use_cache=False)
        queries = torch.stack(seen)[:, :, context.prefix_tokens :].float().cpu()
        for distance in np.linspace(1, context.prefix_tokens, DISTANCES).astype(int):
            turned = layout.rotary.redo(queries, int(distance)) if layout.rotary else queries
            turned = turned.reshape(layout.num_layers, layout.num_heads, -1, layout.head_dim)
            keys += (turned.transpose(2, 3) @ turned).double()
    values = torch.stack([_output_metric(layer, layout) for layer in layers])
    whole = torch.stack((keys, values)).reshape(-1, layout.head_dim, layout.head_dim).numpy()
    return whole * (layout.head_dim / np.trace(whole, axis1=1, axis2=2))[:, None, None]


def _projections(model: nn.Module, layout: CacheLayout) -> list[Any]:
    layers = [m for m in model.modules() if hasattr(m, "q_proj") and hasattr(m, "o_proj")]
    if len(layers) != layout.num_layers:
        raise ValueError(
            f"metric is 'attention': {len(layers)} of {layout.num_layers} attention layers of "
            f"{type(model).__name__} have q_proj and o_proj; use 'fisher', which needs neither"
        )
    return layers


@contextmanager
def _queries(layers: Sequence[Any], layout: CacheLayout) -> Iterator[list[Tensor]]:
    """Queries of a forward pass, before rotary embedding: `[heads, tokens, head_dim]` a layer."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        row = output[0].reshape(output.shape[1], -1, layout.head_dim)
        seen.append(row.transpose(0, 1))

    sources = [getattr(layer, "q_norm", layer.q_proj) for layer in layers]
    hooks = [source.register_forward_hook(keep) for source in sources]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _output_metric(layer: Any, layout: CacheLayout) -> Tensor:
    """float64 `[KV heads, head_dim, head_dim]`: W^T W of the columns that read a KV head."""
    weight = layer.o_proj.weight.detach().double().cpu()
    by_head = weight.reshape(len(weight), layout.num_heads, -1, layout.head_dim)
    return torch.einsum("ohqi,ohqj->hij", by_head, by_head)
