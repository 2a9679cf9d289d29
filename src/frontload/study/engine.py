"""Jobs over local processes: each in its own, a few at a time, in the order their needs allow.

A job is a function and the folder it fills. It runs in a process forked from a server that has
imported the heavy libraries once, so starting one costs milliseconds; what it prints goes to
`log.txt` in its folder, and what ended it to `error.txt`. A job that fails does not stop the
others: those that need it are left out, the rest go on. Ctrl-C is passed on, running jobs get the
chance to save, and the engine returns by raising KeyboardInterrupt. The engine gives up retries:
a job is made to be run again.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PRELOAD = ("frontload.study.stage",)
ERROR = "error.txt"
GRACE_SECONDS = 60.0
POLL_SECONDS = 0.1

State = Literal["waiting", "running", "done", "failed", "left out"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """`function` is `module:name`, called with `arguments` in a process of its own."""

    name: str
    function: str
    arguments: tuple[Any, ...]
    directory: Path
    needs: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """Where everything that the job prints goes."""
        return self.directory / "log.txt"

    @property
    def failure(self) -> str:
        """Why the job failed: the error that it kept, else the last line of its log."""
        for path in (self.directory / ERROR, self.log):
            with suppress(OSError):
                text = path.read_text(encoding="utf-8", errors="replace").strip()
                if text:
                    said = text if path.name == ERROR else text.splitlines()[-1]
                    return f"{textwrap.shorten(said, 500)} (log: {self.log})"
        return f"no output, not even in {self.log}; is the disk full?"


@dataclass(kw_only=True)
class Progress:
    """What the engine knows at this moment; given to `on_poll`."""

    states: dict[str, State]
    started: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def named(self, state: State) -> tuple[str, ...]:
        """Names of the jobs in a state, in plan order."""
        return tuple(name for name, current in self.states.items() if current == state)


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """At most `workers` jobs at once; worker *i* of a GPU machine sees `devices[i]` alone."""

    workers: int
    threads: int = 1
    devices: tuple[str, ...] = ()

    def run(
        self,
        jobs: Sequence[Job],
        *,
        finished: Iterable[str] = (),
        before: Progress | None = None,
        on_poll: Callable[[Progress], None] = lambda _: None,
    ) -> Progress:
        """Run all jobs whose needs can be met; names in `finished` count as done already.

        `before` is an earlier run's progress to go on from: what failed there is still missing.

        Raises:
            KeyboardInterrupt: after running jobs have stopped; what they saved stays.
        """
        done = set(finished)
        progress = before or Progress(states={})
        progress.states.update({job.name: "waiting" for job in jobs})
        running: dict[str, tuple[Any, int]] = {}
        free = list(range(self.workers))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOAD))
        by_name = {job.name: job for job in jobs}
        try:
            while "waiting" in progress.states.values() or running:
                left_out = self._leave_out(by_name, progress)
                ready = self._ready(by_name, progress, done)
                assert ready or running or left_out, _unmet(by_name, progress, done)
                for job in ready[: len(free)]:
                    slot = free.pop(0)
                    running[job.name] = (self._start(context, job, slot), slot)
                    progress.states[job.name] = "running"
                    progress.started[job.name] = time.monotonic()
                for name in self._wait(running):
                    process, slot = running.pop(name)
                    free.append(slot)
                    progress.seconds[name] = time.monotonic() - progress.started[name]
                    progress.states[name] = "done" if process.exitcode == 0 else "failed"
                    if process.exitcode == 0:
                        done.add(name)
                    elif process.exitcode < 0:
                        _note_signal(by_name[name], -process.exitcode)
                on_poll(progress)
        except BaseException:
            _stop([process for process, _ in running.values()])
            raise
        return progress

    @staticmethod
    def _leave_out(by_name: dict[str, Job], progress: Progress) -> bool:
        """Whether a job was left out; those that need it are, the next time."""
        before = len(progress.named("left out"))
        for name, job in by_name.items():
            lost = any(progress.states.get(need) in ("failed", "left out") for need in job.needs)
            if progress.states[name] == "waiting" and lost:
                progress.states[name] = "left out"
        return len(progress.named("left out")) > before

    @staticmethod
    def _ready(by_name: dict[str, Job], progress: Progress, done: set[str]) -> list[Job]:
        return [
            job
            for name, job in by_name.items()
            if progress.states[name] == "waiting" and done.issuperset(job.needs)
        ]

    def _start(self, context: Any, job: Job, slot: int) -> Any:
        device = self.devices[slot % len(self.devices)] if self.devices else None
        process = context.Process(
            target=_child,
            args=(job, self.threads, device),
            name=job.name,
        )
        process.start()
        return process

    @staticmethod
    def _wait(running: dict[str, tuple[Any, int]]) -> list[str]:
        """Names of jobs that ended, after waiting at most one poll."""
        sentinels = [process.sentinel for process, _ in running.values()]
        if sentinels:
            multiprocessing.connection.wait(sentinels, timeout=POLL_SECONDS)
        return [name for name, (process, _) in running.items() if not process.is_alive()]


def _unmet(by_name: dict[str, Job], progress: Progress, done: set[str]) -> str:
    waiting = progress.named("waiting")
    lacks = (f"{name} needs {', '.join(set(by_name[name].needs) - done)}" for name in waiting)
    return f"nothing runs and nothing can start: {'; '.join(lacks)}"


@contextmanager
def errors_kept(directory: Path) -> Iterator[None]:
    """Write an error's own words to error.txt; the first one's, since later ones follow from it."""
    try:
        yield
    except Exception as error:
        with suppress(OSError), (directory / ERROR).open("x", encoding="utf-8") as file:
            file.write(f"{type(error).__name__}: {error}\n")
        raise


def _child(job: Job, threads: int, device: str | None) -> None:
    """The job's process: output to the log, one thread count, one device, then the function."""
    job.directory.mkdir(parents=True, exist_ok=True)
    (job.directory / ERROR).unlink(missing_ok=True)
    descriptor = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    os.setsid()  # the terminal's Ctrl-C reaches the engine alone, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_follow_engine, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    module, name = job.function.split(":")
    try:
        with errors_kept(job.directory):
            getattr(importlib.import_module(module), name)(*job.arguments)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(1)


def _follow_engine() -> None:
    """Stop, saving what can be saved, when the engine is gone (SIGKILL included)."""
    engine = multiprocessing.parent_process()
    assert engine is not None
    multiprocessing.connection.wait([engine.sentinel])
    os.kill(os.getpid(), signal.SIGINT)


def _note_signal(job: Job, number: int) -> None:
    name = signal.Signals(number).name
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    with suppress(OSError), job.log.open("a", encoding="utf-8") as file:  # a full disk
        file.write(f"the process was ended by {name}{hint}\n")


def _stop(processes: list[Any]) -> None:
    """Ask with SIGINT, wait for checkpoints to be written, then insist."""
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
