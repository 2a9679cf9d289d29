"""A profile file that changed is refused as such, wherever it changed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontload.kvcache.profile import Profile
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
def test_flipped_bits_of_the_header_are_refused_or_no_part_of_the_id(at: int, bit: int) -> None:
    content = bytearray(CONTENT)
    content[at] ^= 1 << bit
    try:
        found = load(bytes(content))
    except ValueError:
        return
    assert found.id == Profile.load(PROFILE).id  # a name, or a measured figure


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
    other = CONTENT.replace(rb"\"version\": 1", rb"\"version\": 7", 1)
    with pytest.raises(ValueError, match="version 7, this frontload reads 1; calibrate again"):
        load(other)
