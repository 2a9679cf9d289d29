"""A tokenizer from GPT-2's two original files, vocab.json and merges.txt, without a tokenizer.json.

Such a folder does not say how text is cut before merging, so it is read as GPT-2's only where its
vocabulary has GPT-2's marks: a token for each of the 256 bytes and `<|endoftext|>`, and no `</w>`
at the ends of words (CLIP's form). Whatever cuts text in its own way must come as a tokenizer.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
_FILES = ("vocab.json", "merges.txt")
_BETTER = ("tokenizer.json", "tokenizer_config.json", "config.json")
"""Any of these tells transformers which class it is."""


def holds_only_gpt2_files(folder: Path) -> bool:
    """Whether the two files are all that `folder` says about its tokenizer."""
    has_files = all((folder / name).is_file() for name in _FILES)
    return has_files and not any((folder / name).is_file() for name in _BETTER)


def read_gpt2_files(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the two files; its ids are those of transformers' GPT2TokenizerFast.

    Raises:
        ValueError: the vocabulary is not GPT-2's kind, or the merges are of another one.
    """
    vocab, merges = (str(folder / name) for name in _FILES)
    tokens = json.loads(Path(vocab).read_text(encoding="utf-8"))
    missing = {*pre_tokenizers.ByteLevel.alphabet(), END_OF_TEXT} - set(tokens)
    if missing or "e</w>" in tokens:
        why = f"lacks {min(missing)!r}" if missing else "ends its words with '</w>'"
        raise ValueError(f"tokenizer.load: {vocab} {why}, so it is not GPT-2's kind; {REMEDY}")
    try:
        backend = Tokenizer(models.BPE.from_file(vocab, merges))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"tokenizer.load: {merges} does not fit {vocab} ({error})") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


REMEDY = (
    "give a folder or hub name with a tokenizer.json; where transformers can load it otherwise, "
    "`AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)` writes one"
)
