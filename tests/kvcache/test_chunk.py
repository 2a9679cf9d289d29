"""Chunk objects: every prefix decodes to the reference's bits, and nothing damaged to anything."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from frontload.kvcache.codec import container, quantize
from frontload.kvcache.codec.chunk import decode_chunk, decode_chunks, encode_chunk, encode_chunks
from frontload.kvcache.codec.container import ContainerError, Malformed, Truncated, WrongProfile
from frontload.kvcache.codec.damage import TooLarge
from frontload.kvcache.codec.decoding import read_job
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile
from frontload.kvcache.rotary import Rotary
from tests.kvcache import synthetic


@cache
def usual_profile() -> Profile:
    return synthetic.profile()


@pytest.fixture
def profile() -> Profile:
    return usual_profile()


def same_bits(one: KVTensors, other: KVTensors) -> bool:
    return one.start == other.start and all(
        torch.equal(a.view(torch.int16), b.view(torch.int16))
        for a, b in ((one.keys, other.keys), (one.values, other.values))
    )


def reference(profile: Profile, chunk: KVTensors, parts: int) -> KVTensors:
    integer, _ = quantize.integers(profile, chunk)
    reached = {part.group: part.depth for part in profile.parts[:parts]}
    depths = np.array([reached[int(group)] for group in profile.group])
    return quantize.reconstruct(profile, integer, depths, chunk.start)


def assert_every_level_decodes(profile: Profile, chunk: KVTensors) -> None:
    data = encode_chunk(profile, chunk).data
    for index, level in enumerate(profile.levels):
        found = decode_chunk(profile, data, level=index)
        assert same_bits(found, reference(profile, chunk, level.parts)), index
    assert same_bits(decode_chunk(profile, data), chunk)


@pytest.mark.parametrize(
    ("tokens", "start"), [(1, 0), (31, 0), (33, 0), (64, 0), (33, 64), (1, 4000), (65, 1)]
)
def test_every_level_has_the_bits_of_the_reference(
    profile: Profile, tokens: int, start: int
) -> None:
    assert_every_level_decodes(profile, synthetic.cache(tokens, start=start))


@pytest.mark.parametrize(("tokens", "start"), [(2, 0), (5, 0), (40, 0), (3, 3), (40, 3), (40, 5)])
def test_head_tokens_may_fill_a_chunk_or_lie_in_two(
    profile: Profile, tokens: int, start: int
) -> None:
    longer = replace(profile, head_tokens=5, head_depth=1)
    assert_every_level_decodes(longer, synthetic.cache(tokens, start=start))


@pytest.mark.parametrize("depth", [0, 3])
def test_any_head_depth_decodes(profile: Profile, depth: int) -> None:
    other = replace(profile, head_tokens=3, head_depth=depth)
    assert_every_level_decodes(other, synthetic.cache(40))


def rotary(pairs: int, **changes: object) -> Rotary:
    frequencies = np.float32(100.0) ** -(np.arange(pairs, dtype=np.float32) / pairs)
    fields = {"scaling": 1.0, "pairing": "halves", "layers": (True, True), **changes}
    return Rotary(inv_freq=tuple(float(x) for x in frequencies), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"rotary": None},
        {"rotary": rotary(4, pairing="neighbours")},
        {"rotary": rotary(3, scaling=1.25)},
        {"rotary": rotary(4, layers=(False, True))},
        {"rotary": rotary(36), "head_dim": 80},  # vectors that overlap, and channels that stay
        {"rotary": rotary(32, scaling=0.5), "head_dim": 64},
        {"rotary": None, "head_dim": 33, "num_heads": 1},
    ],
    ids=["no rotary", "neighbours", "rest", "one layer", "80", "64", "odd"],
)
def test_layouts_decode_to_the_bits_of_the_reference(changes: dict[str, object]) -> None:
    layout = replace(synthetic.LAYOUT, **changes)  # type: ignore[arg-type]
    odd = layout.head_dim * layout.num_heads == 33
    small = synthetic.profile(layout=layout, pieces_a_block=1 if odd else 2, finest=1)
    assert_every_level_decodes(small, synthetic.cache(34, layout=layout))


def test_points_wider_than_16_bits_decode(profile: Profile) -> None:
    sharp = synthetic.profile(step=0.0004, finest=4)
    chunk = synthetic.cache(40)
    integer, _ = quantize.integers(sharp, chunk)
    assert abs(integer).max() * 16 > 1 << 15
    assert_every_level_decodes(sharp, chunk)


def test_integers_beyond_16_bits_decode_where_they_were_born_narrower(profile: Profile) -> None:
    live, size = profile.tables.live, profile.block_size
    birth = (np.arange(size) >= live[:, :, None]).sum(axis=1)
    deeper = np.maximum(profile.finest - birth, 0)
    small = profile.transform.inverse // 128
    wide = replace(
        profile.transform,
        inverse=small,
        limit=np.minimum(32767 * 3**deeper, 400_000).astype(np.int32),
        forward=profile.transform.forward * np.float32(500),
    )
    far = replace(profile, transform=wide)
    chunk = synthetic.cache(40)
    assert abs(quantize.integers(far, chunk)[0]).max() > 100_000
    assert_every_level_decodes(far, chunk)
    beyond = replace(far, transform=replace(wide, limit=wide.limit * 3))
    with pytest.raises(ValueError, match=r"limit allows|limit is"):
        encode_chunk(beyond, chunk)


def test_a_prefix_decodes_the_level_that_it_completes(profile: Profile) -> None:
    chunk = synthetic.cache(40)
    encoded = encode_chunk(profile, chunk)
    for length in (encoded.ends[1], encoded.ends[2] - 1):
        assert same_bits(decode_chunk(profile, encoded.data[:length]), reference(profile, chunk, 2))
    assert same_bits(
        decode_chunk(profile, encoded.data[: encoded.ends[-1] - 1]),
        reference(profile, chunk, len(profile.parts)),
    )
    with pytest.raises(Truncated, match=str(encoded.ends[1])):
        decode_chunk(profile, encoded.data[: encoded.ends[1] - 1])
    with pytest.raises(Truncated, match="level 2"):
        decode_chunk(profile, encoded.data[: encoded.ends[2]], level=2)
    with pytest.raises(Truncated, match="exact"):
        decode_chunk(profile, encoded.data[:-1], level=len(profile.levels))


def test_objects_that_stop_at_a_level_are_prefixes_of_those_that_do_not(profile: Profile) -> None:
    chunk = synthetic.cache(40)
    short = encode_chunk(profile, chunk, exact=False, level=2)
    whole = encode_chunk(profile, chunk)
    header = 64 + 16 * profile.levels[2].parts
    longer = 64 + 16 * (len(profile.parts) + 1)
    assert short.data[header:] == whole.data[longer : whole.ends[profile.levels[2].parts - 1]]
    assert same_bits(decode_chunk(profile, short.data), decode_chunk(profile, whole.data, level=2))
    with pytest.raises(ValueError, match="levels 0 to 2"):
        decode_chunk(profile, short.data, level=3)


def test_threads_and_stripes_change_no_bit(profile: Profile) -> None:
    many = replace(profile, code_length=(400.0, 900.0, *profile.code_length[2:]))
    chunks = synthetic.cache(160).chunks(64)
    striped = [encode_chunk(many, chunk, threads=2).data for chunk in chunks]
    entries = container.read(striped[0], profile_id=profile.id).entries
    assert {entry.stripes for entry in entries[:-1]} == {2}
    assert striped == [each.data for each in encode_chunks(many, chunks, threads=2)]
    assert striped == [each.data for each in encode_chunks(many, chunks, threads=1)]
    for threads in (1, 2, 8):
        decoded = decode_chunks(profile, striped, threads=threads)
        assert all(same_bits(a, b) for a, b in zip(decoded, chunks, strict=True))


def test_any_buffer_decodes_into_any_fitting_one(profile: Profile) -> None:
    chunk = synthetic.cache(40)
    data = encode_chunk(profile, chunk).data
    odd = memoryview(bytearray(b"?" + data))[1:]
    out = torch.empty((profile.layout.num_pieces, 40, 8), dtype=torch.bfloat16)
    found = decode_chunk(profile, odd, out=out)
    assert found.keys.data_ptr() == out.data_ptr()
    assert same_bits(found, chunk)
    for wrong in (out[:, :39], out.float(), out[:-1], torch.cat((out, out), 2)[:, :, ::2]):
        with pytest.raises(ValueError, match="out is torch"):
            decode_chunk(profile, data, out=wrong)
    with pytest.raises(ValueError, match="out is on meta"):
        decode_chunk(profile, data, out=torch.empty_like(out, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_sources_are_exact_to_their_rounding(profile: Profile, dtype: torch.dtype) -> None:
    bf16 = synthetic.cache(33)
    noise = torch.linspace(0.999, 1.001, 33)[:, None]
    chunk = KVTensors(
        keys=(bf16.keys.float() * noise).to(dtype), values=(bf16.values.float() * noise).to(dtype)
    )
    encoded = encode_chunk(profile, chunk)
    assert container.read_header(encoded.data).header.dtype == str(dtype).removeprefix("torch.")
    rounded = KVTensors(keys=chunk.keys.bfloat16(), values=chunk.values.bfloat16())
    assert same_bits(decode_chunk(profile, encoded.data), rounded)


def test_what_cannot_be_encoded_is_named(profile: Profile) -> None:
    chunk = synthetic.cache(4)
    spoiled = chunk.values.clone()
    spoiled[0, 0, 1, 2] = torch.inf
    beyond = chunk.values.float()
    beyond[0, 0, 1, 2] = 3.4028e38  # finite, but not as bf16
    cases = {
        "Inf in the values of attention layer 0": replace(chunk, values=spoiled),
        "1e30 and more": KVTensors(keys=chunk.keys.float(), values=beyond),
        "no tokens": chunk.tokens(2, 2),
        "start is -5": replace(chunk, start=-5),
        "start is -2000": replace(synthetic.cache(4000), start=-2000),
        "contexts hold 4096": replace(chunk, start=4093),
        "the cache of another model": KVTensors(keys=chunk.keys[:1], values=chunk.values[:1]),
        "float64": KVTensors(keys=chunk.keys.double(), values=chunk.values.double()),
    }
    for message, case in cases.items():
        with pytest.raises(ValueError, match=message):
            encode_chunk(profile, case)
    with pytest.raises(ValueError, match="exact=False"):
        encode_chunk(profile, chunk, level=0)
    for level in (-1, len(profile.levels), 99):
        with pytest.raises(ValueError, match=f"level {level}: the profile has levels 0 to"):
            encode_chunk(profile, chunk, exact=False, level=level)
    boundless = synthetic.profile(layout=replace(synthetic.LAYOUT, max_tokens=None))
    with pytest.raises(ValueError, match="up to position 16777216"):
        encode_chunk(boundless, replace(chunk, start=1 << 24))


def test_levels_and_prefixes_out_of_range_are_refused_by_the_one_reader(profile: Profile) -> None:
    data = encode_chunk(profile, synthetic.cache(40)).data
    for level in (-1, len(profile.levels) + 1):
        with pytest.raises(ValueError, match=f"level {level}: the object holds levels"):
            read_job(profile, data, level)
    with pytest.raises(Malformed, match="1 bytes follow"):
        read_job(profile, data + b"?")
    with pytest.raises(TooLarge):
        read_job(profile, data, 0, container.Limits(tokens=39))
    job = read_job(profile, data, 0)
    header = container.read_header(data)
    assert bytes(job.lossy) == data[header.begins[0] : header.ends[profile.levels[0].parts - 1]]
    assert job.exact is None


@pytest.mark.parametrize("size", [0, 1, 5, 64])
def test_a_state_in_front_changes_no_level(profile: Profile, size: int) -> None:
    """Its size may be odd, and streams then lie at odd addresses."""
    chunk = synthetic.cache(40)
    plain = encode_chunk(profile, chunk).data
    data = container.with_state(plain, b"s" * size)
    assert same_bits(decode_chunk(profile, data), chunk)
    outline = container.read_header(data)
    for index, level in enumerate(profile.levels):
        expected = reference(profile, chunk, level.parts)
        assert same_bits(decode_chunk(profile, data, level=index), expected)
        assert same_bits(decode_chunk(profile, data[: outline.ends[level.parts]]), expected)
        with pytest.raises(Truncated, match=f"level {index}"):
            decode_chunk(profile, data[: outline.ends[level.parts] - 1], level=index)


def test_a_state_alone_is_no_chunk(profile: Profile) -> None:
    header = container.read_header(encode_chunk(profile, synthetic.cache(4)).data).header
    alone = container.write(header, [(container.PartEntry(kind=container.Kind.STATE), b"state")])
    with pytest.raises(Malformed, match="0 lossy parts"):
        decode_chunk(profile, alone)


def test_drift_is_reported_and_safer_tables_taken_where_they_pay(profile: Profile) -> None:
    usual = encode_chunk(profile, synthetic.cache(256, start=64), exact=False).report
    calibrated = replace(
        profile, code_length=tuple(part.bits_per_value for part in usual.parts), calibrated_tokens=9
    )
    again = encode_chunk(calibrated, synthetic.cache(256, seed=2, start=64), exact=False).report
    assert sum(part.saved_bits for part in again.parts) < 0.01  # of 6 bits a value
    assert all(abs(part.excess) < 0.1 for part in again.parts)
    assert again.beyond_calibration
    loud = synthetic.cache(256, start=64)
    loud = replace(loud, keys=2 * loud.keys, values=2 * loud.values)
    encoded = encode_chunk(calibrated, loud, exact=False)
    safer = [part for part in encoded.report.parts if part.safer]
    assert safer
    assert all(part.saved_bits > 0 for part in safer)
    assert max(part.excess for part in encoded.report.parts) > 0.3
    assert max(part.escape_rate for part in encoded.report.parts) > 0.01
    assert "safer tables saved" in str(encoded.report)
    found = decode_chunk(profile, encoded.data)
    assert same_bits(found, reference(profile, loud, len(profile.parts)))


class _NoTensors(TorchDispatchMode):
    """Refuses every operation on tensors, allocation first of all."""

    def __torch_dispatch__(self, func: Any, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"{func} was called")


def test_limits_hold_before_memory_is_taken(profile: Profile) -> None:
    data = encode_chunk(profile, synthetic.cache(4000)).data
    tracemalloc.start()
    with _NoTensors(), pytest.raises(TooLarge):
        decode_chunk(profile, data, limits=container.Limits(decoded_bytes=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000  # decoded, it has 256,000 bytes


def test_an_object_of_another_profile_is_refused(profile: Profile) -> None:
    data = encode_chunk(profile, synthetic.cache(40)).data
    with pytest.raises(WrongProfile):
        decode_chunk(synthetic.profile(step=0.03), data)


def forged(data: bytes, part: int, body: bytes) -> bytes:
    """An object with another body and checksums that hold."""
    found = container.read(data, profile_id=None)
    parts = [
        (entry, body if index == part else bytes(own))
        for index, (entry, own) in enumerate(zip(found.entries, found.bodies, strict=True))
    ]
    return container.write(found.header, parts)


@cache
def usual_object() -> bytes:
    return encode_chunk(usual_profile(), synthetic.cache(40)).data


@settings(max_examples=150, deadline=None)
@given(draw=st.data())
def test_forged_parts_are_refused_or_decode_to_something(draw: st.DataObject) -> None:
    profile = usual_profile()
    data = usual_object()
    bodies = container.read(data, profile_id=profile.id).bodies
    part = draw.draw(st.integers(0, len(bodies) - 1))
    body = bytearray(bodies[part])
    for _ in range(draw.draw(st.integers(1, 4))):
        body[draw.draw(st.integers(0, len(body) - 1))] ^= draw.draw(st.integers(1, 255))
    cut = draw.draw(st.integers(0, len(body))) if draw.draw(st.booleans()) else len(body)
    try:
        found = decode_chunk(profile, forged(data, part, bytes(body[:cut])))
    except ContainerError:
        return
    assert found.keys.shape == (2, 2, 40, 8)


def test_changed_words_are_found_by_the_states_they_leave(profile: Profile) -> None:
    """But for the last symbols of a lane: there another symbol may lead to the same end."""
    data = encode_chunk(profile, synthetic.cache(64), exact=False).data
    bodies = container.read(data, profile_id=profile.id).bodies
    tried = found = 0
    for part, body in enumerate(bodies):
        for at in range(16, len(body), 7):  # behind the index of two streams
            changed = bytearray(body)
            changed[at] ^= 0x10
            tried += 1
            try:
                decode_chunk(profile, forged(data, part, bytes(changed)))
            except Malformed:
                found += 1
    assert found > 0.98 * tried


def test_parts_of_another_shape_are_refused(profile: Profile) -> None:
    found = container.read(encode_chunk(profile, synthetic.cache(40)).data, profile_id=None)
    parts = list(zip(found.entries, map(bytes, found.bodies), strict=True))
    swapped = container.write(found.header, [parts[1], parts[0], *parts[2:]])
    with pytest.raises(Malformed, match="part 0 is not depth 0 of group 0"):
        decode_chunk(profile, swapped)
    wide = (replace(parts[0][0], stripes=3), parts[0][1])
    with pytest.raises(Malformed, match="stripes"):
        decode_chunk(profile, container.write(found.header, [wide, *parts[1:]]))
    headless = replace(found.header, head_apart=False)
    with pytest.raises(Malformed, match="head apart"):
        decode_chunk(profile, container.write(headless, parts))


def test_more_head_tokens_than_lanes_are_refused() -> None:
    profile = replace(synthetic.profile(), head_tokens=33)
    with pytest.raises(ValueError, match="head tokens is 33"):
        encode_chunk(profile, synthetic.cache(40))
