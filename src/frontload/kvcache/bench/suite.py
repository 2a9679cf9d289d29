"""Codecs side by side: the same dumps, real files, and what their loss does to the model.

Guarantees: every codec encodes and decodes the same tensors, bytes are those of its files, and
contexts share no document with calibration. Gives up: time; `benchmarks/kv_speed.py` measures it.

    suite = make_suite(model, tokenizer, held_out, other, Plan())
    points = sweep(model, codec, suite)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from frontload.kvcache.bench.rates import Point
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.contexts import retrieval_contexts, text_contexts
from frontload.kvcache.episodes import KINDS
from frontload.kvcache.layout import KVTensors, join
from frontload.kvcache.quality import Context, Dump, Quality, dump, measure, summarize
from frontload.kvcache.texts import Text

TARGETS = {"text": 0.003, "recall": 0.03, "other": 0.01}
"""Domain -> KL in nats a token at which bits are compared (docs/LOG.md says why these)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. Counts are contexts."""

    prefix_tokens: int = 512
    suffix_tokens: int = 128
    text: int = 24
    recall_a_kind: int = 8
    other: int = 16
    seed: int = 0

    @staticmethod
    def of(contexts: int, *, prefix_tokens: int, recall: bool) -> Plan:
        """So many contexts of text, a third as many of each kind of recall, two thirds of other."""
        return Plan(
            prefix_tokens=prefix_tokens,
            text=contexts,
            recall_a_kind=contexts // 3 if recall else 0,
            other=contexts * 2 // 3,
        )

    def without_other(self) -> Plan:
        """The same, with no other domain."""
        return replace(self, other=0)


Suite = Mapping[str, Sequence[Dump]]
"""Domain -> contexts with their tensors."""


def calibration_contexts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    *,
    text: int = 72,
    recall_a_kind: int = 8,
    prefix_tokens: int = 512,
    suffix_tokens: int = 128,
    seed: int = 1,
) -> list[Context]:
    """Text and retrieval as `make_suite` measures them, of other documents and another seed.

    A vocabulary without enough single-token words gives text alone: pass `recall_a_kind=0`.
    """
    size = {"prefix_tokens": prefix_tokens, "suffix_tokens": suffix_tokens, "seed": seed}
    contexts = text_contexts(tokenizer, texts, domain="text", count=text, **size)
    for kind in KINDS if recall_a_kind else ():
        contexts += retrieval_contexts(tokenizer, kind, count=recall_a_kind, **size)
    return contexts


def make_suite(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[Text],
    other: Sequence[Text],
    plan: Plan,
) -> Suite:
    """Prefill what `plan` asks for; domains without contexts are left out.

    Args:
        held_out: documents like those of calibration, but not those.
        other: documents of another domain, none of which calibration saw.

    Raises:
        ValueError: texts too short, or a vocabulary that cannot ask for facts.
    """
    size = {
        "prefix_tokens": plan.prefix_tokens,
        "suffix_tokens": plan.suffix_tokens,
        "seed": plan.seed,
    }
    kinds = KINDS if plan.recall_a_kind else {}
    contexts = {
        "text": text_contexts(tokenizer, held_out, domain="text", count=plan.text, **size),
        "recall": [
            context
            for kind in kinds
            for context in retrieval_contexts(tokenizer, kind, count=plan.recall_a_kind, **size)
        ],
        "other": text_contexts(tokenizer, other, domain="other", count=plan.other, **size),
    }
    return {domain: dump(model, found) for domain, found in contexts.items() if found}


def sweep(model: PreTrainedModel, codec: Codec, suite: Suite) -> list[Point]:
    """All levels of `codec` on all domains."""
    return [
        point(model, codec, level, domain, dumps)
        for level in codec.levels
        for domain, dumps in suite.items()
    ]


def point(
    model: PreTrainedModel, codec: Codec, level: str, domain: str, dumps: Sequence[Dump]
) -> Point:
    """One level on one domain."""
    num_bytes, losses = [], []
    for each in dumps:
        data = codec.encode(each.kv, level)
        num_bytes.append(len(data))
        losses.append(measure(model, each, codec.decode(data)))
    return Point(
        codec=codec.name,
        level=level,
        domain=domain,
        num_bytes=tuple(num_bytes),
        num_values=tuple(each.kv.num_values for each in dumps),
        losses=tuple(losses),
    )


def rounds(
    model: PreTrainedModel, codec: Codec, level: str, dumps: Sequence[Dump], count: int
) -> list[Quality]:
    """Quality after 1, 2, ... `count` encodings of what was decoded before.

    What a conversation does to a cache that is stored again after every turn.
    """
    reached = [each.kv for each in dumps]
    qualities = []
    for _ in range(count):
        reached = [codec.decode(codec.encode(kv, level)) for kv in reached]
        losses = [measure(model, each, kv) for each, kv in zip(dumps, reached, strict=True)]
        qualities.append(summarize(losses))
    return qualities


@dataclass(frozen=True)
class Chunked:
    """A codec that sees `chunk_tokens` at a time: each chunk a file of its own."""

    codec: Codec
    chunk_tokens: int

    @property
    def name(self) -> str:
        """The codec's, and the size."""
        return f"{self.codec.name}-{self.chunk_tokens}"

    @property
    def levels(self) -> Sequence[str]:
        """Those of the codec."""
        return self.codec.levels

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """Files one after the other, each behind its length in 4 bytes."""
        files = (self.codec.encode(chunk, level) for chunk in kv.chunks(self.chunk_tokens))
        return b"".join(len(file).to_bytes(4, "little") + file for file in files)

    def decode(self, data: bytes) -> KVTensors:
        """All chunks joined."""
        chunks, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            chunks.append(self.codec.decode(data[at + 4 : at + 4 + size]))
            at += 4 + size
        return join(chunks)
