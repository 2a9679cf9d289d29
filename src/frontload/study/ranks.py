"""One stage over several processes: torchrun in between, and nobody left behind.

    launcher (the engine's job, or a shell) -> torchrun -> ranks

A stop goes down this line once: the launcher passes it to torchrun, torchrun to the ranks, and
each waits for the checkpoints below. A launcher or a torchrun that is killed does the same by
dying, since the kernel sends SIGINT to its child. The stage's lock is held by launcher and
torchrun both, so whoever comes next waits for what is still being saved. Linux only, one machine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

GRACE_SECONDS = 50.0
"""Less than the engine's patience with a job, more than torchrun's with its ranks (30 s)."""
_PARENT = "FRONTLOAD_PARENT"
_PR_SET_PDEATHSIG = 1


def launch(module: str, directory: Path, *, processes: int, lock: int) -> None:
    """Run `python -m module directory` on `processes` ranks; `lock` is a descriptor to hold.

    Raises:
        ChildProcessError: a rank failed; its own words are in the folder's error.txt.
        KeyboardInterrupt: stopped, after the ranks have.
    """
    command = [sys.executable, "-m", __spec__.name, str(processes), module, str(directory)]
    # A session of its own: the terminal's Ctrl-C reaches the launcher alone, which passes it on.
    torchrun = subprocess.Popen(
        command,
        env=os.environ | {_PARENT: str(os.getpid())},
        pass_fds=(lock,),
        start_new_session=True,
    )
    try:
        code = torchrun.wait()
    except KeyboardInterrupt:
        torchrun.send_signal(signal.SIGINT)
        try:
            torchrun.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            torchrun.kill()
        raise
    if code != 0:
        raise ChildProcessError(f"torchrun over {processes} processes ended with code {code}")


def stop_with_parent() -> None:
    """From now on this process gets SIGINT when the one that started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    parent = os.environ.get(_PARENT)
    if parent is not None and os.getppid() != int(parent):  # it was gone before we asked
        raise KeyboardInterrupt


def _torchrun(processes: str, module: str, directory: str) -> None:
    stop_with_parent()
    os.environ[_PARENT] = str(os.getpid())
    from torch.distributed.run import main

    main(["--standalone", "--nproc-per-node", processes, "-m", module, directory])


if __name__ == "__main__":
    _torchrun(*sys.argv[1:])
