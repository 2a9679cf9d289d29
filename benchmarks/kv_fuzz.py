"""Damaged and hostile KV chunks by the hundred thousand: no crash, no hang, nothing silently wrong.

Mutates the golden objects (tests/kvcache/golden) and decodes them in a process of its own, in
memory with a guard page behind it, so that a read or write past the end is a crash and a crash is
seen; a case that does not end is seen, too. Shorter rounds do the same to objects of wider heads,
and with kernels compiled to check bounds.

Half of the cases keep broken checksums: there a decoder must refuse, or give what was encoded. The
other half is sealed with right ones: it must refuse, or give the declared shape.

    python benchmarks/kv_fuzz.py                  # 100,000 cases; prints tables, writes results/
    python benchmarks/kv_fuzz.py --cases 1000000 --seed 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "kv_fuzz.json"
STARTING_SECONDS = 600  # until the first case: kernels may have to be compiled
CASE_SECONDS = 20  # a case takes about a millisecond


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a worker reported; `failure` is empty or says which case failed, and how."""

    what: str
    seed: int
    cases: int
    seconds: float
    cases_per_second: float
    peak_growth_mib: float  # of memory, over the whole round
    outcomes: dict[str, int]
    failure: str


def run_round(
    what: str, cases: int, seed: int, *, wide: bool = False, bounds_checked: bool = False
) -> Round:
    """Run cases 0 to `cases` of `seed` in a process, and watch it."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        environment = dict(os.environ)
        if bounds_checked:  # compiled code must not mix with that of normal runs
            environment |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-m", "tests.kvcache.fuzzing", "--cases", str(cases)]
        command += ["--seed", str(seed), "--progress", str(progress)]
        command += ["--wide"] * wide
        with (Path(folder) / "out").open("w+") as out, (Path(folder) / "err").open("w+") as err:
            worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)
            failure = _watch(worker, progress)
            if failure:
                err.seek(0)
                trouble = err.read().strip().splitlines()[-1:]
                failure = " ".join([failure, *trouble])
            out.seek(0)
            report = {} if failure else json.load(out)
    seconds = report.get("seconds", 0.0)
    return Round(
        what=what,
        seed=seed,
        cases=sum(report.get("outcomes", {}).values()),
        seconds=round(seconds, 1),
        cases_per_second=round(cases / seconds, 1) if seconds else 0.0,
        peak_growth_mib=report.get("peak_growth_mib", 0.0),
        outcomes=report.get("outcomes", {}),
        failure=failure,
    )


def _watch(worker: subprocess.Popen[bytes], progress: Path) -> str:
    """Wait for the worker's end; what went wrong, or nothing."""
    last, since = -1, time.monotonic()
    while True:
        try:
            worker.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            case = _case(progress)
            if case != last:
                last, since = case, time.monotonic()
            patience = CASE_SECONDS if case > 0 else STARTING_SECONDS
            if time.monotonic() - since > patience:
                worker.kill()
                worker.wait()
                return f"case {case} did not end within {patience} s"
        else:
            code = worker.returncode
            return f"case {_case(progress)}: exit code {code}" if code else ""


def _case(progress: Path) -> int:
    content = progress.read_bytes() if progress.exists() else b""
    return int.from_bytes(content, "little") if len(content) == 8 else -1


def show(rounds: list[Round]) -> None:
    """A table of outcomes, damaged and hostile side by side."""
    console = Console(width=100)
    for done in rounds:
        console.print(
            f"{done.what}, {done.cases:,} cases of seed {done.seed}: "
            f"{done.cases_per_second:,.0f} a second, memory grew by {done.peak_growth_mib:.0f} MiB",
            highlight=False,
        )
        table = Table("outcome", box=None)
        by_outcome: dict[str, dict[str, int]] = defaultdict(dict)
        for name, count in done.outcomes.items():
            kind, outcome = name.split(": ")
            by_outcome[outcome][kind] = count
        for kind in ("damaged", "hostile"):
            table.add_column(kind, justify="right")
        for outcome, counts in sorted(by_outcome.items()):
            table.add_row(outcome, *(f"{counts.get(k, 0):,}" for k in ("damaged", "hostile")))
        console.print(table)


def main() -> int:
    """Run both rounds, print, write; 1 if a case crashed, hung, or decoded wrongly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rounds = [
        run_round("golden objects", options.cases, options.seed),
        run_round("wide heads", options.cases // 5, options.seed + 1, wide=True),
        run_round("bounds checked", options.cases // 5, options.seed + 2, bounds_checked=True),
    ]
    show(rounds)
    where = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results = {"machine": where, "rounds": [asdict(done) for done in rounds]}
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    for done in rounds:
        if done.failure:
            print(f"seed {done.seed}: {done.failure}", file=sys.stderr)
            print(
                f"again: python -m tests.kvcache.fuzzing --seed {done.seed} --first CASE --cases 1 "
                "--progress FILE",
                file=sys.stderr,
            )
    return 1 if any(done.failure for done in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
