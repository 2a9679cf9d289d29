"""Every name in a spec means something, and means it soundly.

Called once the fields themselves are right. A name that is not there is refused with the nearest
one that is; so is a held-out side that is empty, or that another source would leak.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from frontload.corpus.config import (
    Files,
    Hub,
    InstalledText,
    Problems,
    SourceConfig,
)
from frontload.corpus.sources import effective_holdout, parts_of
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
    _require_no_leak(spec)
    names = [contrast.name for contrast in spec.contrasts]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"contrasts[{name}]: the name is used twice; give each its own")
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


def _require_no_leak(spec: StudySpec) -> None:
    """What is held out for evaluation must be held out of everything that is trained on.

    The side is decided by a hash below the holdout's share, so a larger share holds out all that a
    smaller one does. The same prompts in other files are found in the data itself
    (`frontload.study.checks`).
    """
    evaluated = [b.source for b in spec.evaluation.benchmarks.values() if b.source is not None]
    evaluated += [text.source for text in spec.evaluation.text.values()]
    trained = {name for stages in spec.arms.values() for stage in stages for name in stage.sources}
    for name in evaluated:
        share = effective_holdout(name, spec.sources)
        for other in sorted(trained):
            shared = _leaves(name, spec.sources) & _leaves(other, spec.sources)
            less = effective_holdout(other, spec.sources)
            if shared and less < share:
                raise ValueError(
                    f"sources.{other}.holdout: {less:g}, but {name}, which reads the same "
                    f"{min(shared)}, is evaluated on its held-out {share:g}; that would leak. "
                    f"Give {other} at least {share:g}"
                )


def _leaves(name: str, sources: Sources) -> set[str]:
    """What a source reads in the end: paths, hub repositories, the standard library."""
    source = sources[name]
    if isinstance(source, Files):
        return set(source.paths)
    if isinstance(source, Hub):
        return {source.name}
    if isinstance(source, InstalledText):
        return {source.kind}
    return {leaf for part in parts_of(source) for leaf in _leaves(part, sources)}


def _require_known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{where}: no {name!r}{nearest(name, known)}")


def nearest(name: str, known: Iterable[Any]) -> str:
    """`; did you mean X?`, or all known names when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    listed = ", ".join(sorted(known))
    return f"; did you mean {close[0]!r}?" if close else f"; known: {listed}"
