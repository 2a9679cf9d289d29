"""Rotary position embedding of cached keys: taken off before coding, put back after.

Guarantees: `undo` then `redo` gives back the keys to float32 rounding, with the same angles on
every machine: they are formed in float32 as models form them, their cosines in float64. Gives up:
angles that change with the length of the context (dynamic NTK); such models are coded as cached.

Source: RoFormer (arXiv 2104.09864), section 3.2; scaled variants change `inv_freq` and `scaling`
alone, so both are taken from the model's own rotary module.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # `layout` has a Rotary
    from frontload.kvcache.layout import KVTensors

Pairing = Literal["halves", "neighbours"]


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """The rotation of a model's keys.

    Of a head's `head_dim` channels the first `2 * len(inv_freq)` turn, in pairs: channel j with
    j + len(inv_freq) ("halves", Llama) or 2j with 2j + 1 ("neighbours", GPT-J). Cosines and sines
    are multiplied by `scaling` (YaRN). Layers whose entry in `layers` is False do not turn.
    """

    inv_freq: tuple[float, ...]  # float32 values, radians a token
    scaling: float
    pairing: Pairing
    layers: tuple[bool, ...]

    def angles(self, start: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine, scaled: float32 `[tokens, len(inv_freq)]` each."""
        positions = np.arange(start, start + num_tokens, dtype=np.float32)[:, None]
        angle = (positions * np.asarray(self.inv_freq, np.float32)).astype(np.float64)
        scaling = np.float64(self.scaling)
        return (
            (np.cos(angle) * scaling).astype(np.float32),
            (np.sin(angle) * scaling).astype(np.float32),
        )

    def redo(self, keys: Tensor, start: int) -> Tensor:
        """Rotate float32 `[layers, heads, tokens, head_dim]` keys, the first at `start`."""
        return self._turn(keys, start, inverse=False)

    def undo(self, keys: Tensor, start: int, angles: Tensor | None = None) -> Tensor:
        """The inverse of `redo`; `angles`, `[tokens, frequencies, 2]`, spares forming them."""
        return self._turn(keys, start, inverse=True, angles=angles)

    def _turn(
        self, keys: Tensor, start: int, *, inverse: bool, angles: Tensor | None = None
    ) -> Tensor:
        if angles is None:
            both = np.stack(self.angles(start, keys.shape[2]), axis=-1)
            angles = torch.from_numpy(both).to(keys.device)
        cosine, sine = angles.unbind(-1)
        if inverse:
            cosine, sine = cosine / self.scaling**2, -sine / self.scaling**2
        half = len(self.inv_freq)
        if self.pairing == "halves":
            first, second = keys[..., :half], keys[..., half : 2 * half]
        else:
            first, second = keys[..., 0 : 2 * half : 2], keys[..., 1 : 2 * half : 2]
        turned_first = first * cosine - second * sine
        turned_second = second * cosine + first * sine
        if self.pairing == "halves":
            turning = torch.cat((turned_first, turned_second), dim=-1)
        else:
            turning = torch.stack((turned_first, turned_second), dim=-1).flatten(-2)
        turned = torch.cat((turning, keys[..., 2 * half :]), dim=-1)
        if all(self.layers):
            return turned
        turns = torch.tensor(self.layers, device=keys.device)[:, None, None, None]
        return torch.where(turns, turned, keys)

    def to_json(self) -> dict[str, Any]:
        """The rotation as JSON values."""
        return {
            "inv_freq": list(self.inv_freq),
            "scaling": self.scaling,
            "pairing": self.pairing,
            "layers": list(self.layers),
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Rotary:
        """The rotation written by `to_json`."""
        return Rotary(
            inv_freq=tuple(fields["inv_freq"]),
            scaling=float(fields["scaling"]),
            pairing=fields["pairing"],
            layers=tuple(fields["layers"]),
        )


def unrotated(kv: KVTensors, rotary: Rotary | None) -> KVTensors:
    """The cache in float32, keys without rotary embedding (None: there is none to undo)."""
    keys, values = kv.keys.float(), kv.values.float()
    if rotary is not None:
        keys = rotary.undo(keys, kv.start)
    return replace(kv, keys=keys, values=values)


def rotated(kv: KVTensors, rotary: Rotary | None) -> KVTensors:
    """The inverse: float32 keys and values as they lie in the cache; differentiable."""
    return kv if rotary is None else replace(kv, keys=rotary.redo(kv.keys, kv.start))
