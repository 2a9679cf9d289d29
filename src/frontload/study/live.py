"""What a person sees while a study runs: one bar for the whole, one line per running stage.

Everything shown is read from the files that stages write (`metrics.jsonl`), so the display can
never disturb the run. Without a terminal each finished job is one line instead.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from frontload.study.engine import Progress

REFRESH_SECONDS = 0.5
_TAIL_BYTES = 4096


def last_metrics(directory: Path) -> dict[str, Any] | None:
    """The last whole line of a stage's metrics.jsonl, or None before there is one."""
    path = directory / "metrics.jsonl"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        if line.startswith(b"{") and line.endswith(b"}"):
            return dict(json.loads(line))
    return None


class LiveDisplay:
    """Call it with the engine's progress; use it as a context manager.

    `work` maps each job to its training tokens (0 for jobs that do not train); `already` is the
    part of the whole that earlier runs finished.
    """

    def __init__(
        self,
        console: Console,
        work: Mapping[str, int],
        directories: Mapping[str, Path],
        already: int = 0,
    ) -> None:
        self.console, self.work, self.directories = console, work, directories
        self.already = already
        self.total = sum(work.values()) + already
        self.began = time.monotonic()
        self._told: set[str] = set()
        self._next = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        for name, state in progress.states.items():
            if state in ("done", "failed") and name not in self._told:
                self._told.add(name)
                self._tell(name, state, progress.seconds.get(name))
        if self.console.is_terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + REFRESH_SECONDS
            self._live.update(self._picture(progress), refresh=True)

    def _tell(self, name: str, state: str, seconds: float | None) -> None:
        took = "" if seconds is None else f" {seconds:6.1f} s"
        if not self.console.is_terminal or state != "done":
            done = sum(self.work[n] for n in self._told if n in self.work) + self.already
            share = f"{100 * done / self.total:3.0f} %" if self.total else ""
            self.console.print(f"{share} {state:8s}{took}  {name}", highlight=False)

    def _picture(self, progress: Progress) -> Group:
        rows = Table.grid(padding=(0, 2))
        trained = sum(self.work[name] for name in progress.named("done"))
        for name in progress.named("running"):
            metrics = last_metrics(self.directories[name]) if self.work[name] else None
            if metrics is None:
                rows.add_row(name, "preparing", "", "", "")
                continue
            trained += int(self.work[name] * metrics["share"])
            if metrics["share"] >= 1:
                rows.add_row(name, "evaluating", "", "", "")
                continue
            rate = metrics["tokens_per_second"]
            left = self.work[name] * (1 - metrics["share"]) / max(rate, 1e-9)
            rows.add_row(
                name,
                _bar(metrics["share"], 20),
                f"loss {metrics['loss']:.3f}",
                f"{rate:,.0f} tokens/s",
                f"{clock(left)} left",
            )
        done, failed = len(progress.named("done")), len(progress.named("failed"))
        share = (trained + self.already) / self.total if self.total else 1.0
        elapsed = time.monotonic() - self.began
        left = elapsed * (1 - share) / share if trained and not self.already else 0.0
        if trained and self.already:
            left = elapsed * (self.total - self.already - trained) / trained
        head = f"{_bar(share, 40)} {100 * share:3.0f} %  {done} of {len(progress.states)} jobs"
        head += f", {failed} failed" if failed else ""
        head += f"  {clock(elapsed)} gone" + (f", about {clock(left)} left" if left else "")
        return Group(head, rows)


def _bar(share: float, width: int) -> str:
    full = round(width * min(max(share, 0.0), 1.0))
    return "━" * full + "╌" * (width - full)


def clock(seconds: float) -> str:
    """`1:05` or `2:03:09`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
