"""What a codec costs the model: continuations from a decoded cache against the original one.

Guarantees: every codec is measured on the same dumps (bf16, as a server's cache holds them) and
against the same model with the same, untouched dump, so that a lossless codec has a KL of exactly
zero; the model runs teacher-forced in its own precision (load it in float32). Gives up: effects
that only free-running generation shows, such as a reasoning chain that drifts.

    dumps = dump(model, contexts)
    evaluate(model, dumps, lambda kv: codec.decode(codec.encode(kv, "2"))).kl
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from frontload.kvcache.huggingface import prefill, to_cache
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.state import RecurrentState

RoundTrip = Callable[[KVTensors], KVTensors]


@dataclass(frozen=True, kw_only=True)
class Context:
    """A prefix whose cache is compressed, and the suffix that is then read from it.

    `scored[i]` says whether the prediction of `ids[i]` counts; it can from `prefix_tokens + 1` on,
    since the first suffix token is the first that the model sees behind the decoded cache.
    """

    ids: NDArray[np.int64]
    prefix_tokens: int
    scored: NDArray[np.bool_]
    domain: str

    def __post_init__(self) -> None:
        if not 0 < self.prefix_tokens < len(self.ids) - 1:
            raise ValueError(f"prefix_tokens is {self.prefix_tokens} of {len(self.ids)} ids")
        if len(self.scored) != len(self.ids):
            raise ValueError("scored must be as long as ids")
        if self.scored[: self.prefix_tokens + 1].any() or not self.scored.any():
            raise ValueError("scored must mark something, and only behind the first suffix token")


@dataclass(frozen=True, kw_only=True)
class Dump:
    """A context, its prefix's cache, and what the model says behind the untouched cache."""

    context: Context
    kv: KVTensors
    state: RecurrentState | None  # of a hybrid's recurrent layers; codecs leave it alone
    log_probs: Tensor  # [scored tokens, vocabulary], float32


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Loss of a round trip over contexts. Nats are per scored token."""

    kl: float  # from the model with the untouched cache to the one with the decoded cache
    kl_worst_decile: float  # mean over the tenth of contexts that suffer most (at least one)
    nll: float  # of the true tokens
    nll_change: float  # against the untouched cache
    flips: float  # share of scored tokens whose most likely token changes
    flips_worst_decile: float
    accuracy: float  # share of scored tokens whose most likely token is the true one
    tokens: int
    contexts: int


@torch.no_grad()
def dump(
    model: PreTrainedModel, contexts: Sequence[Context], *, dtype: torch.dtype = torch.bfloat16
) -> list[Dump]:
    """Prefill each context once; its cache is rounded to `dtype` for everyone and the reference.

    Dumps are kept on the CPU, wherever the model is: codecs read them there, and a suite of them
    would not fit beside the model.
    """
    dumps = []
    for context in contexts:
        exact, state = prefill(model, context.ids[: context.prefix_tokens].tolist())
        kv = exact.to(dtype=dtype, device="cpu")
        log_probs = _log_probs(model, context, kv, state).cpu()
        dumps.append(Dump(context=context, kv=kv, state=state, log_probs=log_probs))
    return dumps


@dataclass(frozen=True, kw_only=True)
class ContextLoss:
    """Means over the scored tokens of one context, named as in `Quality`."""

    domain: str
    tokens: int
    kl: float
    nll: float
    nll_change: float
    flips: float
    accuracy: float


def evaluate(model: PreTrainedModel, dumps: Sequence[Dump], roundtrip: RoundTrip) -> Quality:
    """Loss of `roundtrip`, which takes a prefix's tensors and gives them back as decoded.

    Raises:
        ValueError: there is no dump, or the round trip changes shape or start.
    """
    return summarize([measure(model, dump, roundtrip(dump.kv)) for dump in dumps])


@torch.no_grad()
def measure(model: PreTrainedModel, dump: Dump, decoded: KVTensors) -> ContextLoss:
    """Loss of one context that is read from `decoded` instead of its own cache.

    Raises:
        ValueError: `decoded` has another shape or start than the cache.
    """
    if decoded.keys.shape != dump.kv.keys.shape or decoded.start != dump.kv.start:
        raise ValueError(
            f"the round trip turned {tuple(dump.kv.keys.shape)} at {dump.kv.start} into "
            f"{tuple(decoded.keys.shape)} at {decoded.start}"
        )
    after = _log_probs(model, dump.context, decoded, dump.state)
    before = dump.log_probs.to(after.device)
    truth = torch.from_numpy(dump.context.ids[dump.context.scored]).to(after.device)[:, None]
    nll_before, nll = (-x.gather(1, truth).double().mean().item() for x in (before, after))
    best_before, best = before.argmax(-1), after.argmax(-1)
    return ContextLoss(
        domain=dump.context.domain,
        tokens=len(truth),
        kl=(before.exp() * (before - after)).sum(-1).double().mean().item(),
        nll=nll,
        nll_change=nll - nll_before,
        flips=(best != best_before).double().mean().item(),
        accuracy=(best == truth[:, 0]).double().mean().item(),
    )


def summarize(losses: Sequence[ContextLoss]) -> Quality:
    """Contexts together: means weigh tokens alike, worst deciles weigh contexts alike.

    Raises:
        ValueError: there is none.
    """
    if not losses:
        raise ValueError("no context to measure on")
    tokens = np.array([loss.tokens for loss in losses])

    def mean(field: str) -> float:
        return float(np.average([getattr(loss, field) for loss in losses], weights=tokens))

    return Quality(
        kl=mean("kl"),
        kl_worst_decile=_worst_decile([loss.kl for loss in losses]),
        nll=mean("nll"),
        nll_change=mean("nll_change"),
        flips=mean("flips"),
        flips_worst_decile=_worst_decile([loss.flips for loss in losses]),
        accuracy=mean("accuracy"),
        tokens=int(tokens.sum()),
        contexts=len(losses),
    )


def _worst_decile(losses: Sequence[float]) -> float:
    return float(np.sort(losses)[-ceil(len(losses) / 10) :].mean())


def suffix_logits(
    model: PreTrainedModel, context: Context, kv: KVTensors, state: RecurrentState | None = None
) -> Tensor:
    """Predictions of the scored tokens, the suffix read from `kv`: `[scored, vocabulary]`.

    Differentiable with respect to `kv`; call it without gradients where they are not wanted.
    """
    suffix = torch.from_numpy(context.ids[context.prefix_tokens : -1]).to(model.device)[None]
    cache = to_cache(model, kv, state)
    logits = model(suffix, past_key_values=cache, use_cache=True).logits[0]
    return logits[torch.from_numpy(context.scored[context.prefix_tokens + 1 :]).to(model.device)]


def _log_probs(
    model: PreTrainedModel, context: Context, kv: KVTensors, state: RecurrentState | None
) -> Tensor:
    return suffix_logits(model, context, kv, state).float().log_softmax(-1)
