"""Families in single digits and a few symbols, for models of 0.4M parameters.

`form.py` says what their questions and traces have in common and why; one module per domain holds
the families.
"""

from frontload.tasks.compact.algebra import Evaluate, Solve, VariableChain
from frontload.tasks.compact.arithmetic import PairwiseSum, RunningSum, SignedSum
from frontload.tasks.compact.code import BracketDepth, Branches, PointerChase, Registers
from frontload.tasks.compact.form import CompactFamily
from frontload.tasks.compact.language import AlphabetFirst, Dictionary, LetterAfter, Vowels
from frontload.tasks.compact.lists import Count, Filter, Reverse, RunningMax, Sort
from frontload.tasks.compact.logic import BooleanChain, Comparisons, Parity
from frontload.tasks.compact.series import Differences, NextTerm

FAMILIES: tuple[type[CompactFamily], ...] = (
    RunningSum,
    SignedSum,
    PairwiseSum,
    VariableChain,
    Solve,
    Evaluate,
    Parity,
    BooleanChain,
    Comparisons,
    PointerChase,
    BracketDepth,
    Branches,
    Registers,
    Sort,
    Count,
    Reverse,
    RunningMax,
    Filter,
    Differences,
    NextTerm,
    LetterAfter,
    Dictionary,
    Vowels,
    AlphabetFirst,
)
