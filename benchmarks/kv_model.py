"""A small model to compare KV codecs on, trained once from local text (about 25 minutes of a core).

    python benchmarks/kv_model.py train --text novels.parquet --out runs/kv-model
    python benchmarks/kv_model.py import-llama2c stories260K.bin tok512.bin --out runs/stories260k

A codec is only tested by a model that reads its cache: this one continues prose and answers
retrieval episodes (`frontload.kvcache.episodes`) from it. It is a Qwen2 as transformers has them.
Recall needs an induction circuit, which plain training finds late: its two halves are drawn into
the first weights (`look_back`, `match_back`), then everything is trained, from repeated strings to
long episodes and text. Training resumes from its last minute; `checks.json` beside the model says
what was learned.
Without `--text` the running Python's own library is the text.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from numpy.random import Generator
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from frontload.atomic import replacing
from frontload.kvcache.bench.phenomena import find_phenomena
from frontload.kvcache.bench.suite import Plan, make_suite
from frontload.kvcache.episodes import KINDS, Vocabulary
from frontload.kvcache.huggingface import layout_of
from frontload.kvcache.texts import Text, hold_out, read_texts
from frontload.model.checkpoint import load_model, save_model
from frontload.model.config import TokenizerConfig
from frontload.model.llama2c import load_llama2c
from frontload.model.memory import keep_freed_memory
from frontload.model.tokenizer import encode_texts, load_tokenizer, train_tokenizer
from frontload.train.config import OptimizerConfig
from frontload.train.optimizer import Optimizer

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, THETA = 6, 256, 4, 2, 64, 10_000.0
VOCAB_SIZE = 2_048
HELD_OUT = 0.2  # of the texts, evenly spread by id
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


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Draws training rows: ids `[rows, context + 1]` and which of them carry loss as targets."""

    text: np.ndarray  # ids of the training side, documents joined by the first token
    vocabulary: Vocabulary

    def draw(self, rng: Generator, stage: Stage) -> tuple[Tensor, Tensor]:
        """One batch of `stage`."""
        rows = [self._row(rng, stage) for _ in range(stage.rows)]
        ids, scored = (np.stack(x) for x in zip(*rows, strict=True))
        return torch.from_numpy(ids), torch.from_numpy(scored)

    def _row(self, rng: Generator, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
        kind, size = rng.random(), stage.context
        if kind < stage.repeats:
            body, scored = self._repeat(rng, size)
        elif kind < stage.repeats + stage.episodes:
            body, scored = self._episode(rng, size)
        else:
            start = rng.integers(len(self.text) - size)
            body, scored = self.text[start : start + size], np.ones(size, np.bool_)
        first = [self.vocabulary.first or 0]
        return np.concatenate((first, body)), np.concatenate(([False], scored))

    def _repeat(self, rng: Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        period = int(rng.integers(size // 8, size // 2))
        body = np.resize(rng.choice(self.vocabulary.words, period), size)
        return body, np.arange(size) > period

    def _episode(self, rng: Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        make = KINDS[("key-values", "key-values", "multi-key", "variable-chains")[rng.integers(4)]]
        episode = make(rng, self.vocabulary, int(rng.integers(4, size * 3 // 20)))
        facts = episode.facts.reshape(-1)
        width = episode.questions.shape[1]
        asked = rng.integers(len(episode.questions), size=(size - len(facts)) // width + 1)
        ids = np.concatenate((facts, episode.questions[asked].reshape(-1)))[:size]
        scored = np.concatenate((np.zeros(len(facts), np.bool_), episode.scored[asked].reshape(-1)))
        return ids, scored[:size]


def build(seed: int, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """The untrained model: blocks start as the identity, but for the heads that look back."""
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN,
        intermediate_size=640,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(weight)
        elif weight.ndim == 2 and "layers" in name:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    torch.nn.init.normal_(model.model.embed_tokens.weight)
    look_back(model)
    match_back(model)
    return model


@torch.no_grad()
def look_back(model: Qwen2ForCausalLM, *, pairs: int = 8, amplitude: float = 6.0) -> None:
    """Let heads 0 and 1 of layer 0 attend one and two tokens back, by their biases alone.

    Keys of KV head 0 get the same vector at every position; rotary embedding makes its product
    with the query's vector, turned by d tokens, depend on the distance only, with its peak at d.
    """
    attention = model.model.layers[0].self_attn
    angle = THETA ** (-torch.arange(pairs) * 2 / HEAD_DIM)
    half = HEAD_DIM // 2
    attention.k_proj.weight[:HEAD_DIM] *= 0.1
    attention.k_proj.bias[:pairs] = amplitude
    for head, distance in enumerate((1, 2)):
        rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        attention.q_proj.weight[rows] *= 0.1
        bias = attention.q_proj.bias[rows]
        bias[:pairs] = amplitude * torch.cos(distance * angle)
        bias[half : half + pairs] = -amplitude * torch.sin(distance * angle)
        torch.nn.init.orthogonal_(attention.o_proj.weight[:, rows])


@torch.no_grad()
def match_back(model: Qwen2ForCausalLM, *, gain: float = 2.0) -> None:
    """Let head 0 of layer 1 attend to tokens whose predecessor is like the current token.

    Keys read what head 0 of layer 0 copied from one token back, queries the same of the token
    itself. Without it recall was at chance after 0.5M tokens; with it 67 % right after 0.4M.
    """
    copying, matching = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    matching.k_proj.weight[:HEAD_DIM] = gain * copying.o_proj.weight[:, :HEAD_DIM].T
    matching.q_proj.weight[:HEAD_DIM] = gain * copying.v_proj.weight[:HEAD_DIM]


def learning_rate(progress: float) -> float:
    """Warm up over 2 %, hold, then fall linearly over the last `DECAY`."""
    return PEAK_RATE * min(1.0, progress / 0.02 + 0.05, (1 - progress) / DECAY)


def loss_of(model: Qwen2ForCausalLM, ids: Tensor, scored: Tensor) -> Tensor:
    """Mean loss of the scored targets, in bf16 where autocast knows how."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(ids[:, :-1]).last_hidden_state
        logits = model.lm_head(hidden[scored[:, 1:]])
    return cross_entropy(logits.float(), ids[:, 1:][scored[:, 1:]])


@torch.no_grad()
def recall(model: PreTrainedModel, vocabulary: Vocabulary, kind: str, num_lines: int = 40) -> float:
    """Share of values answered right, 8 episodes of `num_lines` facts, all asked once."""
    rng, right = np.random.default_rng(1), []
    for _ in range(8):
        episode = KINDS[kind](rng, vocabulary, num_lines)
        order = rng.permutation(len(episode.questions))
        body = (episode.facts.reshape(-1), episode.questions[order].reshape(-1))
        ids = torch.from_numpy(np.concatenate(([vocabulary.first or 0], *body)))[None]
        scored = episode.scored[order].reshape(-1)
        guessed = model(ids).logits[0, -len(scored) - 1 : -1].argmax(-1)
        right.append((guessed == ids[0, -len(scored) :]).numpy()[scored])
    return float(np.concatenate(right).mean())


def fit(model: Qwen2ForCausalLM, rows: Rows, out: Path, *, num_tokens: int, seed: int) -> None:
    """Train for `num_tokens`, from the newest checkpoint of `out` if there is one."""
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=PEAK_RATE, weight_decay=0.02))
    seen, step = _resume(model, optimizer, out)
    saved = started = time.monotonic()
    while seen < num_tokens:
        stage = next(stage for stage in CURRICULUM if seen < stage.until * num_tokens)
        ids, scored = rows.draw(np.random.default_rng((seed, step)), stage)
        loss = loss_of(model, ids, scored)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate(seen / num_tokens))
        seen, step = seen + ids.numel(), step + 1
        if step % 25 == 0:
            print(
                f"{time.monotonic() - started:6.0f} s  step {step:5}  {seen / 1e6:5.2f}M tokens  "
                f"context {stage.context:4}  loss {loss.item():.3f}",
                flush=True,
            )
        if step % 100 == 0:
            learned = {kind: f"{recall(model, rows.vocabulary, kind):.3f}" for kind in KINDS}
            print("         recall, 40 facts:", learned, flush=True)
        if time.monotonic() - saved > 60:
            _checkpoint(model, optimizer, out, seen, step)
            saved = time.monotonic()


def _checkpoint(
    model: Qwen2ForCausalLM, optimizer: Optimizer, out: Path, seen: int, step: int
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
    tensors["seen"] = torch.tensor([seen, step])
    with replacing(out / "training.safetensors") as unfinished:
        save_file(tensors, unfinished)


def _resume(model: Qwen2ForCausalLM, optimizer: Optimizer, out: Path) -> tuple[int, int]:
    path = out / "training.safetensors"
    if not path.exists():
        return 0, 0
    tensors = load_file(path)
    named: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    seen, step = tensors.pop("seen").tolist()
    for key, tensor in tensors.items():
        owner, _, name = key.partition(".")
        named[owner][name] = tensor
    model.load_state_dict(named["model"])
    optimizer.load_state(named["optimizer"])
    return seen, step


def checks(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, held_out: list[Text]) -> str:
    """What the model shows of what such a test needs, as JSON."""
    plan = Plan(other=0)
    suite = dict(make_suite(model.eval(), tokenizer, held_out, [], plan))
    vocabulary = Vocabulary.of(tokenizer)
    found = {
        "recall_of_40_facts": {kind: recall(model, vocabulary, kind) for kind in KINDS},
        **dataclasses.asdict(find_phenomena(model, layout_of(model), suite)),
        "contexts": dataclasses.asdict(plan),
    }
    return json.dumps(rounded(found), indent=1)


def rounded(value: Any) -> Any:
    """Floats with four decimals, wherever they are."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
TextOption = Annotated[Path | None, typer.Option(help="Parquet (id, text), file or folder.")]


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    text: TextOption = None,
    tokens: Annotated[int, typer.Option(help="Tokens to train on.")] = 3_400_000,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Train the bench model, or finish its training; a finished one is left alone."""
    if (out / "checks.json").exists():
        print(f"{out} is trained")
        return
    keep_freed_memory()
    torch.set_num_threads(threads)
    training, held_out = hold_out(read_texts(text), HELD_OUT)
    settings = TokenizerConfig(train_on=("text",), vocab_size=VOCAB_SIZE)
    tokenizer = train_tokenizer((document.text[:400_000] for document in training), settings)
    tokenizer.bos_token = tokenizer.eos_token
    vocabulary = Vocabulary.of(tokenizer)
    encoded = encode_texts(tokenizer, (document.text[:1_500_000] for document in training))
    joined = np.concatenate([part for ids in encoded for part in ([vocabulary.first], ids)])
    model = build(seed, tokenizer)
    rows = Rows(text=joined.astype(np.int64), vocabulary=vocabulary)
    fit(model, rows, out, num_tokens=tokens, seed=seed)
    save_model(model, tokenizer, out)
    write_checks(out, held_out)


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="Folder of any transformers model.")],
    text: TextOption = None,
    held_out: Annotated[float, typer.Option(help="Share of the text the model has not seen.")] = 1,
) -> None:
    """Write what a model shows of what such a test needs into its folder."""
    texts = read_texts(text)
    write_checks(model, texts if held_out == 1 else hold_out(texts, held_out)[1])


def write_checks(folder: Path, held_out: list[Text]) -> None:
    """`checks.json`, and the same on the screen."""
    found = checks(load_model(folder), load_tokenizer(folder), held_out)
    (folder / "checks.json").write_text(found)
    print(found)


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="Folder of any transformers model.")],
    out: Annotated[Path, typer.Option(help="Parquet table with columns id and text.")],
    count: int = 64,
    tokens: int = 400,
    seed: int = 0,
) -> None:
    """Let a model write the text to measure it on, where its training text is not at hand."""
    torch.manual_seed(seed)
    language_model, tokenizer = load_model(model).eval(), load_tokenizer(model)
    start = torch.full((count, 1), tokenizer.bos_token_id)
    ids = language_model.generate(start, do_sample=True, max_new_tokens=tokens, top_k=0)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    pq.write_table(pa.table({"id": [f"sample-{i}" for i in range(count)], "text": texts}), out)


@app.command("import-llama2c")
def import_llama2c(
    weights: Annotated[Path, typer.Argument(help="llama2.c model file, version 0.")],
    tokenizer: Annotated[Path, typer.Argument(help="llama2.c tokenizer file.")],
    out: Annotated[Path, typer.Option(help="Folder of the transformers model.")],
) -> None:
    """Turn a llama2.c model into one that transformers loads."""
    save_model(*load_llama2c(weights, tokenizer), out)


if __name__ == "__main__":
    app()
