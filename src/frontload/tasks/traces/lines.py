"""Lines of arithmetic, written one way everywhere: `7 - (-4) = 11`, `45 = 3 * 12 + 9`.

Only a right operand is put in brackets when negative, so a reader (and the test that re-verifies
every line of every trace) needs one rule. `/` is exact division.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def calculate(left: int, sign: str, right: int) -> int:
    """The value of `left sign right`; division must come out even."""
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    assert sign == "/", sign
    assert right
    assert left % right == 0
    return left // right


def equation(left: int, sign: str, right: int) -> str:
    """`left sign right = value`."""
    return f"{left} {sign} {bracketed(right)} = {calculate(left, sign, right)}"


def bracketed(value: int) -> str:
    """A number as right operand."""
    return f"({value})" if value < 0 else str(value)


def undo(left: int, sign: str, right: int) -> str:
    """The equation that leads from the result back to `left` (or `right`, where that is 0)."""
    value = calculate(left, sign, right)
    if sign == "*" and right == 0:
        return equation(right, "*", left)
    return equation(value, {"+": "-", "-": "+", "*": "/", "/": "*"}[sign], right)


def running(sign: str, operands: Sequence[int]) -> list[str]:
    """Lines of folding `operands` from the left."""
    lines, value = [], operands[0]
    for operand in operands[1:]:
        lines.append(equation(value, sign, operand))
        value = calculate(value, sign, operand)
    return lines


def division(number: int, divisor: int) -> str:
    """`number = divisor * quotient + remainder`."""
    quotient, remainder = divmod(number, divisor)
    return f"{number} = {bracketed(divisor)} * {bracketed(quotient)} + {remainder}"


def euclid(first: int, second: int) -> list[str]:
    """Divisions with remainder down to the greatest common divisor (Euclid, Elements VII.2)."""
    large, small = max(first, second), min(first, second)
    lines = []
    while small:
        lines.append(division(large, small))
        large, small = small, large % small
    return [*lines, f"gcd({first}, {second}) = {math.gcd(first, second)}"]
