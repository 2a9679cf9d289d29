"""Calibration of a tiny model: deterministic, measured, and each setting has its effect."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

from frontload.kvcache.calibrate import CalibrationSettings, calibrate, hold_out
from frontload.kvcache.codec.chunk import decode_chunk, encode_chunk
from frontload.kvcache.fingerprint import fingerprint
from frontload.kvcache.huggingface import prefill
from frontload.kvcache.profile import Profile
from frontload.kvcache.quality import Context
from tests.kvcache.tiny_models import build

PREFIX, TOTAL = 40, 64


def context(seed: int, *, first: int | None = 0, tokens: int = TOTAL) -> Context:
    ids = np.random.default_rng(seed).integers(1, 64, tokens)
    if first is not None:
        ids[0] = first
    scored = np.arange(tokens) > PREFIX
    return Context(ids=ids, prefix_tokens=PREFIX, scored=scored, domain="random")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        weight.data *= 3 if weight.ndim == 2 else 1  # so that attention is uneven
    return model.train()


@pytest.fixture(scope="module")
def contexts() -> list[Context]:
    return [context(seed) for seed in range(16)]


SETTINGS = CalibrationSettings(chunk_tokens=16, block_channels=32, draws=8)


@pytest.fixture(scope="module")
def progress() -> list[str]:
    return []


@pytest.fixture(scope="module")
def profile(model: LlamaForCausalLM, contexts: list[Context], progress: list[str]) -> Profile:
    return calibrate(model, contexts, SETTINGS, progress.append)


def test_it_is_this_models_profile(model: LlamaForCausalLM, profile: Profile) -> None:
    assert profile.model_fingerprint == fingerprint(model)
    assert profile.layout.rotary is not None
    assert profile.calibrated_tokens == PREFIX
    assert profile.chunk_tokens == 16


def test_finer_levels_cost_more_and_lose_less(profile: Profile) -> None:
    assert len(profile.levels) == 2 * 3 + 1
    for coarse, fine in itertools.pairwise(profile.levels):
        assert coarse.parts + 1 == fine.parts
        assert coarse.bits_per_value < fine.bits_per_value
        assert coarse.kl > fine.kl
    assert SETTINGS.target_kl / 1.3 < profile.levels[0].kl < SETTINGS.target_kl * 1.3
    assert profile.levels[-1].kl < 0.02 * profile.levels[0].kl


def test_a_context_that_calibration_never_saw_is_coded_as_calibrated(
    model: LlamaForCausalLM, profile: Profile
) -> None:
    kv, _ = prefill(model, context(1000).ids[:PREFIX].tolist())
    encoded = encode_chunk(profile, kv)
    assert encoded.report.saturated == 0
    lengths = [part.bits_per_value for part in encoded.report.parts]
    assert sum(lengths) == pytest.approx(sum(profile.code_length), rel=0.1)
    errors = [
        float((decode_chunk(profile, encoded.data, level=n).values.float() - kv.values).norm())
        for n in range(len(profile.levels))
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]


def test_the_same_seed_gives_the_same_profile(
    model: LlamaForCausalLM, contexts: list[Context], profile: Profile
) -> None:
    again = calibrate(model, contexts, SETTINGS)
    assert again.id == profile.id
    assert again.levels == profile.levels
    other = calibrate(model, contexts, SETTINGS.model_copy(update={"seed": 1}))
    assert other.id != profile.id


def test_a_profile_survives_its_file(profile: Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "profile.safetensors")
    again = Profile.load(tmp_path / "profile.safetensors")
    assert again.levels == profile.levels
    for room in ("transform", "tables"):
        for field in fields(getattr(profile, room)):
            arrays = [getattr(getattr(each, room), field.name) for each in (profile, again)]
            assert np.array_equal(*arrays)


def test_the_model_is_left_as_it_was(model: LlamaForCausalLM, profile: Profile) -> None:
    assert model.training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_progress_tells_the_choice_of_blocks_and_every_level(
    profile: Profile, progress: list[str]
) -> None:
    assert sum("bits a value predicted" in line for line in progress) == 4
    assert sum(line.startswith("level ") for line in progress) == len(profile.levels)
    assert any(line.startswith("head: ") for line in progress)
    [deltas] = [line for line in progress if line.startswith("token deltas: ")]
    assert re.search(r"\+\d+ % bits \(anchors\), \+\d+ % \(previous token\): not used", deltas)


def test_each_switch_does_what_it_says(model: LlamaForCausalLM, contexts: list[Context]) -> None:
    def changed(**change: object) -> Profile:
        base = {"step": 0.004, "finest": 1, "grouping": (1, 1, 2)}
        return calibrate(model, contexts[:6], SETTINGS.model_copy(update={**base, **change}))

    whole = changed()
    assert whole.transform.pieces.shape == (4, 2)
    cached = changed(rotary=False)
    assert cached.layout.rotary is None
    assert "settings" in cached.layout.rotary_note
    assert not changed(mean=False).transform.mean.any()
    diagonal = changed(transform=False).transform.inverse
    assert ((diagonal != 0).sum(axis=1) == 1).all()
    assert changed(head=False).head_tokens == 0
    assert len(changed(groups=1).parts) == 2
    rates = {
        metric: changed(metric=metric).levels[0] for metric in ("fisher", "attention", "layers")
    }
    assert len({level.kl for level in rates.values()}) == 3


def test_tensors_weigh_as_their_layer_does_without_the_full_metric(
    model: LlamaForCausalLM, contexts: list[Context]
) -> None:
    settings = SETTINGS.model_copy(
        update={"metric": "thirds", "transform": False, "grouping": (1, 1, 2), "step": 1.0}
    )
    profile = calibrate(model, contexts[:4], settings.model_copy(update={"finest": 0}))
    step = abs(profile.transform.inverse).max(axis=(1, 2)) * profile.transform.scale
    assert step == pytest.approx([0.5, 1.0, 0.5, 1.0], rel=1e-3)  # two layers: the first two thirds


def test_without_a_fixed_first_token_position_0_has_its_mean_alone(
    model: LlamaForCausalLM,
) -> None:
    settings = SETTINGS.model_copy(update={"step": 0.002, "finest": 0, "grouping": (1, 1, 2)})
    fixed = calibrate(model, [context(seed) for seed in range(6)], settings)
    kv, _ = prefill(model, context(77).ids[:PREFIX].tolist())
    first = decode_chunk(fixed, encode_chunk(fixed, kv, exact=False).data).values[:, :, 0]
    assert torch.allclose(first.float(), kv.values[:, :, 0], rtol=2**-6, atol=1e-3)
    free = calibrate(model, [context(seed, first=None) for seed in range(6)], settings)
    assert abs(free.transform.first_mean - fixed.transform.first_mean).max() > 0.1


def test_contexts_are_held_out_evenly() -> None:
    contexts = [context(seed) for seed in range(10)]
    fitted, held_out = hold_out(contexts, 0.25)
    assert [held is contexts[i] for held, i in zip(held_out, (3, 7), strict=True)] == [True] * 2
    assert len(fitted) == 8
    assert [len(side) for side in hold_out(contexts[:2], 0.1)] == [1, 1]


def test_too_few_contexts_are_refused(model: LlamaForCausalLM) -> None:
    for given in ([], [context(0)]):
        with pytest.raises(ValueError, match="give at least 2"):
            calibrate(model, given)


def test_a_context_longer_than_the_model_is_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match=r"number 1 has 129 tokens, the model takes 128"):
        calibrate(model, [context(0), context(1, tokens=129)])


def test_a_prefix_of_one_token_is_refused(model: LlamaForCausalLM) -> None:
    one = replace(context(1), prefix_tokens=1)
    with pytest.raises(ValueError, match=r"number 1 has a prefix of 1 token.*at least 2"):
        calibrate(model, [context(0), one])


def test_prefixes_of_two_tokens_make_a_profile(model: LlamaForCausalLM) -> None:
    short = [replace(context(seed), prefix_tokens=2) for seed in range(4)]
    profile = calibrate(model, short, SETTINGS.model_copy(update={"step": 0.1, "finest": 0}))
    assert profile.calibrated_tokens == 2
    assert np.isfinite(profile.transform.forward).all()


def test_a_profile_names_the_models_folder_and_not_where_it_lies(
    model: LlamaForCausalLM, contexts: list[Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.config, "_name_or_path", "/somewhere/private/my-model")
    settings = SETTINGS.model_copy(update={"step": 0.1, "finest": 0, "grouping": (1, 1, 1)})
    assert calibrate(model, contexts[:2], settings).model_name == "my-model"


def test_a_continuation_is_needed() -> None:
    with pytest.raises(ValueError, match="scored must mark something"):
        Context(ids=np.arange(9), prefix_tokens=5, scored=np.zeros(9, np.bool_), domain="none")


def test_blocks_that_cannot_be_are_refused(
    model: LlamaForCausalLM, contexts: list[Context]
) -> None:
    with pytest.raises(ValueError, match=r"grouping: .*it can be \(1, 1, 1\)"):
        calibrate(model, contexts, SETTINGS.model_copy(update={"grouping": (1, 3, 1)}))
    with pytest.raises(ValueError, match=r"block_channels is 8.*give at least 16"):
        calibrate(model, contexts, CalibrationSettings(block_channels=8))


def test_settings_know_their_keys_and_ranges() -> None:
    with pytest.raises(ValidationError, match="ridges"):
        CalibrationSettings(ridges=1)
    with pytest.raises(ValidationError, match="draws"):
        CalibrationSettings(draws=0)
    with pytest.raises(ValidationError, match="chunk_tokens"):
        CalibrationSettings(chunk_tokens=65_537)  # no object holds more


def test_the_attention_metric_names_what_a_model_lacks() -> None:
    with pytest.raises(ValueError, match="use 'fisher'"):
        calibrate(build("phi"), [context(0), context(1)], CalibrationSettings(metric="attention"))


@pytest.mark.parametrize("kind", ["hybrid", "gemma3", "gpt2"])
def test_models_with_states_windows_or_learned_positions_are_calibrated(kind: str) -> None:
    found = calibrate(
        build(kind),
        [context(seed) for seed in range(4)],
        CalibrationSettings(block_channels=64, groups=1, finest=1, draws=1, target_kl=0.001),
    )
    assert found.levels[1].kl < found.levels[0].kl
