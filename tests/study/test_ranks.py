"""Laws of a stage over several processes: whoever is stopped or killed, the ranks save and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from frontload.study.ranks import launch, stop_with_parent

HERE = "tests.study.test_ranks"


def wait_for(folder: Path, pattern: str, number: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < number:
        assert time.monotonic() < deadline, f"{pattern} never appeared"
        threading.Event().wait(0.02)


@pytest.mark.parametrize(
    ("sign", "to"), [("SIGINT", "launcher"), ("SIGKILL", "launcher"), ("SIGKILL", "torchrun")]
)
def test_ranks_save_and_end_when_those_above_are_stopped(
    tmp_path: Path, sign: str, to: str
) -> None:
    paths = os.pathsep.join(filter(None, sys.path))
    launcher = subprocess.Popen(
        [sys.executable, "-m", HERE, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths}
    )
    wait_for(tmp_path, "working-*", 2)
    torchrun = int((tmp_path / "working-0").read_text())
    os.kill(launcher.pid if to == "launcher" else torchrun, signal.Signals[sign])
    assert launcher.wait(120) != 0
    if sign == "SIGINT":
        assert len(list(tmp_path.glob("saved-*"))) == 2  # nobody left before they were done
    wait_for(tmp_path, "saved-*", 2)


def _rank(folder: Path) -> None:
    """Work until stopped, then save for a second, in which another signal would disturb."""
    stop_with_parent()
    rank = os.environ["RANK"]
    try:
        (folder / f".{rank}").write_text(str(os.getppid()))
        (folder / f".{rank}").rename(folder / f"working-{rank}")
        while True:
            signal.pause()
    except KeyboardInterrupt:
        threading.Event().wait(1)
        (folder / f"saved-{rank}").touch()
        raise


if __name__ == "__main__":
    if "RANK" in os.environ:
        _rank(Path(sys.argv[1]))
    else:
        with (Path(sys.argv[1]) / ".lock").open("w") as lock:
            launch(HERE, Path(sys.argv[1]), processes=2, lock=lock.fileno())
