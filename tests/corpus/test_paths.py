"""A dotted path reaches what one would reach by hand, however deep and however it is stored."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontload.corpus.paths import column_of, look_up

names = st.text(alphabet="abc", min_size=1, max_size=2)


@given(
    path=st.lists(st.tuples(names, st.booleans()), min_size=1, max_size=6),
    value=st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers()),
)
def test_any_depth_of_objects_and_json_texts_is_reached(path, value):
    row = value
    for place, (name, as_text) in enumerate(reversed(path)):
        row = {name: json.dumps(row) if as_text and place else row}
    assert look_up(row, ".".join(name for name, _ in path)) == value
    assert look_up(row, ".".join([*(name for name, _ in path), "more"])) is None


def test_a_column_with_dots_in_its_name_wins_over_a_path():
    row = {"a.b": {"c": 1}, "a": {"b": {"c": 2}}}
    assert look_up(row, "a.b.c") == 1
    assert look_up({"a": row}, "a.a.b.c") == 1
    assert column_of("a.b.c", row) == "a.b"
    assert column_of("b.c", row) is None


@pytest.mark.parametrize("row", [{}, {"a": None}, {"a": "{broken"}, {"a": {"b": None}}, {"a": []}])
def test_what_is_not_there_is_null(row):
    assert look_up(row, "a.b.c") is None
