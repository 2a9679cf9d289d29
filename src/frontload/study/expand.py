"""Shorthand of a spec, written out: `for` loops, stage templates and arms that continue others.

Works on plain mappings before any field is checked, so every rule of the spec applies to the
result. Errors name the arm or contrast that cannot be written out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

_REPLACED_WHOLE = ("mixture", "phases", "budget")


def expand(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with every arm a plain list of stages and every contrast written out.

    Raises:
        ValueError: an unknown stage or arm, a variable that is not defined, an arm after itself.
    """
    spec = dict(raw)
    templates = _mapping(spec.pop("stages", None), "stages")
    arms = {
        name: _mapping(arm if isinstance(arm, Mapping) else {"stages": arm}, f"arms.{name}")
        for written, body in _mapping(spec.get("arms"), "arms").items()
        for name, arm in _repeat(written, body, f"arms.{written}")
    }
    if len(arms) == 0:
        raise ValueError("arms: name at least one")
    spec["arms"] = {name: _stages_of(name, arms, templates, ()) for name in arms}
    used = {stage.get("use") for arm in arms.values() for stage in _entries(arm)}
    for template in templates:
        if template not in used:
            raise ValueError(f"stages.{template}: no arm uses it; remove it")
    contrasts = spec.get("contrasts") or []
    if not isinstance(contrasts, list):
        raise ValueError("contrasts: a list of contrasts")
    spec["contrasts"] = [
        written for body in contrasts for _, written in _repeat("", body, "contrasts")
    ]
    return spec


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: a mapping, not {type(value).__name__}")
    return dict(value)


def _repeat(name: str, body: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The entry once per combination of its `for` values, or as it is."""
    if not isinstance(body, Mapping) or "for" not in body:
        yield name, body
        return
    loops = _mapping(body["for"], f"{where}.for")
    rest = {key: value for key, value in body.items() if key != "for"}
    for variable, values in loops.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}.for.{variable}: a list of values")
    if name and any(f"{{{variable}}}" not in name for variable in loops):
        raise ValueError(f"{where}: put each variable of `for` into the name, as {{variable}}")
    for combination in itertools.product(*loops.values()):
        values = dict(zip(loops, combination, strict=True))
        yield str(_fill(name, values)), _fill(rest, values)


def _fill(node: Any, values: Mapping[str, Any]) -> Any:
    """`{variable}` replaced everywhere; alone in a string it keeps the value's type."""
    if isinstance(node, Mapping):
        return {str(_fill(key, values)): _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, values) for value in node]
    if not isinstance(node, str):
        return node
    if re.fullmatch(r"\{\w+\}", node) and node[1:-1] in values:
        return values[node[1:-1]]
    for variable, value in values.items():
        node = node.replace(f"{{{variable}}}", str(value))
    return node


def _stages_of(
    name: str, arms: Mapping[str, Any], templates: Mapping[str, Any], below: tuple[str, ...]
) -> list[dict[str, Any]]:
    if name in below:
        raise ValueError(f"arms.{name}: continues itself by way of {' -> '.join((*below, name))}")
    arm = arms[name]
    unknown = set(arm) - {"after", "stages"}
    if unknown:
        raise ValueError(f"arms.{name}: unknown key {sorted(unknown)[0]!r}; known: after, stages")
    stages: list[dict[str, Any]] = []
    if "after" in arm:
        if arm["after"] not in arms:
            raise ValueError(f"arms.{name}.after: no arm {arm['after']!r}")
        stages += _stages_of(arm["after"], arms, templates, (*below, name))
    if not isinstance(arm.get("stages"), list) or not arm["stages"]:
        raise ValueError(f"arms.{name}: list its stages")
    stages += [_stage(entry, templates, f"arms.{name}") for entry in arm["stages"]]
    return stages


def _entries(arm: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        entry if isinstance(entry, Mapping) else {"use": entry} for entry in arm.get("stages", [])
    ]


def _stage(entry: Any, templates: Mapping[str, Any], where: str) -> dict[str, Any]:
    override = {"use": entry} if isinstance(entry, str) else _mapping(entry, where)
    use = str(override.pop("use", None))
    if use not in templates:
        known = ", ".join(templates) or "none"
        raise ValueError(f"{where}: `use` names no stage {use!r}; stages: {known}")
    merged = _merge(_mapping(templates[use], f"stages.{use}"), override)
    return {"name": use, **merged}


def _merge(base: dict[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    if "mixture" in override:
        merged.pop("phases", None)
    if "phases" in override:
        merged.pop("mixture", None)
    for key, value in override.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested and key not in _REPLACED_WHOLE else value
    return merged
