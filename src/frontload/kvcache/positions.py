"""Do a model's keys turn with the position, and how: decided by what they do, not by a name.

Guarantees: a layer counts as turning only if undoing the rotation of the model's own rotary
module (`inv_freq`, `attention_scaling`) brought its keys from all probed positions back to those of
position 0; the note says which layers that leaves out, and why. Gives up: angles that change with
the length of the context (dynamic NTK, longrope), whose past keys no single rotation explains, and
positions that no module called `..inv_freq` describes; such keys are coded as they are cached.

Used by `huggingface.layout_of`, which forwards single tokens at several positions: one token
attends to itself alone, so no hidden state depends on its position and every key does only through
the rotation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from frontload.kvcache.rotary import Pairing, Rotary

# Relative to a head's key. A wrong pairing or frequency shows as an error above 1, rounding as
# 0.0000 (fp32), 0.0005 (fp16) or 0.005 (bf16), and as 0.026 (bf16) through 24 layers with attention
# sinks, whose share of the softmax depends on rounded scores.
_TOLERANCE = {torch.float32: 2**-10, torch.float16: 2**-4, torch.bfloat16: 2**-4}

_CHANGING = {
    "dynamic": "dynamic NTK changes its angles with the length of the context",
    "longrope": "longrope changes its angles with the length of the context",
}


def explain(model: nn.Module, keys: Tensor, positions: list[int]) -> tuple[Rotary | None, str]:
    """The rotation that most layers follow, and a note on those that do not.

    keys: `[layers, heads, rows, positions, head_dim]`, the same token of a row at all positions,
    the first of which is 0.
    """
    tolerance = _TOLERANCE[keys.dtype]
    keys = keys.float().cpu()
    still = _spread(keys) <= tolerance
    if still.all():
        return None, "keys do not depend on positions: there is nothing to undo"
    candidates, notes = _candidates(model, 2 * (keys.shape[-1] // 2), len(keys))
    best, followed = None, torch.zeros_like(still)
    for rotary in candidates:
        turning = _spread(_undone(rotary, keys, positions)) <= tolerance
        if turning.sum() > followed.sum():
            best, followed = rotary, turning
    lost = (~still & ~followed).nonzero().flatten().tolist()
    if best is None:
        unknown = "keys follow no rotary embedding of the model (no module's inv_freq explains it)"
        return None, "; ".join(notes) or unknown
    rotary = dataclasses.replace(best, layers=tuple(followed.tolist()))
    return rotary, _without(lost, notes) if lost else ""


def _without(layers: list[int], notes: list[str]) -> str:
    listed = ", ".join(map(str, layers))
    why = "; ".join(notes) or "they do not follow the rotation of the others"
    return f"keys of attention layers {listed} are coded as cached: {why}"


def _rotary_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that hold frequencies of a rotary embedding."""
    for module in model.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            yield module


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients; modes and rotary modules are put back afterwards.

    Rotary modules whose angles change with the length of a context do so in place.
    """
    modes = [(module, module.training) for module in model.modules()]
    rotary = [
        (module, dict(vars(module)), [(n, b, b.clone()) for n, b in module._buffers.items()])
        for module in _rotary_modules(model)
    ]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, attributes, buffers in rotary:
            vars(module).clear()
            vars(module).update(attributes)
            for name, buffer, values in buffers:
                module._buffers[name] = buffer.copy_(values)
        for module, mode in modes:
            module.training = mode


def _candidates(model: nn.Module, widest: int, num_layers: int) -> tuple[list[Rotary], list[str]]:
    """Rotations that the model's modules describe, and notes on those that no `Rotary` does.

    Models with several kinds of layers keep a set of frequencies for each, under a prefix.
    """
    found: dict[Rotary, None] = {}
    notes: dict[str, None] = {}
    for module in _rotary_modules(model):
        for name, frequencies in module.named_buffers(recurse=False):
            prefix = name.removesuffix("inv_freq")
            if prefix == name or "original" in prefix or 2 * len(frequencies) > widest:
                continue
            kind = getattr(module, "rope_type", "default")
            kind = kind if isinstance(kind, str) else kind.get(prefix.removesuffix("_"), "default")
            if changing := next((note for mark, note in _CHANGING.items() if mark in kind), None):
                notes[changing] = None
                continue
            scaling = getattr(module, f"{prefix}attention_scaling", 1.0)
            for pairing in get_args(Pairing):
                rotary = Rotary(
                    inv_freq=tuple(frequencies.float().cpu().tolist()),
                    scaling=float(scaling),
                    pairing=pairing,
                    layers=(True,) * num_layers,
                )
                found[rotary] = None
    return list(found), list(notes)


def _undone(rotary: Rotary, keys: Tensor, positions: list[int]) -> Tensor:
    rows = range(keys.shape[2])
    undone = [
        torch.cat([rotary.undo(keys[:, :, row, i : i + 1], position) for row in rows], dim=2)
        for i, position in enumerate(positions)
    ]
    return torch.stack(undone, dim=3)


def _spread(keys: Tensor) -> Tensor:
    """`[layers]`: the largest distance of a key to that at position 0, relative to its length."""
    first = keys[:, :, :, :1]
    distance = (keys - first).norm(dim=-1)
    length = first.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return (distance / length).amax(dim=(1, 2, 3))
