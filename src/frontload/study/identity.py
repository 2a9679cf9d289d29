"""What makes two results the same result.

The identity of a stage is everything that could change its numbers: the resolved settings, the
seed, the identity of its parent, of its data and of its tokenizer, the code of the rooms that
compute it and the versions of the libraries they stand on. It is recorded beside the result, and a
recorded identity that differs from the planned one stops the run with the difference printed,
field by field: nothing stale is reused, nothing is overwritten in silence. What cannot change the
numbers (workers, checkpoint intervals, where the run lives) is left out.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import frontload

ROOMS = ("corpus", "tasks", "model", "train", "evaluate")
ALONE = ("strict.py", "study/prepare.py", "study/stage.py")
"""Files outside the rooms that compute, too."""
ONLY_PRINT = ("card", "card_page", "distribution", "measures", "profile", "words")
"""Modules of `corpus` that serve `data profile` alone."""
LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy"),
    *("datasets", "pyarrow", "reasoning-gym", "math-verify"),
)

Identity = dict[str, Any]


def digest(value: Any) -> str:
    """16 hexadecimal digits of a JSON-like value, the same for the same content."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


@functools.cache
def code_identity() -> Mapping[str, str]:
    """Digests of the source that computes, by room, and the versions of the libraries under it."""
    root = Path(frontload.__file__).parent
    rooms = {}
    for room in ROOMS:
        content = hashlib.blake2b(digest_size=8)
        for path in sorted((root / room).rglob("*.py")):
            if room == "corpus" and path.stem in ONLY_PRINT:
                continue
            content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
        rooms[f"frontload.{room}"] = content.hexdigest()
    alone = b"".join((root / name).read_bytes() for name in ALONE)
    rooms["frontload.study"] = hashlib.blake2b(alone, digest_size=8).hexdigest()
    return rooms | {name: importlib.metadata.version(name) for name in LIBRARIES}


def content_digest(origin: Path | str, revision: str | None = None) -> str:
    """A digest of a local file or folder; for a hub repository its name and revision.

    Raises:
        ValueError: a hub repository without a revision, whose content may change under us.
    """
    path = Path(origin)
    if not path.exists():
        if revision is None:
            raise ValueError(f"{origin}: no such path; for a hub repository give its `revision`")
        return f"{origin}@{revision}"
    content = hashlib.blake2b(digest_size=8)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith("."):
            content.update(file.relative_to(path).as_posix().encode() + b"\0")
            with file.open("rb") as opened:
                while chunk := opened.read(1 << 20):
                    content.update(chunk)
    return content.hexdigest()


def differences(recorded: Identity, planned: Identity) -> list[str]:
    """One line per field that differs: `path: recorded -> planned`."""
    old, new = dict(_flatten(recorded)), dict(_flatten(planned))
    return [
        f"{field}: {old.get(field, '(absent)')} -> {new.get(field, '(absent)')}"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]


def _flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(node, default=str)


def write_json(path: Path, value: Any) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, default=str)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: the file is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete its folder to redo it") from None
