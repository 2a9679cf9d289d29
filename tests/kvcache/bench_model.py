"""A tokenizer and an untrained model small enough for tests of the bench."""

from __future__ import annotations

import inspect
import statistics
import textwrap
from functools import cache

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from frontload.kvcache.texts import Text
from frontload.model.config import TokenizerConfig
from frontload.model.tokenizer import train_tokenizer

TEXTS = [
    Text(id=module.__name__, text=inspect.getsource(module)) for module in (statistics, textwrap)
]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """512 tokens of Python source, with a first token."""
    settings = TokenizerConfig(train_on=("text",), vocab_size=640)
    trained = train_tokenizer([text.text for text in TEXTS], settings)
    trained.bos_token = trained.eos_token
    return trained


@cache
def model() -> LlamaForCausalLM:
    """Two layers, grouped heads, weights large enough that every token matters."""
    config = LlamaConfig(
        vocab_size=640,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()
