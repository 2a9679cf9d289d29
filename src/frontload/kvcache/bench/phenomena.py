"""Whether a model can tell codecs apart: what its cache looks like, and whether it is read.

Guarantees: figures are of the contexts given, keys before rotary embedding where the layout has
one. Gives up: a verdict; a model that ignores its prefix, or has no sinks and outliers, makes every
codec look good, and the bench prints these figures beside its table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.quality import Context, Dump, Quality, evaluate

_SETTLED = 16  # queries before it see few keys; their attention to token 0 says nothing


@dataclass(frozen=True, kw_only=True)
class Phenomena:
    """What was found; tuples run over attention layers."""

    loss: float  # nats a scored token of text
    unigram_loss: float  # of the same tokens, from the tokens' own frequencies (a lower bound)
    accuracy: dict[str, float]  # of retrieval, by kind
    prefix_worth: dict[str, float]  # domain -> KL when the prefix's cache is its channel means
    sink: tuple[float, ...]  # share of attention that goes to token 0, queries from 16 on
    outlier_keys: tuple[float, ...]  # largest over median variance of a head's channels
    outlier_values: tuple[float, ...]
    mean_keys: tuple[float, ...]  # share of the energy in the channel means
    mean_values: tuple[float, ...]


def find_phenomena(
    model: PreTrainedModel, layout: CacheLayout, suite: dict[str, Sequence[Dump]]
) -> Phenomena:
    """Figures of a suite with the domain `text`, and `recall` if it has it."""
    text = suite["text"]
    same = evaluate(model, text, lambda kv: kv)
    keys, values = _side_by_side([dump.kv for dump in text], layout)
    return Phenomena(
        loss=same.nll,
        unigram_loss=_unigram_loss([dump.context for dump in text]),
        accuracy=_accuracy(model, suite.get("recall", ())),
        prefix_worth={
            domain: evaluate(model, dumps, _channel_means).kl for domain, dumps in suite.items()
        },
        sink=_sinks(model, [dump.context for dump in text[:4]]),
        outlier_keys=_outliers(keys),
        outlier_values=_outliers(values),
        mean_keys=_mean_share(keys),
        mean_values=_mean_share(values),
    )


def _accuracy(model: PreTrainedModel, dumps: Sequence[Dump]) -> dict[str, float]:
    kinds = dict.fromkeys(dump.context.domain for dump in dumps)
    by_kind: dict[str, Quality] = {
        kind: evaluate(model, [d for d in dumps if d.context.domain == kind], lambda kv: kv)
        for kind in kinds
    }
    return {kind: quality.accuracy for kind, quality in by_kind.items()}


def _unigram_loss(contexts: Sequence[Context]) -> float:
    counts = np.unique(np.concatenate([c.ids[c.scored] for c in contexts]), return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def _channel_means(kv: KVTensors) -> KVTensors:
    keys, values = (
        x.float().mean(2, keepdim=True).expand_as(x).to(x.dtype) for x in (kv.keys, kv.values)
    )
    return KVTensors(keys=keys, values=values, start=kv.start)


def _side_by_side(runs: Sequence[KVTensors], layout: CacheLayout) -> tuple[Tensor, Tensor]:
    """Float32 keys (rotary embedding undone) and values of all runs: `[layers, heads, n, size]`."""
    keys = [kv.keys.float() for kv in runs]
    if layout.rotary is not None:
        keys = [layout.rotary.undo(k, kv.start) for k, kv in zip(keys, runs, strict=True)]
    return torch.cat(keys, dim=2), torch.cat([kv.values.float() for kv in runs], dim=2)


def _outliers(x: Tensor) -> tuple[float, ...]:
    variance = x.var(dim=2).flatten(1)
    return tuple((variance.amax(1) / variance.median(1).values).tolist())


def _mean_share(x: Tensor) -> tuple[float, ...]:
    energy = x.pow(2).mean(2).sum((1, 2))
    return tuple((x.mean(2).pow(2).sum((1, 2)) / energy).tolist())


@torch.no_grad()
def _sinks(model: PreTrainedModel, contexts: Sequence[Context]) -> tuple[float, ...]:
    """Needs attention weights, which only the eager implementation returns; it is put back."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        shares = []
        for context in contexts:
            ids = torch.from_numpy(context.ids).to(model.device)[None]
            attentions = model(ids, output_attentions=True, use_cache=False).attentions
            found = [a for a in attentions if a is not None]
            shares.append([a[0, :, _SETTLED:, 0].float().mean().item() for a in found])
    finally:
        model.set_attn_implementation(before)
    return tuple(np.mean(shares, axis=0).tolist())
