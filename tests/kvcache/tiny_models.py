"""Tiny models, built in milliseconds to seconds.

`build` has many kinds, with weights that attend; `model` is the bench's, with a `tokenizer`;
`save_tiny_model_with_profile` leaves a folder as a user would have it.
"""

from __future__ import annotations

import inspect
import statistics
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    DeepseekV3Config,
    Gemma3TextConfig,
    GlmConfig,
    GPT2Config,
    GptOssConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from frontload.kvcache.calibrate import CalibrationSettings, calibrate
from frontload.kvcache.contexts import text_contexts
from frontload.kvcache.texts import Text
from frontload.kvcache.verbs import PROFILE
from frontload.model.checkpoint import save_model
from frontload.model.config import ModelConfig, TokenizerConfig
from frontload.model.presets import build_model
from frontload.model.tokenizer import train_tokenizer

VOCAB_SIZE = 200
WINDOW = 16
SENTENCE = "the cache of a context is kept for the next reader later"
WORDS = SENTENCE.split(" ")
TEXTS = [
    Text(id=module.__name__, text=inspect.getsource(module)) for module in (statistics, textwrap)
]
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
_MAMBA = {"mamba_d_state": 8, "mamba_dt_rank": 4, "num_experts": 2}
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}


def _scaled(kind: str, **settings: Any) -> dict[str, Any]:
    rope = {"rope_theta": 10_000.0, "rope_type": kind, **settings}
    return {**_SHAPE, "rope_parameters": rope}


_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
_BEFORE = {"original_max_position_embeddings": 64}

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE),
    "linear": LlamaConfig(**_scaled("linear", factor=4.0)),
    "llama3": LlamaConfig(**_scaled("llama3", factor=8.0, **_LLAMA3)),
    "yarn": LlamaConfig(**_scaled("yarn", factor=8.0, **_BEFORE)),
    "dynamic": LlamaConfig(**_scaled("dynamic", factor=2.0)),
    "longrope": LlamaConfig(**_scaled("longrope", factor=8.0, **_LONG, **_BEFORE)),
    "qwen2": Qwen2Config(**_SHAPE),
    "qwen3": Qwen3Config(**_SHAPE, head_dim=16),
    "mistral": MistralConfig(**_SHAPE, sliding_window=WINDOW),
    "cohere": CohereConfig(**_SHAPE),
    "glm": GlmConfig(**_SHAPE, head_dim=16),
    "phi": PhiConfig(**_SHAPE),
    "smollm3": SmolLM3Config(**_SHAPE, no_rope_layers=[1, 0, 1]),
    "gemma3": Gemma3TextConfig(
        **_SHAPE, head_dim=16, sliding_window=WINDOW, layer_types=_ALTERNATING
    ),
    "gpt-oss": GptOssConfig(
        **_SHAPE, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "lfm2": Lfm2Config(**_SHAPE, layer_types=["conv", "full_attention", "conv"]),
    "jamba": JambaConfig(**_SHAPE, **_MAMBA, attn_layer_period=2, attn_layer_offset=1),
    "latent": DeepseekV3Config(
        **{**_SHAPE, "num_key_value_heads": 4}, **_LATENT, **_EXPERTS, v_head_dim=8
    ),
}


def build(kind: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model in evaluation mode; `tiny` and `hybrid` are presets, the rest is in `CONFIGS`."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        if kind in ("tiny", "hybrid"):
            built = build_model(ModelConfig(preset=kind, context=512), VOCAB_SIZE, seed=7)
        else:
            built = AutoModelForCausalLM.from_config(CONFIGS[kind])
        for weight in built.parameters():
            if weight.dim() == 2:  # so that heads tell tokens apart
                torch.nn.init.normal_(weight, std=0.6 * weight.shape[1] ** -0.5)
    return built.to(dtype).eval()


def encoder_decoder() -> PreTrainedModel:
    """A model that is no causal language model."""
    shape = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCAB_SIZE, **shape))


def ids(num_tokens: int, seed: int = 0) -> torch.Tensor:
    """Random ids, `[1, tokens]`; none is 0, which `generate` would take for padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB_SIZE, (1, num_tokens), generator=generator)


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


def save_tiny_model_with_profile(directory: Path, *, profile: bool = True) -> None:
    """Two layers, two KV heads of 16; context 512."""
    texts = [Text(id=str(i), text=" ".join(WORDS[i % 7 :] * 120)) for i in range(4)]
    trained = train_tokenizer(
        (text.text for text in texts), TokenizerConfig(train_on=["x"], vocab_size=300)
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(trained),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
    )
    built = LlamaForCausalLM(config).eval()
    save_model(built, trained, directory)
    if profile:
        contexts = text_contexts(
            trained, texts, domain="text", count=8, prefix_tokens=96, suffix_tokens=24, seed=0
        )
        settings = CalibrationSettings(chunk_tokens=64, finest=2, draws=1)
        calibrate(built, contexts, settings).save(directory / PROFILE)
