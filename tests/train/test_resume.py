"""Killed stages: whatever the moment, they end as if nothing had happened."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from frontload.train.checkpoint import (
    FILE,
    Checkpoint,
    discard_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from tests.train.small_stage import (
    interrupt_at,
    losses,
    run,
    run_and_leave_files,
    small_model,
    stage_config,
)

PROGRAM = Path(__file__).with_name("small_stage.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
LEFT = ("final.safetensors", "ledger.parquet")


def start(folder: Path, **fields: object) -> subprocess.Popen[str]:
    """A real training process."""
    settings = [f"{name}={json.dumps(value)}" for name, value in fields.items()]
    command = [sys.executable, str(PROGRAM), str(folder), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def kill_after(process: subprocess.Popen[str], steps: int, seconds: float) -> int:
    """SIGKILL it `seconds` after it has done `steps` steps; returns the steps it told of."""
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(steps)]
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:  # to hit any moment of a step, checkpoint included
        pass
    process.kill()
    told += [int(line) for line in process.stdout if line.endswith("\n")]
    assert process.wait() == -signal.SIGKILL
    return told[-1]


def test_killed_twice_equals_never_killed(tmp_path):
    """Once while it writes a checkpoint after every step, once with steps to do again."""
    fields = {"budget": 6_007, "precision": "bf16"}
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    run_and_leave_files(calm, stage_config(**fields))
    reached = [
        kill_after(start(killed, **fields, checkpoint_every_seconds=every), steps, moment)
        for every, steps, moment in [(0.0, 9, 0.013), (0.05, 11, 0.007)]
    ]
    last = start(killed, **fields)
    resumed_at = int(last.communicate()[0].split()[0])
    assert last.returncode == 0
    assert reached[0] < resumed_at <= reached[1] + 2
    for name in LEFT:
        assert (calm / "stage" / name).read_bytes() == (killed / "stage" / name).read_bytes()
    assert losses(calm) == losses(killed)


def test_resume_at_every_step_equals_one_run(tmp_path):
    """Each process does one step only: all the state there is goes through the file."""
    calm, halting = tmp_path / "calm", tmp_path / "halting"
    calm.mkdir()
    halting.mkdir()
    fields = {"phases": _PHASES, "batch_rows": 24, "checkpoint_every_seconds": 0}
    run_and_leave_files(calm, stage_config(**fields))
    stops = 0
    while not (halting / "stage" / LEFT[1]).is_file():
        try:
            run_and_leave_files(halting, stage_config(**fields), on_step=interrupt_at())
        except KeyboardInterrupt:
            stops += 1
    assert stops > 3
    for name in LEFT:
        assert (calm / "stage" / name).read_bytes() == (halting / "stage" / name).read_bytes()
    assert losses(calm) == losses(halting)


_PHASES = [
    {"until": 0.6, "mixture": {"text": 1.0}},
    {"until": 1.0, "mixture": {"text": 0.5, "problems": 0.5}},
]


def test_killed_after_its_last_checkpoint_a_stage_has_nothing_left_to_do(tmp_path):
    """The checkpoint stays until the caller has stored the model."""
    config = stage_config(checkpoint_every_seconds=0)
    model, again = small_model(), small_model()
    first = run(tmp_path, config, model)
    second = run(tmp_path, config, again)
    assert second.resumed_at == second.steps
    assert second.last == first.last
    assert second.ledger.table().equals(first.ledger.table())
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_checkpoint_of_another_config_is_refused_field_by_field(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage_config(), on_step=interrupt_at())
    with pytest.raises(ValueError, match=r"batch_rows: 8 there, 4 now"):
        run(tmp_path, stage_config(batch_rows=4))


def test_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors.*remove it"):
        load_checkpoint(tmp_path, {})


def test_failed_write_is_named_and_costs_the_new_checkpoint_only(tmp_path):
    """The kernel refuses the write in its middle: no file may grow beyond 1000 bytes."""
    old = Checkpoint(tensors={"a/b": torch.arange(3)}, state={"identity": {}, "step": 3})
    save_checkpoint(tmp_path, old)
    new = Checkpoint(tensors={"a/b": torch.zeros(9999)}, state={"identity": {}, "step": 4})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="cannot write to") as error:
            save_checkpoint(tmp_path, new)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(error.value)
    kept = load_checkpoint(tmp_path, {})
    assert kept is not None
    assert kept.state["step"] == 3
    assert torch.equal(kept.part("a")["b"], torch.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_what_a_kill_left_of_a_write_is_cleared_by_the_next(tmp_path):
    left = tmp_path / f".{FILE}.partial"
    left.mkdir()
    (left / "half").write_bytes(b"half")
    tensors = {"a/b": torch.zeros(9)}
    save_checkpoint(tmp_path, Checkpoint(tensors=tensors, state={"identity": {}}))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    discard_checkpoint(tmp_path)
    assert not list(tmp_path.iterdir())


def test_full_disk_during_training_is_named_and_the_next_run_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage_config(), on_step=interrupt_at())
    stage = tmp_path / "stage"
    metrics = (stage / "metrics.jsonl").rename(stage / "aside")
    (stage / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        run(tmp_path, stage_config())
    assert str(stage) in str(error.value)
    assert "intact" in str(error.value)
    metrics.replace(stage / "metrics.jsonl")
    result = run(tmp_path, stage_config())
    assert result.resumed_at > 0
    assert len(losses(tmp_path)) == result.steps


def test_torn_metrics_line_is_dropped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage_config(), on_step=interrupt_at())
    with (tmp_path / "stage" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    assert len(losses_after_resume(tmp_path)) == run(tmp_path, stage_config()).steps


def losses_after_resume(folder: Path) -> list[float]:
    """Go on to the end."""
    run(folder, stage_config())
    return losses(folder)
