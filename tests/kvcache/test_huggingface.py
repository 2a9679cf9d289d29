"""Laws of the bridge: models are understood by what they do, continued exactly, left untouched."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin

from frontload.kvcache.fingerprint import fingerprint
from frontload.kvcache.huggingface import from_cache, layout_of, prefill, to_cache
from frontload.kvcache.layout import KVTensors, join
from tests.kvcache import synthetic, tiny_models
from tests.kvcache.elsewhere import elsewhere
from tests.kvcache.tiny_models import WINDOW, build, ids

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
CONTINUED = ["llama", "yarn", "qwen2", "qwen3", "mistral", "gemma3", "cohere", "gpt2", "tiny"]
HYBRIDS = ["hybrid", "lfm2"]


def native(model, row, cache=None):
    """Logits and cache as transformers gives them when it is asked for one piece."""
    with torch.no_grad():
        out = model(input_ids=row, past_key_values=cache or DynamicCache(config=model.config))
    return out.logits, out.past_key_values


@BOTH
@pytest.mark.parametrize(
    ("kind", "pairing", "turning"),
    [
        ("llama", "halves", 8),
        ("linear", "halves", 8),
        ("llama3", "halves", 8),
        ("yarn", "halves", 8),
        ("qwen2", "halves", 8),
        ("qwen3", "halves", 16),
        ("mistral", "halves", 8),
        ("cohere", "neighbours", 8),
        ("glm", "neighbours", 8),
        ("phi", "halves", 4),
        ("gpt-oss", "halves", 16),
        ("tiny", "halves", 32),
    ],
)
def test_rotary_models_are_understood(kind, pairing, turning, dtype):
    layout = layout_of(build(kind, dtype))
    assert layout.rotary_note == ""
    assert (layout.rotary.pairing, 2 * len(layout.rotary.inv_freq)) == (pairing, turning)
    assert all(layout.rotary.layers)
    assert layout.max_tokens == 512


def test_layouts_differ_where_the_rotation_does():
    rotations = [layout_of(build(k)).rotary for k in ("llama", "linear", "llama3", "yarn")]
    assert len(set(rotations)) == 4
    assert rotations[3].scaling > 1


@BOTH
@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("gpt2", "follow no rotary embedding"),
        ("dynamic", "dynamic NTK changes its angles"),
        ("longrope", "longrope changes its angles"),
        ("hybrid", "do not depend on positions"),
        ("jamba", "do not depend on positions"),
    ],
)
def test_other_positions_are_left_alone_and_said(kind, note, dtype):
    layout = layout_of(build(kind, dtype))
    assert layout.rotary is None
    assert note in layout.rotary_note


def test_layers_without_positions_do_not_turn():
    layout = layout_of(build("smollm3"))
    assert layout.rotary.layers == (True, False, True)
    assert layout.rotary_note == ""


def test_layers_with_a_rotation_of_their_own_are_said():
    layout = layout_of(build("gemma3"))
    assert layout.rotary.layers == (True, False, True)
    assert "attention layers 1 are coded as cached" in layout.rotary_note


@pytest.mark.parametrize("kind", ["llama", "linear", "llama3", "yarn", "mistral"])
def test_undone_keys_are_those_before_the_rotation(kind):
    model, seen = build(kind), []
    attention = model.model.layers[1].self_attn
    hook = attention.k_proj.register_forward_hook(lambda _, __, output: seen.append(output))
    kv, _ = prefill(model, ids(300), piece_tokens=64)
    hook.remove()
    scaling = layout_of(model).rotary.scaling
    before = torch.cat(seen, dim=1)[0].view(300, 2, 8).transpose(0, 1)
    undone = layout_of(model).rotary.undo(kv.keys, 0)[1]
    torch.testing.assert_close(undone, before, rtol=0, atol=2e-6 * scaling)


@BOTH
@pytest.mark.parametrize("kind", CONTINUED + HYBRIDS)
def test_continuing_is_exact(kind, dtype):
    model, row = build(kind, dtype), ids(60)
    kv, state = prefill(model, row[:, :45])
    _, cache = native(model, row[:, :45])
    expected, _ = native(model, row[:, 45:], cache)
    found, _ = native(model, row[:, 45:], to_cache(model, join(kv.chunks(7)), state))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", [*CONTINUED, *HYBRIDS, "jamba"])
def test_generating_is_exact(kind):
    model, row = build(kind), ids(40)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    kv, state = prefill(model, row)
    _, cache = native(model, row)
    longer = torch.cat((row, ids(1, seed=1)), dim=1)
    expected = model.generate(longer, past_key_values=cache, **settings)
    found = model.generate(longer, past_key_values=to_cache(model, kv, state), **settings)
    assert torch.equal(found, expected)
    assert found.shape[1] == 53


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3", "hybrid", "lfm2", "jamba"])
def test_pieces_change_nothing_but_rounding(kind):
    model, row = build(kind), ids(50)
    whole, state = prefill(model, row)
    pieces, state_of_pieces = prefill(model, row[0].tolist(), piece_tokens=WINDOW - 3)
    torch.testing.assert_close(pieces.keys, whole.keys, rtol=0, atol=2e-5)
    torch.testing.assert_close(pieces.values, whole.values, rtol=0, atol=2e-5)
    assert (state is None) == (state_of_pieces is None)
    if state is not None:
        assert list(state.tensors) == list(state_of_pieces.tensors)
        for name, tensor in state.tensors.items():
            torch.testing.assert_close(state_of_pieces.tensors[name], tensor, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "hybrid"])
def test_a_model_of_any_dtype_goes_on_from_what_was_decoded(kind, dtype):
    model, row = build(kind, dtype), ids(40)
    kv, state = prefill(model, row)
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    cache = to_cache(model, elsewhere(kv.to(dtype=torch.bfloat16)), state)
    kept = [layer for layer in cache.layers if isinstance(layer, CacheLayerMixin)]
    assert {layer.keys.dtype for layer in kept} == {dtype}
    assert torch.equal(kept[0].values[0], kv.values[0].bfloat16().to(dtype))
    found = model.generate(torch.cat((row, ids(1)), dim=1), past_key_values=cache, **settings)
    assert found.shape[1] == 46


def test_a_cache_beyond_the_models_dtype_is_refused():
    kv, _ = prefill(build("llama"), ids(5))
    large = KVTensors(keys=kv.keys, values=kv.values + 1e5)
    with pytest.raises(ValueError, match="Inf in the values of attention layer 0"):
        to_cache(build("llama", torch.float16), large)


def test_a_cache_of_another_profile_than_the_models_is_refused():
    model = build("llama")
    kv, _ = prefill(model, ids(5))
    profile = dataclasses.replace(
        synthetic.profile(), model_fingerprint=fingerprint(model), model_name="right"
    )
    assert to_cache(model, kv, profile=profile).get_seq_length() == 5
    with pytest.raises(ValueError, match=r"for right .* the model is .*kv calibrate"):
        to_cache(build("linear"), kv, profile=profile)


def test_nothing_falls_out_of_a_window():
    model = build("mistral")
    kv, _ = prefill(model, ids(3 * WINDOW), piece_tokens=5)
    assert kv.num_tokens == 3 * WINDOW
    assert to_cache(model, kv).layers[0].keys.shape[2] == WINDOW - 1


def test_a_cache_of_generation_is_taken_at_any_point():
    model = build("llama")
    out = model.generate(ids(20), max_new_tokens=9, pad_token_id=0, return_dict_in_generate=True)
    kv, state = from_cache(out.past_key_values)
    again, _ = prefill(model, out.sequences[:, :-1])
    assert (kv.num_tokens, state) == (28, None)
    torch.testing.assert_close(kv.keys, again.keys, rtol=0, atol=2e-5)


def test_what_was_taken_is_not_changed_by_going_on():
    model, row = build("hybrid"), ids(30)
    _, cache = native(model, row)
    kv, state = from_cache(cache)
    kept = {name: tensor.clone() for name, tensor in state.tensors.items()}
    again = to_cache(model, kv, state)
    for each in (cache, again):
        native(model, ids(1), each)
    assert all(torch.equal(state.tensors[name], kept[name]) for name in kept)


def test_state_names_its_layers_and_its_point():
    _, state = prefill(build("hybrid"), ids(33))
    assert list(state.tensors) == [f"{i}.{k}.0" for i in (0, 2, 6) for k in ("conv", "recurrent")]
    assert state.tokens == 33


@pytest.mark.parametrize("kind", ["llama", "dynamic", "longrope", "hybrid"])
def test_the_model_is_left_as_it_was(kind):
    model = build(kind).train()
    model.get_input_embeddings().eval()
    rotary = getattr(model.base_model, "rotary_emb", None)
    if rotary is not None:  # angles of a long context are in place
        with torch.no_grad():
            rotary(torch.zeros(1), torch.tensor([[700]]))
    before = snapshot(model)
    layout_of(model)
    prefill(model, ids(100), piece_tokens=30)
    after = snapshot(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if torch.is_tensor(value) else value == after[name]
        assert same, name


def snapshot(model):
    """Weights, buffers, gradients, modes, hooks, plain settings, and the global random state."""
    found = {"random": torch.get_rng_state(), "weights": len(list(model.parameters()))}
    for name, weight in model.named_parameters():
        found[f"{name}.weight"] = weight.detach().clone()
        found[f"{name}.grad"] = (weight.grad, weight.requires_grad)
    for name, module in model.named_modules():
        found[f"{name}.mode"] = (module.training, len(module._forward_hooks))
        for key, value in [*vars(module).items(), *module._buffers.items()]:
            if torch.is_tensor(value):
                found[f"{name}.{key}"] = value.clone()
            elif isinstance(value, int | float | str):
                found[f"{name}.{key}"] = value
    return found


@pytest.mark.parametrize(
    ("kind", "named"),
    [("latent", r"values of attention layer 0 .* latent attention"), ("t5", "not a decoder")],
)
def test_unknown_layouts_are_refused_by_name(kind, named):
    model = tiny_models.encoder_decoder() if kind == "t5" else build(kind)
    with pytest.raises(ValueError, match=f"{named}.*uncompressed"):
        layout_of(model)


def by_hand(*layers):
    """A cache of one row from (keys dtype, values dtype, heads) of its layers."""
    cache = DynamicCache()
    for i, (keys, values, heads) in enumerate(layers):
        cache.update(
            torch.ones(1, heads, 4, 8, dtype=keys), torch.ones(1, heads, 4, 8, dtype=values), i
        )
    return cache


F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([(F32, F32, 2), (BF16, BF16, 2)], "keys of attention layer 1 are torch.bfloat16"),
        ([(BF16, F32, 2)], "values of attention layer 0 are torch.float32"),
        ([(F32, F32, 2), (F32, F32, 4)], r"layer 1 have \(heads, size\) \(4, 8\)"),
        ([(F64, F64, 2)], "torch.float64"),
        ([], "no layer keeps"),
    ],
)
def test_caches_that_are_not_of_one_kind_are_refused(layers, named):
    with pytest.raises(ValueError, match=named):
        from_cache(by_hand(*layers))


def test_caches_of_rows_or_with_a_window_are_refused():
    model = build("mistral")
    _, rows = native(model, ids(8).view(2, 4))
    _, beyond = native(model, ids(WINDOW + 9))
    with pytest.raises(ValueError, match="2 rows"):
        from_cache(rows)
    with pytest.raises(ValueError, match=r"dropped 10 tokens.*prefill"):
        from_cache(beyond)


def test_a_model_that_overflows_is_named():
    model = build("llama")
    model.model.layers[2].self_attn.v_proj.weight.data[3, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN or Inf in the values of attention layer 2"):
        prefill(model, ids(5))


@pytest.mark.parametrize(
    ("row", "piece_tokens", "named"),
    [
        (ids(513), 100, "513 tokens; the model takes 1 to 512"),
        (ids(0), 100, "0 tokens"),
        (ids(6).view(2, 3), 100, "one context"),
        (ids(6), 0, "piece_tokens is 0"),
    ],
)
def test_contexts_that_no_cache_holds_are_refused(row, piece_tokens, named):
    with pytest.raises(ValueError, match=named):
        prefill(build("llama"), row, piece_tokens=piece_tokens)


def test_tensors_of_another_model_or_place_are_refused():
    model = build("llama")
    kv, _ = prefill(model, ids(20))
    of_qwen3, _ = prefill(build("qwen3"), ids(20))
    with pytest.raises(ValueError, match="first token is at 8"):
        to_cache(model, kv.tokens(8, 20))
    with pytest.raises(ValueError, match="head size 16, the model has 8"):
        to_cache(model, of_qwen3)
    with pytest.raises(ValueError, match="layers 2, the model has 3"):
        to_cache(model, KVTensors(keys=kv.keys[:2], values=kv.values[:2]))
    with pytest.raises(ValueError, match="KV heads 1, the model has 2"):
        to_cache(model, KVTensors(keys=kv.keys[:, :1], values=kv.values[:, :1]))


def test_a_state_that_does_not_belong_is_refused():
    model, plain = build("hybrid"), build("llama")
    kv, state = prefill(model, ids(20))
    other, _ = prefill(plain, ids(20))
    broken = {**state.tensors, "0.conv.0": state.tensors["0.conv.0"] * float("inf")}
    with pytest.raises(ValueError, match="holds nothing, the model's recurrent layers are 0, 2, 6"):
        to_cache(model, kv)
    with pytest.raises(ValueError, match="recurrent layers are none"):
        to_cache(plain, other, state)
    with pytest.raises(ValueError, match="after 20 tokens, kv holds 12"):
        to_cache(model, kv.tokens(0, 12), state)
    with pytest.raises(ValueError, match=r"NaN or Inf in 0\.conv\.0"):
        to_cache(model, kv, dataclasses.replace(state, tensors=broken))
