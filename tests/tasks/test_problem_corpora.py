"""A `problems` source is random access, balanced, and turns one dial at a time."""

from collections import Counter
from itertools import islice

import pytest

from frontload.corpus.config import Problems, Quality
from frontload.corpus.example import split_reasoning
from frontload.tasks.corpora import iterate_problems, make_example
from frontload.tasks.registry import get_family, resolve_families


def config_of(**changes):
    settings = {"kind": "problems", "families": ("compact",), "size": 1200, "seed": 2}
    return Problems(**{**settings, **changes})


def test_item_i_is_the_same_in_any_order_and_any_size():
    config = config_of()
    items = list(iterate_problems(config, "D"))
    families = [get_family(name) for name in resolve_families(config.families)]
    for index in (7, 0, 1199):
        alone = make_example(config, families[index % len(families)], index, "D")
        assert items[index] == alone
    longer = islice(iterate_problems(config_of(size=5000), "D"), config.size)
    assert list(longer) == items


def test_families_take_turns():
    counted = Counter(example.family for example in iterate_problems(config_of(), "D"))
    assert set(counted) == set(resolve_families(["compact"]))
    assert max(counted.values()) - min(counted.values()) <= 1


def test_depth_and_quality_leave_the_prompts_alone():
    plain = list(iterate_problems(config_of(), "D"))
    dials = {"depth": {"direct": 0.5, "long": 0.5}, "quality": Quality(wrong_step=0.3)}
    turned = list(iterate_problems(config_of(**dials), "D"))
    assert [example.prompt for example in plain] == [example.prompt for example in turned]
    assert [example.gold for example in plain] == [example.gold for example in turned]
    assert [example.response for example in plain] != [example.response for example in turned]


def test_the_dials_are_obeyed_in_share():
    depth = {"direct": 0.25, "short": 0.25, "long": 0.5}
    quality = Quality(wrong_step=0.1, wrong_answer=0.1, cut_short=0.2)
    examples = list(iterate_problems(config_of(size=6000, depth=depth, quality=quality), "D"))
    wrong = sum(example.verified is False for example in examples) / len(examples)
    assert wrong == pytest.approx(0.4, abs=0.03)
    direct = sum("<think>" not in example.response for example in examples) / len(examples)
    assert direct == pytest.approx(0.25 * 0.8, abs=0.03)
    unfinished = sum(not split_reasoning(example.response).closed for example in examples)
    assert unfinished / len(examples) == pytest.approx(0.2, abs=0.03)


def test_verified_says_whether_the_answer_is_right():
    quality = Quality(wrong_step=0.2, wrong_answer=0.2, cut_short=0.2)
    for example in iterate_problems(config_of(quality=quality), "D"):
        right = split_reasoning(example.response).answer == example.gold
        assert right == example.verified


def test_seeds_give_other_problems():
    one = {example.prompt for example in iterate_problems(config_of(size=200), "D")}
    two = {example.prompt for example in iterate_problems(config_of(size=200, seed=3), "D")}
    assert len(one & two) < 40


def test_english_families_come_with_gold_and_verified():
    config = config_of(families=("english",), size=28)
    for example in iterate_problems(config, "D"):
        assert example.gold
        assert example.verified
        assert example.prompt


def test_a_range_that_a_family_lacks_is_refused_before_the_first_item():
    with pytest.raises(ValueError, match="difficulty"):
        iterate_problems(config_of(families=("variable_chain",), difficulty=(8, 9)), "D")


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="did you mean 'sort'"):
        iterate_problems(config_of(families=("sorts",)), "D")
