"""The KV codec: a context's cache as a small, layered, checked bitstream.

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ContainerError": "frontload.kvcache.codec.container",
    "KVTensors": "frontload.kvcache.layout",
    "Profile": "frontload.kvcache.profile",
    "decode": "frontload.kvcache.stored",
    "encode": "frontload.kvcache.stored",
    "layout_of": "frontload.kvcache.huggingface",
    "prefill": "frontload.kvcache.huggingface",
    "read_file": "frontload.kvcache.codec.container",
    "to_cache": "frontload.kvcache.huggingface",
    "write_file": "frontload.kvcache.codec.container",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_HOMES[name]), name)
