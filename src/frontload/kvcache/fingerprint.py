"""Which model a profile belongs to: a hash of a sample of its weights.

Guarantees: the same weights give the same fingerprint on any machine and device, saved and loaded
again, in bf16 or in fp32; another size, another training run or a scaled tensor gives another one.
It takes a moment on any model, since at most 1,024 values of each tensor are read. Gives up: seeing
a change that no sampled value shows, or that rounding to bf16 hides; it guards against mistakes,
not against forgery.

    require(profile, model)   # before the model meets what the profile decodes
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from frontload.kvcache.profile import Profile

_SAMPLES = 1_024

# Settings that change keys and values while the weights stay the same.
_FIELDS = (
    "model_type",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",  # the angles of scaled rotary embeddings depend on it
    "rope_parameters",
    "no_rope_layers",
    "layer_types",
    "sliding_window",
)


def fingerprint(model: PreTrainedModel) -> str:
    """64 hexadecimal digits that stand for the model's weights and settings.

    Raises:
        ValueError: a weight has no data (the model was built on the meta device).
    """
    digest = hashlib.sha256(json.dumps(_settings(model.config), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise ValueError(f"model: {name} has no data (meta device); load its weights first")
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(_sample(tensor))
    return digest.hexdigest()


def require(profile: Profile, model: PreTrainedModel) -> None:
    """Refuse to use a profile with a model that it was not calibrated for.

    Caches of two models of one shape are told apart by nothing else: they would decode without an
    error to tensors that mean nothing to the other one.

    Raises:
        ValueError: the model's weights or settings are not those of calibration, or have no data.
    """
    found = fingerprint(model)
    if found != profile.model_fingerprint:
        name = model.config.name_or_path or type(model).__name__
        raise ValueError(
            f"profile: it was calibrated for {profile.model_name} (fingerprint "
            f"{profile.model_fingerprint[:16]}), the model is {name} (fingerprint {found[:16]}); "
            "load the weights that it was calibrated for, or run `frontload kv calibrate` on these"
        )


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    values = flat[:: max(1, -(-len(flat) // _SAMPLES))]
    if values.is_floating_point():
        values = values.to(torch.bfloat16).view(torch.int16)
    return values.to("cpu", torch.int64).numpy().astype("<i8").tobytes()


def _settings(config: PretrainedConfig) -> dict[str, Any]:
    text = config.get_text_config(decoder=True)
    settings = {name: getattr(text, name, None) for name in _FIELDS}
    rope = settings["rope_parameters"] or {}
    return {**settings, "rope_parameters": {k: v for k, v in rope.items() if v is not None}}
