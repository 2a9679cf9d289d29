"""Laws of the order: budgets to the token, every row once a pass, the same on any machine."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontload.corpus.batches import IGNORE
from frontload.corpus.mixture import (
    Order,
    assemble_batch,
    permutation,
    phase_quotas,
    plan_order,
)
from frontload.corpus.rows import PackedRows, RowWriter
from frontload.train.config import StageConfig
from tests.corpus.made_packs import made_pack

CONTEXT = 16
UNITS = ("tokens", "supervised_tokens")
Packs = dict[str, PackedRows]


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> Packs:
    folder: Path = tmp_path_factory.mktemp("packs")
    return {
        "A": made_pack(folder / "A", source="A", rows=40),
        "B": made_pack(folder / "B", source="B", rows=90, reasoning=False, seed=1),
        "C": made_pack(folder / "C", source="C", rows=3, seed=2),
    }


def stage(
    amount: int, *phases: tuple[float, dict[str, float]], unit: str = "tokens", **more: Any
) -> StageConfig:
    return StageConfig(
        kind="pretrain",
        budget={"amount": amount, "unit": unit},
        phases=[{"until": until, "mixture": mixture} for until, mixture in phases],
        batch_rows=4,
        optimizer={"learning_rate": 0.01},
        **({"max_passes": 1000} | more),
    )


def only(source: str, amount: int, **more: Any) -> StageConfig:
    return stage(amount, (1.0, {source: 1.0}), **more)


@st.composite
def stages(draw: st.DrawFn) -> StageConfig:
    """Up to three phases over up to three sources, with a budget of 300 to 4000 units."""
    ends = sorted(draw(st.sets(st.sampled_from([0.2, 0.3, 0.6, 0.75]), max_size=2)) | {1.0})
    phases = []
    for end in ends:
        names = draw(st.lists(st.sampled_from("ABC"), min_size=1, unique=True))
        weights = [draw(st.integers(1, 9)) for _ in names]
        mixture = {n: w / sum(weights) for n, w in zip(names, weights, strict=True)}
        phases.append((end, mixture))
    return stage(draw(st.integers(300, 4000)), *phases, unit=draw(st.sampled_from(UNITS)))


laws = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 5)


def batches(order: Order, packs: Packs, size: int = 7) -> list[dict[str, Any]]:
    return [assemble_batch(order, packs, i, i + size) for i in range(0, len(order), size)]


def units_of(batch: dict[str, Any], unit: str) -> np.ndarray:
    """Units of each row, counted from what the model is given."""
    if unit == "tokens":
        return (batch["segments"] > 0).sum(axis=1)
    return (batch["labels"] != IGNORE).sum(axis=1)


def rows_of(order: Order, name: str) -> list[int]:
    return order.row[order.source == order.sources.index(name)].tolist()


@laws
@given(config=stages(), seed=seeds)
def test_the_budget_is_met_exactly_in_its_unit(packs, config, seed) -> None:
    order = plan_order(config, packs, seed=seed)
    read = sum(int(units_of(b, config.budget.unit).sum()) for b in batches(order, packs))
    assert read == config.budget.amount == order.consumed[-1]


@laws
@given(config=stages(), seed=seeds)
def test_every_source_gets_exactly_its_share_of_every_phase(packs, config, seed) -> None:
    order = plan_order(config, packs, seed=seed)
    units = np.concatenate([units_of(b, config.budget.unit) for b in batches(order, packs)])
    begin = 0
    for quota in phase_quotas(config):
        end = int(np.searchsorted(order.consumed, order.consumed[begin] + sum(quota.values())))
        got = {
            name: int(units[begin:end][order.source[begin:end] == index].sum())
            for index, name in enumerate(order.sources)
        }
        assert {name: n for name, n in got.items() if n} == quota
        begin = end


@laws
@given(config=stages())
def test_quotas_are_within_one_unit_of_the_shares_and_sum_to_the_budget(packs, config) -> None:
    quotas = phase_quotas(config)
    assert sum(sum(quota.values()) for quota in quotas) == config.budget.amount
    for quota, phase in zip(quotas, config.resolved_phases, strict=True):
        size = sum(quota.values())
        assert all(abs(quota[n] - size * share) < 1 + 1e-6 for n, share in phase.mixture.items())


@laws
@given(config=stages(), seed=seeds, sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_the_data_do_not_depend_on_batch_size(packs, config, seed, sizes) -> None:
    order = plan_order(config, packs, seed=seed)
    one, two = (batches(order, packs, size) for size in sizes)
    for key in one[0]:
        assert np.array_equal(
            np.concatenate([b[key] for b in one]), np.concatenate([b[key] for b in two])
        )


@laws
@given(ranks=st.integers(1, 8), step=st.integers(0, 10))
def test_ranks_together_read_what_one_process_reads(packs, ranks, step) -> None:
    order = plan_order(stage(900, (1.0, {"A": 0.3, "B": 0.7})), packs, seed=0)
    start, share = step * 8, -(-8 // ranks)
    stop = min(start + 8, len(order))
    whole = assemble_batch(order, packs, start, stop)
    parts = [
        assemble_batch(order, packs, begin, min(begin + share, stop))
        for begin in range(start, stop, share)
    ]
    for key in whole:
        assert np.array_equal(whole[key], np.concatenate([part[key] for part in parts]))


@laws
@given(config=stages(), seed=seeds)
def test_the_same_seed_gives_the_same_order_and_another_seed_another(packs, config, seed) -> None:
    first, again = (plan_order(config, packs, seed=seed) for _ in range(2))
    assert np.array_equal(first.row, again.row)
    assert np.array_equal(first.source, again.source)
    other = plan_order(config, packs, seed=seed + 1)
    name = max(config.sources, key=lambda source: packs[source].rows)
    if name != "C" and len(rows_of(first, name)) > 9:
        assert rows_of(first, name) != rows_of(other, name)


@laws
@given(name=st.sampled_from("ABC"), passes=st.integers(2, 5), seed=seeds)
def test_every_pass_reads_every_row_once_in_a_fresh_order(packs, name, passes, seed) -> None:
    pack = packs[name]
    order = plan_order(only(name, passes * pack.total_tokens), packs, seed=seed)
    read = np.array(rows_of(order, name)).reshape(passes, pack.rows)
    assert (np.sort(read, axis=1) == np.arange(pack.rows)).all()
    if pack.rows > 9:
        assert len({tuple(one) for one in read.tolist()}) == passes
    assert np.array_equal(order.take, pack.num_tokens[order.row])
    assert order.cursors == {name: passes * pack.rows}


@laws
@given(
    seed=seeds,
    rows=st.lists(st.integers(1, 70), min_size=2, max_size=4),
    name=st.sampled_from("ABC"),
)
def test_stages_that_pass_on_cursors_read_like_one_long_stage(packs, seed, rows, name) -> None:
    whole = plan_order(only(name, 100 * packs[name].total_tokens), packs, seed=seed)
    cursors: dict[str, int] = {}
    read: list[int] = []
    for count in rows:  # each stage ends where a row of the long stage ends
        amount = int(whole.consumed[len(read) + count] - whole.consumed[len(read)])
        part = plan_order(only(name, amount), packs, seed=seed, cursors=cursors)
        read += rows_of(part, name)
        cursors = dict(part.cursors)
    assert read == rows_of(whole, name)[: len(read)]
    assert cursors == {name: sum(rows)}


def test_a_source_new_to_the_stage_begins_its_first_pass(packs) -> None:
    parent = plan_order(only("B", 250), packs, seed=3)
    child = plan_order(
        stage(300, (1.0, {"A": 0.5, "B": 0.5})), packs, seed=3, cursors=parent.cursors
    )
    assert rows_of(child, "A") == permutation(3, "A", 0, 40)[: len(rows_of(child, "A"))].tolist()
    assert not set(rows_of(child, "B")) & set(rows_of(parent, "B"))


@laws
@given(config=stages(), seed=seeds)
def test_sources_advance_together_within_a_phase(packs, config, seed) -> None:
    order = plan_order(config, packs, seed=seed)
    units = np.diff(order.consumed)
    begin = 0
    for quota in phase_quotas(config):
        size = sum(quota.values())
        end = int(np.searchsorted(order.consumed, order.consumed[begin] + size))
        for name, need in quota.items():
            own = np.where(
                order.source[begin:end] == order.sources.index(name), units[begin:end], 0
            )
            behind = np.cumsum(own) - need / size * np.cumsum(units[begin:end])
            assert np.abs(behind).max() <= CONTEXT * (1 + len(quota)) / 2
        begin = end


@laws
@given(config=stages(), seed=seeds)
def test_the_share_of_the_budget_rises_from_zero_to_one(packs, config, seed) -> None:
    order = plan_order(config, packs, seed=seed)
    shares = [order.share(i) for i in range(len(order) + 1)]
    assert shares[0] == 0
    assert shares[-1] == order.share(10**9) == 1
    assert all(a < b for a, b in pairwise(shares))
    assert order.steps(4) == len(batches(order, packs, 4))


@laws
@given(config=stages(), seed=seeds)
def test_labels_are_the_next_token_of_the_same_segment_or_ignored(packs, config, seed) -> None:
    for batch in batches(plan_order(config, packs, seed=seed), packs):
        ids, labels, segments = batch["input_ids"], batch["labels"], batch["segments"]
        carries = labels[:, :-1] != IGNORE
        assert (labels[:, :-1][carries] == ids[:, 1:][carries]).all()
        assert (segments[:, :-1] == segments[:, 1:])[carries].all()
        assert (segments[:, 1:] > 0)[carries].all()
        assert (labels[:, -1] == IGNORE).all()
        assert (ids[segments == 0] == 0).all()
        taken = (segments > 0).sum(axis=1)
        assert np.array_equal(taken, batch["num_tokens"])
        assert ((segments > 0) == (np.arange(CONTEXT) < taken[:, None])).all()


@laws
@given(config=stages(), seed=seeds)
def test_targets_are_those_of_the_pack_up_to_the_cut(packs, config, seed) -> None:
    for batch in batches(plan_order(config, packs, seed=seed), packs):
        for i, source in enumerate(batch["source"]):
            pack = packs[config.sources[source]]
            wanted = pack.supervised[batch["row"][i], : batch["num_tokens"][i]].astype(bool)
            assert np.array_equal(
                np.flatnonzero(batch["labels"][i] != IGNORE) + 1, np.flatnonzero(wanted)
            )
            assert batch["num_supervised"][i] == wanted.sum()


def test_positions_restart_with_every_segment(packs) -> None:
    order = plan_order(stage(600, (1.0, {"A": 0.5, "B": 0.5})), packs, seed=0)
    for batch in batches(order, packs):
        for segments, positions in zip(batch["segments"], batch["position_ids"], strict=True):
            expected = [
                place
                for s in dict.fromkeys(segments.tolist())
                for place in range((segments == s).sum())
            ]
            assert positions.tolist() == expected


def test_a_row_that_goes_on_with_a_document_does_not_count_it_again(tmp_path) -> None:
    segments = np.array([[1, 1, 2, 2], [1, 1, 1, 2]])
    with RowWriter(tmp_path / "D", context=4, vocab_size=300, pad_id=0) as writer:
        writer.append(
            np.ones((2, 4)), segments, np.ones((2, 4)), np.array([2, 1]), np.empty(0, np.uint64)
        )
        pack = writer.finish(source="D", reasoning=False)
    order = plan_order(only("D", 8), {"D": pack}, seed=0)
    batch = assemble_batch(order, {"D": pack}, 0, 2)
    assert dict(zip(batch["row"], batch["num_examples"], strict=True)) == {0: 2, 1: 1}
    for taken, begun in [(1, 0), (3, 0), (4, 1)]:
        cut = Order(**vars(order) | {"take": np.where(order.row == 1, taken, 4)})
        batch = assemble_batch(cut, {"D": pack}, 0, 2)
        assert batch["num_examples"][batch["row"] == 1] == begun


def test_too_many_passes_are_refused_with_the_numbers_and_the_remedy(packs) -> None:
    available = packs["C"].total_tokens
    plan_order(only("C", 2 * available, max_passes=2), packs, seed=0)
    with pytest.raises(ValueError, match="C has") as refusal:
        plan_order(only("C", 2 * available + 1, max_passes=2), packs, seed=0)
    message = str(refusal.value)
    assert f"{available:,} tokens" in message
    assert f"needs {2 * available + 1:,}" in message
    assert "max_passes = 2" in message
    assert "raise max_passes" in message


def test_passes_add_up_over_phases(packs) -> None:
    amount = 4 * packs["C"].total_tokens
    config = stage(amount, (0.5, {"C": 1.0}), (1.0, {"C": 0.5, "B": 0.5}), max_passes=2.5)
    with pytest.raises(ValueError, match="C has"):
        plan_order(config, packs, seed=0)


def test_a_share_too_small_for_one_token_is_refused(packs) -> None:
    with pytest.raises(ValueError, match="leaves none for A"):
        plan_order(stage(10, (1.0, {"A": 0.001, "B": 0.999})), packs, seed=0)


@laws
@given(config=stages(), seed=seeds)
def test_an_order_reads_back_as_it_was_saved(packs, config, seed, tmp_path_factory) -> None:
    order = plan_order(config, packs, seed=seed)
    path = tmp_path_factory.mktemp("order") / "order.npz"
    order.save(path)
    loaded = Order.load(path)
    assert vars(loaded).keys() == vars(order).keys()
    for key, value in vars(order).items():
        assert np.array_equal(getattr(loaded, key), value), key
    assert [p.name for p in path.parent.iterdir()] == ["order.npz"]


def test_an_order_refuses_other_packs_than_it_was_planned_on(packs, tmp_path) -> None:
    order = plan_order(only("A", 100), packs, seed=0)
    order.require_packs(packs)
    other = made_pack(tmp_path / "A", source="A", rows=40, seed=9)
    with pytest.raises(ValueError, match="another pack of A"):
        order.require_packs({"A": other})


def test_the_permutation_never_changes_between_versions() -> None:
    assert permutation(7, "D_SHQ", 2, 8).tolist() == [1, 7, 3, 2, 5, 6, 4, 0]
