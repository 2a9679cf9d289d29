"""Tasks over threads: how the codec uses all cores.

Guarantees: the first error is raised, after all tasks that had begun have ended; threads are kept
between calls. Gives up: anything but tasks that release the interpreter's lock, and calls from
within a task with `threads` other than 1, which might wait for themselves.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

Task = Callable[[], None]
MOST_THREADS = 256


def num_threads(threads: int | None) -> int:
    """`threads`, or one a core if it is None."""
    return min(threads or os.cpu_count() or 1, MOST_THREADS)


def run_all(tasks: Sequence[Task], threads: int | None) -> None:
    """Run `tasks`, in their order, on `threads` (None: one a core)."""
    count = min(num_threads(threads), len(tasks))
    rest = deque(tasks)
    if count <= 1:
        return _run(rest)
    workers = [_pool().submit(_run, rest) for _ in range(count)]
    wait(workers)
    for worker in workers:
        worker.result()
    return None


def _run(rest: deque[Task]) -> None:
    while rest:
        try:
            task = rest.popleft()
        except IndexError:  # another thread was faster
            return
        try:
            task()
        except BaseException:
            rest.clear()
            raise


_kept: list[ThreadPoolExecutor] = []


def _pool() -> ThreadPoolExecutor:
    """The threads, which start when they are first needed."""
    if not _kept:
        _kept.append(ThreadPoolExecutor(MOST_THREADS, "kv-codec"))
    return _kept[0]


os.register_at_fork(after_in_child=_kept.clear)  # a child has none of its parent's threads
