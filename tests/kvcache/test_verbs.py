"""The verbs as a person types them, on a model made in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from frontload.cli import app
from frontload.kvcache.huggingface import prefill
from frontload.kvcache.verbs import PROFILE
from frontload.model.checkpoint import load_model
from frontload.model.tokenizer import load_tokenizer
from tests.kvcache.tiny_models import WORDS, save_tiny_model_with_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` with its profile, `book.txt`, and `book.kv` made of both by the verb."""
    folder = tmp_path_factory.mktemp("verbs")
    save_tiny_model_with_profile(folder / "model")
    (folder / "book.txt").write_text(" ".join(WORDS * 20), encoding="utf-8")
    printed = run("encode", folder / "model", "--text", folder / "book.txt", "--out", kv_of(folder))
    assert "as bf16" in printed
    return folder


def kv_of(folder: Path) -> Path:
    return folder / "book.kv"


def run(*arguments: object) -> str:
    """What a verb prints; its ValueErrors come through, as `main` would show them."""
    result = CliRunner().invoke(app, ["kv", *map(str, arguments)], catch_exceptions=False)
    return " ".join(result.output.split())


def test_calibrate_writes_a_profile_that_is_named_at_the_end(tmp_path: Path) -> None:
    save_tiny_model_with_profile(tmp_path / "model", profile=False)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(WORDS * 300), encoding="utf-8")
    out = tmp_path / "made.safetensors"
    shape = ["--prefix-tokens", 96, "--contexts", 8, "--chunk-tokens", 64]
    printed = run("calibrate", tmp_path / "model", "--text", text, "--out", out, *shape)
    assert "made.safetensors" in printed
    assert "KL (nats a token)" in printed
    assert out.stat().st_size > 0


def test_what_decode_writes_at_the_exact_level_is_the_cache(folder: Path) -> None:
    out = folder / "book.safetensors"
    run("decode", kv_of(folder), "--profile", folder / "model" / PROFILE, "--out", out)
    model, tokenizer = load_model(folder / "model").eval(), load_tokenizer(folder / "model")
    text = (folder / "book.txt").read_text(encoding="utf-8")
    kv, _ = prefill(model, tokenizer(text, return_tensors="pt").input_ids)
    with safe_open(out, "pt") as file:
        assert torch.equal(file.get_tensor("keys"), kv.keys.bfloat16())
        assert torch.equal(file.get_tensor("values"), kv.values.bfloat16())


def test_a_coarser_level_is_another_cache_of_the_same_shape(folder: Path) -> None:
    out = folder / "coarse.safetensors"
    profile = folder / "model" / PROFILE
    run("decode", kv_of(folder), "--profile", profile, "--out", out, "--level", 0)
    with safe_open(out, "pt") as file:
        assert file.get_tensor("keys").shape[0] == 2
    with pytest.raises(ValueError, match="level"):
        run("decode", kv_of(folder), "--profile", profile, "--out", folder / "x", "--level", 99)


def test_a_missing_file_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kv encode"):
        run("inspect", tmp_path / "none.kv")


def test_an_unknown_rival_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no nope; there are cachegen"):
        run("bench", tmp_path / "no-model", "--text", tmp_path / "no-text", "--rivals", "nope")


def test_inspect_names_every_part_with_and_without_a_profile(folder: Path) -> None:
    plain = run("inspect", kv_of(folder))
    assert "exact" in plain
    assert "depth 0, group 0" in plain
    plot = folder / "bits.svg"
    known = run("inspect", kv_of(folder), "--profile", folder / "model" / PROFILE, "--plot", plot)
    assert "bits/value" in known
    assert plot.read_text(encoding="utf-8").startswith("<?xml")
    with pytest.raises(ValueError, match="--profile"):
        run("inspect", kv_of(folder), "--plot", plot)


def test_another_models_profile_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = load_model(folder / "model")
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(tmp_path / "other")
    load_tokenizer(folder / "model").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="it was calibrated for"):
        run(
            "encode", tmp_path / "other", "--text", folder / "book.txt",
            "--out", tmp_path / "x.kv", "--profile", folder / "model" / PROFILE,
        )  # fmt: skip


def test_what_is_there_is_replaced_only_on_demand(folder: Path) -> None:
    profile, text = folder / "model" / PROFILE, folder / "book.txt"
    stored = kv_of(folder).read_bytes()
    with pytest.raises(ValueError, match=r"no other profile.*--replace"):
        run("calibrate", folder / "model", "--text", text)
    with pytest.raises(ValueError, match=r"exists.*--replace"):
        run("encode", folder / "model", "--text", text, "--out", kv_of(folder))
    out = folder / "twice.safetensors"
    decode = ["decode", kv_of(folder), "--profile", profile, "--out", out]
    run(*decode)
    with pytest.raises(ValueError, match=r"exists.*--replace"):
        run(*decode)
    run(*decode, "--replace")
    assert kv_of(folder).read_bytes() == stored


def test_a_missing_profile_says_how_to_make_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kv calibrate"):
        run(
            "encode", folder / "model", "--text", folder / "book.txt",
            "--out", tmp_path / "x.kv", "--profile", tmp_path / "none.safetensors",
        )  # fmt: skip
