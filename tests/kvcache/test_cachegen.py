import dataclasses

import numpy as np
import pytest
import torch

from frontload.kvcache.codec.baselines.cachegen import CacheGen
from frontload.kvcache.codec.baselines.cachegen_profile import CacheGenProfile, calibrate
from frontload.kvcache.codec.baselines.cachegen_quantize import (
    PUBLISHED,
    CacheGenSettings,
    TensorQuantizer,
)
from frontload.kvcache.codec.baselines.channel_tables import code_length
from frontload.kvcache.codec.baselines.envelope import HEADER, rows
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.layout import KVTensors
from tests.kvcache.synthetic import LAYOUT, cache

LEVELS = (0.25, 0.0625)
SMALL = dataclasses.replace(PUBLISHED, levels=LEVELS)
VARIANTS = {
    "published": SMALL,
    "offline units": dataclasses.replace(
        SMALL, anchors="layer", deltas="layer", undo_rotary=True, bins=(1.0, 1.0, 1.0)
    ),
    "one step": dataclasses.replace(SMALL, deltas="model"),
    "no anchors": dataclasses.replace(SMALL, group_tokens=0),
    "anchors on the lattice": dataclasses.replace(SMALL, anchors="level", deltas="layer"),
    "a scale a head": dataclasses.replace(SMALL, vector="head", anchors="level"),
}


def _codec(settings: CacheGenSettings) -> CacheGen:
    return CacheGen(calibrate(LAYOUT, [cache(400, seed=s) for s in (1, 2)], settings))


@pytest.fixture(scope="module")
def published() -> CacheGen:
    return _codec(SMALL)


def _quantizer(settings: CacheGenSettings = SMALL, vectors: int = 1) -> TensorQuantizer:
    return TensorQuantizer(
        settings=settings, ratio=0.1, anchor_unit=0.02, delta_unit=0.9, vectors=vectors
    )


def _tensor(tokens: int = 95) -> np.ndarray:
    return rows(cache(tokens, seed=5), LAYOUT, undo_rotary=False)[0, 1]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_round_trip_keeps_shape_start_and_most_of_the_values(name):
    codec, kv = _codec(VARIANTS[name]), cache(61, seed=3, start=130)
    assert isinstance(codec, Codec)
    errors = []
    for level in codec.levels:
        data = codec.encode(kv, level)
        assert data == codec.encode(kv, level)
        back = codec.decode(data)
        assert back.start == 130
        assert back.keys.shape == kv.keys.shape
        assert back.values.dtype == torch.bfloat16
        errors.append(float((back.values.float() - kv.values.float()).square().mean()))
        assert len(data) < kv.num_bytes
    assert errors[1] < errors[0] / 4
    assert len(codec.encode(kv, codec.levels[0])) < len(codec.encode(kv, codec.levels[1]))


@pytest.mark.parametrize("name", VARIANTS)
def test_no_value_is_further_off_than_half_its_step(name):
    quantizer, tensor = _quantizer(VARIANTS[name], vectors=2), _tensor()
    integers, scales = quantizer.quantize(tensor)
    back = quantizer.restore(integers, scales)
    every = np.zeros((len(tensor), 2), np.uint16)
    every[quantizer.has_scale(len(tensor))] = scales
    steps = np.where(
        quantizer.is_anchor(len(tensor))[:, None, None],
        quantizer._steps(every, is_anchor=True),
        quantizer._steps(every, is_anchor=False),
    )
    error = abs(back - tensor).reshape(len(tensor), 2, -1)
    assert (error <= 0.501 * steps + 1e-6).all()


def test_anchors_are_exact_to_eight_bits_of_their_own_magnitude():
    tensor = _tensor()
    integers, scales = _quantizer().quantize(tensor)
    back = _quantizer().restore(integers, scales)
    anchors = tensor[::10]
    step = abs(anchors).max(axis=1, keepdims=True) / 127 * 1.01  # bf16 steps are rounded up
    assert (abs(back[::10] - anchors) <= step / 2).all()
    assert abs(integers[::10]).max() <= 127


def test_deltas_refer_to_the_decoded_anchor():
    """Were they taken from the original, an anchor's own error would show in its whole group."""
    tensor = np.repeat(_tensor(10)[:1], 10, axis=0) + np.float32(1e-3)
    settings = dataclasses.replace(SMALL, deltas="layer")
    quantizer = dataclasses.replace(_quantizer(settings), delta_unit=1e-4, ratio=1.0)
    integers, scales = quantizer.quantize(tensor)
    back = quantizer.restore(integers, scales)
    assert abs(back[0] - tensor[0]).max() > 1e-3  # the anchor is 8 bits
    assert abs(back[1:] - tensor[1:]).max() < 1e-4


def test_bins_grow_with_thirds_of_the_layers():
    six = [PUBLISHED.ratio(layer, 6, 0) / PUBLISHED.levels[0] for layer in range(6)]
    assert six == [0.5, 0.5, 1.0, 1.0, 1.5, 1.5]
    assert [PUBLISHED.bins[3 * layer // 32] for layer in (0, 10, 11, 21, 22, 31)] == [
        *(0.5, 0.5, 1.0, 1.0, 1.5, 1.5)
    ]


def test_the_file_holds_scales_and_symbols_and_no_tables(published):
    """Envelope, a length a tensor, a bf16 scale a vector, and the tables' cross-entropy."""
    kv = cache(300, seed=3)
    for index, level in enumerate(published.levels):
        vectors = rows(kv, LAYOUT, undo_rotary=False)
        bits = 0.0
        for kind, layer in np.ndindex(2, LAYOUT.num_layers):
            quantizer = published.profile.quantizer(index, kind, layer)
            integers, _ = quantizer.quantize(vectors[kind, layer])
            counts, largest = published.profile.counts(index, kind, layer)
            for which, mask in enumerate((~quantizer.is_anchor(300), quantizer.is_anchor(300))):
                table = counts[which][:, : 2 * largest[which] + 3]
                bits += code_length(integers[mask], table)
        side = HEADER.size + 4 * (4 + 2 * 300)
        size = len(published.encode(kv, level))
        assert side + bits / 8 <= size <= side + 1.01 * bits / 8 + 4


def test_chunks_are_coded_apart():
    codec = _codec(dataclasses.replace(SMALL, chunk_tokens=25))
    kv = cache(60, seed=3)
    whole = codec.decode(codec.encode(kv, "0.25"))
    for first in (0, 25, 50):
        alone = codec.decode(codec.encode(kv.tokens(first, min(first + 25, 60)), "0.25"))
        assert torch.equal(alone.keys, whole.keys[:, :, first : first + 25])


def test_a_saved_profile_decodes_in_another_process(published, tmp_path):
    published.profile.save(tmp_path / "profile.safetensors")
    other = CacheGen(CacheGenProfile.load(tmp_path / "profile.safetensors"))
    kv = cache(33, seed=8)
    data = published.encode(kv, "0.25")
    assert torch.equal(other.decode(data).keys, published.decode(data).keys)
    (tmp_path / "other").write_bytes(b"not one")
    with pytest.raises(ValueError, match="cachegen-profile"):
        CacheGenProfile.load(tmp_path / "other")


def test_another_profile_is_refused(published):
    other = CacheGen(calibrate(LAYOUT, [cache(100, seed=77)], SMALL))
    with pytest.raises(ValueError, match="profile"):
        other.decode(published.encode(cache(9), "0.25"))


def test_every_damaged_byte_is_noticed(published):
    data = published.encode(cache(12, seed=2), "0.25")
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"\w"):
            published.decode(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
    for end in range(len(data)):
        with pytest.raises(ValueError, match=r"\w"):
            published.decode(data[:end])
    with pytest.raises(ValueError, match="damaged"):
        published.decode(data + b"\0")


def test_what_cannot_be_coded_is_refused_by_name(published):
    kv = cache(5)
    with pytest.raises(ValueError, match=r"level is '7'.*0\.25"):
        published.encode(kv, "7")
    for value in (float("nan"), float("inf")):
        broken = kv.keys.clone()
        broken[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match="NaN or Inf in the keys"):
            published.encode(KVTensors(keys=broken, values=kv.values), "0.25")
    with pytest.raises(ValueError, match="no tokens"):
        published.encode(kv.tokens(0, 0), "0.25")
    with pytest.raises(ValueError, match="head size"):
        published.encode(KVTensors(keys=kv.keys[..., :4], values=kv.values[..., :4]), "0.25")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_zeros_outliers_and_other_dtypes_survive(published, dtype):
    kv = cache(11, seed=4)
    keys, values = kv.keys.to(dtype), torch.zeros_like(kv.values).to(dtype)
    keys[0, 0, 3, 2] = 3e4
    back = published.decode(published.encode(KVTensors(keys=keys, values=values), "0.0625"))
    assert back.keys.dtype == dtype
    assert float(back.keys[0, 0, 3, 2]) == pytest.approx(3e4, rel=0.05)
    assert not back.values.any()


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="group_tokens"):
        CacheGenSettings(group_tokens=1)
    with pytest.raises(ValueError, match="levels"):
        CacheGenSettings(levels=(0.1, 0.2))
    with pytest.raises(ValueError, match="levels: a step"):
        _codec(dataclasses.replace(SMALL, levels=(0.001,)))
