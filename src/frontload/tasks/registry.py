"""Every family by name, and the names of groups.

A group is `all`, `compact`, `english` or a domain; anything else is refused with the nearest name.
English families are imported only when somebody asks beyond the compact ones, and import
reasoning-gym only when they make a problem, so a study of compact families never pays for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from typing import get_args

from frontload.tasks import compact
from frontload.tasks.families import Domain, Family

GROUPS: tuple[str, ...] = ("all", "compact", "english", *get_args(Domain))
"""Names that stand for several families."""


def family_names() -> tuple[str, ...]:
    """All families, in registry order: compact ones first."""
    return tuple(_families())


def get_family(name: str) -> Family:
    """The one instance of the family called `name`.

    Raises:
        ValueError: no such family; names the nearest one.
    """
    if name in _compact_families():
        return _compact_families()[name]
    if name not in _families():
        raise ValueError(f"families: no {name!r}{_nearest(name, _families())}")
    return _families()[name]


def resolve_families(names: Iterable[str]) -> tuple[str, ...]:
    """Expand groups; each family once, in the order in which it is first named.

    Raises:
        ValueError: an unknown name, with the nearest one.
    """
    return tuple(dict.fromkeys(member for name in names for member in _members(name)))


@cache
def _compact_families() -> dict[str, Family]:
    return {kind.name: kind() for kind in compact.FAMILIES}


@cache
def _families() -> dict[str, Family]:
    from frontload.tasks import traces

    families = [*_compact_families().values(), *(kind() for kind in traces.FAMILIES)]
    by_name = {family.name: family for family in families}
    assert len(by_name) == len(families), "two families share a name"
    assert by_name.keys().isdisjoint(GROUPS), "a family is named like a group"
    return by_name


def _members(name: str) -> tuple[str, ...]:
    if name == "compact":
        return tuple(_compact_families())
    if name in GROUPS:
        return tuple(member for member, family in _families().items() if _belongs(family, name))
    if name not in _compact_families() and name not in _families():
        raise ValueError(f"families: no {name!r}{_nearest(name, (*_families(), *GROUPS))}")
    return (name,)


def _belongs(family: Family, group: str) -> bool:
    return group == "all" or group == family.domain or (group == "english" and not family.compact)


def _nearest(name: str, known: Iterable[str]) -> str:
    listed = sorted(known)
    close = difflib.get_close_matches(name, listed, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(listed)}"
