"""Items into packed rows: tokenize once, train from memory maps ever after.

Guarantees: an example is never split and never cut, each is one segment of a row; documents fill
every row but the last to the brim and are split where a row ends; every item is either in the rows
or counted with a reason; memory stays bounded (a batch of items and 256 open rows), however large
the source. The rows depend on the items, the tokenizer, the context and nothing else. Gives up:
the order of items (a training order is drawn later), attention of a document across a row's end.

    packed = pack(items, tokenizer, name="traces", context=64, supervise="response",
                  directory=folder, fingerprint=source.fingerprint())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from frontload.corpus.example import Document, Example, Item
from frontload.corpus.filling import FILLERS
from frontload.corpus.rows import MARKER, PackedRows, RowWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["PackedRows", "pack"]

_BATCH_ITEMS = 2048
_BATCH_CHARACTERS = 2_000_000  # encodings take up to 100 bytes of memory per character

Supervise = Literal["response", "all"]
Progress = Callable[[int, int], None]
"""Called now and then with items read and tokens packed so far."""


def pack(
    items: Iterable[Item],
    tokenizer: PreTrainedTokenizerFast,
    *,
    name: str,
    context: int,
    supervise: Supervise,
    directory: Path,
    fingerprint: str = "",
    on_progress: Progress | None = None,
) -> PackedRows:
    """Pack a source into rows of `context` tokens, or open the pack that is already there.

    `fingerprint` identifies the items and is recorded; so are the tokenizer's contract, the context
    and `supervise` (documents are supervised everywhere, whatever it says). A pack found in
    `directory` is used if it was made from the same, and refused otherwise.

    Raises:
        ValueError: the source is empty, mixes documents with examples, or nothing of it fits the
            context; or `directory` holds a pack of something else.
    """
    from frontload.model.contract import contract_of

    identity: dict[str, Any] = {
        "source_fingerprint": fingerprint,
        "tokenizer": contract_of(tokenizer).digest,
        "context": context,
        "supervise": supervise,
    }
    if (directory / MARKER).is_file():
        return _open_same(directory, identity)
    stream = iter(items)
    first = next(stream, None)
    if first is None:
        raise ValueError(f"sources.{name}: is empty; check its paths, filters and limit")
    kind = type(first)
    identity["supervise"] = supervise if kind is Example else "all"
    pad_id = _pad_id(tokenizer)
    with RowWriter(directory, context=context, vocab_size=len(tokenizer), pad_id=pad_id) as writer:
        filler = FILLERS[kind](writer, tokenizer, identity["supervise"] == "all")
        num_items = 0
        for batch in _batches(chain([first], stream), kind, name):
            filler.add(batch)
            num_items += len(batch)
            if on_progress is not None:
                on_progress(num_items, filler.num_tokens)
        filler.close()
        counters = {"items": num_items, "dropped": dict(+filler.dropped), "longest": filler.longest}
        if writer.rows == 0:
            raise ValueError(
                f"sources.{name}: nothing is left to train on; of {num_items} items, none fits "
                f"model.context = {context} tokens (the longest has {filler.longest}; dropped: "
                f"{dict(+filler.dropped)}). Raise model.context or shorten the examples"
            )
        return writer.finish(
            source=name, reasoning=kind is Example, identity=identity, counters=counters
        )


def _batches(items: Iterable[Item], kind: type, name: str) -> Iterator[list[Item]]:
    """Groups of at most 2048 items and about 2 million characters."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        if type(item) is not kind:
            raise ValueError(
                f"sources.{name}: mixes documents and examples; split it into two sources"
            )
        batch.append(item)
        characters += _num_characters(item)
        if len(batch) == _BATCH_ITEMS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _num_characters(item: Item) -> int:
    if isinstance(item, Document):
        return len(item.text)
    return sum(len(message.content) for message in item.messages)


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    pad_id = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad_id is None else pad_id


def _open_same(directory: Path, identity: dict[str, Any]) -> PackedRows:
    packed = PackedRows.open(directory)
    expected = {**identity, "supervise": identity["supervise"] if packed.reasoning else "all"}
    differing = [
        f"{key}: {packed.identity.get(key)!r} there, {value!r} now"
        for key, value in expected.items()
        if packed.identity.get(key) != value
    ]
    if differing:
        raise ValueError(
            f"{directory} holds another pack ({'; '.join(differing)}); remove it or use another "
            "folder"
        )
    return packed
