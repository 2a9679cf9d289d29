"""How far a stage has come, and everything that its steps so far have changed."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from frontload.corpus.ledger import StageLedger
from frontload.corpus.mixture import Order
from frontload.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from frontload.train.config import StageConfig
from frontload.train.distributed import Ranks, full_weights, load_full_weights, whole
from frontload.train.optimizer import Optimizer

_FREE = {"checkpoint_every_seconds", "micro_rows", "compile"}
"""Settings that may change between a kill and a resume; the last two change rounding."""


@dataclass
class Progress:
    """Everything a resume needs: how far, and all that the steps so far have changed."""

    directory: Path
    model: nn.Module
    optimizer: Optimizer
    ledger: StageLedger
    identity: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    saved_at: float = 0.0

    def resume(self) -> bool:
        """Go back to the checkpoint; False where there is none."""
        self.saved_at = time.monotonic()
        checkpoint = load_checkpoint(self.directory, self.identity)
        if checkpoint is None:
            return False
        load_full_weights(self.model, checkpoint.part("model"))
        self.optimizer.load_state(checkpoint.part("optimizer"))
        self.ledger.load_state({k: t.numpy() for k, t in checkpoint.part("ledger").items()})
        self.step, self.seconds = checkpoint.state["step"], checkpoint.state["seconds"]
        return True

    def due(self, config: StageConfig) -> bool:
        """Whether the last checkpoint is old enough."""
        return time.monotonic() - self.saved_at >= config.checkpoint_every_seconds

    def save(self, seconds: float, ranks: Ranks) -> None:
        """Write the checkpoint; every rank has to take part."""
        parts = {
            "model": full_weights(self.model),
            "optimizer": {k: whole(t).cpu() for k, t in self.optimizer.state().items()},
            "ledger": {k: torch.from_numpy(a) for k, a in self.ledger.state().items()},
        }
        tensors = {f"{part}/{key}": t for part, named in parts.items() for key, t in named.items()}
        state = {"identity": self.identity, "step": self.step, "seconds": seconds}
        if ranks.is_main:
            save_checkpoint(self.directory, Checkpoint(tensors=tensors, state=state))
        self.saved_at = time.monotonic()


def stage_identity(config: StageConfig, order: Order, seed: int) -> dict[str, Any]:
    """What has to be the same for a checkpoint to be gone on from."""
    digest = hashlib.blake2b(repr((order.sources, order.fingerprints)).encode(), digest_size=16)
    for array in (order.source, order.row, order.take):
        digest.update(np.ascontiguousarray(array).data)
    settings = config.model_dump(mode="json", exclude=_FREE)
    return {**settings, "seed": seed, "order": digest.hexdigest()}
