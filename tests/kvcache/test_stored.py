"""Laws of whole contexts on disk, of their anatomy, and of the example in the README."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from frontload.kvcache import stored
from frontload.kvcache.anatomy import bits_by_layer, dissect, draw, shares
from frontload.kvcache.codec import container
from frontload.kvcache.codec.chunk import encode_chunk
from frontload.kvcache.codec.container import (
    ContainerError,
    Damaged,
    Kind,
    Truncated,
    read_file,
    write_file,
)
from frontload.kvcache.codec.quantize import coarser, integers
from frontload.kvcache.codec.stored_integers import stored_integers
from frontload.kvcache.codec.tables import code_lengths
from frontload.kvcache.state import RecurrentState
from tests.kvcache import synthetic


def test_a_context_comes_back_exactly_with_its_state(tmp_path: Path) -> None:
    profile, kv = synthetic.profile(), synthetic.cache(600)
    state = RecurrentState(tokens=600, tensors={"1.conv.0": torch.arange(6.0).reshape(1, 6)})
    chunks = stored.encode(profile, kv, state)
    write_file(tmp_path / "c.kv", [chunk.data for chunk in chunks])
    decoded, found = stored.decode(profile, read_file(tmp_path / "c.kv"))
    assert [chunk.report.saturated for chunk in chunks] == [0, 0, 0]
    assert torch.equal(decoded.keys, kv.keys)
    assert torch.equal(decoded.values, kv.values)
    assert found is not None
    assert torch.equal(found.tensors["1.conv.0"], state.tensors["1.conv.0"])


def test_a_prefix_carries_the_state_and_damage_behind_it_does_not_matter() -> None:
    profile, kv = synthetic.profile(), synthetic.cache(300)
    state = RecurrentState(tokens=300, tensors={"1.conv.0": torch.arange(6.0).reshape(1, 6)})
    encoded = stored.encode(profile, kv, state)
    for level, known in enumerate(profile.levels):
        prefixes = [chunk.data[: chunk.ends[known.parts - 1]] for chunk in encoded]
        expected, _ = stored.decode(profile, [chunk.data for chunk in encoded], level=level)
        for cut in (prefixes, [each + b"?" for each in prefixes]):  # the next part is damaged
            decoded, found = stored.decode(profile, cut, level=level)
            assert torch.equal(decoded.values, expected.values)
            assert found is not None
            assert torch.equal(found.tensors["1.conv.0"], state.tensors["1.conv.0"])
    last = bytearray(encoded[-1].data)
    last[-1] ^= 1  # in the exact part
    decoded, found = stored.decode(profile, [encoded[0].data, bytes(last)], level=0)
    assert found is not None
    header = container.read_header(bytes(last))
    with pytest.raises(Truncated) as raised:
        stored.read_state(bytes(last[: header.ends[0] - 1]))
    assert raised.value.needed == header.ends[0]
    last[header.begins[0]] ^= 1
    with pytest.raises(Damaged):
        stored.read_state(bytes(last))


def test_a_context_without_a_state_decodes_from_prefixes() -> None:
    profile, kv = synthetic.profile(), synthetic.cache(300)
    ends = profile.levels[0].parts - 1
    prefixes = [chunk.data[: chunk.ends[ends]] for chunk in stored.encode(profile, kv)]
    decoded, found = stored.decode(profile, prefixes, level=0)
    assert decoded.num_tokens == 300
    assert found is None


def test_a_state_of_another_point_is_refused_before_any_work() -> None:
    state = RecurrentState(tokens=7, tensors={"1.conv.0": torch.ones(1, 6)})
    with pytest.raises(ValueError, match="after 7 tokens, the cache ends at 64"):
        stored.encode(synthetic.profile(), synthetic.cache(64), state)


def test_objects_missing_at_the_ends_leave_a_shorter_context() -> None:
    """Completeness is the manifest's; the range says what there is."""
    profile, kv = synthetic.profile(), synthetic.cache(600)
    _, second, _ = (chunk.data for chunk in stored.encode(profile, kv, exact=False))
    found, _ = stored.decode(profile, [second])
    assert (found.start, found.num_tokens) == (256, 256)


def test_a_missing_chunk_is_noticed() -> None:
    profile, kv = synthetic.profile(), synthetic.cache(600)
    first, _, third = (chunk.data for chunk in stored.encode(profile, kv, exact=False))
    with pytest.raises(ValueError, match="starts at token 512, expected 256"):
        stored.decode(profile, [first, third])


def test_the_anatomy_accounts_for_every_byte() -> None:
    profile, kv = synthetic.profile(), synthetic.cache(300)
    chunks = [chunk.data for chunk in stored.encode(profile, kv)]
    found = dissect(chunks)
    assert found.num_bytes == sum(map(len, chunks))
    assert found.num_tokens == 300
    assert sum(part.kind == Kind.LOSSY for part in found.parts) == len(profile.parts)
    with pytest.raises(ContainerError):
        dissect([chunks[0][:-1]])


def test_the_stored_integers_are_the_encoders_own() -> None:
    """Main and head streams, every stripe, whole objects and those cut at a level."""
    profile = synthetic.profile(step=0.004, finest=4)
    for start, tokens in ((0, 70), (0, 1), (64, 33)):
        kv = synthetic.cache(tokens, start=start)
        expected = integers(profile, kv)[0]
        for level in (None, 2, 0):
            encoded = encode_chunk(profile, kv, exact=level is None, level=level)
            seen = np.zeros((profile.num_blocks, tokens), np.int64)
            for run in stored_integers(profile, encoded.data):
                own = coarser(expected[run.blocks][:, run.tokens], profile.finest - run.depth)
                live = (
                    np.arange(profile.block_size) < profile.tables.live[run.blocks, run.depth, None]
                )
                assert np.array_equal(run.integer, np.where(live[:, None], own, 0))
                seen[np.ix_(run.blocks, run.tokens)] += 1
            assert (seen == 1).all()


def test_bits_by_layer_are_what_the_tables_spend_on_the_integers() -> None:
    profile, kv = synthetic.profile(), synthetic.cache(512, start=256)
    spent, written, streams = np.zeros(profile.finest + 1), 0, 0
    chunks = [encode_chunk(profile, chunk, exact=False).data for chunk in kv.chunks(256)]
    for chunk, data in zip(kv.chunks(256), chunks, strict=True):
        integer = integers(profile, chunk)[0]
        for entry in container.read_header(data).entries:
            blocks = profile.blocks_of(entry.group)
            bits = code_lengths(
                profile.tables, integer[blocks], table_set=entry.table_set, blocks=blocks
            )
            spent[entry.depth] += bits[:, entry.depth].sum()
            streams += entry.stripes
        written += 8 * len(data)
    found = bits_by_layer(profile, chunks)
    assert found.shape == (2, profile.layout.num_layers, profile.finest + 1)
    assert found.mean(axis=(0, 1)) * kv.num_values == pytest.approx(spent, rel=1e-9)
    framing = streams * 8 * (32 * 4 + 8 + 16) + len(chunks) * 8 * 64  # states, index, entry; header
    assert spent.sum() < written < 1.01 * spent.sum() + framing


def test_a_components_bits_go_to_the_pieces_that_move_it() -> None:
    profile = synthetic.profile()
    assert shares(profile).sum(axis=2) == pytest.approx(1)
    size, width = profile.block_size, profile.transform.pieces.shape[1]
    straight = replace(
        profile.transform,
        forward=np.tile(np.eye(size, dtype=np.float32) / 2, (profile.num_blocks, 1, 1)),
        inverse=np.tile(np.eye(size, dtype=np.int16), (profile.num_blocks, 1, 1)),
        scale=np.full(profile.num_blocks, 2, np.float32),
    )
    own = np.repeat(np.eye(width), size // width, axis=0)  # channel k is component k
    assert (shares(replace(profile, transform=straight)) == own).all()


def test_bits_of_the_first_tokens_count_where_they_lie() -> None:
    """A level without finer parts has no bits at finer depths, although its head is finer."""
    profile, kv = synthetic.profile(), synthetic.cache(40)
    bits = bits_by_layer(profile, [encode_chunk(profile, kv, exact=False, level=0).data])
    assert (bits[..., 0] > 0).all()
    assert not bits[..., 1:].any()
    one = synthetic.cache(1)  # all of it is head: depths 0 to 2 lie in the parts of depth 0
    bits = bits_by_layer(profile, [encode_chunk(profile, one, exact=False).data])
    spent = code_lengths(profile.tables, integers(profile, one)[0]).sum(axis=0)
    parts = [spent[:3].sum(), spent[3], 0, 0]
    assert bits.mean(axis=(0, 1)) * one.num_values == pytest.approx(parts)


def test_the_drawing_has_a_bar_for_each_layer(tmp_path: Path) -> None:
    draw(np.ones((2, 3, 2)), tmp_path / "bits.svg")
    picture = (tmp_path / "bits.svg").read_text(encoding="utf-8")
    assert picture.count('<g id="patch_') >= 2 * 3 * 2


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.kvcache.tiny_models import save_tiny_model_with_profile

    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    written = re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert written is not None
    save_tiny_model_with_profile(tmp_path / "my-model")
    (tmp_path / "book.txt").write_text("the cache of a context is kept. " * 20, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(written[1], "README.md", "exec"), names)
    assert (tmp_path / "book.kv").stat().st_size > 0
    assert isinstance(names["answer"], str)
