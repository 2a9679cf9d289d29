"""Packed rows on disk: what `packing` writes once and every stage reads through memory maps.

A *pack* is a folder holding one source as rows of `context` tokens, used from the left and padded
on the right. Guarantees: a folder with `pack.json` is complete (it is written last, and the folder
gets its name by a rename after that); nothing in it is ever modified; opening one reads no tokens.
Gives up: appending to a finished pack.

    tokens.bin      uint16 or uint32 (rows, context)   token ids
    segments.bin    uint16 (rows, context)   0 is padding; 1, 2, ... count the documents or examples
    supervised.bin  uint8 (rows, context)    1 where the token is a target that carries loss
    counts.bin      uint32 (rows, 3)         tokens, supervised tokens, examples that begin there
    prompts.bin     uint32 (examples,)       index of each example's prompt, in order of rows
    prompt_hashes.bin  uint64 (prompts,)     sorted; equal prompts share an entry
    pack.json       identity, sizes, counters of what was dropped, hash of the contents

A token that begins a segment is never supervised: nothing before it in its segment predicts it.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
MARKER = "pack.json"
_LOCK = "being-written"
_STREAMS = ("tokens", "segments", "supervised", "counts", "prompt_hashes")


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedRows:
    """A complete pack, opened read-only. Arrays are memory maps; shapes are in the module's head.

    `reasoning` tells a source of examples from one of documents. `fingerprint` hashes the rows,
    `prompt_set` the set of prompts (equal sets count unique prompts together).
    """

    directory: Path
    source: str
    context: int
    pad_id: int
    reasoning: bool
    fingerprint: str
    prompt_set: str
    tokens: NDArray[Any]
    segments: NDArray[np.uint16]
    supervised: NDArray[np.uint8]
    counts: NDArray[np.uint32]
    prompts: NDArray[np.uint32]
    num_prompts: int
    """Distinct prompts of the source, dropped examples included."""
    total_tokens: int
    total_supervised_tokens: int
    identity: Mapping[str, Any]
    """What the rows were made from: source fingerprint, tokenizer, context, supervise."""
    counters: Mapping[str, Any]
    """Items read, dropped by reason, longest item in tokens."""

    @classmethod
    def open(cls, directory: Path) -> PackedRows:
        """Open a complete pack.

        Raises:
            ValueError: no complete pack is there, or a file has another size than recorded.
        """
        marker = directory / MARKER
        if not marker.is_file():
            raise ValueError(f"{directory} holds no complete pack; pack the source again")
        info = json.loads(marker.read_text(encoding="utf-8"))
        if info["format"] != FORMAT:
            raise ValueError(
                f"{directory} has pack format {info['format']}, this version reads {FORMAT}; "
                "remove it and pack the source again"
            )
        rows, context = info["rows"], info["context"]
        return cls(
            directory=directory,
            source=info["source"],
            context=context,
            pad_id=info["pad_id"],
            reasoning=info["reasoning"],
            fingerprint=info["fingerprint"],
            prompt_set=info["prompt_set"],
            tokens=_map(directory, "tokens", info["token_dtype"], (rows, context)),
            segments=_map(directory, "segments", "<u2", (rows, context)),
            supervised=_map(directory, "supervised", "u1", (rows, context)),
            counts=_map(directory, "counts", "<u4", (rows, 3)),
            prompts=_map(directory, "prompts", "<u4", (info["examples_with_prompt"],)),
            num_prompts=info["prompts"],
            total_tokens=info["tokens"],
            total_supervised_tokens=info["supervised_tokens"],
            identity=info["identity"],
            counters=info["counters"],
        )

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.counts)

    @property
    def num_tokens(self) -> NDArray[np.uint32]:
        """Tokens of each row, padding left out; they are its leading positions."""
        return self.counts[:, 0]

    @property
    def num_supervised(self) -> NDArray[np.uint32]:
        """Targets of each row that carry loss."""
        return self.counts[:, 1]

    @property
    def num_examples(self) -> NDArray[np.uint32]:
        """Examples, or documents, that begin in each row."""
        return self.counts[:, 2]

    @property
    def prompt_hashes(self) -> NDArray[np.uint64]:
        """Sorted 64-bit hashes of the source's distinct prompts; `prompts` indexes them."""
        return _map(self.directory, "prompt_hashes", "<u8", (self.num_prompts,))

    def available(self, unit: str) -> int:
        """What one pass over all rows is worth in a budget's unit."""
        return self.total_supervised_tokens if unit == "supervised_tokens" else self.total_tokens


class RowWriter:
    """Writes one pack; use as a context manager and call `finish` inside it.

    Everything goes to a hidden folder beside `directory`, renamed at the end; leaving the block
    without `finish` removes it. Two writers of the same pack do not disturb each other: whoever
    finishes second finds the pack there and keeps the first. What a killed writer left behind is
    removed by the next one.
    """

    def __init__(self, directory: Path, *, context: int, vocab_size: int, pad_id: int) -> None:
        self.directory, self.context, self.pad_id = directory, context, pad_id
        self.token_dtype = "<u2" if max(vocab_size, pad_id + 1) <= 1 << 16 else "<u4"
        directory.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(directory)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        self._lock = _hold_lock(self._folder)
        self._files: dict[str, BinaryIO] = {
            name: (self._folder / f"{name}.bin").open("wb") for name in _STREAMS
        }
        self._digest = hashlib.blake2b(digest_size=16)
        self._totals = np.zeros(3, np.int64)
        self._extra_hashes: list[NDArray[np.uint64]] = []
        self.rows = 0

    def append(
        self,
        tokens: NDArray[Any],
        segments: NDArray[Any],
        supervised: NDArray[Any],
        examples: NDArray[Any],
        prompt_hashes: NDArray[np.uint64],
    ) -> None:
        """Add rows: three (rows, context) arrays, examples begun in each, and their prompts."""
        assert segments.max(initial=0) < 1 << 16, "segments are 16-bit"
        segments = segments.astype("<u2", copy=False)
        begins = np.ones(segments.shape, bool)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        used = segments > 0
        targets = (supervised.astype(bool) & used & ~begins).astype("u1")
        ids = np.where(used, tokens, self.pad_id).astype(self.token_dtype)
        counts = np.stack([used.sum(1), targets.sum(1), examples], axis=1).astype("<u4")
        for name, block in (
            ("tokens", ids),
            ("segments", segments),
            ("supervised", targets),
            ("counts", counts),
            ("prompt_hashes", prompt_hashes.astype("<u8", copy=False)),
        ):
            data = np.ascontiguousarray(block).data
            self._digest.update(data)
            self._files[name].write(data)
        self._totals += counts.sum(0, dtype=np.int64)
        self.rows += len(ids)

    def note_prompts(self, hashes: NDArray[np.uint64]) -> None:
        """Count prompts of dropped examples to the source's set of prompts."""
        self._extra_hashes.append(hashes)

    def finish(
        self,
        *,
        source: str = "rows",
        reasoning: bool = True,
        identity: Mapping[str, Any] | None = None,
        counters: Mapping[str, Any] | None = None,
    ) -> PackedRows:
        """Write the marker, give the folder its name and open it."""
        for file in self._files.values():
            file.close()
        examples, prompts, prompt_set = self._index_prompts()
        info = {
            "format": FORMAT,
            "source": source,
            "reasoning": reasoning,
            "context": self.context,
            "rows": self.rows,
            "token_dtype": self.token_dtype,
            "pad_id": self.pad_id,
            "tokens": int(self._totals[0]),
            "supervised_tokens": int(self._totals[1]),
            "examples": int(self._totals[2]),
            "examples_with_prompt": examples,
            "prompts": prompts,
            "prompt_set": prompt_set,
            "fingerprint": self._digest.hexdigest(),
            "identity": dict(identity or {}),
            "counters": dict(counters or {}),
        }
        text = json.dumps(info, indent=1, sort_keys=True) + "\n"
        (self._folder / MARKER).write_text(text, encoding="utf-8")
        if not (self.directory / MARKER).is_file():
            (self._folder / _LOCK).unlink()
            os.rename(self._folder, self.directory)
        return PackedRows.open(self.directory)

    def _index_prompts(self) -> tuple[int, int, str]:
        """Replace hashes in order of rows by indices into the sorted distinct hashes."""
        path = self._folder / "prompt_hashes.bin"
        hashes = np.fromfile(path, "<u8")
        known = np.unique(np.concatenate([hashes, *self._extra_hashes]))
        np.searchsorted(known, hashes).astype("<u4").tofile(self._folder / "prompts.bin")
        known.tofile(path)
        prompt_set = hashlib.blake2b(known.tobytes(), digest_size=16).hexdigest()
        return len(hashes), len(known), prompt_set

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        self._lock.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _hold_lock(folder: Path) -> BinaryIO:
    """Mark a folder as being written; the lock dies with this process, however it ends."""
    lock = (folder / f"{_LOCK}.new").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(lock.name, folder / _LOCK)
    return lock


def _remove_abandoned(directory: Path) -> None:
    """Remove what writers of this pack left behind when they were killed."""
    for path in directory.parent.glob(f".{glob.escape(directory.name)}-????????/{_LOCK}"):
        with path.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its writer is at work
                continue
            shutil.rmtree(path.parent, ignore_errors=True)


def _map(directory: Path, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    path = directory / f"{name}.bin"
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    found = path.stat().st_size if path.is_file() else -1
    if found != expected:
        state = "is missing" if found < 0 else f"has {found:,} bytes, not {expected:,}"
        raise ValueError(f"{path} {state}; remove {directory} and pack the source again")
    if expected == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)
