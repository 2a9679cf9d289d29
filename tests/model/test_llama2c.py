"""llama2.c files: the same function as the format's own definition, and no file misread."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from frontload.model.llama2c import load_llama2c

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, CONTEXT = 16, 24, 2, 4, 2, 8
PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{i:02X}>" for i in range(256)), *" abcdé"]
MERGED = [" a", "bc", "abc", "ab", " abc"]  # best score first
VOCAB = len(PIECES) + len(MERGED)
Weights = dict[str, NDArray[np.float32]]


def draw(*, tied: bool) -> Weights:
    """Weights in the order of the file."""
    rng = np.random.default_rng(0)
    kv = DIM // HEADS * KV_HEADS
    sizes = {
        "embedding": (VOCAB, DIM),
        "norm_attention": (LAYERS, DIM),
        "wq": (LAYERS, DIM, DIM),
        "wk": (LAYERS, kv, DIM),
        "wv": (LAYERS, kv, DIM),
        "wo": (LAYERS, DIM, DIM),
        "norm_mlp": (LAYERS, DIM),
        "w1": (LAYERS, HIDDEN, DIM),
        "w2": (LAYERS, DIM, HIDDEN),
        "w3": (LAYERS, HIDDEN, DIM),
        "norm": (DIM,),
        "rotary": (CONTEXT, DIM // HEADS),
        **({} if tied else {"output": (VOCAB, DIM)}),
    }
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


def write(folder: Path, weights: Weights, *, tied: bool) -> tuple[Path, Path]:
    """Both files."""
    model, tokenizer = folder / "model.bin", folder / "tok.bin"
    vocab = VOCAB if tied else -VOCAB
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocab, CONTEXT)
    model.write_bytes(header + b"".join(array.tobytes() for array in weights.values()))
    entries = [(piece.encode(), 0.0) for piece in PIECES]
    entries += [(piece.encode(), -float(i)) for i, piece in enumerate(MERGED)]
    packed = (struct.pack("<fi", score, len(piece)) + piece for piece, score in entries)
    tokenizer.write_bytes(struct.pack("<i", 8) + b"".join(packed))
    return model, tokenizer


def rms(x: NDArray[np.float64], gain: NDArray[np.float32]) -> NDArray[np.float64]:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain


def turn(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate neighbouring channels of `[tokens, heads, head_dim]`, as run.c does."""
    head_dim = x.shape[-1]
    angle = np.arange(len(x))[:, None] / 10_000 ** (np.arange(0, head_dim, 2) / head_dim)
    rotor = np.exp(1j * angle)[:, None]
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * rotor
    return np.stack((turned.real, turned.imag), axis=-1).reshape(x.shape)


def forward(weights: Weights, ids: list[int]) -> NDArray[np.float64]:
    """llama2.c's forward pass over all tokens, in float64."""
    x = weights["embedding"][ids].astype(np.float64)
    head_dim, tokens = DIM // HEADS, len(ids)
    for i in range(LAYERS):
        h = rms(x, weights["norm_attention"][i])
        q = turn((h @ weights["wq"][i].T).reshape(tokens, HEADS, head_dim))
        k = turn((h @ weights["wk"][i].T).reshape(tokens, KV_HEADS, head_dim))
        v = (h @ weights["wv"][i].T).reshape(tokens, KV_HEADS, head_dim)
        k, v = (np.repeat(a, HEADS // KV_HEADS, axis=1) for a in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_dim)
        scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", share, v).reshape(tokens, DIM) @ weights["wo"][i].T
        h = rms(x, weights["norm_mlp"][i])
        gate = h @ weights["w1"][i].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ weights["w3"][i].T)) @ weights["w2"][i].T
    return rms(x, weights["norm"]) @ weights.get("output", weights["embedding"]).T


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_the_format(tmp_path: Path, tied: bool) -> None:
    weights = draw(tied=tied)
    model, _ = load_llama2c(*write(tmp_path, weights, tied=tied))
    ids = [1, 260, 262, 5, 264, 260]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    np.testing.assert_allclose(logits.numpy(), forward(weights, ids), rtol=1e-3, atol=1e-3)


def test_text_is_merged_by_score_and_comes_back(tmp_path: Path) -> None:
    _, tokenizer = load_llama2c(*write(tmp_path, draw(tied=True), tied=True))
    ids = tokenizer("abc dé").input_ids
    # " a" is the best pair, so "abc" cannot form; then "bc", and nothing joins " a" and "bc" but
    # " abc", the last of all.
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", " abc", " ", "d", "é"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "abc dé"


def test_unknown_characters_fall_back_to_bytes(tmp_path: Path) -> None:
    _, tokenizer = load_llama2c(*write(tmp_path, draw(tied=True), tied=True))
    ids = tokenizer("a東").input_ids
    assert ids[-3:] == [3 + byte for byte in "東".encode()]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a東"


def test_a_file_of_another_size_or_version_is_refused(tmp_path: Path) -> None:
    model, tokenizer = write(tmp_path, draw(tied=True), tied=True)
    data = model.read_bytes()
    model.write_bytes(data[:-4])
    with pytest.raises(ValueError, match="header promises"):
        load_llama2c(model, tokenizer)
    model.write_bytes(struct.pack("<2i", 0x616B3432, 1) + data[8:])
    with pytest.raises(ValueError, match="version 0"):
        load_llama2c(model, tokenizer)
    model.write_bytes(data[:20])
    with pytest.raises(ValueError, match="shorter than the header"):
        load_llama2c(model, tokenizer)


def test_a_tokenizer_that_ends_early_is_refused(tmp_path: Path) -> None:
    model, tokenizer = write(tmp_path, draw(tied=True), tied=True)
    tokenizer.write_bytes(tokenizer.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"piece \d+ has 4 bytes"):
        load_llama2c(model, tokenizer)
