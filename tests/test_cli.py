"""Laws of the entry point, with real processes."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import signal
from frontload import cli
cli.app.command("interrupted")(lambda: signal.raise_signal(signal.SIGINT))
cli.main()
"""


def test_ctrl_c_says_that_the_same_command_goes_on() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, "interrupted"], capture_output=True, text=True
    )
    assert ended.returncode == 130
    assert ended.stderr.strip() == "stopped; the same command goes on from here"
