"""The ranks of one stage: a single process, or FSDP2 when started under torchrun.

Guarantees: every rank assembles the same batch and takes its own rows of it, so the data order,
the ledger and the normalisation of the loss do not depend on how many ranks there are; a rank
without rows in a short last batch still takes part, with a row that carries no loss. Decisions
that depend on a clock or a signal are made together (`any`). Gives up: hybrid sharding over nodes;
tensor and pipeline parallelism.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from frontload.train.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Where this process stands; `world` is 1 outside torchrun."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def rows(self, num_rows: int) -> slice:
        """This rank's contiguous share of a batch's rows; may be empty in a short batch."""
        each = -(-num_rows // self.world)
        return slice(min(self.rank * each, num_rows), min((self.rank + 1) * each, num_rows))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any rank has it set."""
        if self.world == 1:
            return flags
        answers = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(answers, dist.ReduceOp.MAX)
        return tuple(bool(answer) for answer in answers.tolist())

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values


@contextmanager
def join(device: str | torch.device) -> Iterator[Ranks]:
    """Take this process's place among the ranks that torchrun started, if it did.

    `device` is "cpu" or "cuda"; under torchrun each rank takes the GPU of its local rank.
    """
    kind = torch.device(device).type
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(rank=0, world=1, device=torch.device(device))
        return
    place = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else kind
    if kind == "cuda":
        torch.cuda.set_device(place)
    started_here = not dist.is_initialized()
    if started_here:
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), world=world, device=torch.device(place))
    finally:
        if started_here:
            dist.destroy_process_group()


def shard(model: PreTrainedModel, config: StageConfig, ranks: Ranks) -> None:
    """Shard `model` in place, a group per decoder layer; nothing to do for a single rank.

    In bf16 the layers' weights travel as bf16 and gradients are summed as fp32; embeddings and
    head stay fp32, as they are under autocast.
    """
    if ranks.world == 1:
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    weights = torch.bfloat16 if config.precision == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(
        param_dtype=weights, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The repeated blocks, as the model's class names them, subclasses included.

    Subclasses, because `model.hybrid` puts one in the place of Mamba blocks, and `fully_shard` in
    the place of every layer that it shards.
    """
    names = set(model._no_split_modules or ())
    return [
        module
        for module in model.modules()
        if names.intersection(kind.__name__ for kind in type(module).__mro__)
    ]


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a shard; every rank has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(full: Tensor, like: Tensor) -> Tensor:
    """`full` on the device and sharded as `like` is; all ranks hold it, so nothing is sent."""
    full = full.to(like.device)
    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once) and stored buffers by name, whole, on the CPU."""
    stored = model.state_dict()
    tensors = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {name: whole(tensor.detach()).cpu() for name, tensor in tensors.items()}


@torch.no_grad()
def load_full_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `full_weights` gave, on any number of ranks."""
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in tensors.items():
        targets[name].copy_(placed_like(tensor, targets[name]))
