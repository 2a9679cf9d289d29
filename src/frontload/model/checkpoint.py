"""Models on disk: Hugging Face config, safetensors and tokenizer in one directory.

Guarantees: the directory appears whole or not at all, plain `AutoModelForCausalLM.from_pretrained`
loads it, nothing is ever unpickled, and no code beside a model is executed. Gives up: replacing an
existing directory is two renames, so a kill between them leaves none; callers write their own
marker last (a stage's DONE).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from frontload.atomic import flush, naming_directory
from frontload.model.attention import prepare_for_packing
from frontload.model.published import refusing_code


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    *,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write model and tokenizer to `directory`, replacing what is there.

    `state` gives the full weights when `model` holds only shards (FSDP). The tokenizer's end and
    padding ids go into the configuration that `generate` reads.

    Raises:
        OSError: it could not be written (a full disk, say); names the directory and the remedy.
    """
    set_token_ids(model, tokenizer)
    fresh = directory.with_name(f".{directory.name}.writing")
    shutil.rmtree(fresh, ignore_errors=True)
    with naming_directory(directory.parent, SafetensorError):
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            model.save_pretrained(fresh, state_dict=None if state is None else dict(state))
            tokenizer.save_pretrained(fresh)
            for path in fresh.iterdir():
                flush(path)
            if directory.exists():
                shutil.rmtree(directory)
            os.replace(fresh, directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)  # a full disk must not keep half a model
        flush(directory.parent)


def load_model(
    origin: Path | str, *, revision: str | None = None, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """A float32 model from a directory or hub name, attending as `model.attention` says.

    Raises:
        ValueError: it needs code of its own, which is never executed.
    """
    with refusing_code("model", str(origin)):
        model = AutoModelForCausalLM.from_pretrained(
            str(origin),
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    prepare_for_packing(model)
    return model.to(device)


def set_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Tell `model.generate` which ids end a text and pad a batch."""
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
