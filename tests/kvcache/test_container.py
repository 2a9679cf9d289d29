"""The chunk object: what is written is read, and everything else is refused by name."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontload.kvcache.codec.container import (
    DTYPES,
    MAX_HEADER_BYTES,
    ContainerError,
    Damaged,
    Header,
    Kind,
    Limits,
    Malformed,
    NotAContainer,
    PartEntry,
    TooLarge,
    Truncated,
    UnsupportedVersion,
    WrongProfile,
    check_decoded_size,
    iterate,
    read,
    read_header,
    read_part,
    with_state,
    write,
)
from tests.kvcache.damaging import FIELDS, sealed, with_field

ID = bytes(range(16))
HEADER = Header(profile_id=ID, tokens=7, start=0, head_apart=True)
PARTS = [
    (PartEntry(kind=Kind.STATE), b"state"),
    (PartEntry(depth=0, group=0, stripes=2), b"first part"),
    (PartEntry(depth=0, group=1, stripes=1, table_set=1), b""),
    (PartEntry(depth=1, group=0, stripes=1), b"the third part"),
    (PartEntry(kind=Kind.EXACT), b"exact"),
]
DATA = write(HEADER, PARTS)

entries = st.builds(
    PartEntry,
    depth=st.integers(0, 255),
    group=st.integers(0, 255),
    table_set=st.integers(0, 1),
    stripes=st.integers(1, 65535),
)
headers = st.builds(
    Header,
    profile_id=st.binary(min_size=16, max_size=16),
    tokens=st.integers(1, Limits.tokens),
    start=st.integers(0, Limits.positions - Limits.tokens),
    dtype=st.sampled_from(DTYPES),
    head_apart=st.booleans(),
)
parts = st.lists(
    st.tuples(entries, st.binary(max_size=20)),
    min_size=1,
    max_size=20,
    unique_by=lambda part: (part[0].depth, part[0].group),
)


@given(headers, parts)
def test_what_is_written_is_read(header: Header, parts: list[tuple[PartEntry, bytes]]) -> None:
    container = read(write(header, parts), profile_id=header.profile_id)
    assert container.header == header
    assert list(container.entries) == [entry for entry, _ in parts]
    assert [bytes(body) for body in container.bodies] == [body for _, body in parts]


def test_adding_a_state_is_writing_it_with_the_others() -> None:
    assert with_state(write(HEADER, PARTS[1:]), b"state") == DATA
    with pytest.raises(Malformed, match="twice"):
        with_state(DATA, b"state")
    with pytest.raises(Damaged):
        with_state(write(HEADER, PARTS[1:])[:-1] + b"?", b"")


def test_a_part_is_read_whatever_became_of_those_behind_it() -> None:
    outline = read_header(DATA)
    spoiled = DATA[: outline.begins[1]] + b"?" + DATA[outline.begins[1] + 1 :]
    assert bytes(read_part(spoiled[: outline.ends[1]], outline, 0)) == b"state"
    with pytest.raises(Damaged, match="part 1"):
        read_part(spoiled, outline, 1)
    with pytest.raises(Truncated) as raised:
        read_part(DATA[: outline.ends[0] - 1], outline, 0)
    assert raised.value.needed == outline.ends[0]


def test_bodies_are_views_of_the_object() -> None:
    assert all(body.obj is DATA for body in read(DATA, profile_id=ID).bodies)


def test_every_prefix_gives_the_parts_that_it_completes_and_the_header_says_which() -> None:
    outline = read_header(DATA[:MAX_HEADER_BYTES])
    assert outline.total_bytes == len(DATA)
    for size in range(outline.begins[0], len(DATA) + 1):
        container = read(DATA[:size], profile_id=ID, partial=True)
        complete = [b for (_, b), end in zip(PARTS, outline.ends, strict=True) if end <= size]
        assert [bytes(body) for body in container.bodies] == complete
        assert outline.complete(size) == len(complete)


def test_every_truncation_says_how_many_bytes_are_there_and_needed() -> None:
    for size in range(len(DATA)):
        with pytest.raises(Truncated) as raised:
            read(DATA[:size], profile_id=ID)
        assert raised.value.present == size < raised.value.needed <= len(DATA)
        assert f"{size} bytes" in str(raised.value)


def test_every_flipped_bit_is_refused() -> None:
    first_body = read_header(DATA).begins[0]
    for bit in range(8 * len(DATA)):
        flipped = bytearray(DATA)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit < 64:
            expected: type[ContainerError] = NotAContainer
        elif bit < 80:
            expected = UnsupportedVersion
        else:
            expected = Damaged
        with pytest.raises(expected) as raised:
            read(bytes(flipped), profile_id=ID)
        if isinstance(raised.value, Damaged):
            assert (raised.value.where == "header") == (bit // 8 < first_body)


def test_damage_names_the_part() -> None:
    at = read_header(DATA).begins[2]
    with pytest.raises(Damaged, match="part 3"):
        read(DATA[:at] + b"T" + DATA[at + 1 :], profile_id=ID)


def test_damage_after_the_wanted_prefix_does_not_matter() -> None:
    outline = read_header(DATA)
    prefix = (DATA[:-1] + b"?")[: outline.ends[2]]
    assert len(read(prefix, profile_id=ID, partial=True).bodies) == 3


def test_another_profile_is_refused_with_both_ids_and_a_remedy() -> None:
    with pytest.raises(WrongProfile, match="load the profile") as raised:
        read(DATA, profile_id=bytes(16))
    assert ID.hex() in str(raised.value)
    assert bytes(16).hex() in str(raised.value)
    assert read(DATA, profile_id=None).header.profile_id == ID


def test_another_version_is_refused_even_if_its_header_is_shorter() -> None:
    with pytest.raises(UnsupportedVersion, match="version 2, this frontload reads 1"):
        read(DATA[:8] + b"\2\0", profile_id=ID)


@pytest.mark.parametrize("data", [b"not a container", b"PK", b"\x80\x04", DATA[1:], bytes(200)])
def test_other_files_are_no_containers(data: bytes) -> None:
    with pytest.raises(NotAContainer):
        read(data, profile_id=ID)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens", 70_000), ("start", 1 << 24), ("start", (1 << 64) - 1), ("total_bytes", 1 << 40)],
)
def test_declared_sizes_beyond_the_limits_take_no_memory(name: str, value: int) -> None:
    huge = sealed(with_field(DATA, name, value))
    tracemalloc.start()
    with pytest.raises(TooLarge, match=f"{value if name != 'start' else ''}.*limit"):
        read(huge, profile_id=ID)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_an_object_that_declares_more_than_is_there_takes_no_memory() -> None:
    changed = with_field(DATA, "bytes", (1 << 32) - 1, part=0)
    changed = sealed(with_field(changed, "total_bytes", len(DATA) + (1 << 32) - 1 - 5))
    with pytest.raises(Truncated):
        read(changed, profile_id=ID, limits=Limits(object_bytes=1 << 33))


def test_a_chunk_that_decodes_to_too_much_is_refused() -> None:
    check_decoded_size(HEADER, 1000)
    with pytest.raises(TooLarge, match="decoded bytes 14000"):
        check_decoded_size(HEADER, 1000, Limits(decoded_bytes=13_999))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (with_field(DATA, "flags", 3), "token deltas"),
        (with_field(DATA, "flags", 4), "not defined"),
        (with_field(DATA, "zero", 1), "reserved"),
        (with_field(DATA, "last_zero", 1), "reserved"),
        (with_field(DATA, "dtype", 3), "dtype 3"),
        (with_field(DATA, "tokens", 0), "0 tokens"),
        (with_field(DATA, "total_bytes", len(DATA) - 1), "total"),
        (with_field(DATA, "zero", 256, part=2), "part 2: reserved"),
        (with_field(DATA, "kind", 3, part=2), "kind 3"),
        (with_field(DATA, "kind", 2, part=2), "out of order"),
        (with_field(DATA, "kind", 2, part=0), "twice"),
        (with_field(DATA, "group", 0, part=2), "twice"),
        (with_field(DATA, "stripes", 0, part=1), "part 1: .*without stripes"),
        (with_field(DATA, "table_set", 2, part=3), "part 3: table set 2"),
        (with_field(DATA, "stripes", 1, part=4), "part 4: only lossy"),
        (with_field(DATA, "table_set", 1, part=0), "part 0: only lossy"),
        (with_field(DATA, "bytes", 6, part=0), "total"),
        (DATA + b"\0", "1 bytes follow"),
        (DATA + DATA, "iterate"),
    ],
)
def test_contradictions_behind_right_checksums_are_malformed(changed: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        read(sealed(changed), profile_id=ID)


def test_no_parts_is_malformed() -> None:
    with pytest.raises(Malformed, match="no parts"):
        write(HEADER, [])


@pytest.mark.parametrize(
    ("header", "entry", "message"),
    [
        (Header(profile_id=ID, tokens=0, start=0), PartEntry(stripes=1), "0 tokens"),
        (Header(profile_id=b"", tokens=1, start=0), PartEntry(stripes=1), "16"),
        (HEADER, PartEntry(stripes=1, depth=300), "cannot be written"),
        (HEADER, PartEntry(), "stripes"),
        (Header(profile_id=ID, tokens=1 << 20, start=0), PartEntry(stripes=1), "limit"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    header: Header, entry: PartEntry, message: str
) -> None:
    with pytest.raises(ContainerError, match=message):
        write(header, [(entry, b"")])


def test_objects_lie_one_after_another() -> None:
    assert [bytes(chunk) for chunk in iterate(DATA * 3)] == [DATA] * 3
    with pytest.raises(Truncated):
        list(iterate(DATA * 2 + DATA[:-1]))
    with pytest.raises(NotAContainer):
        list(iterate(DATA + b"\0"))
    with pytest.raises(Truncated):
        list(iterate(b""))


@given(st.sampled_from(sorted(FIELDS)), st.data())
def test_any_value_of_any_field_is_read_or_refused(name: str, data: st.DataObject) -> None:
    offset, form = FIELDS[name]
    size = int(form[:-1]) if form.endswith("s") else {"B": 1, "H": 2, "I": 4, "Q": 8}[form]
    value = data.draw(st.binary(min_size=size, max_size=size))
    changed = sealed(DATA[:offset] + value + DATA[offset + size :])
    try:
        container = read(changed, profile_id=None)
    except ContainerError:
        return
    assert len(container.bodies) == len(container.entries)
    assert container.header.tokens >= 1
