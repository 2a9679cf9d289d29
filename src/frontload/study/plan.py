"""From a spec to a graph of stages, in which what arms share is done once.

Two arms share a stage when every setting up to and including it is the same and the seed is the
same. The graph is a pure function of the spec; it knows budgets, not data.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from frontload.corpus.config import Problems, Select, SourceConfig, Union
from frontload.study.identity import digest
from frontload.study.spec import Contrast, NamedStage, StudySpec

NOT_IDENTITY = {"checkpoint_every_seconds", "max_passes"}


@dataclass(frozen=True, kw_only=True)
class StageNode:
    """One stage for one seed, with the arms that pass through it."""

    name: str
    """Folder under `stages/`, readable and unique."""
    config: NamedStage
    seed: int
    parent: str | None
    arms: tuple[str, ...]
    keep_optimizer: bool
    """A child continues with its optimizer state."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stage graph; `nodes` are in an order in which parents come first."""

    nodes: dict[str, StageNode]
    paths: dict[tuple[str, int], tuple[str, ...]]
    """(arm, seed) -> names of its stages, in order."""

    @property
    def packs(self) -> tuple[tuple[str, str], ...]:
        """(source, supervise) of all packed data that the stages read."""
        used = {
            (source, node.config.supervise)
            for node in self.nodes.values()
            for source in node.config.sources
        }
        return tuple(sorted(used))


def settings(config: NamedStage) -> dict[str, Any]:
    """The settings that can change a stage's numbers."""
    return config.model_dump(mode="json", exclude=NOT_IDENTITY)


def make_plan(spec: StudySpec) -> Plan:
    """The stage graph of a spec.

    Raises:
        ValueError: two arms are the same; two sides of a contrast have unequal planned budgets.
    """
    for contrast in spec.contrasts:
        _refuse_unequal(contrast, spec)
    chains = {arm: _chain(stages) for arm, stages in spec.arms.items()}
    _refuse_twins(chains)
    labels = _labels(spec, chains)
    nodes: dict[str, StageNode] = {}
    paths: dict[tuple[str, int], tuple[str, ...]] = {}
    for seed in spec.seeds:
        for arm, stages in spec.arms.items():
            names = tuple(f"{labels[key]}-seed{seed}" for key in chains[arm])
            paths[arm, seed] = names
            for depth, (name, config) in enumerate(zip(names, stages, strict=True)):
                if name not in nodes:
                    nodes[name] = StageNode(
                        name=name,
                        config=config,
                        seed=seed,
                        parent=names[depth - 1] if depth else None,
                        arms=tuple(a for a in chains if chains[arm][depth] in chains[a]),
                        keep_optimizer=_carried(chains[arm][depth], chains, spec),
                    )
    return Plan(nodes=nodes, paths=paths)


def _chain(stages: tuple[NamedStage, ...]) -> tuple[str, ...]:
    """A key per stage that covers all stages up to it."""
    keys: list[str] = []
    for stage in stages:
        keys.append(digest([keys[-1:], settings(stage)]))
    return tuple(keys)


def _refuse_twins(chains: dict[str, tuple[str, ...]]) -> None:
    first: dict[tuple[str, ...], str] = {}
    for arm, chain in chains.items():
        if chain in first:
            raise ValueError(f"arms.{arm}: the same stages as {first[chain]}; remove one of them")
        first[chain] = arm


def _carried(key: str, chains: dict[str, tuple[str, ...]], spec: StudySpec) -> bool:
    return any(
        stage.optimizer.carry
        for arm, chain in chains.items()
        for before, stage in zip(chain, spec.arms[arm][1:], strict=False)
        if before == key
    )


def _labels(spec: StudySpec, chains: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """A readable name per stage: the arm that ends there, else the stage's own name."""
    ends = {chain[-1]: arm for arm, chain in chains.items()}
    inner = {
        key: (arm, stage.name)
        for arm in reversed(chains)
        for key, stage in zip(chains[arm], spec.arms[arm], strict=True)
        if key not in ends
    }
    times = Counter(name for _, name in inner.values())
    named = {key: slug(arm) for key, arm in ends.items()} | {
        key: slug(name if times[name] == 1 else f"{arm}.{name}")
        for key, (arm, name) in inner.items()
    }
    clash = Counter(named.values())
    return {key: label if clash[label] == 1 else f"{label}.{key}" for key, label in named.items()}


def slug(name: str) -> str:
    """A name fit for a folder on any system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")


def holds_reasoning(name: str, sources: dict[str, SourceConfig]) -> bool | None:
    """Whether a source yields reasoning examples; None when only its data can tell."""
    source = sources[name]
    if isinstance(source, Problems):
        return True
    if isinstance(source, Union):
        return holds_reasoning(source.of[0], sources)
    if isinstance(source, Select):
        return holds_reasoning(source.of, sources)
    return False if source.kind == "installed-text" else None


def planned_budget(arm: str, spec: StudySpec) -> dict[str, float | None]:
    """The arm's totals in every ledger column; None where only the run can tell."""
    totals: dict[str, float | None] = dict.fromkeys(
        ("tokens", "supervised_tokens", "reasoning_tokens", "pretrain_tokens", "sft_tokens"), 0.0
    )

    def add(column: str, amount: float | None) -> None:
        before = totals[column]
        totals[column] = None if amount is None or before is None else before + amount

    for stage in spec.arms[arm]:
        in_tokens = float(stage.budget.amount) if stage.budget.unit == "tokens" else None
        supervised = (
            float(stage.budget.amount) if stage.budget.unit == "supervised_tokens" else None
        )
        add("tokens", in_tokens)
        add("supervised_tokens", supervised)
        add("sft_tokens" if stage.kind == "sft" else "pretrain_tokens", in_tokens)
        start = 0.0
        for phase in stage.resolved_phases:
            for source, share in phase.mixture.items():
                known = None if in_tokens is None else in_tokens * (phase.until - start) * share
                reasoning = holds_reasoning(source, spec.sources)
                add("reasoning_tokens", 0.0 if reasoning is False else known if reasoning else None)
            start = phase.until
    return totals


def _refuse_unequal(contrast: Contrast, spec: StudySpec) -> None:
    """Refuse before the run what the ledgers would refuse after it."""
    pairs = [(contrast.treatment, contrast.control)]
    pairs += [contrast.minus] if contrast.minus else []
    for left, right in pairs:
        budgets = {arm: planned_budget(arm, spec) for arm in (*left, *right)}
        for column in contrast.equal:
            amounts = {arm: budget[column] for arm, budget in budgets.items()}
            known = [amount for amount in amounts.values() if amount is not None]
            if len(known) == len(amounts) and max(known) - min(known) > spec.model.context:
                listed = "; ".join(f"{arm}: {amount:,.0f}" for arm, amount in amounts.items())
                raise ValueError(
                    f"contrasts[{contrast.name}]: its arms differ in {column} by "
                    f"{max(known) - min(known):,.0f} ({listed}); a packed row of "
                    f"{spec.model.context} is allowed. Change a budget, name another column in "
                    "`equal`, or say why they are `unequal`"
                )
