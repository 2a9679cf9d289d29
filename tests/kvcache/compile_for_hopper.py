"""Compile the GPU kernels for an H100 or H200, which takes no GPU: run by `test_triton`.

It is a script because a process either interprets Triton code or compiles it.
"""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from frontload.kvcache.codec.gpu.decode_kernels import decode_chunks
from frontload.kvcache.codec.gpu.encode_kernels import encode_streams, pack_streams

POINTERS = {
    "*i8": ("weights", "planes"),
    "*i16": ("data", "base", "out", "words", "escapes", "base_gain", "trit_gain"),
    "*i64": ("streams", "row_table", "places", "pages", "results", "moves"),
    "*fp32": ("means", "scales", "angles"),
    "*i32": (
        *("jobs", "order", "status", "live", "alphabets", "spans", "trits", "offsets", "limits"),
        *("frequency", "states", "integers"),
    ),
}
TYPES = {name: kind for kind, names in POINTERS.items() for name in names}


def compiled(kernel: Any, num_warps: int, types: dict[str, str], **constants: Any) -> Any:
    """The kernel's machine code; scalars are int32."""
    signature = {
        name: "constexpr" if name in constants else types.get(name) or TYPES.get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    return triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": num_warps, "enable_fp_fusion": False, "num_stages": 1},
    )


def main() -> None:
    """Print what of the machine code matters to speed and exactness."""
    decoder = compiled(
        decode_chunks, 1, {}, ROWS=1, K=32, PAIRS=16, COMPONENTS=32, POINT_BYTES=2, PAGED=False,
        TURNED=True, HEAD=False,
    )  # fmt: skip
    encoder = compiled(encode_streams, 1, {}, K=32)
    compiled(pack_streams, 4, {"states": "*i16"}, SPAN=1024)
    for name, kernel in (("decoder", decoder), ("encoder", encoder)):
        code = kernel.asm["ptx"]
        counts = {word: code.count(word) for word in ("popc.", "redux.", "mma.", "fma.rn.f32")}
        print(name, *(f"{word}={count}" for word, count in counts.items()))


if __name__ == "__main__":
    main()
