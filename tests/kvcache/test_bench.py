"""The bench on a codec whose behaviour is known: raw bytes with the last mantissa bits cleared."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
import torch
from rich.console import Console

from frontload.kvcache.bench.phenomena import find_phenomena
from frontload.kvcache.bench.report import as_json, bits_table, plot, points_table
from frontload.kvcache.bench.rivals import RIVALS
from frontload.kvcache.bench.suite import (
    Chunked,
    Plan,
    Suite,
    calibration_contexts,
    make_suite,
    rounds,
    sweep,
)
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.huggingface import layout_of
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.quality import measure
from tests.kvcache.tiny_models import TEXTS, model, tokenizer

PLAN = Plan(prefix_tokens=60, suffix_tokens=30, text=2, recall_a_kind=1, other=1)
TARGETS = {"text": 1e-3, "recall": 1e-3, "other": 1e-3}


class Cleared:
    """bf16 without its last mantissa bits, two bytes a value and a header of eight."""

    name = "cleared"
    levels = ("6", "4", "0")

    def encode(self, kv: KVTensors, level: str) -> bytes:
        bits = torch.stack((kv.keys, kv.values)).view(torch.int16) & -(1 << int(level))
        head = kv.start.to_bytes(4, "little") + kv.num_tokens.to_bytes(4, "little")
        return head + bits.numpy().tobytes()

    def decode(self, data: bytes) -> KVTensors:
        start, tokens = (int.from_bytes(data[i : i + 4], "little") for i in (0, 4))
        bits = torch.frombuffer(bytearray(data[8:]), dtype=torch.int16)
        keys, values = bits.view(torch.bfloat16).reshape(2, 2, 2, tokens, 8)
        return KVTensors(keys=keys, values=values, start=start)


@pytest.fixture(scope="module")
def suite() -> Suite:
    return make_suite(model(), tokenizer(), TEXTS[:1], TEXTS[1:], PLAN)


def test_calibration_shares_no_context_with_the_suite(suite: Suite) -> None:
    contexts = calibration_contexts(
        tokenizer(), TEXTS, text=4, recall_a_kind=1, prefix_tokens=60, suffix_tokens=30
    )
    calibrated = {context.ids.tobytes() for context in contexts}
    measured = {dump.context.ids.tobytes() for dumps in suite.values() for dump in dumps}
    assert len(calibrated) == 7
    assert len(measured) == 6
    assert not calibrated & measured


def test_every_byte_is_counted_and_less_loss_means_less_kl(suite: Suite) -> None:
    points = sweep(model(), Cleared(), suite)
    assert [(p.level, p.domain) for p in points[:3]] == [("6", d) for d in suite]
    for point in points:
        values = sum(dump.kv.num_values for dump in suite[point.domain])
        contexts = len(suite[point.domain])
        assert point.bits_per_value == 16 + 8 * 8 * contexts / values
    by_level = {p.level: p.quality.kl for p in points if p.domain == "text"}
    assert by_level["6"] > by_level["4"] > by_level["0"] == 0


def test_chunks_cost_their_headers_and_change_nothing_else(suite: Suite) -> None:
    codec = Chunked(Cleared(), 25)
    assert isinstance(codec, Codec)
    for each in suite["text"]:
        data = codec.encode(each.kv, "4")
        assert len(data) == len(Cleared().encode(each.kv, "4")) + 2 * 8 + 3 * 4
        whole = Cleared().decode(Cleared().encode(each.kv, "4"))
        decoded = codec.decode(data)
        assert torch.equal(decoded.keys, whole.keys)
        assert torch.equal(decoded.values, whole.values)


def test_rounds_of_an_idempotent_codec_all_cost_the_same(suite: Suite) -> None:
    first, *later = rounds(model(), Cleared(), "6", suite["text"], 3)
    assert first.kl > 0
    assert later == [first, first]


def test_reports_show_every_codec_and_say_where_a_loss_is_not_reached(suite: Suite) -> None:
    points = sweep(model(), Cleared(), suite)
    console = Console(width=160, record=True, file=None, quiet=True)
    for table in (bits_table(points, TARGETS), points_table(points, "recall")):
        assert "cleared" in "".join(str(cell) for cell in table.columns[0].cells)
        console.print(table)
    unreached = bits_table(points, dict.fromkeys(TARGETS, 1e9))
    assert next(iter(unreached.columns[1].cells)).startswith("< 16.")
    rows = as_json(points)
    assert len(rows) == 9
    assert set(rows[1]["accuracy_by_kind"]) == {"key-values", "multi-key", "variable-chains"}
    drawn = plot(points, TARGETS, title="test")
    assert drawn == plot(points, TARGETS, title="test")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


def test_phenomena_are_those_of_the_cache(suite: Suite) -> None:
    found = find_phenomena(model(), layout_of(model()), dict(suite))
    assert len(found.sink) == len(found.outlier_keys) == len(found.mean_values) == 2
    assert all(0 < share < 1 for share in (*found.sink, *found.mean_keys, *found.mean_values))
    assert all(ratio >= 1 for ratio in (*found.outlier_keys, *found.outlier_values))
    assert found.prefix_worth["text"] > 0
    assert model().config._attn_implementation != "eager"


def test_every_rival_reads_what_it_wrote(suite: Suite) -> None:
    runs = [each.kv for dumps in suite.values() for each in dumps]
    layout = layout_of(model())
    worth = find_phenomena(model(), layout, dict(suite)).prefix_worth["text"]
    for name, make in RIVALS.items():
        codec = make(layout, runs)
        assert isinstance(codec, Codec)
        decoded = codec.decode(codec.encode(runs[0], codec.levels[-1]))
        assert decoded.keys.shape == runs[0].keys.shape, name
        loss = measure(model(), suite["text"][0], decoded)
        assert loss.kl < worth / 4, name
