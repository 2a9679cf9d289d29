"""Tiny models of many kinds, built from configs in milliseconds, with weights that attend."""

from __future__ import annotations

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
    MistralConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from frontload.model.config import ModelConfig
from frontload.model.presets import build_model

VOCAB_SIZE = 200
WINDOW = 16
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
            model = build_model(ModelConfig(preset=kind, context=512), VOCAB_SIZE, seed=7)
        else:
            model = AutoModelForCausalLM.from_config(CONFIGS[kind])
        for weight in model.parameters():
            if weight.dim() == 2:  # so that heads tell tokens apart
                torch.nn.init.normal_(weight, std=0.6 * weight.shape[1] ** -0.5)
    return model.to(dtype).eval()


def encoder_decoder() -> PreTrainedModel:
    """A model that is no causal language model."""
    shape = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCAB_SIZE, **shape))


def ids(num_tokens: int, seed: int = 0) -> torch.Tensor:
    """Random ids, `[1, tokens]`; none is 0, which `generate` would take for padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB_SIZE, (1, num_tokens), generator=generator)
