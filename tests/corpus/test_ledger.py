"""Laws of the ledger: it says what was trained on, to the token, however often the run died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontload.corpus.batches import IGNORE
from frontload.corpus.ledger import (
    SCHEMA,
    StageLedger,
    read_ledger,
    require_equal,
    sum_over_stages,
    write_ledger,
)
from frontload.corpus.mixture import Order, assemble_batch, phase_quotas, plan_order
from frontload.corpus.rows import PackedRows
from frontload.train.config import Phase, StageConfig
from tests.corpus.made_packs import made_pack

Packs = dict[str, PackedRows]


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> Packs:
    folder: Path = tmp_path_factory.mktemp("packs")
    return {
        "A": made_pack(folder / "A", source="A", rows=30),
        "B": made_pack(folder / "B", source="B", rows=50, reasoning=False, seed=1),
        "C": made_pack(folder / "C", source="C", rows=3, prompts=4, seed=2),
    }


@st.composite
def stages(draw: st.DrawFn) -> StageConfig:
    """Two phases, so that rows cut at the end of the first are read again in a later pass."""
    phases = []
    for until in (0.3, 1.0):
        names = draw(st.lists(st.sampled_from("ABC"), min_size=1, unique=True))
        weights = [draw(st.integers(1, 9)) for _ in names]
        mixture = {n: w / sum(weights) for n, w in zip(names, weights, strict=True)}
        phases.append({"until": until, "mixture": mixture})
    return StageConfig(
        kind="pretrain",
        budget={
            "amount": draw(st.integers(200, 2500)),
            "unit": draw(st.sampled_from(["tokens", "supervised_tokens"])),
        },
        phases=phases,
        batch_rows=draw(st.integers(1, 9)),
        optimizer={"learning_rate": 0.01},
        max_passes=1000,
    )


def rate(step: int) -> float:
    return 0.01 / (step + 1)


class Run:
    """A stage that only reads its data."""

    def __init__(
        self, config: StageConfig, packs: Packs, *, name: str = "stage", cursors=None
    ) -> None:
        self.config, self.packs = config, packs
        self.order: Order = plan_order(config, packs, seed=0, cursors=cursors)
        self.name = name

    def ledger(self) -> StageLedger:
        return StageLedger(
            stage=self.name, kind=self.config.kind, order=self.order, packs=self.packs
        )

    def batches(self) -> list[dict[str, Any]]:
        size = self.config.batch_rows
        starts = range(0, len(self.order), size)
        return [assemble_batch(self.order, self.packs, i, i + size) for i in starts]

    def table(self) -> pa.Table:
        ledger = self.ledger()
        for step, batch in enumerate(self.batches()):
            ledger.add(batch, step=step, learning_rate=rate(step))
        return ledger.table()


laws = settings(max_examples=50, deadline=None)


def planned_tokens(order) -> dict[str, int]:
    takes = {name: order.take[order.source == index] for index, name in enumerate(order.sources)}
    return {name: int(take.sum(dtype=np.int64)) for name, take in takes.items()}


@laws
@given(config=stages())
def test_what_was_trained_is_what_was_planned(packs, config) -> None:
    run = Run(config, packs)
    rows = run.table().to_pylist()
    assert {row["source"]: row["tokens"] for row in rows} == planned_tokens(run.order)
    quotas = phase_quotas(config)
    planned = {name: sum(quota.get(name, 0) for quota in quotas) for name in config.sources}
    assert {row["source"]: row[config.budget.unit] for row in rows} == planned


@laws
@given(config=stages())
def test_counts_agree_with_a_recount_token_by_token(packs, config) -> None:
    run = Run(config, packs)
    rows = {row["source"]: row for row in run.table().to_pylist()}
    for index, name in enumerate(run.order.sources):
        recount = recounted(run, index, packs[name])
        assert {key: rows[name][key] for key in recount} == pytest.approx(recount, rel=1e-12)


def recounted(run: Run, index: int, pack: PackedRows) -> dict[str, Any]:
    """The ledger of one source by sets of positions, with a loop over every token."""
    read: list[tuple[int, int]] = []
    targets: list[tuple[int, int]] = []
    prompts: list[int] = []
    first_prompt = np.cumsum(pack.num_examples) - pack.num_examples
    steps, rates = [], []
    for step, batch in enumerate(run.batches()):
        for i in np.flatnonzero(batch["source"] == index):
            row, taken = int(batch["row"][i]), int((batch["segments"][i] > 0).sum())
            read += [(row, t) for t in range(taken)]
            targets += [(row, t) for t in np.flatnonzero(batch["labels"][i] != IGNORE).tolist()]
            begun = range(int(batch["segments"][i].max()))
            prompts += [int(first_prompt[row]) + k for k in begun]
            steps.append(step)
            rates += [rate(step)] * taken
    unique_prompts = len({int(pack.prompts[k]) for k in prompts}) if pack.reasoning else 0
    return {
        "tokens": len(read),
        "unique_tokens": len(set(read)),
        "supervised_tokens": len(targets),
        "unique_supervised_tokens": len(set(targets)),
        "examples": len(prompts),
        "unique_prompts": unique_prompts,
        "passes": len(read) / pack.total_tokens,
        "first_step": steps[0],
        "last_step": steps[-1],
        "mean_learning_rate": float(np.mean(rates)),
    }


@laws
@given(config=stages(), data=st.data())
def test_resuming_twice_equals_one_run(packs, config, data) -> None:
    run = Run(config, packs)
    batches = run.batches()
    stops = sorted(data.draw(st.lists(st.integers(0, len(batches)), min_size=2, max_size=2)))
    ledger, state = run.ledger(), run.ledger().state()
    for step, batch in enumerate(batches):
        if step in stops:
            state = {key: value.copy() for key, value in ledger.state().items()}
            ledger.add(batch, step=step, learning_rate=99.0)  # lost when the run dies
            ledger = run.ledger()
            ledger.load_state(state)
        ledger.add(batch, step=step, learning_rate=rate(step))
    assert ledger.table().equals(run.table())


def test_dying_after_every_step_changes_nothing(packs) -> None:
    config = sft(3 * packs["C"].total_tokens + 3, "C")
    phases = [{"until": until, "mixture": {"C": 1.0}} for until in (0.1, 0.4, 1.0)]
    config = config.model_copy(
        update={"mixture": None, "batch_rows": 1}
        | {"phases": tuple(Phase.model_validate(phase) for phase in phases)}
    )
    run = Run(config, packs)
    state = run.ledger().state()
    for step, batch in enumerate(run.batches()):
        ledger = run.ledger()
        ledger.load_state(state)
        ledger.add(batch, step=step, learning_rate=rate(step))
        state = ledger.state()
    assert ledger.table().equals(run.table())


@laws
@given(config=stages(), size=st.integers(1, 12))
def test_counts_do_not_depend_on_batch_size(packs, config, size) -> None:
    other = config.model_copy(update={"batch_rows": size})
    changing = ["first_step", "last_step", "mean_learning_rate"]
    tables = [Run(one, packs).table().drop_columns(changing) for one in (config, other)]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_whole_passes_have_read_all_there_is(packs, name) -> None:
    amount = 3 * packs[name].total_tokens
    (row,) = Run(sft(amount, name), packs).table().to_pylist()
    assert row["passes"] == 3
    assert row["unique_tokens"] == packs[name].total_tokens
    assert row["unique_supervised_tokens"] == packs[name].total_supervised_tokens
    assert row["unique_prompts"] == packs[name].num_prompts
    assert row["examples"] == 3 * packs[name].num_examples.sum()
    assert row["reasoning"] == packs[name].reasoning


def test_a_stage_that_never_reached_a_source_says_so(packs) -> None:
    config = sft(200, "A")
    run = Run(config, packs)
    (row,) = run.ledger().table().to_pylist()
    assert row["first_step"] == row["last_step"] == -1
    assert row["tokens"] == row["passes"] == row["mean_learning_rate"] == 0


def test_a_ledger_reads_back_as_it_was_written(packs, tmp_path) -> None:
    table = Run(sft(300, "A"), packs).table()
    write_ledger(table, tmp_path / "ledger.parquet")
    write_ledger(table, tmp_path / "ledger.parquet")
    assert read_ledger(tmp_path / "ledger.parquet").equals(table)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.parquet"]
    assert table.schema.equals(SCHEMA)


def sft(amount: int, name: str, kind: str = "sft") -> StageConfig:
    return StageConfig(
        kind=kind,
        budget={"amount": amount},
        mixture={name: 1.0},
        batch_rows=4,
        optimizer={"learning_rate": 0.01},
        max_passes=1000,
    )


def test_an_arm_is_the_sum_of_its_stages(packs) -> None:
    pretrain = StageConfig(
        kind="pretrain",
        budget={"amount": 1000},
        mixture={"A": 0.3, "B": 0.7},
        batch_rows=4,
        optimizer={"learning_rate": 0.01},
        max_passes=1000,
    )
    stages = [pretrain, sft(50, "B", kind="midtrain"), sft(200, "A")]
    tables = [Run(one, packs, name=one.kind).table() for one in stages]
    arm = sum_over_stages(tables)
    assert (arm.tokens, arm.pretrain_tokens, arm.sft_tokens) == (1250, 1050, 200)
    assert arm.reasoning_tokens == 300 + 200
    assert arm.supervised_tokens == sum(sum(t["supervised_tokens"].to_pylist()) for t in tables)
    assert {name: sums["tokens"] for name, sums in arm.by_source.items()} == {"A": 500, "B": 750}
    assert arm.stages["stage"].to_pylist() == ["pretrain", "pretrain", "midtrain", "sft"]


def test_prompts_met_again_in_a_later_stage_count_once(packs) -> None:
    table = Run(sft(packs["A"].total_tokens, "A"), packs).table()
    arm = sum_over_stages([table, table])
    assert arm.by_source["A"]["unique_prompts"] == arm.unique_prompts == packs["A"].num_prompts
    assert arm.unique_prompts_exact
    assert arm.by_source["A"]["unique_tokens"] == 2 * packs["A"].total_tokens


def test_prompts_of_stages_that_read_different_rows_are_united(packs) -> None:
    half = packs["A"].total_tokens // 2
    first = Run(sft(half, "A"), packs)
    second = Run(sft(packs["A"].total_tokens - half, "A"), packs, cursors=first.order.cursors)
    tables = [first.table(), second.table()]
    counts = [sum_over_stages([table]).unique_prompts for table in tables]
    both = sum_over_stages(tables).unique_prompts
    assert max(counts) < both < sum(counts)


def test_prompts_of_sources_with_the_same_prompts_are_united(packs, tmp_path) -> None:
    strong = made_pack(tmp_path / "S", source="strong", rows=200, prompts=5)
    weak = made_pack(tmp_path / "W", source="weak", rows=100, prompts=5, seed=4)
    assert strong.prompt_set == weak.prompt_set
    pair = {"strong": strong, "weak": weak}
    tables = [Run(sft(700, name), pair).table() for name in pair]
    arm = sum_over_stages(tables)
    assert (arm.unique_prompts, arm.unique_prompts_exact) == (5, True)


def test_prompts_of_unlike_sources_are_summed_and_marked(packs) -> None:
    arm = sum_over_stages([Run(sft(5000, name), packs).table() for name in "AC"])
    assert arm.unique_prompts == packs["A"].num_prompts + packs["C"].num_prompts
    assert not arm.unique_prompts_exact


def test_arms_that_differ_beyond_the_tolerance_are_refused_with_the_difference(packs) -> None:
    arms = {
        "M_base": sum_over_stages([Run(sft(800, "B", kind="pretrain"), packs).table()]),
        "M_SHQ": sum_over_stages([Run(sft(817, "A", kind="pretrain"), packs).table()]),
    }
    require_equal(arms, ["tokens", "sft_tokens"], tolerance_tokens=17)
    with pytest.raises(ValueError, match="budgets differ") as refusal:
        require_equal(arms, ["tokens", "reasoning_tokens", "sft_tokens"], tolerance_tokens=16)
    message = str(refusal.value)
    assert "tokens: M_base 800, M_SHQ 817 (difference 17)" in message
    assert "reasoning_tokens: M_base 0, M_SHQ 817 (difference 817)" in message
    assert "sft_tokens" not in message
