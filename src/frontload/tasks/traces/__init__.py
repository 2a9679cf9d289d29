"""English families: problem and scoring from reasoning-gym, steps written by us.

`NAMES` lists them without importing a family, `FAMILIES` is the classes. Neither imports
reasoning-gym (a second of start-up): a family does that when it first makes or scores a problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from frontload.tasks.families import Domain, Family

_BY_MODULE: dict[str, tuple[tuple[str, Domain, str], ...]] = {
    "arithmetic": (
        ("chain_sum", "arithmetic", "ChainSum"),
        ("basic_arithmetic", "arithmetic", "BasicArithmetic"),
        ("products", "arithmetic", "Products"),
    ),
    "divisors": (
        ("gcd", "arithmetic", "GreatestCommonDivisor"),
        ("lcm", "arithmetic", "LeastCommonMultiple"),
        ("prime_factorization", "arithmetic", "PrimeFactorization"),
        ("fraction_simplification", "arithmetic", "FractionSimplification"),
    ),
    "algebra": (
        ("simple_equations", "algebra", "SimpleEquations"),
        ("complex_arithmetic", "algebra", "ComplexArithmetic"),
    ),
    "syllogisms": (("syllogism", "logic", "Syllogism"),),
    "knights": (("knights_knaves", "logic", "KnightsKnaves"),),
    "bases": (
        ("base_conversion", "code", "BaseConversion"),
        ("count_bits", "code", "CountBits"),
        ("bitwise_arithmetic", "code", "BitwiseArithmetic"),
    ),
    "rewriting": (
        ("ab", "code", "TokenRewriting"),
        ("string_manipulation", "code", "StringManipulation"),
    ),
    "sequences": (
        ("number_sorting", "sequence", "NumberSorting"),
        ("number_filtering", "sequence", "NumberFiltering"),
        ("number_sequence", "sequence", "NumberSequence"),
        ("word_sequence_reversal", "sequence", "WordSequenceReversal"),
    ),
    "words": (
        ("letter_counting", "language", "LetterCounting"),
        ("spell_backward", "language", "SpellBackward"),
        ("caesar_cipher", "language", "CaesarCipher"),
    ),
    "everyday": (
        ("leg_counting", "language", "LegCounting"),
        ("family_relationships", "language", "FamilyRelationships"),
    ),
    "calendar": (
        ("calendar_arithmetic", "language", "CalendarArithmetic"),
        ("time_intervals", "language", "TimeIntervals"),
    ),
}

NAMES: Mapping[str, tuple[Domain, str, str]] = {
    name: (domain, f"{__name__}.{module}", class_name)
    for module, families in _BY_MODULE.items()
    for name, domain, class_name in families
}
"""Family name -> (domain, module, class)."""

FAMILIES: tuple[type[Family], ...] = tuple(
    getattr(import_module(module), class_name) for _, module, class_name in NAMES.values()
)
