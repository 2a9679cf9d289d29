"""Sums, expressions and products, one operation a line; checks undo the operations."""

from __future__ import annotations

import ast

from frontload.tasks.traces.gym import Entry, GymFamily, Work
from frontload.tasks.traces.lines import bracketed, calculate, equation, running, undo

_SIGNS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_LARGEST = 10**6
Operation = tuple[int, str, int]


class ChainSum(GymFamily):
    """`State the final answer to ...: 4 - 1 + 9 =`, added up from the left."""

    name = "chain_sum"
    domain = "arithmetic"
    levels = (
        {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1},
        {"min_terms": 2, "max_terms": 4, "min_digits": 2, "max_digits": 2},
        {"min_terms": 4, "max_terms": 6, "min_digits": 2, "max_digits": 2},
        {"min_terms": 3, "max_terms": 6, "min_digits": 3, "max_digits": 3},
        {"min_terms": 5, "max_terms": 8, "min_digits": 3, "max_digits": 4},
    )

    def work(self, entry: Entry) -> Work:
        first, *rest = entry["metadata"]["expression"].split()
        value, operations = int(first), []
        for sign, operand in zip(rest[::2], rest[1::2], strict=True):
            operations.append((value, sign, int(operand)))
            value = calculate(value, sign, int(operand))
        return _worked(operations)


class BasicArithmetic(GymFamily):
    """`Calculate ( 3 - -8 ) * 2.`, innermost brackets first.

    reasoning-gym means floor division where its divisions do not come out even (about 1 % of its
    expressions, though the question says `/`); those are drawn again, and so are values beyond a
    million, whose products would take more than one line.
    """

    name = "basic_arithmetic"
    domain = "arithmetic"
    levels = (
        {"min_terms": 2, "max_terms": 3, "max_digits": 1, "operators": ("+", "-", "*")},
        {"min_terms": 3, "max_terms": 4, "max_digits": 1},
        {"min_terms": 3, "max_terms": 4, "max_digits": 2},
        {"min_terms": 4, "max_terms": 6, "max_digits": 2},
        {"min_terms": 5, "max_terms": 7, "max_digits": 2},
    )

    def work(self, entry: Entry) -> Work | None:
        operations: list[Operation] = []
        tree = ast.parse(entry["metadata"]["expression"].strip(), mode="eval").body
        value = _evaluate(tree, operations)
        if value is None or not operations:
            return None
        work = _worked(operations)
        if not work.steps[-1].endswith(f" = {value}"):
            work.steps.append(f"-({-value}) = {value}")
        return work


class Products(GymFamily):
    """Long multiplication: one partial product a digit, then their sum."""

    name = "products"
    domain = "arithmetic"
    levels = (
        {"min_digits": 1, "max_digits": 1, "min_terms": 2, "max_terms": 3},
        {"min_digits": 2, "max_digits": 2},
        {"min_digits": 2, "max_digits": 2, "min_terms": 2, "max_terms": 3},
        {"min_digits": 3, "max_digits": 3},
        {"min_digits": 4, "max_digits": 4},
    )

    def work(self, entry: Entry) -> Work:
        value, *factors = (int(term) for term in entry["metadata"]["expression"].split(" * "))
        steps: list[str] = []
        checks: list[str] = []
        for factor in factors:
            steps += _long_multiplication(value, factor)
            checks.insert(0, undo(value, "*", factor))
            value *= factor
        return Work(steps, checks)


def _worked(operations: list[Operation]) -> Work:
    steps = [equation(*operation) for operation in operations]
    return Work(steps, [undo(*operation) for operation in reversed(operations)])


def _evaluate(node: ast.expr, operations: list[Operation]) -> int | None:
    """The value of `node`, its operations appended in order; None where a division is not even."""
    if isinstance(node, ast.Constant):
        return int(str(node.value))
    if isinstance(node, ast.UnaryOp):
        value = _evaluate(node.operand, operations)
        return None if value is None else -value
    assert isinstance(node, ast.BinOp)
    left, right = _evaluate(node.left, operations), _evaluate(node.right, operations)
    sign = _SIGNS[type(node.op)]
    if left is None or right is None or (sign == "/" and (right == 0 or left % right)):
        return None
    operations.append((left, sign, right))
    value = calculate(left, sign, right)
    return value if abs(value) <= _LARGEST else None


def _long_multiplication(left: int, right: int) -> list[str]:
    """Partial products by the digits of `right`, then their sum, then the product itself."""
    digits = str(right)
    places = [int(d) * 10 ** (len(digits) - i - 1) for i, d in enumerate(digits) if d != "0"]
    if len(places) < 2:
        return [equation(left, "*", right)]
    partial = [equation(left, "*", place) for place in places]
    sums = running("+", [left * place for place in places])
    return [*partial, *sums, f"{left} * {bracketed(right)} = {left * right}"]
