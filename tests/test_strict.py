"""A spec's YAML means one thing, whoever reads it."""

import pytest

from frontload.strict import load_yaml


@pytest.mark.parametrize("word", ["on", "off", "yes", "No", "y", "N", "On"])
def test_only_true_and_false_are_booleans(word):
    assert load_yaml(f"{word}: {word}") == {word: word}
    assert load_yaml("[true, False, TRUE]") == [True, False, True]


def test_a_file_means_what_its_text_means(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("é: [1, 1.5, 2e6, null]", encoding="utf-8")
    assert load_yaml(path) == load_yaml(path.read_text(encoding="utf-8"))


def test_broken_yaml_names_its_origin(tmp_path):
    (tmp_path / "spec.yaml").write_text("study: [")
    with pytest.raises(ValueError, match=r"spec\.yaml is not YAML: while parsing"):
        load_yaml(tmp_path / "spec.yaml")
    with pytest.raises(ValueError, match="the text is not YAML: while parsing"):
        load_yaml("study: [")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!!python/name:os.system"])
def test_yaml_builds_no_objects(tag):
    with pytest.raises(ValueError, match="is not YAML: could not determine a constructor"):
        load_yaml(tag)
