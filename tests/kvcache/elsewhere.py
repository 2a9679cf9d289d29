"""Tensors that behave as on a GPU where there is none: what mixes devices fails here, too.

They have data, so that results can be compared; but they do not go with tensors of the CPU, and
NumPy does not take them, until `.to("cpu")` or `.cpu()`. Scalars go with any device, as in PyTorch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from frontload.kvcache.layout import KVTensors


class Elsewhere(Tensor):
    """A tensor on another device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        targets = [str(x) for x in (*args[1:], kwargs.get("device")) if x is not None]
        home = name == "cpu" or (name == "to" and "cpu" in targets)
        if home:
            return super().__torch_function__(func, types, args, kwargs).as_subclass(Tensor)
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert a tensor of another device to numpy; use Tensor.cpu()")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(not isinstance(x, cls) and x.dim() for x in tensors):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        return super().__torch_function__(func, types, args, kwargs)


def elsewhere(tree: Any) -> Any:
    """The same tensors on another device, in whatever containers."""
    if isinstance(tree, KVTensors):
        keys, values = elsewhere((tree.keys, tree.values))
        return KVTensors(keys=keys, values=values, start=tree.start)
    return tree_map(lambda x: x.as_subclass(Elsewhere) if isinstance(x, Tensor) else x, tree)
