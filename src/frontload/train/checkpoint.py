"""One file that lets a killed stage go on, bit for bit.

Guarantees: `checkpoint.safetensors` is whole or absent. It is written under another name, flushed
to the disk, and takes the place of the previous one in a single rename, so there is no moment
without a valid checkpoint, and a full disk costs the new one only. Tensors and their JSON state
share the file (safetensors keeps strings in its header) for the same reason. Nothing is
unpickled, which is why this is not torch.distributed.checkpoint: its `.metadata` is a pickle.
Gives up: sharded writing. Ranks gather to rank 0, which suits models up to a few billion
parameters; every rank reads the file back, and any number of ranks can.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from frontload.atomic import flush

FILE = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors by `part/name`, and the JSON state beside them."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors stored under `name/`, without it."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in `directory`.

    Raises:
        OSError: it could not be written (a full disk, say); the previous one is untouched.
    """
    write_tensors(directory / FILE, checkpoint.tensors, {"state": json.dumps(checkpoint.state)})


def load_checkpoint(directory: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint in `directory`, or None where there is none.

    `identity` is compared with what the checkpoint's state has under that key.

    Raises:
        ValueError: the checkpoint was made from something else; the message lists each field.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    checkpoint = read_tensors(path)
    stored = checkpoint.state["identity"]
    known = stored.keys() | identity.keys()
    changed = sorted(key for key in known if stored.get(key) != identity.get(key))
    if changed:
        lines = [f"  {key}: {stored.get(key)} there, {identity.get(key)} now" for key in changed]
        raise ValueError(
            f"{path} belongs to another run of this stage; remove it to start anew, or undo:\n"
            + "\n".join(lines)
        )
    return checkpoint


def discard_checkpoint(directory: Path) -> None:
    """Remove the checkpoint, once what it protects is stored elsewhere."""
    shutil.rmtree(_partial(directory / FILE), ignore_errors=True)
    (directory / FILE).unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, Tensor], strings: dict[str, str]) -> None:
    """Write a safetensors file at once, flushed to the disk before it gets its name."""
    # A folder of our own: safetensors too writes to another name first, and a kill leaves that.
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    with naming_directory(path.parent):
        partial.mkdir(parents=True)
        try:
            save_file(tensors, partial / path.name, metadata=strings)
            flush(partial / path.name)
            os.replace(partial / path.name, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        flush(path.parent)


def read_tensors(path: Path) -> Checkpoint:
    """Read what `write_tensors` wrote.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {}).get("state", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read {path}: {error}; remove it to train anew") from None
    return Checkpoint(tensors=tensors, state=state)


@contextmanager
def naming_directory(directory: Path) -> Iterator[None]:
    """Let an error of writing say where, and what is safe."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        state = "the last checkpoint is intact" if (directory / FILE).is_file() else "none yet"
        raise OSError(
            f"cannot write to {directory}: {error}. Free some space and run again; the stage goes "
            f"on from its last checkpoint ({state})"
        ) from error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
