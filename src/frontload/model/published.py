"""What every load from a hub or a folder shares: weights and settings only, never their code.

transformers can run Python files that lie beside a model, and asks on the terminal whether it
should. A study is started unattended and trains on what others publish, so the answer is always no.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CodeRefused(ValueError):
    """What was to be loaded needs code of its own."""


@contextmanager
def refusing_code(setting: str, origin: str) -> Iterator[None]:
    """Say in our words why a load with `trust_remote_code=False` failed, if for its code.

    Raises:
        CodeRefused: `origin` (given as `setting`) needs Python files of its own.
    """
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise CodeRefused(
            f"{setting}: {origin} needs Python code of its own, and no code from a hub or a folder "
            "is executed; give one whose class is in transformers itself"
        ) from None
