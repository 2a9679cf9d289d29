"""The counters behind a card against plain Python and against theory."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frontload.corpus.distinct import DistinctCounter
from frontload.corpus.distribution import Tally
from frontload.corpus.duplicates import NearDuplicates
from frontload.corpus.groups import entropy_bits
from frontload.corpus.words import find_words, hashes_of, mix

WORD = re.compile(rb"[a-z0-9_\x80-\xff]+|[!-~]")


def plain_words(text: str) -> list[bytes]:
    lowered = re.sub(rb"[A-Z]", lambda found: found[0].lower(), text.encode())
    return WORD.findall(lowered)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
@example(["!\x7f", "a\x7fb"])
@settings(deadline=None)
def test_words_and_runs_agree_with_plain_python(texts):
    words = find_words([text.encode() for text in texts])
    plain = [plain_words(text) for text in texts]
    assert words.counts().tolist() == [len(found) for found in plain]
    flat = [word for found in plain for word in found]
    by_hash = dict(zip(words.hashes.tolist(), flat, strict=True))
    assert len(by_hash) == len(set(flat))
    for size in (2, 3):
        runs = [
            tuple(found[at : at + size]) for found in plain for at in range(len(found) - size + 1)
        ]
        grams = words.grams(size)
        assert grams.counts().tolist() == [max(len(found) - size + 1, 0) for found in plain]
        assert len(set(grams.hashes.tolist())) == len(set(runs))


def test_a_text_longer_than_a_block_has_the_same_words():
    lines = [f"line {n} of some text" for n in range(200_000)]
    whole = find_words(["\n".join(lines).encode()])
    parts = find_words([line.encode() for line in lines])
    assert np.array_equal(whole.hashes, parts.hashes)
    assert whole.bounds.tolist() == [0, 1_000_000]


def test_wanted_words_are_counted_in_their_text():
    words = find_words([b"Wait, wait: check", b"", b"nothing", b"recheck check"])
    assert words.count_among(hashes_of(["wait", "check"])).tolist() == [3, 0, 0, 1]


def hashes(start: int, stop: int):
    return mix(np.arange(start, stop, dtype=np.uint64))


def test_distinct_is_exact_up_to_its_capacity():
    counter = DistinctCounter(capacity=1000)
    for _ in range(3):
        counter.add(hashes(0, 600))
        counter.add(hashes(400, 1000))
    assert counter.exact
    assert counter.num_distinct == 1000


def test_distinct_estimates_beyond_within_its_error():
    counter = DistinctCounter(capacity=4096)
    for start in range(0, 300_000, 1000):
        counter.add(hashes(start, start + 1500))
    assert not counter.exact
    assert counter.num_distinct == pytest.approx(300_500, rel=4 * 1.2 / 4096**0.5)


def test_weights_count_first_copies_only():
    counter = DistinctCounter()
    counter.add(hashes(0, 3), np.array([5, 6, 7]))
    counter.add(hashes(2, 4), np.array([100, 8]))
    assert counter.total_weight == 5 + 6 + 7 + 8


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=300))
@settings(deadline=None)
def test_distribution_is_exact_in_sums_and_close_in_quantiles(values):
    tally = Tally()
    tally.add(np.array(values))
    summary = tally.summary()
    assert summary is not None
    assert (summary.count, summary.least, summary.greatest) == (
        len(values),
        min(values),
        max(values),
    )
    assert summary.mean == pytest.approx(np.mean(values))
    assert sum(summary.counts) == len(values)
    assert len(summary.edges) == len(summary.counts) + 1
    exact = sorted(values)[int(np.ceil(0.5 * len(values))) - 1]
    assert summary.median == pytest.approx(exact, rel=0.05, abs=0.5)


def test_near_duplicates_are_found_and_others_are_not():
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 5000, 300) for _ in range(200)]
    almost = [text.copy() for text in texts[:50]]
    for text in almost:
        text[rng.integers(0, 300, 3)] = 6000  # 9 of 298 runs differ: similarity about 0.94
    written = [" ".join(map(str, text)).encode() for text in [*texts, *almost]]
    near = NearDuplicates()
    near.add(find_words(written).grams(3))
    assert near.num_items == 250
    assert near.num_near_duplicates == pytest.approx(50, abs=2)


def test_entropy_has_known_values():
    assert entropy_bits([5, 5, 5, 5]) == pytest.approx(2.0)
    assert entropy_bits([7]) == 0.0
    assert entropy_bits([3, 1]) == pytest.approx(0.8112781)
