"""Laws of running tasks side by side: all of them, on the threads asked for, errors passed on."""

from __future__ import annotations

import os
from functools import partial
from threading import Barrier, get_ident

import pytest

from frontload.kvcache.codec.parallel import run_all


@pytest.mark.parametrize("threads", [1, 2, 7, None])
def test_every_task_runs_once(threads: int | None) -> None:
    done: list[int] = []
    run_all([partial(done.append, i) for i in range(100)], threads)
    assert sorted(done) == list(range(100))
    assert threads != 1 or done == list(range(100))


def test_tasks_run_side_by_side() -> None:
    barrier, seen = Barrier(3), set()

    def wait() -> None:
        barrier.wait(timeout=60)
        seen.add(get_ident())

    run_all([wait] * 3, 3)
    assert len(seen) == 3
    assert get_ident() not in seen


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_is_raised_and_ends_what_has_not_begun(threads: int) -> None:
    def fail() -> None:
        raise ValueError("this one")

    done: list[int] = []
    with pytest.raises(ValueError, match="this one"):
        run_all([fail] * threads + [partial(done.append, 0)] * 50, threads)
    assert done == []
    run_all([partial(done.append, 0)] * 3, threads)
    assert len(done) == 3


def test_a_forked_child_has_threads_of_its_own() -> None:
    run_all([int, int], 2)
    child = os.fork()
    if child == 0:
        run_all([int, int], 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
