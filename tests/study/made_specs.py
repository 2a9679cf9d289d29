"""A spec shaped like the quickstart: about 20 arms and 40 contrasts, one of them a mistake."""

from __future__ import annotations

from typing import Any

from frontload.study.spec import StudySpec, parse_spec

_OWN = ["running_sum", "variable_chain", "sort", "count"]
_BREADTH = ["reverse", "running_max", "parity", "boolean_chain"]


def quickstart_like(seeds: int = 4, items: int = 64) -> StudySpec:
    """About 30 arms and 40 contrasts, shaped like the quickstart."""
    stage = {"batch_rows": 32, "optimizer": {"learning_rate": 0.012}}
    multiples = {"": 307_200, "2x ": 614_400, "3x ": 921_600}
    arms: dict[str, Any] = {"M_base": ["trunk", "branch"]}
    for data in ("SHQ", "LDQ", "LMQ"):
        arms[f"M_{data}"] = ["trunk", {"use": "branch", "mixture": {"base": 0.5, data: 0.5}}]
    for arm in ("M_base", "M_SHQ", "M_LDQ", "M_LMQ"):
        for times, budget in multiples.items():
            if times == "3x " and arm != "M_base":
                continue
            for rate in (0.002, 0.004):
                sft = {"use": "sft", "budget": budget, "optimizer": {"learning_rate": rate}}
                arms[f"{arm} + {times}SFT @{rate}"] = {"after": arm, "stages": [sft]}
    return parse_spec(
        {
            "study": "synthetic",
            "description": "Made up after the prototype's numbers; nothing was trained.",
            "seeds": list(range(seeds)),
            "model": {"preset": "tiny", "context": 64},
            "tokenizer": {"train_on": ["base"]},
            "sources": {
                "base": {"kind": "installed-text", "holdout": 0.02},
                "SHQ": {"kind": "problems", "families": _OWN, "size": 3000},
                "LDQ": {"kind": "problems", "families": ["compact"], "size": 150_000},
                "LMQ": {"kind": "union", "of": ["LDQ", "SHQ"]},
            },
            "stages": {
                "trunk": {**stage, "kind": "pretrain", "budget": 1_843_200, "mixture": {"base": 1}},
                "branch": {
                    **stage,
                    "kind": "pretrain",
                    "budget": 1_228_800,
                    "mixture": {"base": 1},
                },
                "sft": {**stage, "kind": "sft", "budget": 307_200, "mixture": {"SHQ": 1}},
            },
            "arms": arms,
            "evaluation": {
                "benchmarks": {
                    "own": {"families": _OWN, "items": items},
                    "breadth": {"families": _BREADTH, "items": items},
                },
                "text": {"base": {"source": "base"}},
                "max_new_tokens": 48,
            },
            "contrasts": list(_contrasts()),
        }
    )


def _contrasts() -> Any:
    """The quickstart's questions, at two learning rates."""
    for data in ("SHQ", "LDQ", "LMQ"):
        for on in ("own", "breadth"):
            yield _contrast(
                f"M_{data} above M_base on {on}, before SFT",
                "Does reasoning data help before SFT?",
                f"M_{data}",
                "M_base",
                on,
                "higher",
            )
    for rate in (0.002, 0.004):
        at = f"@{rate}"
        for data in ("SHQ", "LDQ", "LMQ"):
            for on in ("own", "breadth"):
                yield _contrast(
                    f"M_{data} above M_base on {on} after SFT, LR {rate}",
                    "Does front-loading survive SFT?",
                    f"M_{data} + SFT {at}",
                    f"M_base + SFT {at}",
                    on,
                    "higher",
                )
        for on, expect in (("own", "lower"), ("breadth", "higher")):
            yield _contrast(
                f"Diverse against narrow data on {on} after SFT, LR {rate}",
                "Diversity or quality?",
                f"M_LDQ + SFT {at}",
                f"M_SHQ + SFT {at}",
                on,
                expect,
            )
        yield _contrast(
            f"M_base with twice the SFT stays below M_SHQ, LR {rate}",
            "Does SFT catch up?",
            f"M_base + 2x SFT {at}",
            f"M_SHQ + SFT {at}",
            "own",
            "lower",
            unequal="twice the SFT is the point",
        )
        yield _contrast(
            f"M_base with equal reasoning tokens reaches M_SHQ, LR {rate}",
            "Does SFT catch up?",
            f"M_base + 3x SFT {at}",
            f"M_SHQ + SFT {at}",
            "own",
            "same",
            margin=10.0,
            equal=["reasoning_tokens"],
        )
        yield _contrast(
            f"Doubling both keeps M_LDQ ahead, LR {rate}",
            "Does SFT catch up?",
            f"M_LDQ + 2x SFT {at}",
            f"M_base + 2x SFT {at}",
            "own",
            "higher",
            margin=3.0,
        )
        yield _contrast(
            f"Unequal by mistake, LR {rate}",
            "Does SFT catch up?",
            f"M_base + 2x SFT {at}",
            f"M_base + SFT {at}",
            "own",
            "higher",
        )
        yield {
            **_contrast(
                f"The LMQ gain shows only after SFT, LR {rate}",
                "Is there a latent effect?",
                f"M_LMQ + SFT {at}",
                f"M_LDQ + SFT {at}",
                ["own", "breadth"],
                "higher",
            ),
            "minus": {"treatment": "M_LMQ", "control": "M_LDQ"},
        }
        yield _contrast(
            f"Direction of diverse - narrow on everything, LR {rate}",
            "Diversity or quality?",
            f"M_LDQ + SFT {at}",
            f"M_SHQ + SFT {at}",
            ["own", "breadth"],
            "unknown",
        )
        yield {
            **_contrast(
                f"SFT moves base text less after front-loading, LR {rate}",
                "What is forgotten?",
                [f"M_{d} + SFT {at}" for d in ("SHQ", "LDQ", "LMQ")],
                f"M_base + SFT {at}",
                "base",
                "lower",
                margin=0.02,
            ),
            "metric": "bits_per_byte",
        }
        yield {
            **_contrast(
                f"M_LMQ knows the form of SHQ better, LR {rate}",
                "Is there a latent effect?",
                f"M_LMQ + SFT {at}",
                f"M_LDQ + SFT {at}",
                "own",
                "lower",
            ),
            "metric": "gold_nll",
        }


def _contrast(
    name: str,
    question: str,
    treatment: Any,
    control: Any,
    on: Any,
    expect: str,
    margin: float = 0.0,
    equal: Any = None,
    unequal: str = "",
) -> dict[str, Any]:
    equal = [] if unequal else equal or ["tokens"]
    return {
        "name": name,
        "question": question,
        "treatment": treatment,
        "control": control,
        "on": on,
        "expect": expect,
        "margin": margin,
        "equal": equal,
        "unequal": unequal,
    }
