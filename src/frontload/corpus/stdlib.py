"""The running Python's standard library as base text: no download, one document a module.

Tests, generated tables (encodings, pydoc's topics) and bundled programs (IDLE, 2to3) are left out,
which leaves 8.8 MB in Python 3.11. Modules come in the order of a hash of their path, the same
everywhere, so that a cut at `limit` or `max_characters` is a spread sample and not the letter a.
Another Python version has other text; the fingerprint says so.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frontload.corpus.config import InstalledText
from frontload.corpus.example import Document
from frontload.corpus.stream import Holds, Reading, Source

_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3"}
    | {"pydoc_data", "encodings", "ensurepip", "turtledemo", "__phello__", "__pycache__"}
)


class StandardLibrary(Source):
    """One `Document` per module, its id the path within the library."""

    def __init__(self, name: str, config: InstalledText, reading: Reading) -> None:
        super().__init__(name, reading, limit=config.limit)
        self._max_characters = config.max_characters

    @property
    def holds(self) -> Holds:
        return "documents"

    def _items(self) -> Iterator[Document]:
        left = self._max_characters
        for id, text in _modules():
            if left is not None:
                if left == 0:
                    return
                text = text[:left]
                left -= len(text)
            yield Document(id=id, text=text, source=self.name, domain="python")

    def _contents(self) -> Any:
        digest = hashlib.blake2b(digest_size=16)
        for id, text in _modules():
            digest.update(f"{id}\n{len(text)}\n{text}".encode())
        return ["installed-text", self._max_characters, digest.hexdigest()]


def _modules() -> Iterator[tuple[str, str]]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = (path.relative_to(folder) for path in folder.rglob("*.py"))
    kept = (name for name in names if not _is_left_out(name))
    for name in sorted(kept, key=lambda name: _rank(name.as_posix())):
        with tokenize.open(folder / name) as file:  # honours PEP 263 encodings
            text = file.read()
        if text.strip():
            yield name.as_posix(), text


def _is_left_out(name: Path) -> bool:
    return any(part in _LEFT_OUT or part.startswith("config-") for part in name.parts[:-1])


def _rank(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
