"""Conversations as people store them, turned into messages.

Accepts role/content and from/value objects, prompts and responses as text or as message lists,
content as text or as a list of text parts, lists stored as JSON text, and reasoning kept beside the
content. Every refusal has a reason of its own; nothing is repaired by guessing, except that the
markers of OpenThoughts-114k (`<|begin_of_thought|>`) become a think block.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from typing import Any

from frontload.corpus.example import THINK_CLOSE, THINK_OPEN, Message, Role, join_reasoning

Turns = tuple[Message, ...]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_FLAGS = frozenset({"", "on", "off", "true", "false", "yes", "no"})
_THOUGHT_MARKS = {
    "<|begin_of_thought|>": THINK_OPEN,
    "<|end_of_thought|>": THINK_CLOSE,
    "<|begin_of_solution|>": "",
    "<|end_of_solution|>": "",
}


class Unusable(StrEnum):
    """Why a row makes no item; the value is the drop reason."""

    WRONG_TYPE = "wrong_type"
    EMPTY_TEXT = "empty_text"
    EMPTY_PROMPT = "empty_prompt"
    EMPTY_RESPONSE = "empty_response"
    LAST_TURN_NOT_ASSISTANT = "last_turn_not_assistant"
    UNSUPPORTED_ROLE = "unsupported_role"


def read_turns(turns: Any, response: Any = None) -> Turns | Unusable:
    """Messages of a list of turns, or of a prompt with its response (texts or lists).

    The last message of the result is the assistant's and is not empty; some message before it is
    not empty either.
    """
    messages = _messages(turns, "user")
    if isinstance(messages, Unusable):
        return messages
    if response is not None:
        answer = _messages(response, "assistant")
        if isinstance(answer, Unusable):
            return answer
        messages += answer
    if not messages or messages[-1].role != "assistant":
        return Unusable.LAST_TURN_NOT_ASSISTANT
    if _is_blank(messages[-1].content):
        return Unusable.EMPTY_RESPONSE
    kept = [message for message in messages[:-1] if not _is_blank(message.content)]
    if not any(message.role == "user" for message in kept):
        return Unusable.EMPTY_PROMPT
    return (*kept, messages[-1])


def join_thinking(turns: Turns, system: Any, reasoning: Any) -> Turns:
    """Add a system message and reasoning that the row keeps in columns of their own."""
    last = turns[-1]
    if _is_thought(reasoning) and THINK_CLOSE not in last.content:
        last = replace(last, content=join_reasoning(reasoning, last.content))
    if isinstance(system, str) and not _is_blank(system) and turns[0].role != "system":
        return (Message(role="system", content=system), *turns[:-1], last)
    return (*turns[:-1], last)


def _messages(value: Any, role: Role) -> list[Message] | Unusable:
    if isinstance(value, str):
        parsed = _parse_list(value)
        if parsed is None:
            return [Message(role=role, content=_with_think_tags(value))]
        value = parsed
    if not isinstance(value, list):
        return Unusable.WRONG_TYPE
    messages = []
    for turn in value:
        message = _message(turn)
        if isinstance(message, Unusable):
            return message
        messages.append(message)
    return messages


def _parse_list(text: str) -> list[Any] | None:
    if not text.startswith(('[{"role"', '[{"from"', '[{"content"', '[{"value"')):
        return None
    try:
        return list(json.loads(text))
    except ValueError:  # ordinary text that only starts like a list of turns
        return None


def _message(turn: Any) -> Message | Unusable:
    if not isinstance(turn, dict):
        return Unusable.WRONG_TYPE
    name = turn.get("role", turn.get("from"))
    if not isinstance(name, str):
        return Unusable.WRONG_TYPE
    role = _ROLES.get(name.lower())
    if role is None:
        return Unusable.UNSUPPORTED_ROLE
    content = _text_of(turn.get("content", turn.get("value")))
    if content is None:
        return Unusable.WRONG_TYPE
    content = _with_think_tags(content)
    thought = next((turn[key] for key in _REASONING_KEYS if _is_thought(turn.get(key))), "")
    if role == "assistant" and THINK_CLOSE not in content:
        content = join_reasoning(thought, content)
    return Message(role=role, content=content)


def _text_of(content: Any) -> str | None:
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _with_think_tags(text: str) -> str:
    if "<|begin_of_thought|>" not in text:
        return text
    for mark, tag in _THOUGHT_MARKS.items():
        text = text.replace(mark, tag)
    return text


def _is_thought(value: Any) -> bool:
    """Reasoning text; some datasets have a column `reasoning` that only says on or off."""
    return isinstance(value, str) and value.strip().lower() not in _FLAGS


def _is_blank(text: str) -> bool:
    return not text or text.isspace()
