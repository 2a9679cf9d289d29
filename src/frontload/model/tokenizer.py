"""Text to ids and back: one byte-level BPE, one chat template.

Guarantees: decoding an encoded text gives the text back, for any Unicode; every digit, punctuation
mark and symbol is a token of its own (compact problems rely on it); ids of an example equal those
of `apply_chat_template`; text can never forge a control token, because `<|end|>` written inside a
message or document is encoded as plain characters. Gives up: merges across word boundaries, and
merges of code punctuation, which costs tokens on source code.

A trained tokenizer knows `<|pad|> <|end|> <|user|> <|assistant|> <|system|>` (ids 0 to 4), and
`<think>`, `</think>` as single tokens that decoding keeps. A tokenizer loaded from elsewhere keeps
its own chat template; one without a template gets ours with the role tokens added (its own
end-of-text token ends a turn), and `frontload.model.presets.build_model` enlarges the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from frontload.corpus.example import (
    THINK_CLOSE,
    THINK_OPEN,
    Example,
    Message,
    split_reasoning,
)
from frontload.model.config import TokenizerConfig
from frontload.model.gpt2_files import REMEDY, holds_only_gpt2_files, read_gpt2_files
from frontload.model.published import CodeRefused, refusing_code

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
_THINK = (THINK_OPEN, THINK_CLOSE)
ROLE_TOKENS = {"user": USER, "assistant": ASSISTANT, "system": SYSTEM}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% elif message.role in ['user', 'system'] %}"
    "{{ '<|' + message.role + '|>' + message.content }}"
    "{% else %}{{ raise_exception('unknown role ' + message.role) }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Only the assistant's turns are closed: a prompt is what comes before `<|assistant|>`."""

# A letter run with the space before it | one digit | one mark or symbol | white space, leaving the
# last space to the word that follows.
_PIECES = r" ?[\p{L}\p{M}]+|\p{N}|[^\s\p{L}\p{M}\p{N}]|\s+(?= [\p{L}\p{M}])|\s+"

_BATCH = 2048  # items per call into the Rust tokenizer; larger batches only cost memory

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedExample:
    """Ids of one example (int32) and which of them carry loss: responses with their end token."""

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `config.vocab_size` tokens; the same texts give the same one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    thoughts = [AddedToken(tag, normalized=False, special=False) for tag in _THINK]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(thoughts),
        special_tokens=[PAD, END, *ROLE_TOKENS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens(thoughts)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=list(ROLE_TOKENS.values()),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_tokenizer(origin: Path | str, revision: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer from a directory or hub name, given a chat template if it lacks one.

    Raises:
        ValueError: no tokenizer can be loaded from there; names the remedy.
    """
    if holds_only_gpt2_files(Path(origin)):
        tokenizer = read_gpt2_files(Path(origin))
    else:
        tokenizer = _load_published(str(origin), revision)
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": END})
    if tokenizer.chat_template is None:
        _add_chat_template(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def _load_published(origin: str, revision: str | None) -> PreTrainedTokenizerFast:
    try:
        with refusing_code("tokenizer.load", origin):
            tokenizer = AutoTokenizer.from_pretrained(
                origin, revision=revision, use_fast=True, trust_remote_code=False
            )
    except CodeRefused:
        raise
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"tokenizer.load: cannot load {origin} ({reason}); {REMEDY}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"tokenizer.load: {origin} has no tokenizer.json; {REMEDY}")
    return tokenizer


def _add_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    roles = list(ROLE_TOKENS.values())
    tokenizer.add_special_tokens({"extra_special_tokens": roles}, False)
    tokenizer.chat_template = CHAT_TEMPLATE


def encode_texts(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]
) -> Iterator[NDArray[np.int32]]:
    """Ids of each text, in order, without any control token; reads `texts` in batches."""
    for batch in _batches(texts):
        yield from (np.array(ids, dtype=np.int32) for ids in _plain_ids(tokenizer, batch))


def encode_examples(
    tokenizer: PreTrainedTokenizerFast, examples: Iterable[Example]
) -> Iterator[EncodedExample]:
    """Ids and supervised mask of each example, in order; reads `examples` in batches.

    All the assistant's turns are supervised, each with its end token. Raises ValueError when a
    foreign chat template drops reasoning or rewrites earlier turns: no mask would be right.
    """
    encode = _encode_turns if tokenizer.chat_template == CHAT_TEMPLATE else _encode_rendered
    for batch in _batches(examples):
        yield from encode(tokenizer, batch)


def encode_example(tokenizer: PreTrainedTokenizerFast, example: Example) -> EncodedExample:
    """`encode_examples` of one."""
    return next(encode_examples(tokenizer, [example]))


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast, prompts: Iterable[Sequence[Message]]
) -> Iterator[NDArray[np.int32]]:
    """Ids of each conversation up to the point where the assistant must answer."""
    for batch in _batches(prompts):
        if tokenizer.chat_template != CHAT_TEMPLATE:
            rendered = [_render(tokenizer, turns, ask=True) for turns in batch]
            encodings = _backend(tokenizer).encode_batch(rendered, add_special_tokens=False)
            yield from (np.array(encoding.ids, dtype=np.int32) for encoding in encodings)
            continue
        ask = tokenizer.convert_tokens_to_ids(ASSISTANT)
        for ids, _ in _join_turns(tokenizer, batch):
            yield np.array([*ids, ask], dtype=np.int32)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The Rust tokenizer, rid of the padding and truncation that an earlier call may have set."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    return backend


def _plain_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts in which control tokens are only characters."""
    backend = _backend(tokenizer)
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before
    return [encoding.ids for encoding in encodings]


def _encode_turns(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> Iterator[EncodedExample]:
    """Our template without rendering it: control tokens isolate turns, so ids just concatenate."""
    for ids, mask in _join_turns(tokenizer, [example.messages for example in examples]):
        yield EncodedExample(
            ids=np.array(ids, dtype=np.int32), supervised=np.array(mask, dtype=np.bool_)
        )


def _join_turns(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Sequence[Message]]
) -> Iterator[tuple[list[int], list[bool]]]:
    contents = [turn.content for turns in conversations for turn in turns]
    pieces = iter(_plain_ids(tokenizer, contents))
    opening = {role: tokenizer.convert_tokens_to_ids(t) for role, t in ROLE_TOKENS.items()}
    end = tokenizer.eos_token_id
    for turns in conversations:
        ids: list[int] = []
        mask: list[bool] = []
        for turn in turns:
            piece = next(pieces)
            answers = turn.role == "assistant"
            ids += [opening[turn.role], *piece, end] if answers else [opening[turn.role], *piece]
            mask += [False]
            mask += [answers] * (len(piece) + answers)
        yield ids, mask


def _encode_rendered(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> Iterator[EncodedExample]:
    """Any chat template: render, find the responses as character spans, map them to tokens."""
    texts = [_render(tokenizer, example.messages) for example in examples]
    encodings = _backend(tokenizer).encode_batch(texts, add_special_tokens=False)
    for example, text, encoding in zip(examples, texts, encodings, strict=True):
        starts, ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
        supervised = np.zeros(len(starts), dtype=np.bool_)
        for first, last in _response_spans(tokenizer, example, text):
            supervised |= (ends > first) & (starts < last)  # as transformers: any overlap counts
        yield EncodedExample(ids=np.array(encoding.ids, dtype=np.int32), supervised=supervised)


def _response_spans(
    tokenizer: PreTrainedTokenizerFast, example: Example, text: str
) -> Iterator[tuple[int, int]]:
    """Where each response starts and ends in the rendered conversation, in characters."""
    for index, turn in enumerate(example.messages):
        if turn.role != "assistant":
            continue
        before = _render(tokenizer, example.messages[:index], ask=True)
        through = _render(tokenizer, example.messages[: index + 1])
        kept = through[len(before) :]
        thought = split_reasoning(turn.content)
        whole = thought.reasoning.strip() in kept and thought.answer.strip() in kept
        if not (whole and text.startswith(through) and through.startswith(before)):
            raise ValueError(
                "tokenizer.load: its chat template drops or rewrites part of a conversation "
                f"(example {example.id}); remove the template from the tokenizer to use ours"
            )
        yield len(before), len(through)


def _render(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Message], *, ask: bool = False
) -> str:
    conversation = [{"role": turn.role, "content": turn.content} for turn in turns]
    return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=ask)
