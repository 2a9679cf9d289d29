"""Known effects come out of a made-up run; what is missing or unequal is said, not hidden."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from frontload.study.analysis import analyze, under_chance
from frontload.study.results import read_results, write_results
from tests.study.made_runs import NUM_PARAMETERS, make_run
from tests.study.made_specs import quickstart_like

ITEMS = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    spec = quickstart_like(seeds=3, items=ITEMS)
    runs, plan = make_run(spec, tmp_path_factory.mktemp("run"))
    return spec, runs, plan


@pytest.fixture(scope="module")
def results(run):
    spec, runs, plan = run
    return analyze(spec, runs, failures={}, plan=plan)


@pytest.fixture
def copied_run(run, tmp_path):
    """A run that a test may damage."""
    spec, runs, plan = run
    old = next(iter(runs.values()))[0].parent
    shutil.copytree(old, tmp_path / "stages")
    moved = {key: tuple(tmp_path / "stages" / d.name for d in path) for key, path in runs.items()}
    return spec, moved, plan


def of(results, name):
    return next(contrast for contrast in results.contrasts if contrast.name == name)


def stage_of(results, name):
    return next(stage for stage in results.stages if stage.id == name)


def test_large_known_effects_are_found(results):
    found = of(results, "M_SHQ above M_base on own after SFT, LR 0.002")
    assert found.verdict == "supported"
    assert found.measured.effect == pytest.approx(62, abs=12)
    assert found.measured.low > 0


def test_difference_of_differences_is_the_weighted_sum_of_its_arms(results):
    found = of(results, "The LMQ gain shows only after SFT, LR 0.004").measured
    scores = found.arm_scores
    after = scores["M_LMQ + SFT @0.004"] - scores["M_LDQ + SFT @0.004"]
    assert found.effect == pytest.approx(after - (scores["M_LMQ"] - scores["M_LDQ"]))


def test_effect_is_the_mean_of_its_seeds_and_lies_in_its_interval(results):
    for contrast in results.contrasts:
        if contrast.measured:
            found = contrast.measured
            assert found.effect == pytest.approx(np.mean(list(found.per_seed.values())))
            assert found.low <= found.effect <= found.high


def test_intervals_of_accuracy_stay_within_what_is_possible(tmp_path):
    spec = quickstart_like(seeds=2, items=4)
    runs, _ = make_run(spec, tmp_path, spread=2.0)
    results = analyze(spec, runs)
    for contrast in results.contrasts:
        if contrast.measured and contrast.metric == "accuracy":
            largest = 200 if contrast.minus else 100
            assert -largest <= contrast.measured.low <= contrast.measured.high <= largest
            assert (contrast.measured.smallest_detectable or 0) <= largest
    scores = [score for stage in results.stages for score in stage.scores]
    assert all(0 <= s.low <= s.high <= 100 for s in scores if s.metric == "accuracy")


def test_alone_is_never_wider(results):
    for contrast in results.contrasts:
        if contrast.measured:
            found = contrast.measured
            assert found.low <= found.low_alone <= found.effect
            assert found.effect <= found.high_alone <= found.high


def test_verdicts_and_intervals_agree(results):
    for contrast in results.contrasts:
        if contrast.expect == "higher" and contrast.measured and not contrast.measured.at_limit:
            above = contrast.measured.low > contrast.margin
            assert (contrast.verdict == "supported") == above, contrast.name


def test_a_floor_decides_nothing(results):
    found = of(results, "M_SHQ above M_base on breadth, before SFT")
    assert found.measured.at_limit == "floor"
    assert found.verdict == "undecided"
    assert found.measured.high > 0


def test_unequal_budgets_are_refused_with_the_difference(results):
    found = of(results, "Unequal by mistake, LR 0.002")
    assert found.verdict == "refused"
    assert found.measured is None
    assert "307,200" in found.reason


def test_budgets_unequal_on_purpose_are_compared(results):
    found = of(results, "M_base with twice the SFT stays below M_SHQ, LR 0.002")
    assert found.verdict == "supported"
    assert found.unequal


def test_a_refused_claim_is_no_test(results):
    assert results.num_tests == len(results.contrasts) - 2


def test_budgets_add_up_over_stages(results):
    for arm in results.arms:
        stages = [stage_of(results, name) for name in arm.stages]
        total = sum(row.tokens for stage in stages for row in stage.ledger)
        assert arm.budget["tokens"] == total == arm.planned["tokens"]
        assert arm.budget["pretrain_tokens"] + arm.budget["sft_tokens"] == total


def test_shared_stages_are_counted_once(results):
    trunk = stage_of(results, "trunk")
    assert set(trunk.arms) == {arm.name for arm in results.arms}
    assert len(results.stages) == len(results.arms) + 1
    assert results.total_seconds == pytest.approx(3 * 9.8 * len(results.stages))
    assert results.unshared_seconds > 2 * results.total_seconds


def test_operations_follow_the_parameters_on_disk(results):
    cost = stage_of(results, "M_base").cost
    assert results.num_parameters == NUM_PARAMETERS
    assert cost.flops == pytest.approx(6 * NUM_PARAMETERS * cost.tokens)


def test_arms_are_placed_by_their_settings(results):
    placed = {arm.name: arm.placement for arm in results.arms}
    assert placed["M_base"].recipe == ""
    assert placed["M_base + 3x SFT @0.002"].lineage == "M_base"
    assert placed["M_base + 3x SFT @0.002"].multiple == 3
    assert placed["M_LDQ + SFT @0.004"].recipe == "SFT LR 0.004"


def test_outcomes_are_shares_and_chance_is_flagged(results):
    for stage in results.stages:
        for outcome in stage.outcomes:
            parts = (outcome.correct, outcome.wrong, outcome.truncated, outcome.unparsed)
            assert sum(parts) == pytest.approx(1)
    own, breadth = stage_of(results, "M_base").outcomes
    assert own.chance == pytest.approx(10)
    assert breadth.under_chance == ()  # nothing is under a chance of 0


def test_accuracy_far_under_chance_is_flagged(tmp_path):
    spec = quickstart_like(seeds=2, items=64)
    runs, _ = make_run(spec, tmp_path)
    base = stage_of(analyze(spec, runs), "M_base")
    assert len(base.outcomes[0].under_chance) == 4


def test_one_seed_claims_nothing(tmp_path):
    spec = quickstart_like(seeds=1, items=ITEMS)
    runs, plan = make_run(spec, tmp_path)
    results = analyze(spec, runs, plan=plan)
    verdicts = {contrast.verdict for contrast in results.contrasts}
    assert verdicts == {"undecided", "refused"}
    assert results.num_tests == 0
    measured = [contrast for contrast in results.contrasts if contrast.measured]
    assert all("one seed" in contrast.reason for contrast in measured)
    assert all(contrast.measured.p_value is None for contrast in measured)


def test_one_seed_is_one_seed_though_the_study_has_more(copied_run):
    spec, runs, _ = copied_run
    for seed in (1, 2):
        (runs["M_SHQ", seed][-1] / "DONE").unlink()
    found = of(analyze(spec, runs), "M_SHQ above M_base on own, before SFT")
    assert found.verdict == "undecided"
    assert "one seed" in found.reason


def test_two_seeds_are_wide(run):
    spec, runs, _ = run
    two = spec.model_copy(update={"seeds": (0, 1)})
    name = "M_LDQ above M_base on own after SFT, LR 0.002"
    narrow, wide = (of(analyze(s, runs), name).measured for s in (spec, two))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_missing_stages_are_named_with_their_reason(copied_run):
    spec, runs, _ = copied_run
    for seed in spec.seeds:
        (runs["M_SHQ + SFT @0.002", seed][-1] / "DONE").unlink()
    lost = runs["M_SHQ + SFT @0.002", 0][-1].name
    results = analyze(spec, runs, failures={lost: "disk full"})
    found = of(results, "M_SHQ above M_base on own after SFT, LR 0.002")
    assert found.verdict == "not_measured"
    assert "disk full" in found.reason
    assert of(results, "M_SHQ above M_base on own after SFT, LR 0.004").verdict == "supported"
    arm = next(arm for arm in results.arms if arm.name == "M_SHQ + SFT @0.002")
    assert set(arm.missing) == set(spec.seeds)
    assert any("M_SHQ + SFT @0.002" in caveat for caveat in results.caveats)


def test_a_missing_seed_leaves_the_others_paired(copied_run):
    spec, runs, _ = copied_run
    (runs["M_SHQ", 1][-1] / "DONE").unlink()
    found = of(analyze(spec, runs), "M_SHQ above M_base on own, before SFT")
    assert set(found.measured.per_seed) == {0, 2}


def test_nothing_finished_is_a_result_too(run, tmp_path):
    spec, runs, _ = run
    nowhere = {key: tuple(tmp_path / d.name for d in path) for key, path in runs.items()}
    results = analyze(spec, nowhere)
    assert {contrast.verdict for contrast in results.contrasts} == {"not_measured"}
    assert results.stages == ()


def test_different_items_cannot_be_paired(copied_run):
    spec, runs, _ = copied_run
    path = runs["M_SHQ", 0][-1] / "evaluation.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ValueError, match="different items"):
        analyze(spec, runs)


def test_order_of_rows_does_not_matter(copied_run, results):
    spec, runs, plan = copied_run
    for directory in {d for path in runs.values() for d in path}:
        table = pq.read_table(directory / "evaluation.parquet")
        shuffled = np.random.default_rng(0).permutation(len(table))
        pq.write_table(table.take(pa.array(shuffled)), directory / "evaluation.parquet")
    again = analyze(spec, runs, plan=plan)
    assert again.contrasts == results.contrasts


def test_samples_are_averaged_before_items(copied_run):
    """Twice the same samples are no more evidence."""
    spec, runs, _ = copied_run
    once = analyze(spec, runs)
    for directory in {d for path in runs.values() for d in path}:
        table = pq.read_table(directory / "evaluation.parquet")
        rows = table.to_pylist()
        second = [row | {"sample": 1, "gold_nll": None} for row in rows if row["kind"] != "text"]
        pq.write_table(
            pa.Table.from_pylist(rows + second, schema=table.schema),
            directory / "evaluation.parquet",
        )
    assert analyze(spec, runs).contrasts == once.contrasts


def test_a_missing_column_is_named(copied_run):
    spec, runs, _ = copied_run
    path = runs["M_SHQ", 0][-1] / "evaluation.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["chance"]), path)
    with pytest.raises(ValueError, match="lacks chance"):
        analyze(spec, runs)


def test_results_survive_the_file(results, tmp_path):
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_analysis_twice_is_the_same(run, results):
    spec, runs, plan = run
    assert analyze(spec, runs, plan=plan) == results


def test_the_hidden_half_of_a_killed_line_is_left_out(copied_run):
    spec, runs, _ = copied_run
    log = runs["M_base", 0][-1] / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 99999, "lo')
    assert stage_of(analyze(spec, runs), "M_base").loss


@pytest.mark.parametrize("chance", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("items", [16, 64, 300])
def test_under_chance_is_the_exact_binomial_bound(items: int, chance: float) -> None:
    for right in range(items + 1):
        # A guesser gets so few, or fewer, in less than one draw of a hundred.
        rare = stats.binom.cdf(right, items, chance) < 0.01
        assert under_chance(right, items, chance) == rare


def test_nothing_is_under_a_chance_of_zero() -> None:
    assert not under_chance(0, 64, 0.0)
