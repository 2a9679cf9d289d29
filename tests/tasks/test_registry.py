"""Names resolve to families, groups to their members, and misspellings to the nearest name."""

import subprocess
import sys

import pytest

from frontload.tasks.registry import GROUPS, family_names, get_family, resolve_families


def test_groups_split_the_families_and_keep_their_order():
    names = family_names()
    assert resolve_families(["all"]) == names
    assert resolve_families(["compact"]) + resolve_families(["english"]) == names
    domains = [name for name in GROUPS if name not in ("all", "compact", "english")]
    assert sorted(resolve_families(domains)) == sorted(names)


def test_there_are_enough_families_in_every_domain():
    assert len(family_names()) >= 24
    assert len(resolve_families(["compact"])) >= 14
    compact_domains = {get_family(name).domain for name in resolve_families(["compact"])}
    assert len(compact_domains) == 6


def test_a_family_named_twice_comes_once_where_it_is_first_named():
    assert resolve_families(["sort", "running_sum", "sort"]) == ("sort", "running_sum")
    assert resolve_families(["sort", "compact"])[0] == "sort"
    assert len(resolve_families(["sort", "compact"])) == len(resolve_families(["compact"]))


@pytest.mark.parametrize(
    ("asked", "nearest"), [("runing_sum", "running_sum"), ("compat", "compact"), ("logik", "logic")]
)
def test_an_unknown_name_is_refused_with_the_nearest(asked, nearest):
    with pytest.raises(ValueError, match=f"{asked}.*did you mean '{nearest}'"):
        resolve_families([asked])


def test_get_family_takes_families_only():
    assert get_family("sort").name == "sort"
    with pytest.raises(ValueError, match="families: no 'compact'"):
        get_family("compact")


def test_compact_families_never_import_reasoning_gym_and_names_do_not_either():
    program = (
        "import sys; from frontload.tasks.registry import family_names, resolve_families;"
        "resolve_families(['compact']); assert 'frontload.tasks.traces' not in sys.modules;"
        "family_names(); assert 'reasoning_gym' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
