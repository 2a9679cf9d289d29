"""The command line, as a user meets it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from frontload.study.live import clock, last_metrics
from tests.study.test_run import SPEC


def frontload(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "frontload.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec of one seed and its finished run."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "small.yaml").write_text(yaml.safe_dump(copy.deepcopy(SPEC) | {"seeds": [0]}))
    ran = frontload("study", "run", "small.yaml", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert "mixed reads answers better" in ran.stdout
    assert "8 results made, 0 reused" in ran.stdout
    return folder


def test_plan_prints_graph_budgets_and_cost_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SPEC))
    planned = frontload("study", "plan", "small.yaml", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    for words in ("plain.trunk", "15,000", "FLOPs", "tokens/s (measured now)", "sharing"):
        assert words in planned.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_the_report_can_be_rebuilt_alone(home: Path) -> None:
    run = home / "runs" / "small"
    before = json.loads((run / "results.json").read_text())
    for name in ("results.json", "report.html"):
        (run / name).unlink()
    rebuilt = frontload("study", "report", "small.yaml", cwd=home)
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert json.loads((run / "results.json").read_text()) == before
    assert "mixed reads answers better" in (run / "report.html").read_text()


def test_a_mistake_ends_with_one_line_and_no_trace(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SPEC | {"seed": [1]}))
    refused = frontload("study", "run", "small.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "seed: unknown key; did you mean 'seeds'?" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_profiles_are_printed_and_saved_but_never_over_others(tmp_path: Path) -> None:
    rows = "".join(f'{{"question": "{i} + 1?", "answer": "{i + 1}"}}\n' for i in range(20))
    (tmp_path / "sums.jsonl").write_text(rows)
    made = frontload("data", "profile", "sums.jsonl", "--out", "cards", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "unique prompts" in made.stdout
    assert {path.suffix for path in (tmp_path / "cards").iterdir()} == {".json", ".html"}
    again = frontload("data", "profile", "sums.jsonl", "--out", "cards", cwd=tmp_path)
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_a_torn_last_line_of_metrics_is_passed_over(tmp_path: Path) -> None:
    assert last_metrics(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert last_metrics(tmp_path) == {"step": 1}


@pytest.mark.parametrize(("seconds", "shown"), [(5, "0:05"), (65, "1:05"), (7389, "2:03:09")])
def test_times_are_written_as_on_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
