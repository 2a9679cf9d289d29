"""Laws of whole contexts on disk, of their anatomy, and of the example in the README."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from frontload.kvcache import stored
from frontload.kvcache.anatomy import bits_by_layer, code_lengths, dissect, draw, stored_integers
from frontload.kvcache.codec.chunk import decode_chunk
from frontload.kvcache.codec.container import ContainerError, Kind, read_file, write_file
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


def test_bits_by_layer_add_up_to_the_lossy_bytes() -> None:
    profile, kv = synthetic.profile(), synthetic.cache(512, start=256)
    chunks = [chunk.data for chunk in stored.encode(profile, kv, exact=False)]
    bits = bits_by_layer(profile, chunks)
    layout = profile.layout
    assert bits.shape == (2, layout.num_layers, profile.finest + 1)
    written = 8 * sum(map(len, chunks)) / kv.num_values
    assert bits.sum(axis=2).mean() == pytest.approx(written, rel=0.15)  # tiny streams: states
    assert bits.sum(axis=2).mean() < written


def test_the_stored_integers_can_be_read_off_the_finest_level() -> None:
    profile, kv = synthetic.profile(step=0.2), synthetic.cache(64, start=256)
    [chunk] = stored.encode(profile, kv, exact=False)
    again = stored_integers(profile, decode_chunk(profile, chunk.data))
    [twice] = stored.encode(profile, decode_chunk(profile, chunk.data), exact=False)
    assert (code_lengths(profile, again) > 0).all()
    assert stored_integers(profile, decode_chunk(profile, twice.data)).shape == again.shape
    assert np.mean(stored_integers(profile, decode_chunk(profile, twice.data)) != again) < 0.02


def test_the_drawing_has_a_bar_for_each_layer(tmp_path: Path) -> None:
    draw(np.ones((2, 3, 2)), tmp_path / "bits.svg")
    picture = (tmp_path / "bits.svg").read_text(encoding="utf-8")
    assert picture.count('<g id="patch_') >= 2 * 3 * 2


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.kvcache.tiny_model import save_tiny_model_with_profile

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
