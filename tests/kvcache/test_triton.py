"""GPU kernels give what the CPU gives: in Triton's interpreter, or on a GPU where there is one.

Whoever imports Triton first decides whether it interprets: tests/conftest.py does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kvcache import synthetic

pytest.importorskip("triton", reason="triton is not installed: GPU kernels are not tested")

from frontload.kvcache.codec import container
from frontload.kvcache.codec.chunk import decode_chunk, encode_chunk
from frontload.kvcache.codec.container import DEFAULT, Damaged, Limits, Truncated, WrongProfile
from frontload.kvcache.codec.gpu.decode import Launch, decode_chunks_gpu
from frontload.kvcache.codec.gpu.device_profile import ANGLES, DeviceProfile
from frontload.kvcache.codec.gpu.encode import Encoder, encode_chunks_gpu, encode_integers
from frontload.kvcache.codec.quantize import integers
from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.rotary import Rotary

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MANY_STRIPES = (1e6,) * 6  # code lengths for which the encoder cuts as finely as it may
SCRIPT = Path(__file__).parent / "compile_for_hopper.py"


def layout_of(pairing="halves", *, turning=2, layers=(True,)):
    rotary = Rotary(inv_freq=(1.0, 0.1)[:turning], scaling=1.25, pairing=pairing, layers=layers)
    return CacheLayout(
        num_layers=len(layers), num_heads=2, head_dim=4, rotary=rotary if turning else None
    )


def profile_of(layout, *, width=1):
    """Four or more blocks of 4 or 8 channels in two groups, three depths, a finer first token."""
    made = synthetic.profile(layout=layout, pieces_a_block=width, finest=2, step=0.3)
    return replace(made, code_length=MANY_STRIPES)


@pytest.fixture(scope="module")
def profile():
    return profile_of(layout_of())


@pytest.fixture(scope="module")
def tables(profile):
    return DeviceProfile.upload(profile, DEVICE)


def chunk_of(profile, tokens, *, start=0, outliers=0):
    chunk = synthetic.cache(tokens, start=start, layout=profile.layout)
    keys = chunk.keys.clone()
    keys[0, 1, tokens - outliers :] *= 6  # beyond the alphabets
    return KVTensors(keys=keys, values=chunk.values, start=start)


def object_of(profile, tokens, **options):
    return encode_chunk(profile, chunk_of(profile, tokens, **options), exact=False).data


def room_for(profile, rows):
    layout = profile.layout
    shape = (2, layout.num_layers, layout.num_heads, rows, layout.head_dim)
    return torch.full(shape, 7.0, dtype=torch.bfloat16, device=DEVICE)


def assert_same_bits(out, expected):
    both = torch.stack((expected.keys, expected.values))
    assert torch.equal(out.cpu().contiguous().view(torch.int16), both.view(torch.int16))


# 34 tokens: the first one, a full tile, a tile of one token; 3: the first one and a short tile.
@pytest.mark.parametrize(("level", "tokens"), [(0, 3), (1, 34), (2, 3), (3, 3), (4, 3)])
def test_every_level_is_the_cpus_bit_for_bit(profile, tables, level, tokens):
    data = object_of(profile, tokens)
    assert tables.point_bytes == (2, 3, 3)
    out = room_for(profile, tokens)
    decode_chunks_gpu(profile, tables, [data], level, out)
    assert_same_bits(out, decode_chunk(profile, data, level=level))


def test_chunks_side_by_side_are_scattered_to_pages(profile, tables):
    datas = [
        object_of(profile, 3, start=40),
        object_of(profile, 5, start=35, outliers=2),
        object_of(profile, 7, start=28),
    ]
    entries = container.read_header(datas[0]).entries
    assert {entry.stripes for entry in entries} == {2}
    pages = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:15].to(DEVICE)
    out = room_for(profile, 40).transpose(1, 2).contiguous().transpose(1, 2)  # heads before layers
    decode_chunks_gpu(profile, tables, datas, 4, out, pages=pages, launch=Launch(rows=2))
    for data, first, last in zip(datas, (12, 7, 0), (15, 12, 7), strict=True):
        here = out[:, :, :, pages[first:last]]
        assert_same_bits(here, decode_chunk(profile, data, level=4))
    untouched = torch.ones(40, dtype=torch.bool, device=DEVICE)
    untouched[pages] = False
    assert (out[:, :, :, untouched] == 7).all()


@pytest.mark.parametrize(
    ("layout", "start"),
    [
        (layout_of("neighbours", layers=(True, False)), 0),
        (layout_of("halves", turning=1), 2**24 - 2),
        (layout_of(turning=0), 5),
    ],
    ids=["neighbours, one layer turns", "half of the channels turn, far away", "none turns"],
)
def test_rotary_embeddings_are_the_cpus_bit_for_bit(layout, start):
    profile = profile_of(layout, width=2)
    data = object_of(profile, 2, start=start)
    out = room_for(profile, 2)
    decode_chunks_gpu(profile, DeviceProfile.upload(profile, DEVICE), [data], 0, out)
    assert_same_bits(out, decode_chunk(profile, data, level=0))


def test_angles_are_those_of_the_positions_and_of_few_others(profile):
    tables, rotary = DeviceProfile.upload(profile, DEVICE), profile.layout.rotary
    for start, end in ((2**24 - 2, 2**24), (4090, 4100), (4095, 4098), (0, 1)):
        origin, angles = tables.angles(start, end)
        assert len(angles) <= 2 * ANGLES
        expected = torch.from_numpy(np.stack(rotary.angles(start, end - start), axis=-1))
        assert torch.equal(angles[start - origin : end - origin].cpu(), expected)


def test_a_damaged_stream_is_an_error(profile, tables):
    found = container.read(object_of(profile, 3), profile_id=profile.id)
    body = bytearray(found.bodies[1])
    body[-3] ^= 0x10  # a word of the last stream but its checksum agrees
    bodies = [*found.bodies[:1], bytes(body)]
    data = container.write(found.header, list(zip(found.entries[:2], bodies, strict=True)))
    with pytest.raises(Damaged, match="chunk 1"):
        decode_chunks_gpu(
            profile, tables, [object_of(profile, 1, start=3), data], 0, room_for(profile, 4)
        )


def test_what_the_host_can_see_is_refused_before_any_upload(profile, tables):
    data, out = object_of(profile, 3), room_for(profile, 3)
    other = profile_of(layout_of(turning=0))
    with pytest.raises(Truncated):
        decode_chunks_gpu(profile, tables, [data[:-1]], 4, out)
    with pytest.raises(Damaged, match="part 5"):
        decode_chunks_gpu(profile, tables, [data[:-1] + bytes([data[-1] ^ 1])], 4, out)
    with pytest.raises(WrongProfile):
        decode_chunks_gpu(other, DeviceProfile.upload(other, DEVICE), [data], 0, out)
    with pytest.raises(ValueError, match="device_profile"):
        decode_chunks_gpu(other, tables, [data], 0, out)
    with pytest.raises(ValueError, match="do not fit 2 tokens"):
        decode_chunks_gpu(profile, tables, [data], 0, out[:, :, :, :2])
    with pytest.raises(ValueError, match="bfloat16"):
        decode_chunks_gpu(profile, tables, [data], 0, out.float())
    pages = torch.tensor([0, 3, 1], device=DEVICE)
    with pytest.raises(ValueError, match="rows of out"):
        decode_chunks_gpu(profile, tables, [data], 0, out, pages=pages)
    with pytest.raises(ValueError, match="no chunk"):
        decode_chunks_gpu(profile, tables, [], 0, out)


def test_what_the_cpu_refuses_is_refused_alike(profile, tables):
    data, out = object_of(profile, 3), room_for(profile, 3)
    coarse = encode_chunk(profile, chunk_of(profile, 3), exact=False, level=0).data
    small = Limits(tokens=2)
    for wrong, level, limits in (  # the last one no kernel would see
        (data + b"\0", 4, DEFAULT),
        (data, -1, DEFAULT),
        (data, 99, DEFAULT),
        (coarse, 1, DEFAULT),
        (data[: len(data) // 2], 4, DEFAULT),
        (b"", 0, DEFAULT),
        (data, 4, small),
        (words_without_tokens(profile), 0, DEFAULT),
    ):
        with pytest.raises(ValueError) as here:  # noqa: PT011, the CPU's is the pattern
            decode_chunk(profile, wrong, level=level, limits=limits)
        with pytest.raises(type(here.value)):
            decode_chunks_gpu(profile, tables, [wrong], level, out, limits=limits)
    encoder = Encoder.upload(tables)
    with pytest.raises(ValueError, match="level -1"):
        encode_integers(encoder, [], [], level=-1)
    with pytest.raises(ValueError, match="on meta"):
        encode_chunks_gpu(profile, encoder, [chunk_of(profile, 2).to(device="meta")])


def words_without_tokens(profile):
    """A chunk of the context's first token alone, with a word in a stripe that has no token."""
    found = container.read(object_of(profile, 1), profile_id=profile.id)
    body = bytearray(found.bodies[0])
    assert body[:8] == bytes(8)  # the first stripe's words and escapes
    body[0] = 1
    index = 8 * (found.entries[0].stripes + 1)
    bodies = [bytes(body[:index] + b"\1\0" + body[index:]), *found.bodies[1:]]
    return container.write(found.header, list(zip(found.entries, bodies, strict=True)))


def test_the_same_integers_give_the_cpus_bytes(profile, tables):
    usual, unlike = chunk_of(profile, 1), chunk_of(profile, 33, start=1, outliers=33)
    expected = [encode_chunk(profile, chunk, exact=False).data for chunk in (usual, unlike)]
    sets = [{e.table_set for e in container.read_header(data).entries} for data in expected]
    assert sets == [{0}, {0, 1}]  # the second needs the safer tables somewhere
    found = encode_integers(
        Encoder.upload(tables),
        [container.read_header(data).header for data in expected],
        [
            torch.from_numpy(integers(profile, chunk)[0]).transpose(1, 2).contiguous().to(DEVICE)
            for chunk in (usual, unlike)
        ],
    )
    assert found == expected


def test_a_cache_encoded_there_decodes_as_one_encoded_here(profile, tables):
    kv = chunk_of(profile, 12)
    on_device = KVTensors(keys=kv.keys.to(DEVICE), values=kv.values.to(DEVICE), start=kv.start)
    encoder = Encoder.upload(tables, batch_values=1)
    differing = [
        abs(encoder.integers(chunk).cpu().numpy().transpose(0, 2, 1) - integers(profile, chunk)[0])
        for chunk in on_device.chunks(8)
    ]
    assert max(difference.max() for difference in differing) <= 1  # rounding, rarely
    assert np.mean([difference.mean() for difference in differing]) < 0.001
    found = encode_chunks_gpu(profile, encoder, on_device.chunks(8), level=1)
    assert [container.read_header(data).header.tokens for data in found] == [8, 4]
    for data, chunk in zip(found, kv.chunks(8), strict=True):
        loss = (decode_chunk(profile, data).values.float() - chunk.values.float()).square().mean()
        here = decode_chunk(profile, encode_chunk(profile, chunk, exact=False).data, level=1)
        assert loss <= 1.01 * (here.values.float() - chunk.values.float()).square().mean()


def test_kernels_compile_for_hopper_without_a_gpu(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    decoder, encoder = done.stdout.splitlines()
    assert "mma.=0" not in decoder  # the inverse transform is on tensor cores
    assert decoder.endswith("fma.rn.f32=0")  # and what follows it is not contracted
    assert encoder.startswith("encoder")


def test_profiles_beyond_the_kernels_integers_are_refused(profile):
    wide = replace(profile.transform, limit=np.full_like(profile.transform.limit, 1 << 20))
    with pytest.raises(ValueError, match="decode on the CPU"):
        DeviceProfile.upload(replace(profile, transform=wide), DEVICE)
