"""What encoding a chunk cost against what the profile was calibrated to: its drift.

Guarantees: code lengths are those of the words and escapes written, to the byte. Gives up: judging
loss; a chunk far from calibration loses more at the same level, which only its model can measure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PartDrift:
    """One part's cost; bits are of words and escapes over all values of the chunk."""

    depth: int
    group: int
    bits_per_value: float
    calibrated: float | None  # the profile's mean; None when it has none
    escapes: int
    symbols: int  # coded with alphabets that have an escape
    safer: bool  # the safer tables cost less and were used
    saved_bits: float  # a value, by using them

    @property
    def excess(self) -> float:
        """Share by which the part is longer than calibrated; 0 when unknown."""
        if not self.calibrated:
            return 0.0
        return self.bits_per_value / self.calibrated - 1

    @property
    def escape_rate(self) -> float:
        """Escapes over symbols that could have been one."""
        return self.escapes / max(self.symbols, 1)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A chunk's cost, part by part."""

    parts: tuple[PartDrift, ...]
    saturated: int  # integers beyond the profile's limit, cut to it
    beyond_calibration: bool  # positions that no calibration context had

    def __str__(self) -> str:
        lines = [
            f"depth {part.depth} group {part.group}: {part.bits_per_value:.4f} bits a value"
            + ("" if part.calibrated is None else f" ({part.excess:+.1%} against calibration)")
            + f", escapes {part.escape_rate:.2%}"
            + (f", safer tables saved {part.saved_bits:.4f} bits" if part.safer else "")
            for part in self.parts
        ]
        if self.saturated:
            lines.append(f"{self.saturated} integers were beyond the profile's limit and were cut")
        if self.beyond_calibration:
            lines.append("positions are beyond the longest context of calibration")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One chunk object; `ends[i]` bytes of it hold lossy parts 0 to i, the last all of it."""

    data: bytes
    ends: tuple[int, ...]
    report: Drift
