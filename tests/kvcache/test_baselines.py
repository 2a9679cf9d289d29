"""The simple rivals: what each promises about bytes and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from frontload.kvcache.codec.baselines import packing
from frontload.kvcache.codec.baselines.envelope import HEADER, rows
from frontload.kvcache.codec.baselines.int8 import Int8
from frontload.kvcache.codec.baselines.kivi import LEVELS as KIVI_LEVELS
from frontload.kvcache.codec.baselines.kivi import Kivi
from frontload.kvcache.codec.baselines.lossless import Lossless
from frontload.kvcache.codec.baselines.raw import Raw
from frontload.kvcache.codec.baselines.turboquant import LEVELS as TURBOQUANT_LEVELS
from frontload.kvcache.codec.baselines.turboquant import TurboQuant, codebook, rotation
from frontload.kvcache.codec.damage import ContainerError
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.codec.small_tables import counts_of, weights_of
from frontload.kvcache.layout import KVTensors
from tests.kvcache.synthetic import LAYOUT, cache

LOSSLESS: tuple[Codec, ...] = (
    Raw(LAYOUT),
    Lossless(LAYOUT, coder="rans-tensor", chunk_tokens=40),
    Lossless(LAYOUT, coder="rans-channel", chunk_tokens=40),
    Lossless(LAYOUT, coder="zstd", chunk_tokens=40),
)
LOSSY: tuple[Codec, ...] = (
    Int8(LAYOUT),
    Kivi(LAYOUT),
    Kivi(LAYOUT, window_tokens=16),
    TurboQuant(LAYOUT),
)
CHANNELS = LAYOUT.num_heads * LAYOUT.head_dim


def _by_name(codec: Codec) -> str:
    return codec.name


def _same(a: KVTensors, b: KVTensors) -> bool:
    pairs = ((a.keys, b.keys), (a.values, b.values))
    return all(torch.equal(x.view(torch.int16), y.view(torch.int16)) for x, y in pairs)


@pytest.mark.parametrize("codec", LOSSLESS + LOSSY, ids=_by_name)
@pytest.mark.parametrize(("tokens", "start"), [(1, 0), (70, 500)])
def test_a_round_trip_keeps_shape_dtype_and_start(codec: Codec, tokens: int, start: int) -> None:
    assert isinstance(codec, Codec)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        kv = cache(tokens, start=start).to(dtype=dtype)
        for level in codec.levels:
            data = codec.encode(kv, level)
            assert data == codec.encode(kv, level)
            back = codec.decode(data)
            assert back.keys.shape == kv.keys.shape
            assert (back.keys.dtype, back.values.dtype, back.start) == (dtype, dtype, start)


@pytest.mark.parametrize("codec", LOSSLESS, ids=_by_name)
def test_lossless_codecs_return_every_bit(codec: Codec) -> None:
    kv = cache(101)
    kv.values[0, 0, :4] = torch.tensor([0.0, -0.0, 1e-40, -3e29]).bfloat16()[:, None]
    assert _same(codec.decode(codec.encode(kv, codec.levels[0])), kv)


@pytest.mark.parametrize("codec", LOSSY, ids=_by_name)
def test_more_bytes_lose_less(codec: Codec) -> None:
    kv = cache(256, start=9)
    sizes, errors = [], []
    for level in codec.levels:
        data = codec.encode(kv, level)
        back = codec.decode(data)
        sizes.append(len(data))
        errors.append(float((back.values.float() - kv.values.float()).square().mean()))
    assert sizes == sorted(sizes)
    by_bits = errors[::2] if isinstance(codec, Kivi) else errors
    assert by_bits == sorted(by_bits, reverse=True)


@pytest.mark.parametrize("codec", LOSSLESS + LOSSY, ids=_by_name)
def test_damaged_foreign_or_impossible_input_is_an_error(codec: Codec) -> None:
    kv = cache(20)
    level = codec.levels[0]
    data = codec.encode(kv, level)
    for wrong in (b"", data[:-1], data + b"\0", data[:50] + bytes([data[50] ^ 1]) + data[51:]):
        with pytest.raises(ContainerError):
            codec.decode(wrong)
    other = Int8(LAYOUT) if codec.name != "int8" else Raw(LAYOUT)
    with pytest.raises(ContainerError, match="encoded with"):
        codec.decode(other.encode(kv, other.levels[0]))
    with pytest.raises(ValueError, match="level is 'none'"):
        codec.encode(kv, "none")
    kv.keys[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        codec.encode(kv, level)


def test_raw_and_int8_take_the_bytes_of_their_formulas() -> None:
    kv = cache(33)
    vectors = 2 * LAYOUT.num_layers * 33
    assert len(Raw(LAYOUT).encode(kv, "bf16")) == HEADER.size + kv.num_bytes
    assert len(Int8(LAYOUT).encode(kv, "8")) == HEADER.size + vectors * (2 + CHANNELS)


@pytest.mark.parametrize("level", KIVI_LEVELS)
def test_kivi_takes_the_bytes_of_its_formula(level: str) -> None:
    bits, group = KIVI_LEVELS[level]
    tokens, window = 203, 10
    kept = tokens - window
    groups = CHANNELS * -(-kept // group) + kept * -(-CHANNELS // group)
    packed = 2 * -(-LAYOUT.num_layers * kept * CHANNELS * bits // 8)
    expected = HEADER.size + 4 * LAYOUT.num_layers * groups + packed
    expected += 2 * 2 * LAYOUT.num_layers * window * CHANNELS
    assert len(Kivi(LAYOUT, window_tokens=window).encode(cache(tokens), level)) == expected


@pytest.mark.parametrize("level", TURBOQUANT_LEVELS)
def test_turboquant_takes_the_bytes_of_its_formula(level: str) -> None:
    vectors = LAYOUT.num_layers * LAYOUT.num_heads * 65
    bits = sum(TURBOQUANT_LEVELS[level])
    expected = HEADER.size + 2 * 2 * vectors + vectors * LAYOUT.head_dim * bits // 8
    assert len(TurboQuant(LAYOUT).encode(cache(65), level)) == expected


def test_int8_errs_by_half_a_step_at_most() -> None:
    kv = cache(300).to(dtype=torch.float32)
    before = rows(kv, LAYOUT, undo_rotary=False)
    after = rows(Int8(LAYOUT).decode(Int8(LAYOUT).encode(kv, "8")), LAYOUT, undo_rotary=False)
    step = abs(before).max(axis=-1, keepdims=True) / 127 * (1 + 2**-7)  # rounded up to bf16
    assert (abs(after - before) <= 0.5001 * step).all()


@pytest.mark.parametrize("level", KIVI_LEVELS)
def test_kivi_errs_by_half_a_step_of_its_group_at_most(level: str) -> None:
    bits, group = KIVI_LEVELS[level]
    kv = cache(150).to(dtype=torch.float32)
    codec = Kivi(LAYOUT)
    before = rows(kv, LAYOUT, undo_rotary=False)
    after = rows(codec.decode(codec.encode(kv, level)), LAYOUT, undo_rotary=False)
    for kind, axis in ((0, 1), (1, 2)):  # K along tokens, V along channels
        starts = np.arange(0, before[kind].shape[axis], group)
        least = np.minimum.reduceat(before[kind], starts, axis=axis)
        most = np.maximum.reduceat(before[kind], starts, axis=axis)
        step = (most - least + 2**-7 * abs(least)) / (2**bits - 1) * (1 + 2**-7)
        allowed = np.repeat(0.5001 * step, group, axis=axis)
        wide = allowed[:, :150] if axis == 1 else allowed[:, :, :CHANNELS]
        assert (abs(after[kind] - before[kind]) <= wide + 1e-7).all()


def test_kivi_keeps_its_window() -> None:
    kv = cache(50)
    codec = Kivi(LAYOUT, window_tokens=20)
    back = codec.decode(codec.encode(kv, "2-g32"))
    assert _same(back.tokens(30, 50), kv.tokens(30, 50))
    assert not torch.equal(back.keys[:, :, :30], kv.keys[:, :, :30])
    assert _same(codec.decode(codec.encode(kv.tokens(0, 7), "2-g32")), kv.tokens(0, 7))


@pytest.mark.parametrize(
    ("bits", "figure"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)]
)
def test_lloyd_max_loses_what_max_published(bits: int, figure: float) -> None:
    """Max (1960), table I: mean squared error of a unit Gaussian."""
    points = codebook(bits).astype(np.float64)
    x = np.linspace(-9, 9, 200_001)
    mass = np.exp(-(x**2) / 2)
    nearest = points[np.searchsorted((points[1:] + points[:-1]) / 2, x)]
    error = ((x - nearest) ** 2 * mass).sum() / mass.sum()
    assert error == pytest.approx(figure, rel=2e-3)


def test_the_codebook_of_a_long_vector_is_nearly_gaussian() -> None:
    assert abs(codebook(3, 512) - codebook(3)).max() < 0.02
    assert codebook(3, 8)[-1] < codebook(3)[-1]


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_rotations_are_orthogonal_and_codebooks_symmetric(size: int) -> None:
    turn = rotation(size).astype(np.float64)
    assert abs(turn @ turn.T - np.eye(size)).max() < 1e-6
    points = codebook(2, size)
    assert (points == -points[::-1]).all()
    assert (np.diff(points) >= 0).all()


def test_turboquant_loses_the_same_share_of_any_vector() -> None:
    """The figures of a Gaussian are a bound: a codebook of 8 dimensions is a little better."""
    kv = cache(400, start=3).to(dtype=torch.float32)
    for bits, figure in ((2, 0.1175), (3, 0.03454), (4, 0.009497)):
        back = TurboQuant(LAYOUT).decode(TurboQuant(LAYOUT).encode(kv, f"{bits}-{bits}"))
        share = (back.values - kv.values).square().sum() / kv.values.square().sum()
        assert 0.5 * figure < float(share) < figure


@given(st.integers(1, 8), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_packed_bits_are_unpacked_and_no_more(bits: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint8)
    data = packing.pack(values, bits)
    assert len(data) == packing.packed_bytes(count, bits) == -(-count * bits // 8)
    assert (packing.unpack(data, count, bits) == values).all()


@given(arrays(np.float32, 20, elements=st.floats(0, 2.0**100, width=32)))
def test_bf16_not_below_is_the_next_bf16(values: np.ndarray) -> None:
    bits = packing.bf16_not_below(values)
    assert (packing.from_bf16_bits(bits) >= values).all()
    lower = packing.from_bf16_bits(np.maximum(bits, 1) - np.uint16(1))
    assert ((lower < values) | (values == 0)).all()


@given(arrays(np.int64, 100, elements=st.integers(0, 2**40)))
def test_travelling_tables_count_what_occurs_closely(counts: np.ndarray) -> None:
    found = counts_of(weights_of(counts))
    assert found.sum() == (4096 if counts.any() else 0)
    assert ((found > 0) == (counts > 0)).all()
    if counts.any():
        share = counts / counts.sum()
        seen = counts > 0
        excess = (share[seen] * np.log2(share[seen] / (found[seen] / 4096))).sum()
        assert excess < 0.05
