"""Small models and a tokenizer for the tests of this room."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from transformers import BambaConfig, BambaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from frontload.model.config import ModelConfig, TokenizerConfig
from frontload.model.presets import build_model
from frontload.model.tokenizer import train_tokenizer
from frontload.tasks.draw import draw_problem
from frontload.tasks.registry import family_names, get_family

CONTEXT = 64


def tokenizer(vocab_size: int = 320) -> PreTrainedTokenizerFast:
    """A tokenizer trained on a few questions."""
    families = [get_family(name) for name in itertools.islice(family_names(), 8)]
    texts = [draw_problem(f, seed=0, index=i).question for f in families for i in range(4)]
    config = TokenizerConfig(train_on=("texts",), vocab_size=vocab_size)
    return train_tokenizer([*texts, "def a(b):\n    return b\n"], config)


def random_model(preset: str = "tiny", vocab_size: int = 320, seed: int = 0) -> PreTrainedModel:
    """A preset whose weights are all random, so that every layer matters."""
    shape = {"layers_block_type": ["linear_attention", "mlp", "full_attention"]}
    config = ModelConfig.model_validate(
        {"preset": preset, "context": CONTEXT, "overrides": shape if preset == "hybrid" else {}}
    )
    model = build_model(config, vocab_size, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.1, generator=generator)
    return model.eval()


def other_recurrent_model(vocab_size: int = 320) -> PreTrainedModel:
    """A Mamba-2 and attention model other than our hybrid."""
    config = BambaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_indices=[1],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=8,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BambaForCausalLM(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=0.2)
    return model


def chain_model(vocab_size: int, following: Mapping[int, int]) -> PreTrainedModel:
    """A model that answers token `a` with `following[a]`, whatever came before.

    Fresh presets leave the residual stream alone (their output projections are zero), so a one-hot
    embedding reaches the head, whose weights are the chain.
    """
    config = ModelConfig.model_validate(
        {
            "preset": "tiny",
            "context": CONTEXT,
            "overrides": {"hidden_size": vocab_size, "tie_word_embeddings": False, "head_dim": 8},
        }
    )
    model = build_model(config, vocab_size, seed=0)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.eye(vocab_size))
        head = model.get_output_embeddings().weight.zero_()
        for token, next_token in following.items():
            head[next_token, token] = 1.0
    return model.eval()


def uniform_model(vocab_size: int = 320) -> PreTrainedModel:
    """A model that finds every next token equally likely."""
    model = build_model(ModelConfig(preset="tiny", context=CONTEXT), vocab_size, seed=0)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    return model.eval()
