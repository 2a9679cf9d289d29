"""Bytes against loss: our KV codec beside CacheGen and every other rival, on the same caches.

    python benchmarks/kv_model.py train --text novels.parquet --out runs/kv-model
    python benchmarks/kv_rate_distortion.py runs/kv-model --text novels.parquet --other peps.parquet

runs on any local transformers model. It prints what the model shows (a model that does not read its
cache tells nothing), bits per value at equal KL with all bytes of the files counted, and what ours
saves with 95 % intervals over contexts; then chunk sizes, eight rounds of encoding, an ablation,
and whether token deltas would pay. All points go to `results/NAME.json`, the curves to
`results/NAME.svg`. A fifth of the texts is held out, the same as in training the bench model.

It is `frontload kv bench` with everything switched on, and takes its options.
"""

from __future__ import annotations

import sys
from pathlib import Path

from frontload.cli import main

RESULTS = Path(__file__).parent / "results"

if __name__ == "__main__":
    usual = ["--out", str(RESULTS), "--name", "kv_rate_distortion", "--ablation", "--search"]
    sys.argv[1:] = ["kv", "bench", *usual, *sys.argv[1:]]
    main()
