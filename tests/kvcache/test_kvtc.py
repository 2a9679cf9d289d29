import dataclasses
from itertools import product

import numpy as np
import pytest
import torch

from frontload.kvcache.codec.baselines.allocation import Allocation, Option
from frontload.kvcache.codec.baselines.envelope import HEADER
from frontload.kvcache.codec.baselines.kvtc import KVTC, WITHOUT_WINDOW, pack, packed_bytes, unpack
from frontload.kvcache.codec.baselines.kvtc_profile import KVTCProfile, KVTCSettings, calibrate
from frontload.kvcache.codec.baselines.kvtc_quantize import Group, quantize, restore, steps_of
from frontload.kvcache.codec.protocol import Codec
from tests.kvcache.synthetic import LAYOUT, cache

SMALL = KVTCSettings(group_sizes=(4, 8), budgets=(0.5, 2.0, 5.0), window=16)
VARIANTS = {
    "published": SMALL,
    "offline steps": dataclasses.replace(SMALL, scales="group", split="equal"),
    "no window": dataclasses.replace(SMALL, window=0),
}


def _codec(settings: KVTCSettings) -> KVTC:
    return KVTC(calibrate(LAYOUT, [cache(300, seed=s) for s in (1, 2)], settings))


@pytest.fixture(scope="module")
def published() -> KVTC:
    return _codec(SMALL)


@pytest.mark.parametrize("name", VARIANTS)
def test_more_budget_loses_less_and_shape_and_start_are_kept(name):
    codec, kv = _codec(VARIANTS[name]), cache(200, seed=3, start=64)
    assert isinstance(codec, Codec)
    errors, sizes = [], []
    for level in codec.levels:
        data = codec.encode(kv, level)
        assert data == codec.encode(kv, level)
        back = codec.decode(data)
        assert back.start == 64
        assert back.keys.dtype == torch.bfloat16
        errors.append(float((back.keys.float() - kv.keys.float()).square().mean()))
        sizes.append(len(data))
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert errors[-1] < 0.01 * float(kv.keys.float().var())


def test_sinks_and_window_are_exact_and_counted(published):
    kv = cache(100, seed=3)
    data = published.encode(kv, "0.5")
    back = published.decode(data)
    for first, last in ((0, 4), (84, 100)):
        assert torch.equal(back.keys[:, :, first:last], kv.keys[:, :, first:last])
        assert torch.equal(back.values[:, :, first:last], kv.values[:, :, first:last])
    assert not torch.equal(back.keys[:, :, 4:84], kv.keys[:, :, 4:84])
    assert len(data) > HEADER.size + 2 * 20 * LAYOUT.values_per_token


def test_only_the_context_s_own_beginning_is_a_sink(published):
    kv = cache(60, seed=3, start=2)
    back = published.decode(published.encode(kv, "0.5"))
    assert torch.equal(back.keys[:, :, :2], kv.keys[:, :, :2])  # tokens 2 and 3
    assert not torch.equal(back.keys[:, :, 2:6], kv.keys[:, :, 2:6])


@pytest.mark.parametrize("tokens", [1, 4, 20, 21])
def test_short_contexts_are_raw_up_to_sinks_and_window(published, tokens):
    kv = cache(tokens, seed=3)
    data = published.encode(kv, "0.5")
    back = published.decode(data)
    assert back.keys.shape == kv.keys.shape
    if tokens <= 20:
        assert torch.equal(back.keys, kv.keys)
        assert len(data) == HEADER.size + kv.num_bytes


def test_deflated_integers_stay_within_the_budget():
    """Before DEFLATE: budget bits a value; DEFLATE may add its block headers at worst."""
    codec, kv = _codec(dataclasses.replace(WITHOUT_WINDOW, **_small())), cache(900, seed=5, start=9)
    for level, budget in zip(codec.levels, SMALL.budgets, strict=True):
        assert 8 * len(codec.encode(kv, level)) / kv.num_values <= budget + 0.02


def test_the_allocation_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for length, most in ((4, 9), (6, 17)):
        options = [
            Option(
                first=first,
                beyond=first + size,
                bits=bits,
                half=False,
                cost=size * bits + (bits > 0),
                distortion=float(rng.random() * size * 4.0**-bits),
            )
            for first, size, bits in product(range(length), (1, 2, 3), (0, 1, 2))
            if first + size <= length
        ]
        solved = Allocation(options, length, most)
        for budget in range(most + 1):
            chosen = solved.groups(budget)
            assert [option.first for option in chosen[1:]] == [
                option.beyond for option in chosen[:-1]
            ]
            assert sum(option.cost for option in chosen) <= budget
            total = sum(option.distortion for option in chosen)
            assert total == pytest.approx(_least(options, 0, length, budget))
            assert total == pytest.approx(solved.distortion()[budget])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_integers_come_back(bits):
    integers = np.random.default_rng(bits).integers(0, 2**bits, 77).astype(np.uint8)
    packed = pack(integers, bits)
    assert len(packed) == packed_bytes(77, bits)
    assert (unpack(np.frombuffer(packed, np.uint8), bits, 77) == integers).all()


@pytest.mark.parametrize(("bits", "half"), [(2, False), (2, True), (4, False), (8, False)])
def test_a_step_of_least_error_is_sent_for_each_token(bits, half):
    part = np.random.default_rng(1).standard_normal((50, 16)).astype(np.float32)
    part[7] = 0
    group = Group(kind=0, first=0, beyond=16, bits=bits, half=half, step=0.0)
    integers, scales = quantize(part, group)
    error = ((restore(integers, steps_of(scales), group) - part) ** 2).sum(axis=1)
    assert error[7] == 0
    assert error.mean() / 16 < {2: 0.16, 4: 0.012, 8: 5e-5}[bits]
    for factor in (0.5, 2.0):  # no much other step is better
        other = steps_of(scales) * np.float32(factor)
        fixed = dataclasses.replace(group, step=1.0)
        rescaled, _ = quantize(part / np.where(other == 0, 1, other)[:, None], fixed)
        worse = ((restore(rescaled, other, group) - part) ** 2).sum(axis=1)
        assert error.mean() < worse.mean()


def test_a_saved_profile_decodes_in_another_process(published, tmp_path):
    published.profile.save(tmp_path / "profile")
    other = KVTC(KVTCProfile.load(tmp_path / "profile"))
    data = published.encode(cache(50, seed=8), "2")
    assert torch.equal(other.decode(data).keys, published.decode(data).keys)
    with pytest.raises(ValueError, match="profile"):
        _codec(VARIANTS["no window"]).decode(data)


def test_every_damaged_byte_is_noticed():
    codec = _codec(VARIANTS["no window"])
    data = codec.encode(cache(8, seed=2, start=30), "0.5")
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"\w"):
            codec.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"\w"):
            codec.decode(data[:at])


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="group_sizes"):
        KVTCSettings(group_sizes=(4, 6))
    with pytest.raises(ValueError, match="budgets"):
        KVTCSettings(budgets=(2.0, 1.0))
    with pytest.raises(ValueError, match="window"):
        KVTCSettings(window=-1)
    with pytest.raises(ValueError, match="no calibration tokens"):
        calibrate(LAYOUT, [cache(3)], SMALL)


def _small() -> dict[str, tuple[float, ...]]:
    return {"group_sizes": SMALL.group_sizes, "budgets": SMALL.budgets}


def _least(options: list[Option], first: int, length: int, budget: int) -> float:
    """Of all chains, by trying them."""
    if first == length:
        return 0.0
    return min(
        (
            option.distortion + _least(options, option.beyond, length, budget - option.cost)
            for option in options
            if option.first == first and option.cost <= budget
        ),
        default=np.inf,
    )
