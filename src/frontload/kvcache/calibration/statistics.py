"""What one pass over calibration contexts leaves behind: moments, sensitivities, a sample.

Guarantees: memory is bounded by the moments of the candidate groupings, `sample_values`, and one
context's forward and backward passes; the model is left as it was. Gives up: the first positions
(up to `HEAD_SKIPPED`) in the moments, where sinks would outweigh everything else; their own
sensitivity is kept by position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from frontload.kvcache.calibration.blocks import Grouping, Moments
from frontload.kvcache.calibration.fisher import gradients
from frontload.kvcache.huggingface import prefill
from frontload.kvcache.layout import CacheLayout
from frontload.kvcache.quality import Context
from frontload.kvcache.rotary import unrotated

HEAD_SKIPPED = 8
POSITIONS = 16  # whose sensitivity is kept one by one


@dataclass(kw_only=True)
class Statistics:
    """Sums over calibration contexts.

    trace: float64 `[POSITIONS + 1]`: squared gradients by position, all later ones last.
    counted: tokens behind each entry of `trace`.
    sample: float32 `[pieces, tokens, head_dim]`, evenly spread, of positions from 1 on.
    first: float32 `[pieces, contexts, head_dim]`, position 0.
    """

    values: dict[Grouping, Moments]
    gradients: dict[Grouping, Moments]
    contexts: int
    scored: int  # predictions that the gradients belong to, in all contexts
    prefix_tokens: float  # mean of the contexts
    draws: int
    trace: np.ndarray = field(default_factory=lambda: np.zeros(POSITIONS + 1))
    counted: np.ndarray = field(default_factory=lambda: np.zeros(POSITIONS + 1))
    sample: Tensor = field(default_factory=lambda: torch.empty(0))
    first: Tensor = field(default_factory=lambda: torch.empty(0))

    def fisher(self, shape: Grouping) -> np.ndarray:
        """float64 `[blocks, size, size]`: an error e of one token costs e^T fisher e / 2 nats.

        Per scored prediction: of T prefix tokens with such errors the costs add up.
        """
        moments = self.gradients[shape]
        # `second` is a mean over tokens and draws of what all predictions of a context sum up to
        return moments.second * (self.draws * self.contexts / self.scored)

    def weights(self) -> np.ndarray:
        """float64 `[POSITIONS]`: sensitivity of the first positions over the mean of later ones."""
        later = self.trace[-1] / max(self.counted[-1], 1)
        first = self.trace[:-1] / np.maximum(self.counted[:-1], 1)
        return first / later if later > 0 else np.ones(POSITIONS)

    @property
    def constant_first(self) -> bool:
        """Position 0 is the same in all contexts, as behind a fixed first token."""
        spread = self.first.double().var(dim=1, unbiased=False).mean()
        return bool(spread < 1e-4 * self.sample.var(dim=1).mean())


def collect(
    model: PreTrainedModel,
    contexts: Sequence[Context],
    layout: CacheLayout,
    shapes: Sequence[Grouping],
    *,
    draws: int,
    sample_values: int,
    seed: int,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Statistics:
    """One pass over `contexts`.

    Args:
        model: whose cache it is.
        contexts: at least one; predictions marked as scored give the gradients.
        layout: of the cache; keys are taken without the rotary embedding that it names.
        shapes: groupings that need moments.
        draws: probes of each context.
        sample_values: how many values to keep at most.
        seed: of the probes.
        on_progress: is told of each context.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(context.prefix_tokens - 1 for context in contexts)
    every = max(1, -(-tokens * layout.values_per_token // sample_values))
    found = Statistics(
        values={shape: Moments(pieces=shape.pieces(layout)) for shape in shapes},
        gradients={shape: Moments(pieces=shape.pieces(layout)) for shape in shapes},
        contexts=len(contexts),
        scored=sum(int(context.scored.sum()) for context in contexts),
        prefix_tokens=tokens / len(contexts) + 1,
        draws=draws,
    )
    kept, first = [], []
    with _measuring(model):
        for i, context in enumerate(contexts):
            kv, state = prefill(model, context.ids[: context.prefix_tokens].tolist())
            kv = kv.to(dtype=torch.bfloat16)  # as a server's cache holds it
            pieces = unrotated(kv, layout.rotary).pieces()
            kept.append(pieces[:, 1 + i % every :: every].cpu())
            first.append(pieces[:, :1].cpu())
            _add(found.values, pieces[:, _skipped(context) :])
            drawn = gradients(
                model, context, pieces, layout, state, draws=draws, generator=generator
            )
            _add_gradients(found, context, drawn)
            on_progress(f"context {i + 1} of {len(contexts)}: {context.prefix_tokens} tokens")
    found.sample, found.first = torch.cat(kept, dim=1), torch.cat(first, dim=1)
    return found


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """No dropout, and no gradients of weights, which would keep every activation."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, want in wanted:
            weight.requires_grad_(want)


def _skipped(context: Context) -> int:
    return min(HEAD_SKIPPED, max(1, context.prefix_tokens // 4))


def _add(moments: dict[Grouping, Moments], pieces: Tensor) -> None:
    for moment in moments.values():
        moment.add(pieces)


def _add_gradients(found: Statistics, context: Context, drawn: Iterable[Tensor]) -> None:
    for gradient in drawn:
        weighed = gradient / found.draws**0.5
        _add(found.gradients, weighed[:, _skipped(context) :])
        energy = weighed.double().square().sum(dim=(0, 2)).cpu().numpy()
        found.trace[:POSITIONS][: len(energy)] += energy[:POSITIONS]
        found.trace[-1] += energy[POSITIONS:].sum()
    found.counted[:POSITIONS][: context.prefix_tokens] += 1
    found.counted[-1] += max(0, context.prefix_tokens - POSITIONS)
