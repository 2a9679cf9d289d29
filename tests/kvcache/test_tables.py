"""Static tables: valid, sorted by worth, and as short as they say."""

from __future__ import annotations

import numpy as np
import pytest

from frontload.kvcache.codec import tables
from frontload.kvcache.codec.quantize import coarser
from frontload.kvcache.profile import TABLE_TOTAL, Tables

FINEST = 3


@pytest.fixture(scope="module")
def coefficients() -> np.ndarray:
    """Two blocks of Laplace components whose spread falls from 100 finest steps to 0.01."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(100, 0.01, 12)
    return (rng.laplace(size=(2, 4000, 12)) * spread).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(coefficients: np.ndarray) -> Tables:
    birth = np.stack([tables.births(block, FINEST) for block in coefficients])
    assert (np.diff(birth.astype(int)) >= 0).all()  # spreads descend
    return tables.fit(coefficients, birth, FINEST)


def test_wider_components_are_born_earlier_and_dead_ones_never(coefficients: np.ndarray) -> None:
    birth = tables.births(coefficients[0], FINEST)
    assert birth[0] == 0
    assert birth[-1] == FINEST + 1
    assert len(set(birth.tolist())) == FINEST + 2
    assert tables.births(np.zeros((50, 2), np.float32), FINEST).tolist() == [FINEST + 1] * 2


def test_a_component_is_born_where_its_bits_pay() -> None:
    """A spike that a step of 1 hits exactly saves 1 squared step a sample for 1 bit."""
    spike = np.tile([0.0, 1.0], 500).astype(np.float32)[:, None]
    assert tables.births(spike, 0)[0] == 0
    rare = np.zeros((100_000, 1), np.float32)
    rare[0] = 0.51  # saves 0.02 squared steps and costs about 18 bits
    assert tables.births(rare, 0)[0] == 1


def test_every_symbol_has_a_count_and_all_counts_add_up(fitted: Tables) -> None:
    for b in range(2):
        for k in range(fitted.live[b, FINEST]):
            symbols = 2 * fitted.largest[b, k] + 2
            edges = fitted.base[:, fitted.start[b, k] : fitted.start[b, k] + symbols + 1]
            assert (edges[:, 0] == 0).all()
            assert (edges[:, -1] == TABLE_TOTAL).all()
            assert (np.diff(edges.astype(int)) >= 1).all()
    assert (fitted.trits[..., 0] >= 1).all()
    assert (fitted.trits[..., 0] < fitted.trits[..., 1]).all()
    assert (fitted.trits[..., 1] < TABLE_TOTAL).all()
    assert (fitted.offset < 8).all()


def test_tables_cost_little_more_than_the_entropy(coefficients: np.ndarray, fitted: Tables) -> None:
    """Depth by depth and in all: nesting loses next to nothing."""
    integer = np.rint(coefficients).astype(np.int32)
    bits = tables.code_lengths(fitted, integer).sum(axis=0)
    for depth in range(FINEST + 1):
        direct = sum(
            _entropy_bits(coarser(integer[b, :, k], FINEST - depth))
            for b in range(2)
            for k in range(fitted.live[b, depth])
        )
        assert direct * 0.999 < bits[: depth + 1].sum() < direct * 1.03


def test_safer_tables_cost_more_here_and_less_on_wider_data(
    coefficients: np.ndarray, fitted: Tables
) -> None:
    for factor, safer_wins in ((1, False), (4, True)):
        integer = np.rint(factor * coefficients).astype(np.int32)
        usual, safer = (tables.code_lengths(fitted, integer, table_set=s).sum() for s in (0, 1))
        assert (safer < usual) == safer_wins


def test_rare_integers_beyond_the_alphabet_escape() -> None:
    rng = np.random.default_rng(0)
    column = np.rint(rng.normal(size=(20_000, 1)) * 2).astype(np.float32)
    column[:3] = 3_000
    fitted = tables.fit(column[None], np.zeros((1, 1), np.uint8), 0)
    assert 5 < fitted.largest[0, 0] < 20
    one = tables.code_lengths(fitted, np.full((1, 1, 1), 3_000, np.int32))[0, 0]
    assert tables.ESCAPE_BITS + 10 < one <= tables.ESCAPE_BITS + tables.TABLE_BITS


def test_reconstruction_lies_where_the_mass_of_a_bin_is(fitted: Tables) -> None:
    """A Laplace density falls outwards: points of 1 and beyond lie nearer to zero."""
    first_born = fitted.offset[0, 3]  # spread of about 8 finest steps: coarse bins are uneven
    assert first_born[0, 0] > first_born[FINEST, 0]
    assert first_born[0, 0] > 0


def _entropy_bits(integer: np.ndarray) -> float:
    counts = np.unique(integer, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())
