"""Laws of the stage graph: what is shared is done once, and unequal budgets never start."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from frontload.study.identity import differences, digest, write_json
from frontload.study.plan import make_plan, planned_budget
from frontload.study.spec import parse_spec
from tests.study.test_spec import SPEC, changed


def test_shared_ancestors_exist_once_per_seed() -> None:
    plan = make_plan(parse_spec(SPEC))
    # Two pretrained models and two SFT runs of each, for two seeds.
    assert len(plan.nodes) == 2 * (2 + 4)
    assert plan.paths["plain + SFT 0.002", 0] == ("plain-seed0", "plain_SFT_0.002-seed0")
    assert plan.nodes["plain-seed0"].arms == ("plain", "plain + SFT 0.002", "plain + SFT 0.004")


def test_parents_come_before_their_children() -> None:
    plan = make_plan(parse_spec(SPEC))
    order = list(plan.nodes)
    for name, node in plan.nodes.items():
        assert node.parent is None or order.index(node.parent) < order.index(name)


def test_optimizer_state_is_kept_only_for_a_child_that_carries_it() -> None:
    spec = changed("stages.sft.optimizer", {"learning_rate": 0.1, "carry": True})
    kept = {n: node.keep_optimizer for n, node in make_plan(parse_spec(spec)).nodes.items()}
    assert kept["plain-seed0"]
    assert not kept["plain_SFT_0.002-seed0"]
    assert not any(node.keep_optimizer for node in make_plan(parse_spec(SPEC)).nodes.values())


def test_twin_arms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"arms\.twin: the same stages as plain"):
        make_plan(parse_spec(changed("arms.twin", ["trunk"])))


def test_arms_that_differ_in_budget_are_refused_before_the_run() -> None:
    spec = copy.deepcopy(SPEC)
    spec["arms"]["longer"] = {"after": "mixed", "stages": [{"use": "sft", "budget": "6k"}]}
    spec["contrasts"][0]["treatment"] = "longer"
    with pytest.raises(ValueError, match=r"differ in tokens by 1,000 .*longer: 16,000"):
        make_plan(parse_spec(spec))


def test_a_packed_row_of_difference_is_allowed() -> None:
    spec = copy.deepcopy(SPEC)
    spec["arms"]["longer"] = {"after": "mixed", "stages": [{"use": "sft", "budget": 5064}]}
    spec["contrasts"][0]["treatment"] = "longer"
    make_plan(parse_spec(spec))
    spec["arms"]["longer"]["stages"][0]["budget"] = 5065
    with pytest.raises(ValueError, match="differ in tokens by 65"):
        make_plan(parse_spec(spec))


def test_planned_budgets_follow_phases_and_shares() -> None:
    spec = copy.deepcopy(SPEC)
    phases = [
        {"until": 0.6, "mixture": {"base": 1}},
        {"until": 1, "mixture": {"base": 0.8, "traces": 0.2}},
    ]
    spec["arms"]["late"] = {"stages": [{"use": "trunk", "phases": phases}, "sft"]}
    budget = planned_budget("late", parse_spec(spec))
    assert budget == {
        "tokens": 15_000,
        "supervised_tokens": None,
        "reasoning_tokens": pytest.approx(10_000 * 0.4 * 0.2 + 5_000),
        "pretrain_tokens": 10_000,
        "sft_tokens": 5_000,
    }


def test_differences_name_each_field_that_changed() -> None:
    old: dict[str, Any] = {"a": {"b": 1, "c": [1, 2]}, "gone": True}
    new: dict[str, Any] = {"a": {"b": 2, "c": [1, 2]}, "new": None}
    assert differences(old, new) == [
        "a.b: 1 -> 2",
        "gone: true -> (absent)",
        "new: (absent) -> null",
    ]
    assert differences(old, old) == []


def test_a_digest_depends_on_content_not_on_key_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Any) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, (loop := [], loop.append(loop))[0])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
