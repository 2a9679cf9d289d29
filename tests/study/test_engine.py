"""Laws of the engine, with real processes: order, failure, and being stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from frontload.study.engine import Job, LocalEngine, Progress, errors_kept
from frontload.study.run import device_groups

HERE = __name__


def leave_mark(directory: Path) -> None:
    (directory / "mark").write_text(str(os.getpid()))


def fail(directory: Path) -> None:
    raise ValueError(f"cannot make {directory.name}; add more of it")


def die(directory: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lose_the_log_and_die(directory: Path) -> None:
    (directory / "log.txt").unlink()
    (directory / "log.txt").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)


def keep_an_error(directory: Path) -> None:
    with errors_kept(directory):
        raise ValueError("the cause")


def save_when_stopped(directory: Path) -> None:
    (directory / "working").touch()
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        (directory / "saved").touch()
        raise


def jobs(tmp_path: Path, *described: tuple[str, str, tuple[str, ...]]) -> list[Job]:
    return [
        Job(
            name=name,
            function=f"{HERE}:{function}",
            arguments=(tmp_path / name,),
            directory=tmp_path / name,
            needs=needs,
        )
        for name, function, needs in described
    ]


def test_jobs_run_after_their_needs_each_in_its_own_process(tmp_path: Path) -> None:
    described = jobs(tmp_path, ("child", "leave_mark", ("parent",)), ("parent", "leave_mark", ()))
    progress = LocalEngine(workers=2).run(described)
    assert set(progress.states.values()) == {"done"}
    marks = [tmp_path / name / "mark" for name in ("parent", "child")]
    assert marks[0].stat().st_mtime_ns < marks[1].stat().st_mtime_ns
    assert len({mark.read_text() for mark in marks} | {str(os.getpid())}) == 3


@pytest.mark.parametrize(("function", "words"), [("fail", "add more of it"), ("die", "SIGKILL")])
def test_a_failure_leaves_out_what_needs_it_and_nothing_else(
    tmp_path: Path, function: str, words: str
) -> None:
    described = jobs(
        tmp_path,
        ("bad", function, ()),
        ("needs bad", "leave_mark", ("bad",)),
        ("needs that", "leave_mark", ("needs bad",)),
        ("other", "leave_mark", ()),
    )
    progress = LocalEngine(workers=1).run(described)
    assert list(progress.states.values()) == ["failed", "left out", "left out", "done"]
    assert words in described[0].log.read_text().splitlines()[-1]
    assert words in described[0].failure


def test_finished_jobs_count_as_done(tmp_path: Path) -> None:
    described = jobs(tmp_path, ("child", "leave_mark", ("made before",)))
    assert LocalEngine(workers=1).run(described, finished=["made before"]).named("done") == (
        "child",
    )


def test_a_log_that_cannot_be_written_fails_its_job_alone(tmp_path: Path) -> None:
    described = jobs(
        tmp_path,
        ("no log", "leave_mark", ()),
        ("lost log", "lose_the_log_and_die", ()),
        ("other", "leave_mark", ()),
    )
    described[0].log.mkdir(parents=True)
    progress = LocalEngine(workers=1).run(described)
    assert list(progress.states.values()) == ["failed", "failed", "done"]
    assert all("log.txt" in job.failure for job in described[:2])


def test_the_failure_told_is_the_first_error_kept_by_the_last_attempt(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, ("bad", "keep_an_error", ()))
    job.directory.mkdir()
    (job.directory / "error.txt").write_text("an older attempt's\n")
    LocalEngine(workers=1).run([job])
    assert job.failure.startswith("ValueError: the cause (log: ")
    with pytest.raises(ChildProcessError), errors_kept(job.directory):
        raise ChildProcessError("follows from it")
    assert job.failure.startswith("ValueError: the cause (log: ")


@pytest.mark.parametrize("need", ["nobody's", "itself"])
def test_a_need_that_nothing_meets_is_named(tmp_path: Path, need: str) -> None:
    described = jobs(tmp_path, ("itself", "leave_mark", (need,)), ("free", "leave_mark", ()))
    with pytest.raises(AssertionError, match=f"itself needs {need}"):
        LocalEngine(workers=1).run(described)
    assert (tmp_path / "free" / "mark").exists()


def test_workers_share_the_gpus_that_this_process_may_use() -> None:
    assert device_groups(3, 1, None) == ("0", "1", "2")
    assert device_groups(2, 1, "4,5") == ("4", "5")
    assert device_groups(3, 2, "GPU-a,GPU-b,GPU-c") == ("GPU-a,GPU-b",)
    with pytest.raises(ValueError, match="processes_per_stage: 4, but there are 2 GPUs"):
        device_groups(2, 4, "4,5")


def test_being_interrupted_lets_running_jobs_save(tmp_path: Path) -> None:
    described = jobs(tmp_path, ("long", "save_when_stopped", ()))

    def interrupt_once_working(_: Progress) -> None:
        if (tmp_path / "long" / "working").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalEngine(workers=1).run(described, on_poll=interrupt_once_working)
    assert (tmp_path / "long" / "saved").exists()


def test_jobs_save_and_end_when_the_engine_is_killed(tmp_path: Path) -> None:
    script = (
        f"from pathlib import Path; from {HERE} import jobs; "
        "from frontload.study.engine import LocalEngine\n"
        "if __name__ == '__main__':\n"
        f"    described = jobs(Path({str(tmp_path)!r}), ('long', 'save_when_stopped', ()))\n"
        "    LocalEngine(workers=1).run(described)\n"
    )
    (tmp_path / "engine.py").write_text(script)
    paths = os.pathsep.join(filter(None, sys.path))
    engine = subprocess.Popen(
        [sys.executable, tmp_path / "engine.py"], env={**os.environ, "PYTHONPATH": paths}
    )
    wait_for(tmp_path / "long" / "working")
    engine.kill()
    engine.wait()
    wait_for(tmp_path / "long" / "saved")


def wait_for(path: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        threading.Event().wait(0.02)
