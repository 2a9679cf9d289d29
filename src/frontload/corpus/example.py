"""The two things a source yields: plain documents and reasoning examples.

Everything downstream (packing, profiling, selection, evaluation) sees only these two types, so a
reader that can produce them is a complete reader. Both are immutable and carry where they came
from; neither knows about tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """Plain text for next-token prediction on every token."""

    id: str
    text: str
    source: str
    domain: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A prompt with a worked response; the last message is the assistant's.

    `gold` is the reference answer where one is known, `verified` whether the response's answer
    matches it (None: nobody checked), `family` the kind of problem ("" when unknown).
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    family: str = ""
    gold: str | None = None
    verified: bool | None = None

    @classmethod
    def of(cls, *, id: str, prompt: str, response: str, source: str, **known: Any) -> Example:
        """A single-turn example."""
        turns = (Message(role="user", content=prompt), Message(role="assistant", content=response))
        return cls(id=id, messages=turns, source=source, **known)

    @property
    def prompt(self) -> str:
        """Everything before the last response, turns joined by a newline."""
        return "\n".join(message.content for message in self.messages[:-1])

    @property
    def question(self) -> str:
        """What the user says, turns joined by a newline; decides the side of the holdout."""
        return "\n".join(turn.content for turn in self.messages if turn.role == "user")

    @property
    def response(self) -> str:
        """The last assistant message, thinking included."""
        return self.messages[-1].content


Item = Document | Example


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A response taken apart: `closed` is False when thinking began and never ended."""

    reasoning: str
    answer: str
    closed: bool


def join_reasoning(reasoning: str, answer: str) -> str:
    """The text of a response: thinking in its block (left out when empty), then the answer."""
    return f"{THINK_OPEN}{reasoning}{THINK_CLOSE}{answer}" if reasoning else answer


def split_reasoning(response: str) -> Response:
    """Take a response apart at its last closing think tag.

    Rows in the wild sometimes lack the opening tag (it belonged to the prompt); a closing tag
    alone therefore still ends the reasoning. An opening tag alone means an unfinished thought:
    all of it is reasoning and the answer is empty.
    """
    head, closing, answer = response.rpartition(THINK_CLOSE)
    if closing:
        _, opening, reasoning = head.partition(THINK_OPEN)
        return Response(reasoning=reasoning if opening else head, answer=answer, closed=True)
    before, opening, reasoning = response.partition(THINK_OPEN)
    if opening:
        return Response(reasoning=reasoning, answer="", closed=False)
    return Response(reasoning="", answer=before, closed=True)


def held_out(key: str, share: float) -> bool:
    """Whether `key` (a document's text or an example's question) falls in the held-out share.

    A hash of the key decides, so the same question is on the same side in every source, whoever
    answered it under whatever system message, and no list has to be stored.
    """
    if share <= 0:
        return False
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "big") < share * 2**64
