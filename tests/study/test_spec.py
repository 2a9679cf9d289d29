"""Laws of the spec: shorthand means its long form, and every mistake is named with a remedy."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from frontload.study.spec import StudySpec, load_spec, parse_spec

SPEC: dict[str, Any] = yaml.safe_load(
    """
study: example
seeds: [0, 1]
model: {preset: tiny, context: 64}
tokenizer: {train_on: [base], vocab_size: 512}
sources:
  base: {kind: installed-text, holdout: 0.05}
  traces: {kind: problems, families: [running_sum], size: 1k}
stages:
  trunk:
    kind: pretrain
    budget: 10k
    mixture: {base: 1}
    batch_rows: 8
    optimizer: {learning_rate: 0.01}
  sft: {kind: sft, budget: 5k, mixture: {traces: 1}, batch_rows: 8, optimizer: {learning_rate: 0.1}}
arms:
  plain: [trunk]
  mixed: [{use: trunk, mixture: {base: 0.5, traces: 0.5}}]
  "{arm} + SFT {lr}":
    for: {arm: [plain, mixed], lr: [0.002, 0.004]}
    after: "{arm}"
    stages: [{use: sft, optimizer: {learning_rate: "{lr}"}}]
evaluation:
  benchmarks: {own: {families: [running_sum]}}
  text: {plain text: {source: base}}
  max_new_tokens: 16
contrasts:
  - for: {lr: [0.002, 0.004]}
    name: "mixed leads (SFT {lr})"
    question: Which leads?
    treatment: "mixed + SFT {lr}"
    control: "plain + SFT {lr}"
    "on": own
    expect: higher
    equal: tokens
"""
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The spec with one value set; `path` is dotted, list positions are numbers."""
    spec = copy.deepcopy(SPEC)
    *parents, last = path.split(".")
    node = spec
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[last] = value
    return spec


def test_loops_write_out_arms_and_contrasts_with_typed_values() -> None:
    spec = parse_spec(SPEC)
    assert list(spec.arms)[2:] == [
        "plain + SFT 0.002",
        "plain + SFT 0.004",
        "mixed + SFT 0.002",
        "mixed + SFT 0.004",
    ]
    assert spec.arms["mixed + SFT 0.004"][1].optimizer.learning_rate == 0.004
    names = [contrast.name for contrast in spec.contrasts]
    assert names == ["mixed leads (SFT 0.002)", "mixed leads (SFT 0.004)"]


def test_an_arm_after_another_begins_with_all_of_its_stages() -> None:
    spec = parse_spec(SPEC)
    assert spec.arms["mixed + SFT 0.002"][0] == spec.arms["mixed"][0]


def test_a_stage_override_replaces_its_mixture_and_merges_its_optimizer() -> None:
    spec = parse_spec(SPEC)
    assert spec.arms["mixed"][0].mixture == {"base": 0.5, "traces": 0.5}
    assert spec.arms["mixed"][0].optimizer == spec.arms["plain"][0].optimizer


def test_a_key_named_on_is_a_word_not_a_boolean(tmp_path: Any) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(SPEC).replace("'on':", "on:"))
    assert load_spec(path).contrasts[0].on == ("own",)


def test_contrast_weights_sum_to_zero_and_average_each_side() -> None:
    spec = changed("contrasts.0.treatment", ["mixed + SFT {lr}", "mixed"])
    spec["contrasts"][0] |= {"minus": {"treatment": "mixed", "control": "plain"}, "equal": []}
    spec["contrasts"][0]["unequal"] = "only the arithmetic is looked at"
    weights = parse_spec(spec).contrasts[0].weights()
    assert weights == {
        "mixed + SFT 0.002": 0.5,
        "mixed": -0.5,
        "plain + SFT 0.002": -1.0,
        "plain": 1.0,
    }


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("seed", [1], "seed: unknown key; did you mean 'seeds'?"),
        ("model.contxt", 3, "model.contxt: unknown key; did you mean 'context'?"),
        ("sources.base.holdot", 3, "holdot: unknown key; did you mean 'holdout'?"),
        ("stages.sft.batchrows", 3, "batchrows: unknown key; did you mean 'batch_rows'?"),
        ("stages.sft.budget", "lots", "'lots' is not a count"),
        ("stages.trunk.mixture", {"base": 0.7}, "shares sum to 0.7, not 1"),
        ("stages.trunk.mixture", {"bass": 1}, "no 'bass'; did you mean 'base'?"),
        ("stages.sft.micro_rows", 3, "batch_rows must be a multiple of micro_rows"),
        ("arms.odd", ["trnk"], "arms.odd: `use` names no stage 'trnk'"),
        ("arms.odd", {"after": "odd", "stages": ["sft"]}, "arms.odd: continues itself"),
        ("arms.odd", {"after": "od", "stages": ["sft"]}, "arms.odd.after: no arm 'od'"),
        ("contrasts.0.control", "plain + SFT", "no 'plain + SFT'; did you mean"),
        ("contrasts.0.on", "owm", "no 'owm'; did you mean 'own'?"),
        ("contrasts.0.equal", [], "say why `unequal`"),
        ("contrasts.0.expect", "same", "needs a `margin`"),
        ("evaluation.text.plain text.source", "traces", "is generated; evaluate its `families`"),
        ("sources.base.holdout", 0, "set sources.base.holdout above 0"),
        ("sources.traces.families", ["runing_sum"], "sources.traces.families: no 'runing_sum'"),
        ("sources.tokenizer", {"kind": "installed-text"}, "sources.tokenizer: the name is taken"),
        ("sources.a/b", {"kind": "installed-text"}, "String should match pattern"),
        ("stages.idle", {"kind": "sft"}, "stages.idle: no arm uses it"),
        ("contrasts.0.minus", {"treatmnt": "mixed"}, "minus: unknown key 'treatmnt'"),
        ("contrasts.0.name", "one name", "contrasts[one name]: the name is used twice"),
        ("seeds", [1, 1], "each seed once"),
        ("tokenizer.load", "somewhere", "give either `train_on`"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_remedy(
    path: str, value: Any, expected: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_spec(changed(path, value))


def test_a_mistake_in_a_template_is_told_once() -> None:
    with pytest.raises(ValueError, match=r"batchrows: unknown key.*\(4 places\)"):
        parse_spec(changed("stages.sft.batchrows", 3))


@pytest.mark.parametrize("how", ["files", "select"])
def test_what_is_evaluated_is_held_out_of_all_that_is_trained_on(how: str) -> None:
    spec = copy.deepcopy(SPEC)
    spec["sources"] |= {
        "traces": {"kind": "files", "paths": ["a.jsonl"]},
        "other": {"kind": "files", "paths": ["a.jsonl"], "holdout": 0.1}
        if how == "files"
        else {"kind": "select", "of": "traces", "verified": True, "holdout": 0.1},
    }
    spec["evaluation"]["benchmarks"]["other"] = {"source": "other"}
    with pytest.raises(ValueError, match=r"sources\.traces\.holdout: 0, but other, .* 0\.1"):
        parse_spec(spec)
    spec["sources"]["traces"]["holdout"] = 0.2  # holds out all that 0.1 does
    parse_spec(spec)


def test_a_missing_spec_is_named(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"no spec at .*nowhere\.yaml"):
        load_spec(tmp_path / "nowhere.yaml")


def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Any) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("study: a\nseeds: [0]\nstudy: b\n")
    with pytest.raises(ValueError, match=r"(?s)'study' is given twice.*line 3"):
        load_spec(path)


def test_broken_yaml_is_named(tmp_path: Any) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("study: [")
    with pytest.raises(ValueError, match=r"spec\.yaml is not YAML"):
        load_spec(path)


def test_specs_are_frozen() -> None:
    spec = parse_spec(SPEC)
    assert isinstance(spec, StudySpec)
    with pytest.raises(ValueError, match="frozen"):
        spec.study = "other"  # type: ignore[misc]
