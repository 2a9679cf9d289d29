"""Models of llama2.c (the tinyllamas) as transformers has them.

Guarantees: the same logits to float32 rounding, and the same ids as llama2.c's own encoder for
text without control characters. Gives up: files of version 1 and later, which begin with a magic
number, and quantized ones.

Format (github.com/karpathy/llama2.c, `export.py`, version 0): seven int32, then float32 matrices,
all layers of a kind together; the rotary pairs are neighbouring channels, which transformers keeps
in two halves, so the rows of queries and keys are put in that order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_HEADER = struct.Struct("<7i")
_UNKNOWN, _BEGIN, _END = "<unk>", "<s>", "</s>"  # ids 0, 1, 2 in every SentencePiece Llama


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The header."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    context: int
    tied: bool

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.dim // self.heads

    @property
    def num_floats(self) -> int:
        """Floats behind the header."""
        kv_dim = self.kv_heads * self.head_dim
        layer = 2 * self.dim * (self.dim + kv_dim + 1) + 3 * self.dim * self.hidden_dim
        tables = self.vocab_size * self.dim * (1 if self.tied else 2)
        return self.layers * layer + tables + self.dim + self.context * self.head_dim


def load_llama2c(
    weights: Path, tokenizer: Path
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The float32 model and the tokenizer of two llama2.c files.

    Raises:
        ValueError: a file is not of version 0, or its size does not fit its header.
    """
    shape, floats = _read(weights)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=shape.tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    state = dict(_tensors(shape, floats))
    if shape.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval(), read_tokenizer(tokenizer, shape.vocab_size)


def _read(path: Path) -> tuple[Shape, NDArray[np.float32]]:
    data = path.read_bytes()
    if len(data) < _HEADER.size:
        raise ValueError(f"{path}: {len(data)} bytes, shorter than the header of llama2.c")
    dim, hidden_dim, layers, heads, kv_heads, vocab_size, context = _HEADER.unpack_from(data)
    sizes = (dim, hidden_dim, layers, heads, kv_heads, abs(vocab_size), context)
    if min(sizes) < 1 or max(sizes) > 1 << 20 or dim % heads or heads % kv_heads:
        raise ValueError(f"{path}: not a llama2.c model of version 0 (header {sizes})")
    shape = Shape(
        dim=dim,
        hidden_dim=hidden_dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        vocab_size=abs(vocab_size),
        context=context,
        tied=vocab_size > 0,
    )
    expected = _HEADER.size + 4 * shape.num_floats
    if len(data) != expected:
        raise ValueError(f"{path}: {len(data)} bytes, its header promises {expected}")
    return shape, np.frombuffer(data, "<f4", offset=_HEADER.size)


def _tensors(shape: Shape, floats: NDArray[np.float32]) -> Iterator[tuple[str, Tensor]]:
    """Names of transformers and their weights, in the order of the file."""
    position = 0

    def take(*size: int) -> Tensor:
        nonlocal position
        first, position = position, position + int(np.prod(size))
        return torch.from_numpy(floats[first:position].reshape(size).copy())

    kv_dim = shape.kv_heads * shape.head_dim
    layers, dim, hidden = shape.layers, shape.dim, shape.hidden_dim
    kinds = (
        ("input_layernorm", (dim,), 0),
        ("self_attn.q_proj", (dim, dim), shape.heads),
        ("self_attn.k_proj", (kv_dim, dim), shape.kv_heads),
        ("self_attn.v_proj", (kv_dim, dim), 0),
        ("self_attn.o_proj", (dim, dim), 0),
        ("post_attention_layernorm", (dim,), 0),
        ("mlp.gate_proj", (hidden, dim), 0),
        ("mlp.down_proj", (dim, hidden), 0),
        ("mlp.up_proj", (hidden, dim), 0),
    )
    yield "model.embed_tokens.weight", take(shape.vocab_size, dim)
    for name, size, rotary_heads in kinds:
        for layer, weight in enumerate(take(layers, *size)):
            halves = _pairs_to_halves(weight, rotary_heads) if rotary_heads else weight
            yield f"model.layers.{layer}.{name}.weight", halves
    yield "model.norm.weight", take(dim)
    position += shape.context * shape.head_dim  # cosines and sines of the rotary embedding
    if not shape.tied:
        yield "lm_head.weight", take(shape.vocab_size, dim)


def _pairs_to_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows 2j and 2j + 1 of each head become rows j and j + half."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def read_tokenizer(path: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """The SentencePiece BPE of a llama2.c tokenizer file.

    Its pieces have scores instead of merges: of all adjacent pairs that form a piece, the one with
    the best score merges first, which is what a BPE does whose merges are ranked by that score.

    Raises:
        ValueError: the file ends early, or pieces are missing or double.
    """
    pieces = _read_pieces(path, vocab_size)
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    if len(ids) != vocab_size:
        raise ValueError(f"{path}: two pieces are alike; transformers needs distinct ones")
    merges = [
        (score, -i, piece[:cut], piece[cut:])
        for i, (piece, score) in enumerate(pieces)
        for cut in range(1, len(piece))
        if i > 2 and piece[:cut] in ids and piece[cut:] in ids and not piece.startswith("<0x")
    ]
    ranked = [(left, right) for *_, left, right in sorted(merges, key=lambda m: m[:2])[::-1]]
    backend = Tokenizer(
        models.BPE(vocab=ids, merges=ranked, unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Prepend(" ")
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", special_tokens=[(_BEGIN, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=_UNKNOWN,
        bos_token=_BEGIN,
        eos_token=_END,
        clean_up_tokenization_spaces=False,
    )


def _read_pieces(path: Path, vocab_size: int) -> list[tuple[str, float]]:
    data, position = path.read_bytes(), 4  # the longest piece's length comes first
    pieces: list[tuple[str, float]] = []
    for i in range(vocab_size):
        if position + 8 > len(data):
            raise ValueError(f"{path}: ends after {i} of {vocab_size} pieces")
        score, length = struct.unpack_from("<fi", data, position)
        position += 8 + length
        if length < 0 or position > len(data):
            raise ValueError(f"{path}: piece {i} has {length} bytes, past the end of the file")
        piece = data[position - length : position].decode("utf-8", "replace")
        pieces.append(((_UNKNOWN, _BEGIN, _END)[i] if i < 3 else piece, score))
    return pieces
