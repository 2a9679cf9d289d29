"""Muon for matrices with AdamW for the rest, or AdamW for everything, behind one `step(rate)`.

Guarantees: state is named by parameter and made of tensors only, so that it can be stored as
safetensors, sharded or not, and carried into a child stage. `Muon` computes what
`torch.optim.Muon(adjust_lr_fn="original")` computes (a test holds it to that), with one batched
product for all matrices of a shape instead of a Python loop over matrices: a third faster on a
small model. Sharded parameters (FSDP2) are gathered for it, each rank doing the same work.
Gives up: learning rates per layer; gains, biases and other vectors get no weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim import Optimizer as TorchOptimizer

from frontload.train.config import OptimizerConfig
from frontload.train.distributed import placed_like, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of Keller Jordan's Muon (kellerjordan.github.io/posts/muon)."""
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: `[n, rows, columns]` in and out.

    Five Newton-Schulz steps in the input's precision; singular values end in about [0.7, 1.2].
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrices if matrices.size(1) <= matrices.size(2) else matrices.mT
    x = wide / torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrices else x.mT


class Muon(TorchOptimizer):
    """Momentum, orthogonalized in bfloat16, for two-dimensional parameters.

    The step of a matrix is `rate * sqrt(max(1, rows / columns))` times its update; weight decay
    is decoupled (`rate * weight_decay`); momentum is Nesterov's.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, weight_decay: float, momentum: float):
        super().__init__(params, {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum})
        assert all(p.ndim == 2 for group in self.param_groups for p in group["params"])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            for shape, same in groupby(sorted(used, key=_shape), key=_shape):
                self._step_together(list(same), shape, group)

    def _step_together(self, params: list[nn.Parameter], shape: torch.Size, group: dict) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
        gradients = [p.grad for p in params]
        momenta = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = orthogonalize(torch.stack([whole(u) for u in nesterov]).bfloat16()).float()
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
        placed = [placed_like(u, p) for u, p in zip(updates.unbind(), params, strict=True)]
        torch._foreach_add_(params, placed, alpha=-rate)


class Optimizer:
    """Both optimizers of a stage, with parameters' names kept beside their state."""

    def __init__(self, model: nn.Module, config: OptimizerConfig):
        matrices, tables, vectors = _split(model, config)
        self.names = {p: name for name, p in model.named_parameters()}
        groups = [
            {"params": tables, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        adamw = AdamW([g for g in groups if g["params"]], lr=0.0, betas=config.betas, fused=True)
        self.parts: list[tuple[TorchOptimizer, float]] = [(adamw, 1.0)]
        if matrices:
            muon = Muon(matrices, weight_decay=config.weight_decay, momentum=config.momentum)
            self.parts = [(muon, 1.0), (adamw, config.adamw_learning_rate_ratio)]

    def step(self, learning_rate: float) -> None:
        """Move all parameters at `learning_rate` (that of the matrices) and drop the gradients."""
        for part, ratio in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate * ratio
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """`parameter name.slot -> tensor`, whatever was accumulated so far (not copied)."""
        return {
            f"{self.names[p]}.{slot}": value
            for part, _ in self.parts
            for p, slots in part.state.items()
            for slot, value in slots.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, from whole tensors on any device.

        Raises:
            ValueError: the state belongs to another model or optimizer.
        """
        params = {name: p for p, name in self.names.items()}
        owner = {p: part for part, _ in self.parts for g in part.param_groups for p in g["params"]}
        for key, value in tensors.items():
            name, _, slot = key.rpartition(".")
            if name not in params or (slot == "momentum_buffer") != isinstance(
                owner[params[name]], Muon
            ):
                raise ValueError(
                    f"optimizer state has {key!r}, which this stage's optimizer does not; "
                    "set optimizer.carry to false, or use the parent's optimizer.name"
                )
            p = params[name]
            # Sharded like its parameter, but for AdamW's count of steps.
            placed = placed_like(value, p) if slot != "step" else value.to(p.device)
            owner[p].state[p][slot] = placed.clone()


def _split(
    model: nn.Module, config: OptimizerConfig
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """(matrices for Muon, other parameters with decay, vectors without), in the model's order."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = model.get_output_embeddings()
    tables |= {id(p) for p in head.parameters()} if head is not None else set()
    trained = [p for p in model.parameters() if p.requires_grad]
    muon = [p for p in trained if config.name == "muon" and p.ndim == 2 and id(p) not in tables]
    chosen = {id(p) for p in muon}
    rest = [p for p in trained if id(p) not in chosen]
    return muon, [p for p in rest if p.ndim >= 2], [p for p in rest if p.ndim < 2]


def _shape(p: Tensor) -> torch.Size:
    return p.shape
