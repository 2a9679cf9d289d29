"""Settings of one training stage: what to read, for how long, and how to move the weights."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from frontload.strict import Count, Strict

StageKind = Literal["pretrain", "midtrain", "sft"]
Unit = Literal["tokens", "supervised_tokens"]
Mixture = dict[str, float]
"""Source name -> share of the phase's budget; the shares sum to 1."""


class Budget(Strict):
    """How much to train, in one unit. Padding is never counted."""

    amount: Count = Field(gt=0)
    unit: Unit = "tokens"

    @model_validator(mode="before")
    @classmethod
    def _bare_amount(cls, raw: Any) -> Any:
        """`budget: 1.2M` means that many tokens."""
        return raw if isinstance(raw, dict | cls) else {"amount": raw}


class Phase(Strict):
    """A mixture that holds until `until` (share of the stage's budget, 1 = its end)."""

    until: float = Field(gt=0, le=1)
    mixture: Mixture


class OptimizerConfig(Strict):
    """Muon for matrices with AdamW for the rest, or AdamW for everything."""

    name: Literal["muon", "adamw"] = "muon"
    learning_rate: float = Field(gt=0)
    adamw_learning_rate_ratio: float = Field(default=0.3, gt=0)
    """With Muon: learning rate of embeddings, gains and biases over that of the matrices."""
    weight_decay: float = Field(default=0.1, ge=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""
    carry: bool = False
    """Start from the parent stage's optimizer state instead of a fresh one."""


class ScheduleConfig(Strict):
    """Learning rate over the share of the stage's budget consumed, in [0, 1]."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    decay: float = Field(default=0.3, ge=0, le=1)
    """wsd: share of the budget, at the end, over which the rate falls linearly."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Last learning rate over the peak."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "wsd" and self.warmup + self.decay > 1:
            raise ValueError("schedule: warmup + decay must not exceed 1")
        return self


class StageConfig(Strict):
    """One stage of an arm, as the spec states it."""

    kind: StageKind
    budget: Budget
    mixture: Mixture | None = None
    phases: tuple[Phase, ...] = ()
    batch_rows: int = Field(gt=0)
    """Packed rows per optimizer step, over all ranks."""
    micro_rows: int | None = Field(default=None, gt=0)
    """Rows per forward and backward pass on one rank; gradients accumulate up to batch_rows."""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    supervise: Literal["response", "all"] = "response"
    """Which tokens of reasoning examples carry loss; documents always carry it everywhere."""
    max_passes: float = Field(default=16.0, gt=0)
    """Refuse a plan that would read any source of this stage more often than this."""
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    checkpoint_every_seconds: float = Field(default=60.0, ge=0)
    """0: after every step."""

    @model_validator(mode="after")
    def _phases_cover_the_budget(self) -> Self:
        if (self.mixture is None) == (not self.phases):
            raise ValueError("give either `mixture` or `phases`")
        ends = [phase.until for phase in self.resolved_phases]
        if ends != sorted(set(ends)) or ends[-1] != 1:
            raise ValueError("phases: `until` must rise and end at 1")
        for phase in self.resolved_phases:
            if any(share <= 0 for share in phase.mixture.values()):
                raise ValueError("mixture: every share must be above 0; leave the source out")
            if abs(sum(phase.mixture.values()) - 1) > 1e-6:
                raise ValueError(f"mixture: shares sum to {sum(phase.mixture.values()):g}, not 1")
        if self.kind == "sft" and self.supervise == "all":
            raise ValueError("supervise: SFT takes the loss on the response only")
        if self.micro_rows is not None and self.batch_rows % self.micro_rows:
            raise ValueError("batch_rows must be a multiple of micro_rows")
        return self

    @property
    def resolved_phases(self) -> tuple[Phase, ...]:
        """`phases`, or the single mixture as one phase."""
        if self.mixture is not None:
            return (Phase(until=1.0, mixture=self.mixture),)
        return self.phases

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources read, in order of first mention."""
        return tuple(dict.fromkeys(name for p in self.resolved_phases for name in p.mixture))
