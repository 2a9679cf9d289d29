"""The installed library is a base corpus that is the same every time it is read."""

from frontload.corpus.config import InstalledText
from frontload.corpus.sources import open_source


def library(split="train", **settings):
    config = InstalledText(kind="installed-text", **settings)
    return open_source("base", {"base": config}, root=None, split=split)


def test_modules_come_in_the_same_order_each_once():
    ids = [item.id for item in library()]
    assert ids == [item.id for item in library()]
    assert len(ids) == len(set(ids))
    assert {"argparse.py", "json/decoder.py"} <= set(ids)


def test_tests_and_tables_are_left_out_and_megabytes_remain():
    items = list(library())
    first_folders = {item.id.split("/")[0] for item in items}
    assert not first_folders & {"test", "idlelib", "encodings", "site-packages", "lib2to3"}
    assert 4e6 < sum(len(item.text) for item in items) < 20e6


def test_a_cut_is_exact_and_a_prefix():
    whole = "".join(item.text for item in library())
    assert "".join(item.text for item in library(max_characters=100_000)) == whole[:100_000]


def test_fingerprint_is_stable_and_follows_the_settings():
    assert library().fingerprint() == library().fingerprint()
    assert library().fingerprint() != library(max_characters=5).fingerprint()


def test_held_out_modules_are_not_trained_on():
    train = {item.id for item in library(holdout=0.1)}
    heldout = {item.id for item in library("heldout", holdout=0.1)}
    assert train.isdisjoint(heldout)
    assert train | heldout == {item.id for item in library()}
