"""Objects written long ago decode to the same bits, by this package and from the document alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from frontload.kvcache.codec import container
from frontload.kvcache.codec.chunk import decode_chunk, encode_chunk
from frontload.kvcache.codec.container import Kind
from frontload.kvcache.profile import Profile
from frontload.kvcache.rotary import Pairing
from frontload.kvcache.state import RecurrentState
from tests.kvcache import independent_decoder, synthetic
from tests.kvcache.make_golden import GOLDEN, PROFILE, digest, state

DOCUMENT = Path(__file__).parents[2] / "docs" / "kv-container.md"
DIGESTS: dict[str, list[str]] = json.loads((GOLDEN / "golden.json").read_text())
BY_DOCUMENT = independent_decoder.Profile(PROFILE)


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.kv").read_bytes()


@pytest.fixture(scope="module")
def profile() -> Profile:
    return Profile.load(PROFILE)


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_every_level_decodes_to_the_bits_of_old(profile: Profile, name: str) -> None:
    decoded = [
        digest(decode_chunk(profile, golden(name), level=n)) for n in range(len(profile.levels) + 1)
    ]
    assert decoded == DIGESTS[name]


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_a_prefix_decodes_to_the_level_that_it_completes(profile: Profile, name: str) -> None:
    data = golden(name)
    outline = container.read_header(data)
    ends = outline.ends[outline.num_states :]
    for level, expected in zip(profile.levels, DIGESTS[name], strict=False):
        assert digest(decode_chunk(profile, data[: ends[level.parts - 1]])) == expected


def test_a_file_of_several_is_its_objects(profile: Profile) -> None:
    chunks = [decode_chunk(profile, one) for one in container.read_file(GOLDEN / "context.kv")]
    assert [digest(chunk) for chunk in chunks] == [DIGESTS["first"][-1], DIGESTS["hybrid"][-1]]
    assert [chunk.start for chunk in chunks] == [0, 40]


def test_the_recurrent_state_is_read_exactly() -> None:
    found = container.read(golden("hybrid"), profile_id=None)
    assert found.entries[0].kind is Kind.STATE
    read = RecurrentState.from_bytes(found.bodies[0])
    assert read.tokens == state().tokens == found.header.start + found.header.tokens
    assert read.tensors.keys() == state().tensors.keys()
    for name, tensor in state().tensors.items():
        assert read.tensors[name].dtype == tensor.dtype
        assert read.tensors[name].equal(tensor)


def test_golden_objects_show_every_feature_of_the_format() -> None:
    found = [container.read(golden(name), profile_id=None) for name in DIGESTS]
    entries = [entry for one in found for entry in one.entries]
    assert {entry.kind for entry in entries} == set(Kind)
    assert {entry.table_set for entry in entries} == {0, 1}
    assert {entry.stripes for entry in entries} >= {1, 2}
    assert {one.header.head_apart for one in found} == {False, True}
    states = [one.entries[0].kind is Kind.STATE for one in found]
    escapes = [
        np.frombuffer(one.bodies[at], "<u4", 2)[1] for one, at in zip(found, states, strict=True)
    ]
    assert max(escapes) > 0


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_the_document_suffices_to_decode(name: str) -> None:
    (chunk,) = independent_decoder.objects(golden(name))
    decoded = [
        independent_decoder.lossy(BY_DOCUMENT, chunk, parts) for parts in BY_DOCUMENT.meta["levels"]
    ]
    decoded.append(independent_decoder.exact(BY_DOCUMENT, chunk))
    hashes = [hashlib.sha256(bits.astype("<u2").tobytes()).hexdigest() for bits in decoded]
    assert hashes == DIGESTS[name]


@pytest.mark.parametrize("pairing", ["neighbours", "halves", None])
def test_the_document_suffices_for_other_rotations_and_source_dtypes(
    tmp_path: Path, pairing: Pairing | None
) -> None:
    assert synthetic.LAYOUT.rotary is not None
    rotary = None if pairing is None else replace(synthetic.LAYOUT.rotary, pairing=pairing)
    layout = replace(synthetic.LAYOUT, rotary=rotary)
    made = synthetic.profile(layout=layout, finest=1, step=0.1)
    made.save(tmp_path / "profile")
    chunk = synthetic.cache(9, start=300, layout=layout).to(dtype=torch.float16)
    data = encode_chunk(made, chunk).data
    by_document = independent_decoder.Profile(tmp_path / "profile")
    (found,) = independent_decoder.objects(data)
    assert found.dtype == 1
    exact = decode_chunk(made, data).pieces().view(torch.uint16).numpy()
    finest = decode_chunk(made, data, level=len(made.levels) - 1).pieces()
    assert (independent_decoder.exact(by_document, found) == exact).all()
    lossy = independent_decoder.lossy(by_document, found, len(made.parts))
    assert (lossy == finest.view(torch.uint16).numpy()).all()


def test_the_document_suffices_to_know_a_profile() -> None:
    assert BY_DOCUMENT.id() == BY_DOCUMENT.meta["id"] == Profile.load(PROFILE).id.hex()


def test_the_document_is_all_that_the_second_decoder_knows() -> None:
    source = Path(independent_decoder.__file__).read_text()
    assert "frontload" not in source.replace("frontload-kv-profile", "")


def test_the_example_of_the_document_is_true() -> None:
    document = DOCUMENT.read_text()
    for quoted in example():
        assert quoted in document, f"docs/kv-container.md should show\n{quoted}"


def example() -> tuple[str, str]:
    """What the document quotes: the first bytes of example.kv, and how part 0 decodes."""
    data = golden("example")
    (chunk,) = independent_decoder.objects(data)
    lines: list[str] = []
    plain_step = independent_decoder.Stream.step

    def step(stream: independent_decoder.Stream, counts: list[list[int]]) -> list[int]:
        slots = [state % 4096 for state in stream.states]
        symbols = plain_step(stream, counts)
        lanes = [
            f"{slot:>4} in [{row[i]}, {row[i + 1]})".ljust(21)
            + f"q = {i - (len(row) - 3) // 2:>2}, {state:08x}"
            for slot, row, i, state in zip(slots, counts, symbols, stream.states, strict=True)
        ]
        lines.append("    " + "     ".join(lanes))
        return symbols

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(independent_decoder.Stream, "step", step)
        independent_decoder.integers(BY_DOCUMENT, chunk, 1)
    first = data[: container.read_header(data).ends[0]]
    dump = [f"    {at:04x}  {first[at : at + 16].hex(' ')}" for at in range(0, len(first), 16)]
    return "\n".join(dump), "\n".join(lines)


if __name__ == "__main__":
    print(*example(), sep="\n\n")
