"""What a stage trains on, computes, writes and refuses."""

from __future__ import annotations

import json
import signal

import pytest
import torch
import torch.nn.functional as F
from transformers import GraniteConfig, GraniteForCausalLM

from frontload.corpus.batches import IGNORE, assemble_batch
from frontload.corpus.mixture import plan_order
from frontload.model.config import ModelConfig
from frontload.model.presets import build_model
from frontload.train.distributed import Ranks, full_weights
from frontload.train.loop import train
from frontload.train.objective import accumulate_gradients, supervised_loss
from tests.train.small_stage import (
    CONTEXT,
    VOCAB,
    interrupt_at,
    losses,
    run,
    small_model,
    small_packs,
    stage_config,
)

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


def test_training_learns(tmp_path):
    result = run(tmp_path, stage_config(budget=12_000))
    curve = losses(tmp_path)
    assert len(curve) == result.steps
    assert sum(curve[-5:]) < 0.5 * sum(curve[:5])


def test_the_hybrid_learns_in_bf16(tmp_path):
    """Convolutions, scans and their vectors find their way to an optimizer too."""
    hybrid = build_model(ModelConfig(preset="hybrid", context=CONTEXT), VOCAB, seed=0)
    run(tmp_path, stage_config(budget=2_000, precision="bf16"), hybrid)
    curve = losses(tmp_path)
    assert curve[-1] < 0.5 * curve[0]


def test_budget_is_met_exactly_and_told(tmp_path):
    result = run(tmp_path, stage_config())
    assert result.last["tokens"] == 3_535
    assert result.last["share"] == 1.0
    assert sum(result.ledger.table()["tokens"].to_pylist()) == 3_535


def _batch_and_config(tmp_path, **changes):
    config = stage_config(**changes)
    packs = small_packs(tmp_path)
    order = plan_order(config, packs, seed=0)
    return assemble_batch(order, packs, 0, config.batch_rows), config


def _gradients(model, batch, config):
    with supervised_loss(model, config, ALONE) as loss_of:
        loss = accumulate_gradients(loss_of, batch, config, ALONE)
    return loss, {name: p.grad for name, p in model.named_parameters()}


@torch.no_grad()
def _whole_loss(model, batch):
    """Every logit computed, unsupervised ones ignored afterwards."""
    inputs = {name: torch.from_numpy(batch[name]) for name in ("input_ids", "position_ids")}
    logits = model(**inputs, use_cache=False).logits.flatten(0, 1)
    return F.cross_entropy(logits, torch.from_numpy(batch["labels"]).flatten(), ignore_index=IGNORE)


def test_loss_is_the_mean_over_supervised_targets(tmp_path):
    batch, config = _batch_and_config(tmp_path)
    model = small_model()
    torch.manual_seed(0)
    for p in model.parameters():  # the preset's output projections begin at zero
        p.data.add_(0.05 * torch.randn_like(p))
    loss, _ = _gradients(model, batch, config)
    expected = _whole_loss(model, batch)
    torch.testing.assert_close(loss, expected)


def test_logits_keep_what_the_model_does_to_them(tmp_path):
    """Granite divides its logits by a constant, outside the head that the loss looks into."""
    batch, config = _batch_and_config(tmp_path)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    granite = GraniteConfig(
        vocab_size=VOCAB, num_attention_heads=2, num_key_value_heads=2, logits_scaling=8.0, **shape
    )
    model = GraniteForCausalLM(granite)
    model.lm_head.weight.data.mul_(100)
    loss, _ = _gradients(model, batch, config)
    expected = _whole_loss(model, batch)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("micro_rows", [1, 4])
def test_accumulation_changes_nothing_but_rounding(tmp_path, micro_rows):
    batch, config = _batch_and_config(tmp_path)
    loss, whole = _gradients(small_model(), batch, config)
    small = config.model_copy(update={"micro_rows": micro_rows})
    same, parts = _gradients(small_model(), batch, small)
    torch.testing.assert_close(loss, same)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-6, rtol=1e-4)


def test_ranks_shares_add_up_to_the_batch(tmp_path):
    batch, _ = _batch_and_config(tmp_path, batch_rows=5)
    spans = [Ranks(rank=r, world=4, device=ALONE.device).rows(len(batch["row"])) for r in range(4)]
    rows = [row for span in spans for row in range(span.start, span.stop)]
    assert rows == list(range(5))


def test_two_stages_that_carry_the_optimizer_equal_one(tmp_path):
    """Same data (the permutation goes on), same weights, same momentum: the same run."""
    rows, schedule = 32, {"kind": "constant"}
    mixture = {"text": 1.0}
    packs = small_packs(tmp_path)
    one, two = small_model(), small_model()

    whole = stage_config(mixture=mixture, schedule=schedule, budget=2 * rows * CONTEXT)
    run(_folder(tmp_path, "one"), whole, one)

    half = stage_config(mixture=mixture, schedule=schedule, budget=rows * CONTEXT)
    first = plan_order(half, packs, seed=0)
    run(_folder(tmp_path, "a"), half, two, order=first, keep_optimizer=True)
    second = plan_order(half, packs, seed=0, cursors=first.cursors)
    carried = tmp_path / "a" / "stage" / "optimizer"
    run(_folder(tmp_path, "b"), half, two, order=second, optimizer_state=carried)

    weights = full_weights(one)
    for name, tensor in full_weights(two).items():
        assert torch.equal(tensor, weights[name]), name


def test_checkpoint_wins_over_the_carried_optimizer(tmp_path):
    run(_folder(tmp_path, "parent"), stage_config(), keep_optimizer=True)
    carried = tmp_path / "parent" / "stage" / "optimizer"
    model, interrupted = small_model(), small_model()
    run(_folder(tmp_path, "x"), stage_config(), model, optimizer_state=carried)
    folder = _folder(tmp_path, "y")
    with pytest.raises(KeyboardInterrupt):
        run(folder, stage_config(), optimizer_state=carried, on_step=interrupt_at(9))
    run(folder, stage_config(), interrupted, optimizer_state=carried)
    assert losses(tmp_path / "x") == losses(folder)
    assert all(map(torch.equal, model.parameters(), interrupted.parameters()))


def test_ctrl_c_finishes_the_step_and_the_next_run_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="run again to go on"):
        run(tmp_path, stage_config(), on_step=interrupt_at(5))
    stopped = len(losses(tmp_path))
    result = run(tmp_path, stage_config())
    assert result.resumed_at == stopped
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_divergence_is_named_with_its_step_and_a_remedy(tmp_path):
    config = stage_config(optimizer={"name": "adamw", "learning_rate": 1e30})
    with pytest.raises(ValueError, match=r"diverged at step \d.*optimizer\.learning_rate"):
        run(tmp_path, config)
    assert all(map(_finite, losses(tmp_path)))


def test_no_checkpoint_holds_a_diverged_model(tmp_path):
    config = stage_config(
        optimizer={"name": "adamw", "learning_rate": 1e30}, checkpoint_every_seconds=0
    )
    with pytest.raises(ValueError, match="diverged") as first:
        run(tmp_path, config)
    with pytest.raises(ValueError, match="diverged") as again:
        run(tmp_path, config)
    assert str(first.value) == str(again.value)


def test_packs_other_than_planned_are_refused(tmp_path):
    config = stage_config(mixture={"text": 1.0})
    packs = small_packs(tmp_path)
    order = plan_order(config, packs, seed=0)
    swapped = {"text": packs["problems"]}
    with pytest.raises(ValueError, match="another pack of text"):
        train(small_model(), order, swapped, config, seed=0, directory=tmp_path)


def test_metrics_lines_are_whole_json(tmp_path):
    run(tmp_path, stage_config())
    text = (tmp_path / "stage" / "metrics.jsonl").read_text(encoding="utf-8")
    keys = {
        "step", "loss", "gradient_norm", "learning_rate", "tokens", "share", "seconds",
        "tokens_per_second",
    }  # fmt: skip
    assert all(json.loads(line).keys() == keys for line in text.splitlines())


def test_bf16_trains_as_fp32_does_within_its_rounding(tmp_path):
    run(_folder(tmp_path, "full"), stage_config())
    run(_folder(tmp_path, "half"), stage_config(precision="bf16"))
    pairs = zip(losses(tmp_path / "full"), losses(tmp_path / "half"), strict=True)
    assert max(abs(a - b) for a, b in pairs) < 0.1


def _folder(parent, name):
    folder = parent / name
    folder.mkdir()
    return folder


def _finite(value):
    return value == value and abs(value) != float("inf")
