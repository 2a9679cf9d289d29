"""How much the model minds an error in each cached value: probes of its predictions' curvature.

Guarantees: gradients G with E[G G^T] equal to the Fisher information of all scored predictions with
respect to the cache, so that an error e costs a KL of e^T E[G G^T] e / 2 nats in all, to second
order; nothing is assumed about the architecture. Gives up: exactness at few probes; one probe of
one context is unbiased.

Keys are differentiated before rotary embedding, where the codec's errors arise. A probe is not the
gradient of a drawn label's log-probability: where a prediction is nearly certain, draws that show
its curvature are rare and huge. It is the gradient of v . logits with v = S r, r random signs and
S S^T = diag(p) - p p^T, the Fisher information of logits: every probe shows every direction.

Source: Fisher information as the Hessian of KL (Amari 1998, section 2); S for softmax, and its
products with vectors, as in Martens (arXiv 1412.1193, section 9); signs: Hutchinson (1989).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.quality import Context, suffix_logits
from frontload.kvcache.rotary import rotated
from frontload.kvcache.state import RecurrentState


def gradients(
    model: PreTrainedModel,
    context: Context,
    pieces: Tensor,
    layout: CacheLayout,
    state: RecurrentState | None = None,
    *,
    draws: int,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """One probe a draw of signs: float32 `[pieces, tokens, head_dim]`.

    Args:
        model: in evaluation mode; its parameters get no gradient.
        context: whose scored predictions count.
        pieces: float32 cache of its prefix in piece order, keys without rotary embedding.
        layout: of that cache.
        state: of a hybrid's recurrent layers behind the prefix.
        draws: signs are drawn so many times; forward runs once.
        generator: of the signs, on the CPU.
    """
    leaf = pieces.to(model.device, torch.float32).clone().requires_grad_()
    with torch.enable_grad():
        kv = rotated(KVTensors.from_pieces(leaf, layout, start=0), layout.rotary)
        logits = suffix_logits(model, context, kv, state).float()
    for _ in range(draws):
        signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits.device) * 2.0 - 1
        yield torch.autograd.grad(logits, leaf, probe(logits.detach(), signs), retain_graph=True)[0]


def probe(logits: Tensor, signs: Tensor) -> Tensor:
    """v with E[v v^T] = diag(p) - p p^T over random signs; all `[predictions, vocabulary]`."""
    share = logits.softmax(-1)
    spread = share.sqrt() * signs
    return spread - share * spread.sum(-1, keepdim=True)
