"""The whole bench on one model: prepare once, sweep every codec, then what only ours answers.

Guarantees: calibration and measurement share no document; all codecs see the same tensors; what is
returned is data, printed by `report`. Gives up: models that do not fit one device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

from transformers import PreTrainedModel

from frontload.kvcache.bench.ablation import variants
from frontload.kvcache.bench.overheads import Overheads, overheads
from frontload.kvcache.bench.phenomena import Phenomena, find_phenomena
from frontload.kvcache.bench.rates import Point, bits_at
from frontload.kvcache.bench.rivals import RIVALS, cachegen
from frontload.kvcache.bench.suite import (
    TARGETS,
    Chunked,
    Plan,
    Suite,
    calibration_contexts,
    make_suite,
    point,
    rounds,
    sweep,
)
from frontload.kvcache.calibrate import CalibrationSettings, calibrate
from frontload.kvcache.calibration.deltas import DeltaGain, delta_gain
from frontload.kvcache.codec.baselines.cachegen_quantize import PUBLISHED, CacheGenSettings
from frontload.kvcache.codec.baselines.cachegen_search import ANY, WITH_ANCHORS, best, search
from frontload.kvcache.codec.layered import Layered
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.contexts import text_contexts
from frontload.kvcache.huggingface import layout_of
from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.profile import Profile
from frontload.kvcache.quality import Context, Dump, Quality, dump
from frontload.kvcache.texts import hold_out, read_texts
from frontload.model.checkpoint import load_model
from frontload.model.tokenizer import load_tokenizer

HELD_OUT = 0.2  # of the texts, as in `benchmarks/kv_model.py`
ROUNDS = 8
SEARCH_CONTEXTS = 6
LONG_CONTEXTS = 4
LONGEST_TOKENS = 2048
CHUNK_TOKENS = (64, 128, 256, 512, 1024, 2048)
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model with what is needed to compare codecs on it."""

    model: PreTrainedModel
    layout: CacheLayout
    calibration: Sequence[Context]
    runs: Sequence[KVTensors]  # caches of `calibration`, bf16
    suite: Suite
    long: Sequence[Dump]  # text, as much of it as the model takes, to compare chunk sizes on

    @property
    def targets(self) -> dict[str, float]:
        """Those of the suite's domains."""
        return {domain: kl for domain, kl in TARGETS.items() if domain in self.suite}

    def phenomena(self) -> Phenomena:
        """What the model shows of what a test of codecs needs."""
        return find_phenomena(self.model, self.layout, dict(self.suite))


def prepare(origin: str, text: Path | None, other: Path | None, plan: Plan) -> Bench:
    """Load a model and prefill all contexts.

    Args:
        origin: path or hub name of a transformers model.
        text: documents to calibrate on and, others of them, to measure on; None: Python's library.
        other: documents of another domain; None leaves that domain out.

    Raises:
        ValueError: texts too short or missing, or a cache that is not plain keys and values.
    """
    model, tokenizer = load_model(origin).eval(), load_tokenizer(origin)
    training, held_out = hold_out(read_texts(text), HELD_OUT)
    foreign = read_texts(other) if other else []
    suite = make_suite(model, tokenizer, held_out, foreign, plan if other else plan.without_other())
    contexts = calibration_contexts(
        tokenizer,
        training,
        recall_a_kind=8 if plan.recall_a_kind else 0,
        prefix_tokens=plan.prefix_tokens,
        suffix_tokens=plan.suffix_tokens,
    )
    layout = layout_of(model)
    most = min(layout.max_tokens or LONGEST_TOKENS, LONGEST_TOKENS) - plan.suffix_tokens
    long = text_contexts(
        tokenizer,
        held_out,
        domain="text",
        count=LONG_CONTEXTS,
        prefix_tokens=most,
        suffix_tokens=plan.suffix_tokens,
        seed=plan.seed,
    )
    return Bench(
        model=model,
        layout=layout,
        calibration=contexts,
        runs=[each.kv for each in dump(model, contexts)],
        suite=suite,
        long=dump(model, long),
    )


def ours(bench: Bench, settings: CalibrationSettings, report: Report) -> Profile:
    """Our profile, from the calibration contexts."""
    return calibrate(bench.model, bench.calibration, settings, report)


def check_names(names: Sequence[str]) -> None:
    """Refuse names that no rival has.

    Raises:
        ValueError: names those that there are.
    """
    unknown = set(names) - set(RIVALS)
    if unknown:
        raise ValueError(f"rivals: no {', '.join(sorted(unknown))}; there are {', '.join(RIVALS)}")


def compare(
    bench: Bench, profile: Profile, names: Sequence[str], more: Sequence[Codec], report: Report
) -> tuple[list[Point], dict[str, Codec]]:
    """Points of ours, of the rivals named and of `more`, and the codecs.

    Raises:
        ValueError: there is no rival of that name.
    """
    check_names(names)
    rivals = (RIVALS[name](bench.layout, bench.runs) for name in names)
    codecs: dict[str, Codec] = {}
    points: list[Point] = []
    ours: Codec = Layered(profile=profile)
    for codec in chain([ours], more, rivals):
        report(codec.name)
        codecs[codec.name] = codec
        points += sweep(bench.model, codec, bench.suite)
    return points, codecs


def best_cachegen(bench: Bench, report: Report) -> list[Codec]:
    """The best CacheGen that a search finds: with anchors and deltas, and with whatever helps.

    Scored on the first contexts of the very suite that it is then measured on, which favours it.
    """
    few = bench.suite["text"][:SEARCH_CONTEXTS]

    def score(settings: CacheGenSettings) -> float | None:
        codec = cachegen(settings)(bench.layout, bench.runs)
        points = [point(bench.model, codec, level, "text", few) for level in codec.levels]
        bits = bits_at(points, TARGETS["text"])
        changed = {
            field: value
            for field, value in asdict(settings).items()
            if value != getattr(PUBLISHED, field) and field != "levels"
        }
        report(f"{'no level fits' if bits is None else f'{bits:.3f} bits'}: {changed}")
        return bits

    found = {}
    for name, moves in (("cachegen-best", WITH_ANCHORS), ("cachegen-any", ANY)):
        settings = best(search(score, moves=moves)).settings
        found[name] = cachegen(replace(settings, name=name))(bench.layout, bench.runs)
    return list(found.values())


def ablate(bench: Bench, whole: CalibrationSettings, report: Report) -> list[Point]:
    """Points of profiles with one idea taken out, named after it; without exact levels."""
    points: list[Point] = []
    for name, settings in variants(whole).items():
        report(f"without: {name}")
        profile = ours(bench, settings, lambda line: None)
        points += sweep(bench.model, Layered(profile=profile, name=name, exact=False), bench.suite)
    return points


def deltas(bench: Bench, profile: Profile) -> list[DeltaGain]:
    """Whether coding differences between tokens would pay, at every depth."""
    runs = [each.kv for each in bench.suite["text"]]
    return [delta_gain(profile, runs, depth=depth) for depth in range(profile.finest + 1)]


def again(
    bench: Bench, codecs: Mapping[str, Codec], points: Sequence[Point]
) -> dict[str, tuple[str, list[Quality]]]:
    """Codec -> its level nearest to the text target, and quality after each of `ROUNDS` rounds.

    Lossless codecs are left out: any number of rounds is as good as none.
    """
    lossy = {p.codec for p in points if p.quality.kl > 0}
    found = {}
    for name in [name for name in codecs if name in lossy]:
        codec = codecs[name]
        level = nearest_level(points, name, "text", TARGETS["text"])
        found[name] = (level, rounds(bench.model, codec, level, bench.suite["text"][:8], ROUNDS))
    return found


def nearest_level(points: Sequence[Point], codec: str, domain: str, kl: float) -> str:
    """The coarsest level that loses no more than `kl`, else the best there is."""
    found = [p for p in points if p.codec == codec and p.domain == domain]
    good = [p for p in found if p.quality.kl <= kl]
    if good:
        return min(good, key=lambda p: p.bits_per_value).level
    return min(found, key=lambda p: p.quality.kl).level


def by_chunk(bench: Bench, codecs: Mapping[str, Codec]) -> dict[str, dict[int, float | None]]:
    """Codec -> tokens of a chunk -> bits per value at the text target, on long contexts.

    A size beyond the contexts' length is left out, but for the first, which is one whole chunk.
    """
    longest = bench.long[0].kv.num_tokens
    sizes = [size for size in CHUNK_TOKENS if size < 2 * longest]
    return {
        name: {
            size: bits_at(
                [
                    point(bench.model, Chunked(codec, size), level, "text", bench.long)
                    for level in codec.levels
                ],
                TARGETS["text"],
            )
            for size in sizes
        }
        for name, codec in codecs.items()
    }


def format_costs(bench: Bench, profile: Profile) -> Overheads:
    """What our files cost beyond their cross-entropy; the suite's prefixes must be long enough."""
    held_out, other = (
        [each.kv for each in bench.suite.get(domain, ())] for domain in ("text", "other")
    )
    return overheads(profile, bench.runs, held_out, other)
