"""Files of chunk objects are whole or absent, whatever happens to the process that writes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from frontload.kvcache.codec.container import (
    ContainerError,
    Header,
    PartEntry,
    Truncated,
    read_file,
    write,
    write_file,
)

CHUNKS = [
    write(Header(profile_id=bytes(16), tokens=5, start=5 * i), [(PartEntry(stripes=1), b"x" * i)])
    for i in range(3)
]
# Writes many chunks, says when the first is on its way, and then waits to be killed.
WRITER = """
import sys
from pathlib import Path
from frontload.kvcache.codec.container import Header, PartEntry, write, write_file

def chunks():
    header = Header(profile_id=bytes(16), tokens=5, start=0)
    yield write(header, [(PartEntry(stripes=1), bytes(100_000))])
    print("writing", flush=True)
    sys.stdin.read()

write_file(Path(sys.argv[1]), chunks())
"""


def test_a_file_gives_back_its_chunks(tmp_path: Path) -> None:
    write_file(tmp_path / "new" / "a.kv", CHUNKS)
    assert [bytes(chunk) for chunk in read_file(tmp_path / "new" / "a.kv")] == CHUNKS


def test_files_in_files_are_the_same_as_their_chunks(tmp_path: Path) -> None:
    write_file(tmp_path / "a.kv", [b"".join(CHUNKS[:2]), CHUNKS[2]])
    assert [bytes(chunk) for chunk in read_file(tmp_path / "a.kv")] == CHUNKS


@pytest.mark.parametrize("old", [CHUNKS[:1], None])
def test_a_killed_writer_leaves_the_old_file_or_none(
    tmp_path: Path, old: list[bytes] | None
) -> None:
    path = tmp_path / "a.kv"
    if old is not None:
        write_file(path, old)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert path.exists() == (old is not None)
    if old is not None:
        assert [bytes(chunk) for chunk in read_file(path)] == old
    write_file(path, CHUNKS)  # what the killed writer left behind is in nobody's way
    assert [bytes(chunk) for chunk in read_file(path)] == CHUNKS


@pytest.mark.parametrize("chunks", [[CHUNKS[0], b"something else"], [CHUNKS[0], CHUNKS[1][:-1]]])
def test_what_is_no_chunk_is_not_written(tmp_path: Path, chunks: list[bytes]) -> None:
    with pytest.raises(ContainerError):
        write_file(tmp_path / "a.kv", chunks)
    assert list(tmp_path.iterdir()) == []


def test_no_chunks_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no chunk to write"):
        write_file(tmp_path / "a.kv", [])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_or_cut_file_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.kv"
    for content in (b"", b"".join(CHUNKS)[:-1]):
        path.write_bytes(content)
        with pytest.raises(Truncated):
            read_file(path)
