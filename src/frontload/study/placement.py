"""How arms relate: which stages they share, what they were before SFT, and which SFT they got.

Reads settings, never names, so a spec may call its arms what it likes. Two arms have the same
*lineage* when all stages before the first SFT stage are the same, and the same *recipe* when
their SFT stages differ in nothing but the budget.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from frontload.study.plan import settings
from frontload.study.results import Placement
from frontload.study.spec import NamedStage, StudySpec

_NOT_RECIPE = {"name", "kind", "budget"}


def place_arms(spec: StudySpec) -> dict[str, Placement]:
    """Every arm's placement."""
    lineages = {arm: _key(_before_sft(stages)) for arm, stages in spec.arms.items()}
    recipes = {arm: _recipe(_sft(stages)) for arm, stages in spec.arms.items()}
    told = _differing(list(filter(None, recipes.values())))
    least: dict[str, int] = {}
    for arm, stages in spec.arms.items():
        if _sft(stages):
            key = json.dumps(recipes[arm], sort_keys=True)
            least[key] = min(_amount(stages), least.get(key, _amount(stages)))
    return {
        arm: Placement(
            lineage=_shortest([a for a in lineages if lineages[a] == lineages[arm]], spec),
            recipe=_label(recipes[arm], told),
            multiple=(
                _amount(stages) / least[json.dumps(recipes[arm], sort_keys=True)]
                if _sft(stages)
                else 0.0
            ),
        )
        for arm, stages in spec.arms.items()
    }


def _before_sft(stages: tuple[NamedStage, ...]) -> tuple[NamedStage, ...]:
    first = next((i for i, stage in enumerate(stages) if stage.kind == "sft"), len(stages))
    return stages[:first]


def _sft(stages: tuple[NamedStage, ...]) -> tuple[NamedStage, ...]:
    return stages[len(_before_sft(stages)) :]


def _amount(stages: tuple[NamedStage, ...]) -> int:
    return sum(stage.budget.amount for stage in _sft(stages))


def _key(stages: tuple[NamedStage, ...]) -> str:
    return json.dumps([settings(stage) for stage in stages], sort_keys=True)


def _shortest(arms: list[str], spec: StudySpec) -> str:
    """The arm that stands for a lineage: fewest stages, then the smallest SFT budget."""
    return min(arms, key=lambda arm: (len(spec.arms[arm]), _amount(spec.arms[arm]), len(arm)))


def _recipe(stages: tuple[NamedStage, ...]) -> dict[str, Any]:
    """Settings of the SFT stages, flat, budget aside; several stages are numbered."""
    flat: dict[str, Any] = {}
    for number, stage in enumerate(stages):
        prefix = "" if len(stages) == 1 else f"{number + 1}."
        left = {k: v for k, v in settings(stage).items() if k not in _NOT_RECIPE}
        for key, value in left.items():
            nested = value if isinstance(value, Mapping) and key != "mixture" else {"": value}
            for inner, number_or_name in nested.items():
                flat[f"{prefix}{key}.{inner}".rstrip(".")] = number_or_name
    return flat


def _differing(recipes: list[dict[str, Any]]) -> set[str]:
    keys = {key for recipe in recipes for key in recipe}
    return {key for key in keys if len({json.dumps(recipe.get(key)) for recipe in recipes}) > 1}


def _label(recipe: dict[str, Any], told: set[str]) -> str:
    if not recipe:
        return ""
    parts = [_part(key, recipe[key]) for key in sorted(told & recipe.keys()) if recipe[key]]
    return "SFT " + ", ".join(parts) if parts else "SFT"


def _part(key: str, value: Any) -> str:
    if key.endswith("learning_rate"):
        return f"LR {value:g}"
    if key.endswith("mixture"):
        shares = value.items()
        return " + ".join(name if len(value) == 1 else f"{s:g} {name}" for name, s in shares)
    return f"{key} {value}"
