"""A small model to compare KV codecs on, trained once from local text (about 25 minutes of a core).

    python benchmarks/kv_model.py train --text novels.parquet --out runs/kv-model
    python benchmarks/kv_model.py import-llama2c stories260K.bin tok512.bin --out runs/stories260k

A codec is only tested by a model that reads its cache: this one continues prose and answers
retrieval episodes (`frontload.kvcache.episodes`) from it. It is a Qwen2 as transformers has them.
Recall needs heads that look one token back, which plain training finds late: they are written into
the biases of layer 0 (`look_back`), and training goes from repeated strings to long episodes.
Training resumes from its last minute; `checks.json` beside the model says what was learned.
Without `--text` the running Python's own library is the text.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from frontload.corpus.config import InstalledText
from frontload.corpus.stdlib import StandardLibrary
from frontload.corpus.stream import Reading
from frontload.kvcache.episodes import KINDS, Episode, Vocabulary
from frontload.model.checkpoint import save_model
from frontload.model.config import TokenizerConfig
from frontload.model.tokenizer import encode_texts, train_tokenizer
from frontload.train.config import OptimizerConfig
from frontload.train.optimizer import Optimizer

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, THETA = 6, 256, 4, 2, 64, 10_000.0
VOCAB_SIZE = 2_048
HELD_OUT = 10  # texts, evenly spread by id
PEAK_RATE, DECAY = 0.01, 0.35


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of training: `until` is a share of the whole; the rest describes its rows."""

    until: float
    context: int
    rows: int
    repeats: float  # share of rows that repeat a random string
    episodes: float  # share of rows that are retrieval; the rest is text


CURRICULUM = (
    Stage(until=0.10, context=128, rows=32, repeats=0.5, episodes=0.2),
    Stage(until=0.35, context=256, rows=16, repeats=0.1, episodes=0.5),
    Stage(until=0.85, context=640, rows=8, repeats=0.0, episodes=0.45),
    Stage(until=1.00, context=1024, rows=5, repeats=0.0, episodes=0.4),
)
