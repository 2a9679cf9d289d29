"""Models built from a preset, or taken from a checkpoint.

`tiny`, `small` and `base` are Arcee decoders as transformers has them: Llama (RoPE, grouped-query
attention, RMSNorm) with a squared-ReLU MLP (So et al. 2021, arXiv 2109.08668), which needs two
matrices instead of three and is the MLP of Nemotron too; `tiny` trains fastest with it
(docs/LOG.md). `hybrid` is Nemotron-H (arXiv 2504.03624): Mamba-2, attention and MLP layers.

Guarantees: weights depend on (preset, overrides, vocab_size, seed) alone, whatever was drawn
before, and drawing them does not move the global random state; packed documents never see each
other, Mamba layers included (`frontload.model.hybrid`). Gives up: speed of `hybrid` on a CPU, where
Mamba-2 runs in its plain PyTorch form.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import (
    ArceeConfig,
    AutoConfig,
    AutoModelForCausalLM,
    NemotronHConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from frontload.model.attention import prepare_for_packing
from frontload.model.config import ModelConfig, Preset
from frontload.model.published import refusing_code

_PRESETS: dict[Preset, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "tiny": (
        ArceeConfig,
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
            "tie_word_embeddings": True,
        },
    ),
    "small": (
        ArceeConfig,
        {
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "tie_word_embeddings": True,
        },
    ),
    "base": (
        ArceeConfig,
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 20,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "tie_word_embeddings": True,
        },
    ),
    "hybrid": (
        NemotronHConfig,
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "layers_block_type": 2 * ["linear_attention", "mlp"]
            + ["full_attention", "mlp", "linear_attention", "mlp"],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "n_groups": 1,
            "ssm_state_size": 32,
            "chunk_size": 32,
        },
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCount:
    """Parameters of a model, and what of it works on each token."""

    total: int
    embedding: int
    """Input and output embeddings; a tied matrix once."""
    multiplying: int
    """Parameters that multiply each token: all but an untied input embedding."""
    attention_width: int
    """Heads times head size, summed over attention layers."""


def build_model(config: ModelConfig, vocab_size: int, *, seed: int) -> PreTrainedModel:
    """A float32 model on the CPU with at least `vocab_size` rows of embeddings.

    A checkpoint with fewer rows gets new ones, drawn around the mean of the old (seeded). Token
    ids of end and padding are the tokenizer's business: see `checkpoint.save_model`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.start is not None:
            model = _load_start(config, vocab_size)
        else:
            model = AutoModelForCausalLM.from_config(_preset_config(config, vocab_size))
            _initialise(model)
    prepare_for_packing(model)
    return model


def count_parameters(config: ModelConfig, vocab_size: int) -> ParameterCount:
    """Parameters of the model that `build_model` would give, without allocating it (planning)."""
    if config.start is not None:
        with refusing_code("model.start", config.start):
            shape = AutoConfig.from_pretrained(
                config.start, revision=config.revision, trust_remote_code=False
            )
        shape.vocab_size = max(shape.vocab_size, vocab_size)
    else:
        shape = _preset_config(config, vocab_size)
    with torch.device("meta"), refusing_code("model.start", str(config.start)):
        model = AutoModelForCausalLM.from_config(shape, trust_remote_code=False)
    inputs, outputs = model.get_input_embeddings().weight, model.lm_head.weight
    total = model.num_parameters()
    tied = inputs is outputs
    return ParameterCount(
        total=total,
        embedding=inputs.numel() if tied else inputs.numel() + outputs.numel(),
        multiplying=total if tied else total - inputs.numel(),
        attention_width=sum(
            module.q_proj.out_features for module in model.modules() if hasattr(module, "q_proj")
        ),
    )


def _preset_config(config: ModelConfig, vocab_size: int) -> PretrainedConfig:
    assert config.preset is not None
    kind, shape = _PRESETS[config.preset]
    known = [field.name for field in fields(kind)]
    for name in config.overrides:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"model.overrides: {kind.__name__} has no field {name!r}{hint}")
    # No padding id: nn.Embedding would freeze that row, which another tokenizer may use.
    ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    settings = {**shape, **ids, "max_position_embeddings": config.context, **config.overrides}
    return kind(vocab_size=vocab_size, **settings)


def _load_start(config: ModelConfig, vocab_size: int) -> PreTrainedModel:
    assert config.start is not None
    with refusing_code("model.start", config.start):
        model = AutoModelForCausalLM.from_pretrained(
            config.start,
            revision=config.revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    if vocab_size > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(vocab_size)
    return model


_INTO_STREAM = ("o_proj.weight", "down_proj.weight", "out_proj.weight")
_OUT_OF_STREAM = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "up_proj.weight")


def _initialise(model: PreTrainedModel) -> None:
    """Every block starts as the identity, and what it reads has unit scale at any width.

    On `tiny` with Muon, 0.8M tokens of source code: 2.71 nats a token against 2.75 with the
    standard deviation 0.02 of transformers (one seed). Embeddings and Mamba keep theirs.
    """
    for name, weight in model.named_parameters():
        if name.endswith(_INTO_STREAM):
            torch.nn.init.zeros_(weight)
        elif name.endswith(_OUT_OF_STREAM):
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
