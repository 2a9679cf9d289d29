"""A profile of the right id and the wrong content is refused when it is read, by name."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontload.kvcache.codec.chunk import decode_chunk, encode_chunk
from frontload.kvcache.profile import Part, Profile, Tables, Transform
from frontload.kvcache.profile_check import check
from tests.kvcache import synthetic

PROFILE = synthetic.profile()
CHUNK = synthetic.cache(34)


def changed(name: str, array: np.ndarray) -> Profile:
    """The profile with one array replaced."""
    for room in ("transform", "tables"):
        kind = getattr(PROFILE, room)
        if name in {field.name for field in fields(kind)}:
            return replace(PROFILE, **{room: replace(kind, **{name: array})})
    return replace(PROFILE, **{name: array})


def array_of(name: str) -> np.ndarray:
    for room in (PROFILE.transform, PROFILE.tables, PROFILE):
        if hasattr(room, name):
            return getattr(room, name)
    raise AssertionError(name)


TRANSFORM, TABLES = PROFILE.transform, PROFILE.tables
UNKNOWN: Any = "whatever"
assert PROFILE.layout.rotary is not None
CASES = {
    "tables.live: beyond": changed("live", TABLES.live + 100_000),
    "tables.live: decreasing": changed("live", TABLES.live[:, ::-1].copy()),
    "tables.live has shape": changed("live", TABLES.live[0]),
    "transform.pieces: not every head": changed("pieces", TRANSFORM.pieces * 0),
    "transform.pieces is int64": changed("pieces", TRANSFORM.pieces.astype(np.int64)),
    "transform.inverse is": changed("inverse", TRANSFORM.inverse[:, :-1]),
    "sums of block 0": changed("limit", TRANSFORM.limit * 16),
    "above 524272": changed("limit", TRANSFORM.limit * 1024),
    "limit: negative": changed("limit", -TRANSFORM.limit),
    "transform.mean: not finite": changed("mean", TRANSFORM.mean * np.nan),
    "transform.scale: not finite": changed("scale", TRANSFORM.scale + np.inf),
    "outside of tables.base": changed("start", TABLES.start - 1),
    "tables.base: counts": changed("base", TABLES.base[:, ::-1].copy()),
    "tables.largest: not": changed("largest", TABLES.largest + 127),
    "tables.trits: counts": changed("trits", TABLES.trits * 0),
    "tables.offset: above": changed("offset", TABLES.offset + 17),
    "group: numbers": changed("group", PROFILE.group * 3),
    "group is uint8": changed("group", PROFILE.group[:-1]),
    "head_tokens": replace(PROFILE, head_tokens=33),
    "head_depth": replace(PROFILE, head_depth=-1),
    "chunk_tokens": replace(PROFILE, chunk_tokens=0),
    "parts are not one": replace(PROFILE, code_length=(), parts=PROFILE.parts[:-1]),
    "out of order": replace(PROFILE, parts=PROFILE.parts[::-1]),
    "group is 9": replace(PROFILE, parts=(*PROFILE.parts[:-1], Part(depth=3, group=9))),
    "levels: there": replace(PROFILE, levels=()),
    "levels.0.: parts": replace(PROFILE, levels=(replace(PROFILE.levels[0], parts=1),)),
    "levels.1.: parts": replace(PROFILE, levels=(PROFILE.levels[0],) * 2),
    "code_length": replace(PROFILE, code_length=(1.0,)),
    "rotary.pairing": replace(
        PROFILE,
        layout=replace(PROFILE.layout, rotary=replace(PROFILE.layout.rotary, pairing=UNKNOWN)),
    ),
}


@pytest.mark.parametrize("message", CASES)
def test_wrong_content_is_refused_by_name(message: str, tmp_path: Path) -> None:
    CASES[message].save(tmp_path / "profile")
    with pytest.raises(ValueError, match=rf"{message}.*calibrate again"):
        Profile.load(tmp_path / "profile")


def test_sound_profiles_pass() -> None:
    check(PROFILE)
    check(replace(PROFILE, code_length=(), head_tokens=0))
    check(synthetic.profile(step=0.0004, finest=4))


def test_the_id_covers_what_levels_and_chunks_are_but_not_their_figures() -> None:
    first, *rest = PROFILE.levels
    assert replace(PROFILE, levels=tuple(rest)).id != PROFILE.id
    assert replace(PROFILE, chunk_tokens=128).id != PROFILE.id
    assert replace(PROFILE, levels=(replace(first, kl=7.0), *rest)).id == PROFILE.id


@settings(max_examples=150, deadline=None)
@given(draw=st.data())
def test_any_array_value_is_refused_or_decodes_in_full(draw: st.DataObject) -> None:
    names = [field.name for kind in (Transform, Tables) for field in fields(kind)] + ["group"]
    name = draw.draw(st.sampled_from(names))
    array = array_of(name).copy()
    flat = array.reshape(-1).view(np.uint8)
    for _ in range(draw.draw(st.integers(1, 3))):
        flat[draw.draw(st.integers(0, len(flat) - 1))] = draw.draw(st.integers(0, 255))
    profile = changed(name, array)
    try:
        check(profile)
    except ValueError:
        return
    found = decode_chunk(profile, encode_chunk(profile, CHUNK).data)
    assert found.keys.equal(CHUNK.keys)
    assert found.values.equal(CHUNK.values)
