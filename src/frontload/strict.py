"""The base of every setting in a spec: frozen, and closed to keys nobody reads."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and takes no string for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


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
