"""What the bench asks of our codec: files a level, format costs, ablation."""

from __future__ import annotations

import pytest
import torch

from frontload.kvcache.bench.ablation import variants
from frontload.kvcache.bench.overheads import overheads
from frontload.kvcache.bench.suite import calibration_contexts
from frontload.kvcache.calibrate import CalibrationSettings, calibrate
from frontload.kvcache.codec.damage import Truncated
from frontload.kvcache.codec.layered import Layered
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile
from frontload.kvcache.quality import dump
from tests.kvcache import synthetic
from tests.kvcache.tiny_models import TEXTS, model, tokenizer

SETTINGS = CalibrationSettings(finest=2, draws=1, step=0.3)


@pytest.fixture(scope="module")
def runs() -> list[KVTensors]:
    contexts = calibration_contexts(
        tokenizer(), TEXTS, text=4, recall_a_kind=0, prefix_tokens=60, suffix_tokens=20
    )
    return [each.kv for each in dump(model(), contexts)]


@pytest.fixture(scope="module")
def profile() -> Profile:
    contexts = calibration_contexts(
        tokenizer(), TEXTS, text=6, recall_a_kind=0, prefix_tokens=60, suffix_tokens=20, seed=5
    )
    return calibrate(model(), contexts, SETTINGS)


def test_finer_levels_are_longer_files_nearer_to_the_cache(
    profile: Profile, runs: list[KVTensors]
) -> None:
    codec = Layered(profile=profile, chunk_tokens=25)
    assert isinstance(codec, Codec)
    sizes, errors = [], []
    for level in codec.levels:
        data = codec.encode(runs[0], level)
        decoded = codec.decode(data)
        sizes.append(len(data))
        errors.append((decoded.values.float() - runs[0].values.float()).square().mean().item())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0
    assert torch.equal(decoded.keys, runs[0].keys)


def test_a_cut_file_and_an_unknown_level_are_refused(
    profile: Profile, runs: list[KVTensors]
) -> None:
    codec = Layered(profile=profile, exact=False)
    with pytest.raises(ValueError, match="level is 'exact'"):
        codec.encode(runs[0], "exact")
    with pytest.raises(Truncated):
        codec.decode(codec.encode(runs[0], "0")[:-1])


def test_format_costs_are_small_on_what_the_tables_were_made_for() -> None:
    profile = synthetic.profile(pieces_a_block=2)
    held_out = [synthetic.cache(2560, seed=9, start=0)]
    calibration = [synthetic.cache(2560, seed=3, start=0)]
    same = [synthetic.cache(1280, seed=i, start=0) for i in (11, 12)]
    costs = overheads(profile, calibration, held_out, same)
    assert 0 < costs.coder < 0.5  # 32 values a token: states weigh ten times what they do in models
    assert abs(costs.levels) < 0.05
    assert costs.levels_in_files == pytest.approx(
        (1 + costs.coder) * (1 + costs.levels) - 1, rel=1e-6
    )
    assert costs.shift is not None
    assert abs(costs.shift) < 0.1


def test_every_variant_differs_from_the_whole_in_one_setting() -> None:
    whole = CalibrationSettings()
    for name, settings in variants(whole).items():
        changed = [
            field
            for field in type(whole).model_fields
            if getattr(settings, field) != getattr(whole, field)
        ]
        assert len(changed) == (2 if name == "no-metric-no-transform" else 1), name
    assert "no-mean" not in variants(whole.model_copy(update={"mean": False}))


def test_a_held_out_run_that_is_too_short_is_refused(
    profile: Profile, runs: list[KVTensors]
) -> None:
    with pytest.raises(ValueError, match="give runs of 264 tokens"):
        overheads(profile, runs, runs)
