"""A model of random weights with a tokenizer and a profile, saved as a user's would be."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from frontload.kvcache.calibrate import CalibrationSettings, calibrate
from frontload.kvcache.contexts import text_contexts
from frontload.kvcache.texts import Text
from frontload.kvcache.verbs import PROFILE
from frontload.model.checkpoint import save_model
from frontload.model.config import TokenizerConfig
from frontload.model.tokenizer import train_tokenizer

WORDS = [
    "the",
    "cache",
    "of",
    "a",
    "context",
    "is",
    "kept",
    "for",
    "the",
    "next",
    "reader",
    "later",
]


def save_tiny_model_with_profile(directory: Path, *, profile: bool = True) -> None:
    """Two layers, two KV heads of 16; context 512."""
    texts = [Text(id=str(i), text=" ".join(WORDS[i % 7 :] * 120)) for i in range(4)]
    tokenizer = train_tokenizer(
        (text.text for text in texts), TokenizerConfig(train_on=["x"], vocab_size=300)
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).eval()
    save_model(model, tokenizer, directory)
    if profile:
        contexts = text_contexts(
            tokenizer, texts, domain="text", count=8, prefix_tokens=96, suffix_tokens=24, seed=0
        )
        settings = CalibrationSettings(chunk_tokens=64, finest=2, draws=1)
        calibrate(model, contexts, settings).save(directory / PROFILE)
