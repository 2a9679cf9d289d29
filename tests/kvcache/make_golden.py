"""Writes the golden files once: `python -m tests.kvcache.make_golden`.

They pin the decoder, not the encoder: whoever changes the format gives it another version and
keeps these readable, or deletes them knowingly. `golden.json` holds, of every object, the SHA-256
of what each level decodes to (uint16 bits of bf16, little-endian, `[pieces, tokens, head_dim]`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from frontload.kvcache.codec import container, exact, streams
from frontload.kvcache.codec.chunk import decode_chunk, encode_chunk
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile
from frontload.kvcache.state import RecurrentState
from tests.kvcache import synthetic

GOLDEN = Path(__file__).parent / "golden"
PROFILE = GOLDEN / "profile.safetensors"


ROTARY = replace(
    synthetic.LAYOUT.rotary,
    inv_freq=synthetic.LAYOUT.rotary.inv_freq[:3],  # two channels of each head stay
    scaling=1.25,
    layers=(True, False),
)
LAYOUT = replace(synthetic.LAYOUT, rotary=ROTARY)


def digest(chunk: KVTensors) -> str:
    """SHA-256 of the bits of bf16 tensors, in piece order."""
    bits = chunk.pieces().contiguous().view(torch.uint16).numpy().astype("<u2")
    return hashlib.sha256(bits.tobytes()).hexdigest()


def inputs() -> dict[str, KVTensors]:
    """What the objects are made from; each shows something of the format."""
    tame = synthetic.cache(35, start=7, seed=3, layout=LAYOUT)
    wild = KVTensors(keys=tame.keys, values=30 * tame.values, start=7)
    return {
        "first": synthetic.cache(40, layout=LAYOUT),  # a head, two tiles, the second one short
        "middle": synthetic.cache(32, start=40, layout=LAYOUT),  # no head, one full tile
        "example": synthetic.cache(2, start=90, layout=LAYOUT),  # the document's
        "one-token": synthetic.cache(1, layout=LAYOUT),  # all of it head
        "outliers": wild,  # escapes and safer tables
    }


def profile() -> Profile:
    """Blocks with steps of their own, so that the exact level has several grids."""
    made = synthetic.profile(layout=LAYOUT, finest=2, step=0.08)
    finer = np.float32(0.8) ** np.arange(made.num_blocks, dtype=np.float32)
    transform = replace(
        made.transform,
        scale=made.transform.scale * finer,
        forward=made.transform.forward / finer[:, None, None],
    )
    return replace(made, transform=transform)


def state() -> RecurrentState:
    """States of two layers in two dtypes."""
    generator = torch.Generator().manual_seed(5)
    conv = torch.randn(1, 6, 3, generator=generator).bfloat16()
    return RecurrentState(
        tokens=72,
        tensors={"1.conv.0": conv, "1.recurrent.0": torch.randn(1, 2, 4, 4, generator=generator)},
    )


def main() -> None:
    """Write profile, objects and digests."""
    profile().save(PROFILE)
    golden = Profile.load(PROFILE)
    made = {name: encode_chunk(golden, chunk).data for name, chunk in inputs().items()}
    streams.STRIPE_BYTES = exact.STRIPE_VALUES = 1  # two stripes, in a chunk that small
    made["outliers"] = encode_chunk(golden, inputs()["outliers"]).data
    made["hybrid"] = container.with_state(made["middle"], state().to_bytes())
    expected = {}
    for name, data in made.items():
        container.write_file(GOLDEN / f"{name}.kv", [data])
        levels = [decode_chunk(golden, data, level=n) for n in range(len(golden.levels) + 1)]
        expected[name] = [digest(chunk) for chunk in levels]
    container.write_file(GOLDEN / "context.kv", [made["first"], made["hybrid"]])
    (GOLDEN / "golden.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
