"""Linear equations solved for their variable, and arithmetic of complex numbers."""

from __future__ import annotations

import random
import re

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work
from frontload.tasks.traces.lines import bracketed, equation

_TERM = re.compile(r"(?P<sign>[+-]?) ?(?P<number>\d+)?\*?(?P<variable>[a-z])?")


class SimpleEquations(GymFamily):
    """`3*x + 5 = 41`: move the constant, divide by the factor; the check puts the value in."""

    name = "simple_equations"
    domain = "algebra"
    levels = (
        {"min_terms": 2, "max_terms": 2, "max_value": 9},
        {"min_terms": 2, "max_terms": 3, "max_value": 12},
        {"min_terms": 2, "max_terms": 3, "max_value": 30},
        {"min_terms": 3, "max_terms": 4, "max_value": 50},
        {"min_terms": 3, "max_terms": 5, "max_value": 100},
    )

    def core(self, entry: Entry) -> str:
        """The equation, in x whatever letter it was written with."""
        known = entry["metadata"]
        return known["equation"].replace(known["variable"], "x")

    def work(self, entry: Entry) -> Work | None:
        left, right = entry["metadata"]["equation"].split(" = ")
        factor, constant = _linear(left)
        if factor == 0:
            return None  # "0 = 0", from (5 - 5) * 3x, for which anything is right
        total, name = int(right), entry["metadata"]["variable"]
        product = total - constant
        value = product // factor
        steps, checks = [], []
        if constant:
            steps = [equation(total, "-", constant), f"{factor}*{name} = {product}"]
        if factor != 1:
            steps.append(equation(product, "/", factor))
        checks.append(equation(factor, "*", value))
        if constant:
            checks.append(equation(product, "+", constant))
        return Work([*steps, f"{name} = {value}"], checks)


class ComplexArithmetic(GymFamily):
    """Real and imaginary parts apart; division through the conjugate."""

    name = "complex_arithmetic"
    domain = "algebra"
    levels = (
        {"operations": ("+", "-"), "operations_weights": [0.5, 0.5]},
        {
            "operations": ("+", "-"),
            "operations_weights": [0.5, 0.5],
            **{f"{end}_{part}": size for end, size in (("min", -50), ("max", 50))
               for part in ("real", "imag")},
        },
        {"operations": ("+", "-", "*"), "operations_weights": [0.2, 0.2, 0.6]},
        {"operations": ("*", "/"), "operations_weights": [0.5, 0.5]},
    )  # fmt: skip
    scored_by = ("result",)

    def work(self, entry: Entry) -> Work | None:
        known = entry["metadata"]
        (a, b), (c, d) = (tuple(map(int, known[number])) for number in ("num1", "num2"))
        real, imaginary = known["result"]
        sign = known["operation"]
        if "-0.0" in entry["question"] + entry["answer"]:
            return None  # a negative zero, which no reader would write
        steps = _complex_steps(a, b, sign, c, d)
        checks = _complex_checks(a, b, sign, c, d, real, imaginary)
        written = {"*": "×", "/": "÷"}.get(sign, sign)
        pair = entry["question"].partition(": ")[2]
        assert f" {written} " in pair
        return Work([*steps, f"{pair} = {entry['answer']}"], checks)

    def score(self, problem: Problem, answer: str) -> float:
        """As for all; reasoning-gym gives "nan" a full mark, as min(1.0, nan) is 1.0."""
        return 0.0 if "nan" in answer.casefold() else super().score(problem, answer)

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        real, imaginary = problem.payload["metadata"]["result"]
        real += rng.choice((-2, -1, 0, 1, 2))
        imaginary += rng.choice((-2, -1, 1, 2))
        return f"{real:.1f} {'-' if imaginary < 0 else '+'} {abs(imaginary):.1f}i"


def _linear(text: str) -> tuple[int, int]:
    """(factor, constant) of a sum such as `25 - 60*x`."""
    factor = constant = 0
    for term in _TERM.finditer(text.replace(" ", "")):
        if not term[0]:
            continue
        number = int(term["number"] or 1) * (-1 if term["sign"] == "-" else 1)
        if term["variable"]:
            factor += number
        else:
            constant += number
    return factor, constant


def _complex_steps(a: int, b: int, sign: str, c: int, d: int) -> list[str]:
    """From a + bi and c + di to the parts of the result."""
    if sign in "+-":
        return [f"real: {equation(a, sign, c)}", f"imaginary: {equation(b, sign, d)}"]
    if sign == "*":
        return [
            *(equation(x, "*", y) for x, y in ((a, c), (b, d), (a, d), (b, c))),
            f"real: {equation(a * c, '-', b * d)}",
            f"imaginary: {equation(a * d, '+', b * c)}",
        ]
    norm, real, imaginary = c * c + d * d, a * c + b * d, b * c - a * d
    return [
        f"norm: {_two_products(c, c, '+', d, d)}",
        f"real: {_two_products(a, c, '+', b, d)}",
        f"imaginary: {_two_products(b, c, '-', a, d)}",
        equation(real, "/", norm),
        equation(imaginary, "/", norm),
    ]


def _complex_checks(
    a: int, b: int, sign: str, c: int, d: int, real: int, imaginary: int
) -> list[str]:
    """The inverse operation; for a product, that squared lengths multiply."""
    if sign in "+-":
        inverse = "-" if sign == "+" else "+"
        return [equation(real, inverse, c), equation(imaginary, inverse, d)]
    if sign == "*":
        lengths = [x * x + y * y for x, y in ((a, b), (c, d), (real, imaginary))]
        squares = [_two_products(x, x, "+", y, y) for x, y in ((a, b), (c, d), (real, imaginary))]
        return [*squares, equation(lengths[0], "*", lengths[1])]
    return [_two_products(real, c, "-", imaginary, d), _two_products(real, d, "+", imaginary, c)]


def _two_products(a: int, b: int, sign: str, c: int, d: int) -> str:
    value = a * b + (c * d if sign == "+" else -c * d)
    left = f"{a} * {bracketed(b)}"
    return f"{left} {sign} {bracketed(c)} * {bracketed(d)} = {value}"
