"""Every name in a spec means something, and means it soundly.

Called once the fields themselves are right. A name that is not there is refused with the nearest
one that is; so is a held-out side that is empty, or that another source would leak.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from frontload.corpus.config import Files, Problems, Select, SourceConfig, Union
from frontload.corpus.sources import effective_holdout
from frontload.tasks.draw import difficulty_range
from frontload.tasks.registry import get_family, resolve_families

if TYPE_CHECKING:
    from frontload.study.spec import StudySpec

Sources = Mapping[str, SourceConfig]


def check_references(spec: StudySpec) -> None:
    """Check all names of a spec.

    Raises:
        ValueError: names the field, what is wrong and the nearest known name or the remedy.
    """
    if len(set(spec.seeds)) != len(spec.seeds):
        raise ValueError("seeds: each seed once")
    for name in spec.tokenizer.train_on:
        _require_known("tokenizer.train_on", name, spec.sources)
    _check_sources(spec.sources)
    for arm, stages in spec.arms.items():
        for stage in stages:
            for source in stage.sources:
                _require_known(f"arms.{arm}.{stage.name}.mixture", source, spec.sources)
    _check_evaluation(spec)
    for contrast in spec.contrasts:
        for arm in contrast.weights():
            _require_known(f"contrasts[{contrast.name}]", arm, spec.arms)
        by_text = contrast.metric == "bits_per_byte"
        places: Iterable[str] = spec.evaluation.text if by_text else spec.evaluation.benchmarks
        for place in contrast.on:
            _require_known(f"contrasts[{contrast.name}].on", place, places)


def _check_sources(sources: Sources) -> None:
    for name, source in sources.items():
        for part in parts_of(source):
            _require_known(f"sources.{name}.of", part, sources)
        if isinstance(source, Problems):
            _check_families(f"sources.{name}", source.families, source.difficulty)
    _require_one_holdout_per_file(sources)


def parts_of(source: SourceConfig) -> tuple[str, ...]:
    """Names of the sources that a union or selection is made from."""
    if isinstance(source, Union):
        return source.of
    return (source.of,) if isinstance(source, Select) else ()


def _check_families(where: str, names: Iterable[str], difficulty: tuple[int, int] | None) -> None:
    try:
        for name in resolve_families(names):
            difficulty_range(get_family(name), difficulty)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _check_evaluation(spec: StudySpec) -> None:
    for name, benchmark in spec.evaluation.benchmarks.items():
        where = f"evaluation.benchmarks.{name}"
        if benchmark.source is not None:
            _require_holdout(f"{where}.source", benchmark.source, spec.sources)
        else:
            _check_families(where, benchmark.families, benchmark.difficulty)
    for name, text in spec.evaluation.text.items():
        _require_holdout(f"evaluation.text.{name}.source", text.source, spec.sources)


def _require_holdout(where: str, name: str, sources: Sources) -> None:
    _require_known(where, name, sources)
    if isinstance(sources[name], Problems):
        raise ValueError(f"{where}: {name} is generated; evaluate its `families` instead")
    if effective_holdout(name, sources) == 0:
        raise ValueError(f"{where}: set sources.{name}.holdout above 0 to keep some of it out")


def _require_one_holdout_per_file(sources: Sources) -> None:
    """A prompt held out of one source must not be trained on by way of another.

    Other paths to the same prompts are found in the data itself (`frontload.study.checks`).
    """
    shares: dict[str, tuple[str, float]] = {}
    for name, source in sources.items():
        for path in source.paths if isinstance(source, Files) else ():
            first, share = shares.setdefault(path, (name, source.holdout))
            if share != source.holdout:
                raise ValueError(
                    f"sources.{name}.holdout: {source.holdout:g}, but {first} reads the same "
                    f"{path} with {share:g}; held-out prompts would leak. Give both the same"
                )


def _require_known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{where}: no {name!r}{nearest(name, known)}")


def nearest(name: str, known: Iterable[Any]) -> str:
    """`; did you mean X?`, or all known names when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    listed = ", ".join(sorted(known))
    return f"; did you mean {close[0]!r}?" if close else f"; known: {listed}"
