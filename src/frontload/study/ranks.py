"""One stage over several processes: torchrun in between, and nobody left behind.

    launcher (the engine's job, or a shell) -> torchrun -> ranks

A stop goes down this line once: the launcher passes it to torchrun, torchrun to the ranks, and
each waits for the checkpoints below. A launcher or a torchrun that is killed stops those
below too, since each watches the one that started it. The stage's lock is held by launcher and
torchrun both, so whoever comes next waits for what is still being saved. Linux only, one machine.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

GRACE_SECONDS = 50.0
"""Less than the engine's patience with a job, more than torchrun's with its ranks."""
_RANKS_GRACE_SECONDS = 40
_PARENT = "FRONTLOAD_PARENT"


def launch(module: str, directory: Path, *, processes: int, lock: int) -> None:
    """Run `python -m module directory` on `processes` ranks; `lock` is a descriptor to hold.

    Raises:
        ChildProcessError: a rank failed; its own words are in the folder's error.txt.
        KeyboardInterrupt: stopped, after the ranks have.
    """
    command = [
        sys.executable,
        "-m",
        "frontload.study.ranks",
        str(processes),
        module,
        str(directory),
    ]
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
    """From now on this process gets one SIGINT when the one that started it is gone.

    The kernel's own way (PR_SET_PDEATHSIG) signals once for every thread of the parent that
    ends, and a second SIGINT means "do not save".
    """
    parent = os.environ.get(_PARENT)
    if parent is None:  # a torchrun that somebody else started
        return
    try:
        ended = os.pidfd_open(int(parent))
    except ProcessLookupError:
        raise KeyboardInterrupt from None
    if os.getppid() != int(parent):  # gone before we looked, and its number given away
        raise KeyboardInterrupt

    def watch() -> None:
        select.select([ended], [], [])
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def _torchrun(processes: str, module: str, directory: str) -> None:
    stop_with_parent()
    os.environ[_PARENT] = str(os.getpid())
    from torch.distributed.run import main

    patience = ["--shutdown-timeout", str(_RANKS_GRACE_SECONDS)]
    main(["--standalone", "--nproc-per-node", processes, *patience, "-m", module, directory])


if __name__ == "__main__":
    _torchrun(*sys.argv[1:])
