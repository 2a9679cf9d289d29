"""A full disk costs the new file only, and the error says where."""

import resource

import numpy as np
import pyarrow as pa
import pytest

from frontload.atomic import replacing
from frontload.corpus.ledger import write_ledger
from frontload.evaluate.items import write_table


def write_bytes(path, size):
    with replacing(path) as unfinished:
        unfinished.write_bytes(bytes(size))


def table(write):
    def written(path, size):
        write(pa.table({"a": [np.random.default_rng(0).bytes(size)]}), path)

    return written


@pytest.mark.parametrize("write", [write_bytes, table(write_ledger), table(write_table)])
def test_a_full_disk_keeps_the_old_file_and_names_the_folder(tmp_path, write):
    path = tmp_path / "new" / "file"
    write(path, 10)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write to {path.parent}: .*Free some space"):
            write(path, 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
