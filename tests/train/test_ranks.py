"""FSDP2 under torchrun: the same stage, spread over processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frontload.model.config import ModelConfig
from frontload.model.hybrid import DocumentwiseBlock
from frontload.model.presets import build_model
from frontload.train.distributed import decoder_layers
from tests.train.small_stage import interrupt_at, losses, run, run_and_leave_files, stage_config

PROGRAM = Path(__file__).with_name("small_stage.py")


def torchrun(folder: Path, ranks: int, **fields: object) -> None:
    """Train the small stage over some processes on the CPU (gloo)."""
    settings = [f"{name}={json.dumps(value)}" for name, value in fields.items()]
    command = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]
    done = subprocess.run(
        [sys.executable, *command, str(PROGRAM), str(folder), *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("preset", "layers", "apart"), [("tiny", 2, 0), ("hybrid", 8, 3)])
def test_every_layer_is_sharded_whatever_class_stands_in_for_it(preset, layers, apart):
    found = decoder_layers(build_model(ModelConfig(preset=preset, context=64), 300, seed=0))
    assert len(found) == layers
    assert sum(isinstance(layer, DocumentwiseBlock) for layer in found) == apart


def test_two_ranks_train_as_one_does(tmp_path):
    """batch_rows is odd, so the ranks' shares differ, and the last batch leaves one without."""
    fields = {"budget": 1_461, "batch_rows": 7}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    run_and_leave_files(one, stage_config(**fields))
    torchrun(two, 2, **fields)
    assert losses(two) == pytest.approx(losses(one), abs=2e-3)
    ledgers = [(folder / "stage" / "ledger.parquet").read_bytes() for folder in (one, two)]
    assert ledgers[0] == ledgers[1]


def test_a_stage_goes_on_with_another_number_of_ranks(tmp_path):
    one, grown = tmp_path / "one", tmp_path / "grown"
    one.mkdir()
    grown.mkdir()
    run_and_leave_files(one, stage_config())
    with pytest.raises(KeyboardInterrupt):
        run(grown, stage_config(), on_step=interrupt_at(9))
    torchrun(grown, 2)
    assert losses(grown)[:9] == losses(one)[:9]
    assert losses(grown) == pytest.approx(losses(one), abs=2e-3)
    ledgers = [(folder / "stage" / "ledger.parquet").read_bytes() for folder in (one, grown)]
    assert ledgers[0] == ledgers[1]
