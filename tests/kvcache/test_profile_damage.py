"""A profile file that changed is refused as such, wherever it changed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontload.kvcache.profile import FORMAT, Profile
from tests.kvcache.make_golden import PROFILE

CONTENT = PROFILE.read_bytes()
JSON_END = 8 + int.from_bytes(CONTENT[:8], "little")


def load(content: bytes) -> Profile:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.safetensors"
        path.write_bytes(content)
        return Profile.load(path)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, JSON_END - 1), st.integers(0, 7))
def test_flipped_bits_of_the_header_are_refused_or_mean_nothing(at: int, bit: int) -> None:
    content = bytearray(CONTENT)
    content[at] ^= 1 << bit
    try:
        found = load(bytes(content))
    except ValueError:
        return
    known = Profile.load(PROFILE)  # the bit was of a name that nobody reads, or of padding
    assert found.id == known.id
    assert (found.levels, found.code_length) == (known.levels, known.code_length)


@settings(max_examples=50, deadline=None)
@given(st.integers(JSON_END, len(CONTENT) - 1), st.integers(0, 7))
def test_flipped_bits_of_the_arrays_are_refused(at: int, bit: int) -> None:
    content = bytearray(CONTENT)
    content[at] ^= 1 << bit
    with pytest.raises(ValueError, match="does not match its id"):
        load(bytes(content))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(CONTENT) - 1))
def test_cut_files_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="not a readable KV profile"):
        load(CONTENT[:size])


@pytest.mark.parametrize("name", ["tables.base", "transform.mean", "head_depth", "inv_freq"])
def test_renamed_fields_are_refused(name: str) -> None:
    renamed = CONTENT[:JSON_END].replace(name.encode(), name[:-1].encode() + b"_")
    assert renamed != CONTENT[:JSON_END]
    with pytest.raises(ValueError, match=r"damaged.*calibrate again"):
        load(renamed + CONTENT[JSON_END:])


def test_another_version_is_refused() -> None:
    header = json.loads(CONTENT[8:JSON_END])
    texts = header["__metadata__"]
    texts[FORMAT] = texts[FORMAT].replace('"version": 1', '"version": 7')
    texts["sha256"] = hashlib.sha256(texts[FORMAT].encode()).hexdigest()
    written = json.dumps(header).encode()
    other = len(written).to_bytes(8, "little") + written + CONTENT[JSON_END:]
    with pytest.raises(ValueError, match="version 7, this frontload reads 1; calibrate again"):
        load(other)
