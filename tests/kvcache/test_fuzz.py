"""Whatever the bytes: an error of the container's, or what was encoded; sealed ones, or a shape."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from frontload.kvcache.codec import container
from frontload.kvcache.codec.container import ContainerError, Kind
from frontload.kvcache.state import RecurrentState
from tests.kvcache.damaging import sealed, with_body
from tests.kvcache.fuzzing import Corpus, outcome, run_case, state_outcome

ERRORS = {error.__name__ for error in ContainerError.__subclasses__()}
NAMES = st.sampled_from(["example", "first", "hybrid", "middle", "one-token", "outliers"])
LEVELS = st.sampled_from([None, 0, 2, 5])
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "cut", "keep"]),
        st.integers(0, 2**13),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=4,
)


@cache
def corpus() -> Corpus:
    return Corpus.golden()


def edited(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for what, place, content in edits:
        at = place % (len(data) + 1)
        if what == "keep":
            data = data[:at]
        elif what == "cut":
            data = data[:at] + data[at + len(content) :]
        else:
            data = data[:at] + content + data[at + (what == "set") * len(content) :]
    return data


@settings(max_examples=100, deadline=None)
@given(NAMES, EDITS, LEVELS)
def test_damaged_objects_are_refused_or_decode_as_encoded(
    name: str, edits: list[tuple[str, int, bytes]], level: int | None
) -> None:
    data = edited(corpus().objects[name], edits)
    assert outcome(corpus(), name, data, level, hostile=False) in {*ERRORS, "decoded"}


@settings(max_examples=100, deadline=None)
@given(NAMES, EDITS, LEVELS)
def test_sealed_objects_are_refused_or_decode_to_their_shape(
    name: str, edits: list[tuple[str, int, bytes]], level: int | None
) -> None:
    data = sealed(edited(corpus().objects[name], edits))
    found = outcome(corpus(), name, data, level, hostile=True)
    assert found in {*ERRORS, "decoded", "no such level"}


@settings(max_examples=100, deadline=None)
@given(NAMES, st.integers(0, 6), EDITS, LEVELS)
def test_sealed_parts_of_any_content_are_refused_or_decode_to_their_shape(
    name: str, part: int, edits: list[tuple[str, int, bytes]], level: int | None
) -> None:
    data = corpus().objects[name]
    body = bytes(container.read(data, profile_id=None).bodies[part])
    changed = with_body(data, part, edited(body, edits))
    assert outcome(corpus(), name, changed, level, hostile=True) in {*ERRORS, "decoded"}


@settings(max_examples=100, deadline=None)
@given(NAMES, st.integers(0, 6), st.binary(max_size=300))
def test_parts_made_up_altogether_are_refused(name: str, part: int, body: bytes) -> None:
    """All but states, which are read elsewhere, and but what says just what was there."""
    found = container.read(corpus().objects[name], profile_id=None)
    assume(found.entries[part].kind is not Kind.STATE and body != found.bodies[part])
    changed = with_body(corpus().objects[name], part, body)
    assert outcome(corpus(), name, changed, None, hostile=True) in ERRORS


@settings(max_examples=100, deadline=None)
@given(EDITS)
def test_states_are_refused_or_of_the_declared_shapes(edits: list[tuple[str, int, bytes]]) -> None:
    (body,) = corpus().states
    try:
        state = RecurrentState.from_bytes(edited(body, edits))
    except ValueError:
        return
    assert state.to_bytes() == edited(body, edits)


def test_cases_follow_from_seed_and_number() -> None:
    found = [run_case(corpus(), seed=7, case=case) for case in range(200)]
    assert found == [run_case(corpus(), seed=7, case=case) for case in range(200)]
    assert {kind for kind, _ in found} == {"damaged", "hostile"}


def test_a_damaged_state_is_not_read_as_it_was() -> None:
    data = corpus().objects["hybrid"]
    assert state_outcome(corpus(), data, hostile=False) == "state decoded"
    assert state_outcome(corpus(), data[:-1] + b"?", hostile=False) == "state not reached"


def test_guarded_memory_faults_behind_its_end() -> None:
    code = (
        "import ctypes\nfrom tests.kvcache.guarded import Guarded\n"
        "view = Guarded(10).last(10)\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(view))\n"
        "print(ctypes.string_at(address, 10), flush=True)\nctypes.string_at(address, 11)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == str(bytes(10)).encode()
    assert done.returncode == -signal.SIGSEGV


def test_the_worker_counts_its_cases(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kvcache.fuzzing", "--cases", "20", "--first", "4"]
    done = subprocess.run(
        [*command, "--progress", str(tmp_path / "progress")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert sum(json.loads(done.stdout)["outcomes"].values()) == 20
    assert int.from_bytes((tmp_path / "progress").read_bytes(), "little") == 23
