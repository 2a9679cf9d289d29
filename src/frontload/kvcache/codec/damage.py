"""What can be wrong with a container, one class each, all of them `ValueError`.

Guarantees: whoever decodes bytes catches `ContainerError` and nothing else; each error says what
was found and what to do about it. Gives up: nothing.
"""

from __future__ import annotations


class ContainerError(ValueError):
    """Bytes that cannot be decoded; its subclasses say why."""


class NotAContainer(ContainerError):
    """Does not begin as a chunk object does."""

    def __init__(self, found: bytes) -> None:
        super().__init__(f"not a KV chunk: begins with {found!r}, expected b'FLKVCHNK'")
        self.found = found


class UnsupportedVersion(ContainerError):
    """Of a format version that this code does not read."""

    def __init__(self, *, found: int, known: int) -> None:
        super().__init__(
            f"KV chunk of format version {found}, this frontload reads {known}; encode it again "
            "or use the frontload that wrote it"
        )
        self.found = found
        self.known = known


class Truncated(ContainerError):
    """Ends too early; `present` and `needed` are in bytes."""

    def __init__(self, *, present: int, needed: int, of: str) -> None:
        super().__init__(
            f"truncated: {present} bytes, {of} needs {needed}; fetch it again or read it as a "
            "prefix"
        )
        self.present = present
        self.needed = needed


class Damaged(ContainerError):
    """Checksummed bytes have changed since they were written; `where` is the header or a part."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"damaged: {where}: {why}; fetch or encode it again")
        self.where = where


class TooLarge(ContainerError):
    """Declares more than the reader's limits allow."""

    def __init__(self, what: str, declared: int, limit: int) -> None:
        super().__init__(
            f"too large: {what} {declared}, the limit is {limit}; raise it in Limits if the "
            "source is trusted"
        )
        self.what = what
        self.declared = declared
        self.limit = limit


class WrongProfile(ContainerError):
    """Encoded with another profile than the reader's."""

    def __init__(self, *, found: bytes, expected: bytes) -> None:
        super().__init__(
            f"encoded with profile {found.hex()}, read with {expected.hex()}; load the profile "
            "that it was encoded with, or encode it again"
        )
        self.found = found
        self.expected = expected


class Malformed(ContainerError):
    """Checksums hold, but the content contradicts itself or the format."""

    def __init__(self, why: str) -> None:
        super().__init__(f"malformed: {why}")
