"""What every setting in a spec goes through: how its YAML is read, and the base of its model.

Settings are frozen and closed to keys nobody reads. Every spec is read by `load_yaml`, so that the
same file means the same to every verb.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


class Strict(BaseModel):
    """A frozen model that refuses unknown keys; strings that spell a number are numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 booleans: only true and false, so that the key `on` stays a word."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _once_each(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping whose keys appear once; PyYAML would let the last one win in silence."""
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for index, key in enumerate(keys):
        if key in keys[:index] and key != "<<":
            mark = node.value[index][0].start_mark
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", mark)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _once_each)


def load_yaml(source: Path | str) -> Any:
    """What a YAML file (given as a `Path`) or a YAML text holds.

    Raises:
        ValueError: there is no such file, or it is not YAML.
    """
    if isinstance(source, Path) and not source.is_file():
        raise ValueError(f"no spec at {source}")
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        origin = source if isinstance(source, Path) else "the text"
        raise ValueError(f"{origin} is not YAML: {error}") from None


def parse_count(value: Any) -> Any:
    """`"1.5M"` -> 1_500_000; also k, B or G, T, underscores, and whole floats such as 2e6."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9][0-9_]*\.?[0-9]*)\s*([kKmMbBgGtT]?)", value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a count; write for example 1500000, 1.5M or 2B")
    number = float(match[1].replace("_", "")) * _UNITS[match[2].lower()]
    if not number.is_integer():
        raise ValueError(f"{value!r} is not a whole number")
    return int(number)


Count = Annotated[int, BeforeValidator(parse_count)]
