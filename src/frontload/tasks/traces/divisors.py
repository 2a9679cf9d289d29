"""Common divisors and multiples, prime factors, lowest terms: Euclid and trial division."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work, another_number
from frontload.tasks.traces.lines import division, equation, euclid, running

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59)
"""Enough for every number below 3481 = 59 * 59."""
_MOST_DIGITS = 18


class GreatestCommonDivisor(GymFamily):
    """Euclid's algorithm; the check divides the numbers by the result."""

    name = "gcd"
    domain = "arithmetic"
    levels = (
        {"min_value": 2, "max_value": 50},
        {"min_value": 10, "max_value": 200},
        {"min_value": 50, "max_value": 1000},
        {"min_value": 10, "max_value": 500, "max_numbers": 3, "min_numbers": 3},
        {"min_value": 100, "max_value": 5000, "max_numbers": 3},
    )
    chance = 0.33
    """1 or 2 is the most frequent answer: reasoning-gym draws again, twice, where there is none."""

    def work(self, entry: Entry) -> Work:
        numbers: list[int] = entry["metadata"]["numbers"]
        steps, common = [], numbers[0]
        for number in numbers[1:]:
            steps += euclid(common, number)
            common = math.gcd(common, number)
        checks = [equation(number, "/", common) for number in numbers]
        parts = ", ".join(str(number // common) for number in numbers)
        return Work(steps, [*checks, f"gcd({parts}) = 1"])


class LeastCommonMultiple(GymFamily):
    """Product over greatest common divisor, pair by pair."""

    name = "lcm"
    domain = "arithmetic"
    levels = (
        {"min_value": 2, "max_value": 20},
        {"min_value": 2, "max_value": 30},
        {"min_value": 5, "max_value": 100},
        {"min_value": 2, "max_value": 20, "min_numbers": 3, "max_numbers": 3},
        {"min_value": 5, "max_value": 60, "min_numbers": 3, "max_numbers": 3},
    )

    def work(self, entry: Entry) -> Work:
        numbers: list[int] = entry["metadata"]["numbers"]
        steps, multiple = [], numbers[0]
        for number in numbers[1:]:
            common = math.gcd(multiple, number)
            steps += euclid(multiple, number)
            steps += [equation(multiple, "*", number), equation(multiple * number, "/", common)]
            multiple = multiple * number // common
        return Work(steps, [equation(multiple, "/", number) for number in numbers])


class PrimeFactorization(GymFamily):
    """Trial division by primes up to the square root of what is left."""

    name = "prime_factorization"
    domain = "arithmetic"
    levels = (
        {"min_value": 4, "max_value": 200},
        {"min_value": 20, "max_value": 300},
        {"min_value": 50, "max_value": 500},
        {"min_value": 100, "max_value": 1000},
        {"min_value": 500, "max_value": 3000},
    )

    def work(self, entry: Entry) -> Work:
        number = entry["metadata"]["number"]
        steps, factors, left = [], [], number
        for prime in _PRIMES:
            while left % prime == 0 and prime * prime <= left:
                steps.append(equation(left, "/", prime))
                left //= prime
                factors.append(prime)
            if prime * prime > left:
                break
            steps.append(division(left, prime))
        factors.append(left)
        steps += [f"{left} is prime", f"{number} = {' × '.join(map(str, factors))}"]
        return Work(steps, running("*", factors) or [f"{prime} * {prime} > {number}"])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        factors = problem.answer.split(" × ")
        place = rng.randrange(len(factors))
        factors[place] = another_number(rng, factors[place])
        return " × ".join(factors)

    def score(self, problem: Problem, answer: str) -> float:
        """As for all; reasoning-gym raises on text that is no product, which is simply wrong."""
        parts = [part.strip() for part in answer.split("×")]
        if not all(part.isdecimal() and len(part) <= _MOST_DIGITS for part in parts):
            return 0.0
        return super().score(problem, answer)


class FractionSimplification(GymFamily):
    """The greatest common divisor by Euclid, then both parts divided by it."""

    name = "fraction_simplification"
    domain = "arithmetic"
    levels = (
        {"max_value": 15, "min_factor": 2, "max_factor": 9, "styles": ("plain",)},
        {"max_value": 30, "min_factor": 2, "max_factor": 12, "styles": ("plain",)},
        {"max_value": 100, "max_factor": 20, "styles": ("plain", "latex_frac")},
        {"max_value": 300, "max_factor": 50},
        {"max_value": 1000, "max_factor": 100},
    )
    scored_by = (
        "numerator",
        "denominator",
        "simplified_numerator",
        "simplified_denominator",
    )

    def work(self, entry: Entry) -> Work | None:
        known = entry["metadata"]
        above, below = known["numerator"], known["denominator"]
        small_above, small_below = known["simplified_numerator"], known["simplified_denominator"]
        common = math.gcd(above, below)
        if math.gcd(small_above, small_below) != 1:
            return None
        steps = euclid(above, below)
        steps += [equation(above, "/", common), equation(below, "/", common)]
        checks = [equation(small_above, "*", common), equation(small_below, "*", common)]
        return Work([*steps, f"{above}/{below} = {entry['answer']}"], checks)

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        known = problem.payload["metadata"]
        parts = [str(known["simplified_numerator"]), str(known["simplified_denominator"])]
        place = rng.randrange(2)
        changed = another_number(rng, parts[place])
        return _with_number(problem.answer, parts, place, changed)


def _with_number(fraction: str, parts: Sequence[str], place: int, changed: str) -> str:
    """`fraction`, in whatever notation, with its upper (0) or lower (1) part replaced."""
    if place:
        head, _, tail = fraction.rpartition(parts[1])
    else:
        head, _, tail = fraction.partition(parts[0])
    return head + changed + tail
