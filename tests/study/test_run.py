"""Laws of a run, on a study of a few seconds: nothing is lost, redone or overwritten in silence."""

from __future__ import annotations

import copy
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from frontload.study.run import Outcome, make_report, run_study
from frontload.study.spec import parse_spec

SPEC: dict[str, Any] = {
    "study": "small",
    "seeds": [0, 1],
    "model": {
        "preset": "tiny",
        "context": 64,
        "overrides": {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8},
    },
    "tokenizer": {"train_on": ["base"], "vocab_size": 300},
    "sources": {
        "base": {"kind": "installed-text", "max_characters": "300k", "holdout": 0.2},
        "traces": {"kind": "problems", "families": ["running_sum"], "size": 400},
    },
    "stages": {
        "trunk": {
            "kind": "pretrain",
            "budget": 12_000,
            "mixture": {"base": 1},
            "batch_rows": 16,
            "optimizer": {"learning_rate": 0.01},
        },
        "sft": {
            "kind": "sft",
            "budget": 3_000,
            "mixture": {"traces": 1},
            "batch_rows": 16,
            "optimizer": {"learning_rate": 0.01},
        },
    },
    "arms": {
        "plain": {"stages": ["trunk", {"use": "sft"}]},
        "mixed": {"stages": [{"use": "trunk", "mixture": {"base": 0.5, "traces": 0.5}}, "sft"]},
    },
    "evaluation": {
        "benchmarks": {"own": {"families": ["running_sum"], "items": 8}},
        "text": {"base text": {"source": "base", "max_tokens": 1000}},
        "max_new_tokens": 8,
    },
    "contrasts": [
        {
            "name": "mixed reads answers better",
            "question": "Which is better?",
            "treatment": "mixed",
            "control": "plain",
            "metric": "gold_nll",
            "on": "own",
            "expect": "lower",
            "equal": ["tokens", "sft_tokens"],
        }
    ],
}


def run(out: Path, spec: dict[str, Any] = SPEC, **options: Any) -> tuple[Outcome, str]:
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    outcome = run_study(parse_spec(spec), root=out, out=out, console=console, **options)
    return outcome, printed.getvalue()


def weights(out: Path) -> dict[str, bytes]:
    """Bytes of every trained model and ledger under a run."""
    kept = ("model.safetensors", "ledger.parquet")
    files = (p for p in (out / "small" / "stages").rglob("*") if p.name in kept)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("finished")
    outcome, _ = run(out)
    assert outcome.failures == {}
    make_report(outcome)
    return out


def test_a_run_leaves_the_files_that_it_promises(finished: Path) -> None:
    stage = finished / "small" / "stages" / "mixed-seed0"
    promised = ("stage.json", "metrics.jsonl", "ledger.parquet", "evaluation.parquet", "DONE")
    assert all((stage / name).is_file() for name in promised)
    assert all((finished / "small" / f).is_file() for f in ("plan.json", "results.json"))
    AutoModelForCausalLM.from_pretrained(stage / "model")
    hidden = {path.name for path in (finished / "small").rglob(".*")}
    assert hidden <= {".lock"}  # nothing half-written stays


def test_the_ledger_proves_equal_budgets(finished: Path) -> None:
    stages = finished / "small" / "stages"
    for seed in (0, 1):
        for arm in ("plain", "mixed"):
            pretrain = pq.read_table(stages / f"{arm}.trunk-seed{seed}" / "ledger.parquet")
            sft = pq.read_table(stages / f"{arm}-seed{seed}" / "ledger.parquet")
            assert sum(pretrain["tokens"].to_pylist()) == 12_000
            assert sum(sft["tokens"].to_pylist()) == 3_000


def test_seeds_start_from_different_weights(finished: Path) -> None:
    stages = finished / "small" / "stages"
    one, other = (
        load_file(stages / f"plain.trunk-seed{seed}" / "model" / "model.safetensors")
        for seed in (0, 1)
    )
    assert any((one[name] != other[name]).any() for name in one)


def test_a_second_run_reuses_everything(finished: Path) -> None:
    before = weights(finished)
    began = time.monotonic()
    outcome, _ = run(finished)
    assert (outcome.made, outcome.failures) == (0, {})
    assert time.monotonic() - began < 30
    assert weights(finished) == before


def test_a_study_killed_twice_ends_like_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC)
    spec["stages"]["trunk"]["checkpoint_every_seconds"] = 0
    spec["stages"]["sft"]["checkpoint_every_seconds"] = 0
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(spec))
    for sign, name in ((signal.SIGKILL, "*.trunk-seed0"), (signal.SIGINT, "*-seed1")):
        kill_when_training(tmp_path, sign, name)
    outcome, _ = run(tmp_path, spec)
    assert outcome.failures == {}
    assert weights(tmp_path) == weights(finished)


def kill_when_training(out: Path, sign: signal.Signals, name: str) -> None:
    """Start the study as a user would, and stop it once a stage of that name has trained a bit."""
    command = [sys.executable, "-m", "frontload.cli", "study", "run", "small.yaml", "--out", "."]
    with (out / "printed").open("w") as printed:
        study = subprocess.Popen(command, cwd=out, stdout=printed, stderr=printed)
        deadline = time.monotonic() + 300
        while not list(out.glob(f"small/stages/{name}/metrics.jsonl")):
            assert study.poll() is None, (out / "printed").read_text()
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)
        study.send_signal(sign)
        study.wait(timeout=120)
    assert study.returncode != 0


def test_other_settings_are_refused_field_by_field_and_nothing_is_touched(finished: Path) -> None:
    before = weights(finished)
    spec = copy.deepcopy(SPEC)
    spec["stages"]["sft"]["optimizer"]["learning_rate"] = 0.02
    with pytest.raises(ValueError, match=r"settings\.optimizer\.learning_rate: 0\.01 -> 0\.02"):
        run(finished, spec)
    assert weights(finished) == before


def test_stale_results_can_be_set_aside_and_are_kept(finished: Path, tmp_path: Path) -> None:
    run(tmp_path, SPEC | {"seeds": [0]})
    spec = copy.deepcopy(SPEC) | {"seeds": [0]}
    spec["stages"]["sft"]["optimizer"]["learning_rate"] = 0.02
    old = weights(tmp_path)["small/stages/plain-seed0/model/model.safetensors"]
    outcome, printed = run(tmp_path, spec, set_stale_aside=True)
    assert outcome.made == 2  # the two SFT stages; what they stand on is reused
    aside = tmp_path / "small" / "stale" / "plain-seed0.0"
    assert str(aside) in printed
    assert (aside / "model" / "model.safetensors").read_bytes() == old


def test_a_failed_stage_is_named_with_its_log_and_stops_no_other(tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC) | {"seeds": [0]}
    spec["arms"]["plain"]["stages"][0] = {"use": "trunk", "optimizer": {"learning_rate": 1e30}}
    outcome, _ = run(tmp_path, spec)
    assert "learning_rate" in outcome.failures["plain.trunk-seed0"]
    assert "log.txt" in outcome.failures["plain.trunk-seed0"]
    assert outcome.failures["plain-seed0"] == "left out: needs plain.trunk-seed0"
    assert (tmp_path / "small" / "stages" / "mixed-seed0" / "DONE").is_file()
    results = make_report(outcome)
    assert "plain-seed0" in results.failures
    assert results.contrasts[0].verdict == "not_measured"


def test_an_impossible_budget_is_refused_before_anything_trains(tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC) | {"contrasts": []}
    spec["arms"]["plain"]["stages"][1] = {"use": "sft", "budget": "3M"}
    with pytest.raises(ValueError, match=r"arms\.plain\.sft: budget: traces has .* max_passes"):
        run(tmp_path, spec)
    assert not list((tmp_path / "small" / "stages").glob("*/metrics.jsonl"))


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "small").mkdir()
    with (tmp_path / "small" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is at work"):
            run(tmp_path)


def test_a_checkpoint_with_another_tokenizer_is_refused(finished: Path, tmp_path: Path) -> None:
    start = finished / "small" / "stages" / "plain-seed0" / "model"
    spec = copy.deepcopy(SPEC) | {"seeds": [0]}
    spec["model"] = {"start": os.fspath(start), "context": 64}
    spec["tokenizer"] = {"train_on": ["traces"], "vocab_size": 300}
    outcome, _ = run(tmp_path, spec)
    assert "tokenizer" in outcome.failures["plain.trunk-seed0"]


def test_a_source_that_is_missing_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC)
    spec["sources"]["traces"] = {"kind": "files", "paths": ["nowhere.jsonl"]}
    with pytest.raises(ValueError, match=r"sources\.traces.*nowhere\.jsonl"):
        run(tmp_path, spec)
    assert not (tmp_path / "small" / "stages").exists()


def test_a_prompt_in_training_and_evaluation_is_refused_before_anything_trains(
    tmp_path: Path,
) -> None:
    rows = "".join(f'{{"question": "what is {i}?", "answer": "it is {i}"}}\n' for i in range(100))
    (tmp_path / "here.jsonl").write_text(rows)
    (tmp_path / "there.jsonl").write_text(rows)
    spec = copy.deepcopy(SPEC) | {"contrasts": []}
    spec["sources"] |= {
        "evaluated": {"kind": "files", "paths": ["here.jsonl"], "holdout": 0.3},
        "traces": {"kind": "files", "paths": ["there.jsonl"]},
    }
    spec["evaluation"]["benchmarks"]["asked"] = {"source": "evaluated", "items": 8}
    with pytest.raises(ValueError, match=r"benchmarks\.asked: 8 of 8 prompts .* sources\.traces"):
        run(tmp_path, spec)
    assert not list((tmp_path / "small" / "stages").glob("*/metrics.jsonl"))


def test_a_stage_over_two_processes_reads_the_same_rows(finished: Path, tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC) | {"seeds": [0], "contrasts": []}
    spec["arms"] = {"plain": ["trunk"]}
    del spec["stages"]["sft"]
    spec["engine"] = {"processes_per_stage": 2, "workers": 1}
    outcome, _ = run(tmp_path, spec)
    assert outcome.failures == {}
    ledger = tmp_path / "small" / "stages" / "plain-seed0" / "ledger.parquet"
    alone = finished / "small" / "stages" / "plain.trunk-seed0" / "ledger.parquet"
    assert ledger.read_bytes() == alone.read_bytes()


def test_claims_written_after_results_are_marked(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "small", tmp_path / "small")
    spec = copy.deepcopy(SPEC)
    spec["contrasts"].append(SPEC["contrasts"][0] | {"name": "an afterthought"})
    spec["contrasts"].append(SPEC["contrasts"][0] | {"name": "turned round", "expect": "higher"})
    outcome, _ = run(tmp_path, spec)
    assert outcome.made == 0
    late = {c.name: c.written_late for c in make_report(outcome).contrasts}
    assert late == {
        "mixed reads answers better": False,
        "an afterthought": True,
        "turned round": True,
    }
    assert "and 2 after it" in (tmp_path / "small" / "report.html").read_text()


def test_another_tokenizer_makes_the_evaluation_items_anew(tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC) | {"seeds": [0], "contrasts": []}
    spec["arms"] = {"plain": ["trunk"]}
    del spec["stages"]["sft"]
    run(tmp_path, spec)
    items = tmp_path / "small" / "data" / "evaluation-items" / "items.parquet"
    before = items.read_bytes()
    spec["tokenizer"]["vocab_size"] = 320
    outcome, _ = run(tmp_path, spec, set_stale_aside=True)
    assert outcome.reused == 0
    assert items.read_bytes() != before


def test_a_holdout_declared_on_a_union_can_be_evaluated(tmp_path: Path) -> None:
    for name in ("here", "there"):
        rows = (f'{{"question": "{name} {i}?", "answer": "{i}"}}\n' for i in range(60))
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    spec = copy.deepcopy(SPEC) | {"seeds": [0], "contrasts": []}
    spec["sources"] |= {
        name: {"kind": "files", "paths": [f"{name}.jsonl"]} for name in ("here", "there")
    }
    spec["sources"]["traces"] = {"kind": "union", "of": ["here", "there"], "holdout": 0.3}
    spec["arms"] = {"plain": ["trunk", "sft"]}
    spec["evaluation"]["benchmarks"]["asked"] = {"source": "traces", "items": 4}
    spec["stages"]["sft"]["budget"] = 800
    outcome, _ = run(tmp_path, spec)
    assert outcome.failures == {}
