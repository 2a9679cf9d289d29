"""metrics.jsonl: one line per optimizer step, and the check that training still makes sense.

Guarantees: lines are in order and complete up to the last checkpoint; a resume drops what came
after it. A loss is read one step late, while the device works on the next step, so that reading
never makes the device wait; `flush` reads the last one, and comes before every checkpoint, so no
checkpoint holds weights whose loss was not finite.

Keys: step (from 0), loss (nats per supervised token of the batch), gradient_norm (before
clipping), learning_rate, tokens (so far, padding left out), share (of the budget), seconds (of
training, over all resumes), tokens_per_second (over the last steps of this process).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from frontload.train.checkpoint import naming_directory

FILE = "metrics.jsonl"
Metrics = dict[str, float]
_RATE_OVER = 32  # steps


class MetricsLog:
    """Appends lines; use as a context manager."""

    def __init__(
        self,
        directory: Path,
        *,
        first_step: int,
        tokens: int,
        seconds: float,
        on_step: Callable[[Metrics], None] | None = None,
        write: bool = True,
    ) -> None:
        self.directory, self.on_step = directory, on_step
        self.last: Metrics = {}
        self._pending: tuple[Metrics, Reading] | None = None
        self._began = time.perf_counter() - seconds
        self._recent = deque([(time.perf_counter(), float(tokens))], maxlen=_RATE_OVER)
        path = directory / FILE
        self._file = None
        if write:
            with naming_directory(directory):
                self.last = keep_lines_before(path, first_step)
                self._file = path.open("a", encoding="utf-8")

    def add(self, loss_and_norm: Tensor, line: Metrics) -> None:
        """Take the two numbers of a step, still on the device; write the step before it."""
        reading = Reading(loss_and_norm)
        self.flush()
        self._pending = line, reading

    def flush(self) -> None:
        """Write the line of the last step.

        Raises:
            ValueError: its loss or gradient is not finite.
        """
        if self._pending is None:
            return
        (line, reading), self._pending = self._pending, None
        loss, norm = reading.wait()
        now = time.perf_counter()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise ValueError(_diverged(loss, norm, line))
        self._recent.append((now, line["tokens"]))
        self.last = {
            **line,
            "loss": loss,
            "gradient_norm": norm,
            "seconds": now - self._began,
            "tokens_per_second": self._rate(),
        }
        if self._file is not None:
            with naming_directory(self.directory):
                self._file.write(json.dumps(self.last) + "\n")
                self._file.flush()
        if self.on_step is not None:
            self.on_step(self.last)

    @property
    def seconds(self) -> float:
        """Time spent training so far, over all resumes."""
        return time.perf_counter() - self._began

    def _rate(self) -> float:
        (begin, before), (end, after) = self._recent[0], self._recent[-1]
        return (after - before) / (end - begin) if end > begin else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            with naming_directory(self.directory):  # closing writes what a full disk refused
                self._file.close()


class Reading:
    """A few numbers on their way from the device."""

    def __init__(self, values: Tensor) -> None:
        self._host = values.detach().to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if values.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def wait(self) -> list[float]:
        """The numbers, once they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()


def keep_lines_before(path: Path, step: int) -> Metrics:
    """Cut metrics.jsonl after the lines of steps below `step`, and before a torn line.

    Returns the last line kept, empty where there is none.
    """
    last: Metrics = {}
    if not path.is_file():
        return last
    size = 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n") or (metrics := json.loads(line))["step"] >= step:
                break
            last = metrics
            size += len(line)
        file.truncate(size)
        os.fsync(file.fileno())
    return last


def _diverged(loss: float, norm: float, line: dict[str, Any]) -> str:
    return (
        f"training diverged at step {line['step']}, at {100 * line['share']:.0f} % of the budget: "
        f"loss {loss}, gradient norm {norm}. Lower optimizer.learning_rate (it was "
        f"{line['learning_rate']:g}), raise schedule.warmup, or set precision: fp32"
    )
