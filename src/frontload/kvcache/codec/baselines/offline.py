"""What a rival measured of a model beforehand, on disk: arrays and their meaning in one file.

Guarantees: written whole or not at all as safetensors with JSON metadata, read back bit for bit,
nothing in it executed; `digest` changes with anything in it. Gives up: partial reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from frontload.atomic import replacing

Arrays = Mapping[str, np.ndarray]


def save(path: Path, kind: str, meta: dict[str, Any], arrays: Arrays) -> None:
    """Write what `load` reads; `kind` names the format."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps({"meta": meta, "digest": digest(meta, contiguous)})
    with replacing(path) as unfinished:
        save_file(contiguous, unfinished, {kind: text})


def load(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Meta and arrays.

    Raises:
        ValueError: unreadable, of another kind, or changed since it was written.
    """
    try:
        with safe_open(path, "np") as file:
            found = json.loads((file.metadata() or {}).get(kind, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable {kind} ({error})") from error
    if found is None:
        raise ValueError(f"{path}: a safetensors file, but not a {kind}; calibrate one")
    if digest(found["meta"], arrays) != found["digest"]:
        raise ValueError(f"{path}: its content does not match its digest; calibrate again")
    return found["meta"], arrays


def digest(meta: dict[str, Any], arrays: Arrays) -> str:
    """Hexadecimal SHA-256 of all."""
    whole = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        whole.update(f"{name} {array.dtype.str} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()
