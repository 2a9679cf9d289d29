"""Laws of the recurrent state: exact there and back; damaged bytes are refused, never believed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontload.kvcache.state import RecurrentState

GENERATOR = torch.Generator().manual_seed(0)
STATE = RecurrentState(
    tokens=1 << 40,
    tensors={
        "0.conv.0": torch.randn(1, 5, 4, generator=GENERATOR).bfloat16(),
        "0.recurrent.0": torch.randn(1, 2, 3, 8, generator=GENERATOR),
        "11.recurrent.1": torch.randn(1, 3, generator=GENERATOR).half(),
    },
)


def same(one: RecurrentState, two: RecurrentState) -> bool:
    pairs = zip(one.tensors.items(), two.tensors.items(), strict=True)
    return one.tokens == two.tokens and all(
        n == m and x.dtype == y.dtype and torch.equal(x, y) for (n, x), (m, y) in pairs
    )


def test_it_comes_back_bit_for_bit():
    assert same(RecurrentState.from_bytes(STATE.to_bytes()), STATE)
    assert same(RecurrentState.from_bytes(memoryview(STATE.to_bytes())), STATE)


def test_a_strided_tensor_is_written_in_its_own_order():
    turned = RecurrentState(tokens=1, tensors={"0.conv.0": STATE.tensors["0.conv.0"].mT})
    assert same(RecurrentState.from_bytes(turned.to_bytes()), turned)


def test_every_truncation_and_excess_is_refused():
    data = STATE.to_bytes()
    for size in range(len(data)):
        with pytest.raises(ValueError, match="recurrent state"):
            RecurrentState.from_bytes(data[:size])
    with pytest.raises(ValueError, match="declared"):
        RecurrentState.from_bytes(data + b"\0")


def test_changed_headers_are_refused_or_read_as_sizes_that_add_up():
    data = STATE.to_bytes()
    body = num_bytes(STATE)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(3_000):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(0, len(data) - body)] = rng.integers(0, 256)
        try:
            read = RecurrentState.from_bytes(bytes(changed))
        except ValueError:  # any other error fails the test
            refused += 1
        else:
            assert num_bytes(read) == body
    assert refused > 1_000


def num_bytes(state: RecurrentState) -> int:
    return sum(x.numel() * x.element_size() for x in state.tensors.values())


def test_sizes_beyond_memory_are_refused_before_it_is_taken():
    data = bytearray(STATE.to_bytes())
    shape = data.index(b"0.conv.0") + len(b"0.conv.0") + 2
    data[shape : shape + 8] = (1 << 62).to_bytes(8, "little")
    with pytest.raises(ValueError, match="are declared"):
        RecurrentState.from_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("0.conv.0", torch.ones(1, 2, dtype=torch.float64), "float64; convert"),
        ("0.conv.0", torch.ones(1, 2, dtype=torch.int32), "int32; convert"),
        ("conv", torch.ones(1, 2), "'conv' is not layer.kind.index"),
        ("0.conv.0", torch.ones(1, 0), "no values"),
        ("0.conv.0", torch.ones([1] * 9), "8 dimensions"),
        ("0.conv.0", torch.ones(2, 3), "one row"),
        ("0.conv.0", torch.tensor([[torch.nan]]), "NaN or Inf in 0.conv.0"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(name, tensor, message):
    state = RecurrentState(tokens=3, tensors={name: tensor})
    with pytest.raises(ValueError, match=message):
        state.check()


def test_a_state_of_another_point_is_refused():
    STATE.check(1 << 40)
    with pytest.raises(ValueError, match="the cache ends at 64"):
        STATE.check(64)
