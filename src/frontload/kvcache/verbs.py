"""What `frontload kv calibrate | encode | decode | inspect` do, in print."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from frontload.atomic import replacing
from frontload.kvcache import anatomy, stored
from frontload.kvcache.calibrate import CalibrationSettings, calibrate
from frontload.kvcache.codec.chunk import Encoded
from frontload.kvcache.codec.container import Kind, read_file, write_file
from frontload.kvcache.contexts import retrieval_contexts, text_contexts
from frontload.kvcache.episodes import KINDS
from frontload.kvcache.fingerprint import require
from frontload.kvcache.huggingface import layout_of, prefill
from frontload.kvcache.profile import Profile
from frontload.kvcache.quality import Context
from frontload.kvcache.texts import Text, read_texts
from frontload.model.checkpoint import load_model

PROFILE = "kv-profile.safetensors"
_PREFIX_TOKENS = 1_024
_SUFFIX_TOKENS = 128
_RETRIEVAL_SHARE = 0.25  # of the contexts: text alone hardly needs its prefix


def calibrate_verb(
    origin: str,
    text: Path,
    out: Path | None,
    prefix_tokens: int | None,
    contexts: int,
    chunk_tokens: int,
    seed: int,
    replace: bool,
) -> None:
    """Measure `origin` and write its profile."""
    console = Console()
    out = out or _beside(origin, "--out")
    _refuse_to_replace(out, replace, "what was stored with it can be decoded with no other profile")
    texts = read_texts(text)
    model, tokenizer = _load(origin)
    found = _contexts(model, tokenizer, texts, prefix_tokens, contexts, seed, console)
    settings = CalibrationSettings(chunk_tokens=chunk_tokens, seed=seed)
    with console.status("calibrating") as status:

        def report(line: str) -> None:
            status.update(line)
            if not line.startswith("context "):  # one a context: worth seeing, not keeping
                console.print(line, highlight=False, soft_wrap=True)

        profile = calibrate(model, found, settings, report)
    profile.save(out)
    if profile.layout.rotary_note:
        console.print(
            f"coded as cached: {profile.layout.rotary_note}", highlight=False, soft_wrap=True
        )
    console.print(_levels(profile))
    console.print(
        f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)", highlight=False, soft_wrap=True
    )


def encode_verb(
    origin: str,
    text: Path,
    out: Path,
    profile: Path | None,
    exact: bool,
    tokens: int | None,
    replace: bool,
) -> None:
    """Prefill a text, store its cache, say what it cost."""
    console = Console()
    _refuse_to_replace(out, replace)
    known = Profile.load(profile or _beside(origin, "--profile"))
    texts = read_texts(text)
    if len(texts) > 1:
        raise ValueError(f"text: {text} holds {len(texts)} documents; give one file of one text")
    model, tokenizer = _load(origin)
    require(known, model)
    ids = tokenizer(texts[0].text, return_tensors="pt").input_ids[0, :tokens]
    with console.status(f"prefilling {len(ids):,} tokens"):
        kv, state = prefill(model, ids)
    with console.status(f"encoding {len(ids):,} tokens"):
        chunks = stored.encode(known, kv, state, exact=exact)
    write_file(out, [chunk.data for chunk in chunks])
    raw = 2 * kv.num_values
    size = out.stat().st_size
    console.print(f"{len(ids):,} tokens: {size:,} bytes of {raw:,} as bf16 ({raw / size:.2f}x)")
    _print_drift(console, chunks)


def decode_verb(path: Path, profile: Path, out: Path, level: int | None, replace: bool) -> None:
    """Decode a file to a safetensors file."""
    _refuse_to_replace(out, replace)
    known = Profile.load(profile)
    kv, state = stored.decode(known, read_file(path), level=level)
    with replacing(out) as unfinished:
        save_file(stored.as_tensors(kv, state), unfinished)
    layers, heads, tokens, head_dim = kv.keys.shape
    Console().print(
        f"wrote {out}: keys and values [{layers} layers, {heads} heads, {tokens} tokens from "
        f"position {kv.start}, {head_dim}], bf16",
        highlight=False,
        soft_wrap=True,
    )


def inspect_verb(path: Path, profile: Path | None, plot: Path | None) -> None:
    """Print a file's parts and levels; draw where the bits go."""
    console = Console()
    if plot and not profile:
        raise ValueError("--plot: where bits go by layer is in the tables; give --profile, too")
    chunks = read_file(path)
    found = anatomy.dissect(chunks)
    known = None if profile is None else Profile.load(profile)
    first = found.headers[0]
    console.print(
        f"{path}: {len(chunks)} chunks, {found.num_tokens:,} tokens from position {first.start}, "
        f"{found.num_bytes:,} bytes, of a {first.dtype} cache, profile {first.profile_id.hex()}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_parts(found, known))
    if known is not None and plot is not None:
        anatomy.draw(anatomy.bits_by_layer(known, chunks), plot)
        console.print(f"wrote {plot}", highlight=False, soft_wrap=True)


def _parts(found: anatomy.Anatomy, profile: Profile | None) -> Table:
    """A row a part; with the profile also bits a value, and the level that it completes."""
    columns = ["part", "bytes"]
    columns += ["bits/value", "so far", "level", "KL when calibrated"] if profile else []
    table = Table(*columns, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("headers", f"{found.framing_bytes:,}")
    values = found.num_tokens * profile.layout.values_per_token if profile else 1
    levels = {level.parts: (i, level) for i, level in enumerate(profile.levels if profile else ())}
    total, lossy = found.framing_bytes, 0
    for part in found.parts:
        lossy += part.kind == Kind.LOSSY
        name = part.kind.name.lower()
        if part.kind == Kind.LOSSY:
            name = f"depth {part.depth}, group {part.group}"
        row = [name, f"{part.num_bytes:,}"]
        if profile and part.kind != Kind.STATE:
            total += part.num_bytes
            row += [f"{8 * part.num_bytes / values:.3f}", f"{8 * total / values:.3f}"]
        if profile and part.kind == Kind.LOSSY and lossy in levels:
            row += [str(levels[lossy][0]), f"{levels[lossy][1].kl:.2g}"]
        elif profile and part.kind == Kind.EXACT:
            row += [str(len(profile.levels)), "0"]
        table.add_row(*row)
    return table


def _levels(profile: Profile) -> Table:
    table = Table("level", "bits/value", "KL (nats a token)", "top-1 changed", title="Levels")
    for i, level in enumerate(profile.levels):
        table.add_row(
            str(i), f"{level.bits_per_value:.3f}", f"{level.kl:.2g}", f"{level.flips:.2%}"
        )
    return table


def _print_drift(console: Console, chunks: list[Encoded]) -> None:
    """The worst excess over calibration, and everything unusual."""
    parts = [part for chunk in chunks for part in chunk.report.parts]
    mean = sum(part.excess for part in parts) / len(parts)
    escapes = sum(part.escapes for part in parts) / max(1, sum(part.symbols for part in parts))
    console.print(f"code length against calibration {mean:+.1%}, escapes {escapes:.3%}")
    if safer := sum(part.safer for part in parts):
        console.print(f"{safer} of {len(parts)} parts use the safer tables: unlike calibration")
    if cut := sum(chunk.report.saturated for chunk in chunks):
        console.print(
            f"{cut} values lie beyond the profile's limits; only the exact level has them"
        )
    if any(chunk.report.beyond_calibration for chunk in chunks):
        console.print("longer than any context of calibration: losses of levels may be higher")


def _contexts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[Text],
    prefix_tokens: int | None,
    count: int,
    seed: int,
    console: Console,
) -> list[Context]:
    """Text and, where the vocabulary allows, retrieval: text alone hardly needs its prefix."""
    most = layout_of(model).max_tokens or _PREFIX_TOKENS + _SUFFIX_TOKENS
    suffix = min(_SUFFIX_TOKENS, most // 4)
    prefix = prefix_tokens or min(_PREFIX_TOKENS, most - suffix)
    retrieval = max(1, round(count * _RETRIEVAL_SHARE) // len(KINDS))
    shape = {"prefix_tokens": prefix, "suffix_tokens": suffix, "seed": seed}
    found: list[Context] = []
    try:
        for kind in KINDS:
            found += retrieval_contexts(tokenizer, kind, count=retrieval, **shape)
    except ValueError as error:
        console.print(f"without retrieval contexts: {error}", highlight=False, soft_wrap=True)
    return found + text_contexts(tokenizer, texts, domain="text", count=count - len(found), **shape)


def _load(origin: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    disable_progress_bar()
    model = load_model(origin).eval()
    tokenizer = AutoTokenizer.from_pretrained(origin, trust_remote_code=False)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _refuse_to_replace(out: Path, replace: bool, why: str = "") -> None:
    if out.exists() and not replace:
        because = f" ({why})" if why else ""
        raise ValueError(f"--out: {out} exists{because}; give another name, or --replace")


def _beside(origin: str, option: str) -> Path:
    if not Path(origin).is_dir():
        raise ValueError(f"{option}: {origin} is not a local folder; say where the profile is")
    return Path(origin) / PROFILE
