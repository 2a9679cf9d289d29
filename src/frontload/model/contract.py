"""The stage contract: what every stage of an arm must agree on about text.

A tokenizer that changes between two stages corrupts a study in silence: ids shift, or a template
gains a space and SFT trains what evaluation never asks. So each stage records the hashes of the
tokenizer's parts, and the ids of a probe text as the libraries at hand compute them (the same
files were seen to tokenise differently under two library versions, allenai/open-instruct#1912);
`require_same_contract` compares them and names the part that differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from frontload.corpus.example import Example
from frontload.model.tokenizer import encode_example, encode_texts

_PROBE = (
    "def f(x):\n\treturn x  + 12.5  # naïve\r\n\n    A3+4-7=0;  1,000 words, e.g. don't_stop "
    "日本 नमस्ते é\u0301 🙂 ≤ <think>1+2=3</think> \\boxed{-4} <|end|> \u200b"
)
_PROBE_EXAMPLE = Example.of(
    id="probe", prompt="3+4=? ", response="<think>3+4=7</think>7", source="probe"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """Hash of each part of a tokenizer; equal contracts give equal ids for equal text."""

    parts: Mapping[str, str]
    """Part -> blake2b of its canonical JSON: vocabulary, merges, normalizer, pre_tokenizer,
    post_processor, decoder, model, added_tokens, special_tokens, chat_template, probe."""

    @property
    def digest(self) -> str:
        """One hash over all parts, for a stage's identity."""
        return _hash(dict(self.parts))


def contract_of(tokenizer: PreTrainedTokenizerFast) -> Contract:
    """The contract that `tokenizer` fulfils; the same before and after saving it."""
    files = json.loads(tokenizer.backend_tokenizer.to_str())
    model = files["model"]
    parts = {
        "vocabulary": model.pop("vocab"),
        "merges": model.pop("merges", None),
        "model": model,
        **{part: files[part] for part in _PIPELINE},
        "special_tokens": _special_tokens(tokenizer),
        "chat_template": tokenizer.chat_template,
        "probe": _probe_ids(tokenizer),
    }
    return Contract(parts={name: _hash(part) for name, part in parts.items()})


_PIPELINE = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")


def require_same_contract(
    expected: Contract, found: Contract, *, expected_in: str = "parent", found_in: str = "stage"
) -> None:
    """Raise ValueError naming the parts that differ and where each contract comes from."""
    names = [*expected.parts, *(name for name in found.parts if name not in expected.parts)]
    differing = [n for n in names if expected.parts.get(n) != found.parts.get(n)]
    if differing:
        raise ValueError(
            f"tokenizer: {found_in} differs from {expected_in} in {', '.join(differing)}; "
            f"start {found_in} from the tokenizer saved in {expected_in}"
        )


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    return {"ids": ids, "end": tokenizer.eos_token, "padding": tokenizer.pad_token}


def _probe_ids(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    text = next(encode_texts(tokenizer, [_PROBE]))
    example = encode_example(tokenizer, _PROBE_EXAMPLE)
    return [text.tolist(), example.ids.tolist(), example.supervised.tolist()]


def _hash(part: Any) -> str:
    canonical = json.dumps(part, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
