"""The process in which math-verify runs, so that it can be killed.

Reads (gold, answer) pairs as lines of JSON, writes true or false, one line each; a first line says
that it is ready. Started and killed by `frontload.tasks.verify.MathVerifier`, which owns the clock.

Guards in front of math-verify 0.9:
- Bare text is read as its last number, so `3x-y+13=0` and `3x+4y+14=0` both become 0 and "equal"
  (Math-Verify#60). Everything is therefore handed over as LaTeX.
- A relation equals only a relation. `x=3` may stand for the value 3; nothing else may.
- What cannot be parsed is equal only when the text is.
"""

from __future__ import annotations

import json
import re
import resource
import sys

_MEMORY_LIMIT_BYTES = 4 * 2**30
"""No pair may take the machine down (Math-Verify#63); one that needs more comes out unequal."""

_RELATION = re.compile(r"[=<>≤≥≠]|\\(?:leq?|geq?|neq?|lt|gt)\b")
_ASSIGNED = re.compile(r"\s*[A-Za-z]\w*\s*=\s*([^=<>≤≥≠]+)")
_PERCENT = re.compile(r"\s*([-+]?[0-9.,]+)\s*\\?%\s*")


def same(gold: str, answer: str) -> bool:
    """Whether two answers mean the same."""
    gold, answer = _stripped(gold), _stripped(answer)
    if "".join(gold.split()) == "".join(answer.split()):
        return bool(gold)
    gold, answer = _values_alone(gold, answer)
    if _is_relation(gold) != _is_relation(answer):
        return False
    return _same_parsed(f"${gold}$", f"${answer}$")


def _same_parsed(gold: str, answer: str) -> bool:
    from math_verify import parse, verify
    from sympy.core.relational import Relational  # type: ignore[import-untyped]

    # No timers: they need the main thread, and the parent's clock does better (see the module).
    parsed = [parse(text, parsing_timeout=None) for text in (gold, answer)]
    if not all(parsed):
        return False
    relations = [isinstance(found[0], Relational) for found in parsed]
    if relations != [_is_relation(gold), _is_relation(answer)]:
        return False
    return bool(verify(parsed[0], parsed[1], timeout_seconds=None))


def _stripped(text: str) -> str:
    """Without the delimiters of mathematics and a final full stop."""
    text = text.strip().rstrip(".").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if len(text) > len(opening + closing) - 1 and text.startswith(opening):
            text = text.removeprefix(opening).removesuffix(closing).strip()
    return text


def _values_alone(gold: str, answer: str) -> tuple[str, str]:
    """`x=3` against a mere value becomes 3; 50% against a mere number becomes 50/100."""
    for pattern, form in ((_ASSIGNED, "{}"), (_PERCENT, "{}/100")):
        found = pattern.fullmatch(gold), pattern.fullmatch(answer)
        if found[0] and not found[1] and not _RELATION.search(answer):
            gold = form.format(found[0][1])
        elif found[1] and not found[0] and not _RELATION.search(gold):
            answer = form.format(found[1][1])
    return gold, answer


def _is_relation(text: str) -> bool:
    return bool(_RELATION.search(text))


def main() -> None:
    """Answer pairs until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    replies, sys.stdout = sys.stdout, sys.stderr
    import math_verify  # noqa: F401  (before the clock starts)

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(same(*json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
