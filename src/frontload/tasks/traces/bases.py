"""Numbers in other bases, bits, and hexadecimal expressions."""

from __future__ import annotations

import ast
import random

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work
from frontload.tasks.traces.lines import division, equation

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SIGNS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.LShift: "<<",
    ast.RShift: ">>",
}


class BaseConversion(GymFamily):
    """Digits into the number by Horner's rule, then remainders of repeated division."""

    name = "base_conversion"
    domain = "code"
    levels = (
        {"min_value": 4, "max_value": 99, "max_base": 5},
        {"min_value": 10, "max_value": 255, "max_base": 10},
        {"min_value": 10, "max_value": 500},
        {"min_value": 100, "max_value": 1000},
        {"min_value": 500, "max_value": 5000, "max_base": 20},
    )

    def work(self, entry: Entry) -> Work:
        known = entry["metadata"]
        source, target = known["source_base"], known["target_base"]
        steps = _to_decimal(known["source_repr"], source)
        if target != 10:
            steps += _from_decimal(known["decimal_value"], target)
        end = f"{known['source_repr']} in base {source} is, in base {target}, {entry['answer']}"
        checks = _to_decimal(entry["answer"], target)
        if target == 10:
            checks = _from_decimal(known["decimal_value"], source)
        return Work([*steps, end], checks)

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        digits = list(problem.answer)
        place = rng.randrange(len(digits))
        allowed = _DIGITS[1 if place == 0 else 0 : int(max(map(_DIGITS.index, digits))) + 2]
        digits[place] = rng.choice(allowed)
        return "".join(digits)


class CountBits(GymFamily):
    """Halve until nothing is left; the odd halves are the ones."""

    name = "count_bits"
    domain = "code"
    levels = tuple({"min_n": 2**bits, "max_n": 4 * 2**bits} for bits in (6, 8, 9, 10, 12))
    chance = 0.21

    def work(self, entry: Entry) -> Work:
        number, binary = entry["metadata"]["number"], entry["metadata"]["binary"]
        steps, left = [], number
        while left:
            steps.append(division(left, 2))
            left //= 2
        powers = [1 << place for place, bit in enumerate(reversed(binary)) if bit == "1"]
        total = " + ".join(map(str, reversed(powers)))
        steps += [f"{number} in binary: {binary}", f"number of ones: {entry['answer']}"]
        return Work(steps, [f"{total} = {number}"])


class BitwiseArithmetic(GymFamily):
    """`((0x3a1 + 0x2ff) << 2)`, innermost first; the checks redo each line in decimal."""

    name = "bitwise_arithmetic"
    domain = "code"
    levels = tuple({"difficulty": depth} for depth in (1, 2, 3))
    scored_by = ("problem",)

    def work(self, entry: Entry) -> Work | None:
        steps: list[str] = []
        checks: list[str] = []
        value = _evaluate(ast.parse(entry["metadata"]["problem"], mode="eval").body, steps, checks)
        return Work(steps, checks) if steps and hex(value) == entry["answer"] else None

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        value = int(problem.answer, 16)
        return hex(value + rng.choice((-1, 1)) * 16 ** rng.randint(0, 2) * rng.randint(1, 15))


def _to_decimal(written: str, base: int) -> list[str]:
    """Lines of Horner's rule, digits above 9 explained; empty for base 10."""
    if base == 10:
        return []
    values = [_DIGITS.index(digit) for digit in written]
    lines = [f"digit {_DIGITS[v]} is {v}" for v in sorted({v for v in values if v > 9})]
    total = values[0]
    for value in values[1:]:
        lines.append(f"{total} * {base} + {value} = {total * base + value}")
        total = total * base + value
    return lines or [f"digit {written} is {total}"]


def _from_decimal(number: int, base: int) -> list[str]:
    """Divisions with remainder; the remainders, read upwards, are the digits."""
    lines = []
    while number:
        digit = number % base
        lines.append(division(number, base) + (f", digit {_DIGITS[digit]}" if digit > 9 else ""))
        number //= base
    return lines


def _evaluate(node: ast.expr, steps: list[str], checks: list[str]) -> int:
    """The value of `node`; appends a line in hexadecimal and one in decimal per operation."""
    if isinstance(node, ast.Constant):
        return int(str(node.value))
    assert isinstance(node, ast.BinOp)
    left, right = _evaluate(node.left, steps, checks), _evaluate(node.right, steps, checks)
    sign = _SIGNS[type(node.op)]
    if sign == "<<":
        value, check = left << right, equation(left, "*", 1 << right)
    elif sign == ">>":
        value, check = left >> right, division(left, 1 << right)
    else:
        check = equation(left, sign, right)
        value = int(check.rpartition(" = ")[2])
    written = f"({hex(right)})" if right < 0 else hex(right)
    steps.append(f"{hex(left)} {sign} {written} = {hex(value)}")
    checks.append(check)
    return value
