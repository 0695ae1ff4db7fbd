"""Settings of DSO. Defaults are ours unless marked [P] (stated by the paper)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from equipoise.methods.method import MethodConfig


class DSOConfig(MethodConfig):
    """Direct Steering Optimization (arXiv 2512.15926)."""

    # The map h + ω(a⊙h + b) at the norms of the language backbone [P].
    parameters: Literal["both", "slope", "bias"] = Field(
        "both", description="learn slope a and bias b, or one of them"
    )
    foldable: bool = Field(True, description="keep b at 0 where no checkpoint could hold it")
    final_norm: bool = Field(True, description="steer the norm before the output layer too")

    # What is maximised, and how its gradient is taken.
    estimator: Literal["exact", "reinforce", "ppo"] = Field(
        "exact", description="expected reward over all options, or of sampled answers"
    )
    answers: Literal["options", "text"] = Field(
        "options", description="score the options, or sample free text and parse it"
    )
    reward: Literal["ternary", "paper"] = Field(
        "ternary", description="an abstention earns 0, or as much as an answer not in excess"
    )
    majority_width: float = Field(
        0.05, ge=0, description="bias over which the majority sign ramps up; 0: the hard sign"
    )
    rollouts: int = Field(8, ge=2, description="sampled answers per item (reinforce, ppo)")
    ppo_epochs: int = Field(2, ge=1, description="passes over a step's samples (ppo)")
    ppo_clip: float = Field(0.2, gt=0, description="bound on an answer's probability ratio (ppo)")
    max_new_tokens: int = Field(16, ge=1, description="length of a sampled free-text answer")
    twin_weight: float = Field(
        2.0, ge=0, description="weight of the log-odds gap within a twin; brings greedy bias down"
    )
    abstention_weight: float = Field(
        10.0, ge=0, description="weight of the squared change of the abstention rate"
    )

    # KL to the base, per pool, in nats per decision.
    kl_control: Literal["projection", "dual"] = Field(
        "projection", description="shrink the trained map to the budgets, or hold them meanwhile"
    )
    kl_weight: float = Field(0.6, ge=0, description="fixed penalty (projection)")
    kl_ambiguous: float = Field(0.5, gt=0, description="budget on ambiguous prompts")
    kl_anchor: float = Field(0.07, gt=0, description="budget on anchors")
    decision_weight: float = Field(
        1.0, ge=0, description="weight of the KL among an anchor's options, beside the vocabulary's"
    )
    checked: int = Field(128, ge=1, description="held-out ambiguous prompts to check it on")
    checked_anchors: int = Field(
        256, ge=1, description="held-out anchors to check it on; a few hold much of their KL"
    )
    dual_rate: float = Field(1.0, gt=0, description="step of the multipliers (dual)")

    # Sparsity.
    l1: float = Field(0.001, ge=0, description="weight of the proximal l1 step")
    keep_share: float = Field(1.0, gt=0, le=1, description="share of entries kept after the fit")

    # A gate that opens on ambiguous prompts only (ours; docs/fairsteer.md).
    gate: Literal["none", "hard", "soft"] = Field(
        "none", description="open on ambiguous prompts only: wholly, or by degrees"
    )
    gate_layer: int | None = Field(
        None, ge=0, description="block whose output it reads; by default the one that tells best"
    )
    gate_reads: Literal["last", "mean", "attended"] = Field(
        "mean",
        description="what it reads there: the prompt's last token, their mean, or the word the "
        "prompt is about (a kernel gate: tells known words from others)",
    )
    gate_false_firing: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="rate a hard gate may fire at on each kind of anchors; the fit holds anchors "
        "as if any gate did",
    )
    force_gate: bool = Field(False, description="use a gate even if it cannot beat chance")

    # Optimisation.
    steps: int = Field(120, ge=1, description="optimisation steps, at most")
    twins_per_step: int = Field(8, ge=1, description="twins of ambiguous items a step")
    anchors_per_step: int = Field(8, ge=1, description="anchors a step")
    learning_rate: float = Field(3.5e-2, gt=0, description="at the first step")
    final_learning_rate: float = Field(0.1, gt=0, le=1, description="share left by cosine decay")
    stop_bias: float = Field(0.0, ge=0, description="stop once the bias stays below this ...")
    patience: int = Field(10, ge=1, description="... for so many steps")
    batch_tokens: int = Field(
        2048, ge=1, description="tokens of a step in one backward pass; more are read in chunks"
    )
    checkpoint_every: int = Field(20, ge=1, description="steps between two checkpoints")
    text_positions: int = Field(32, ge=1, description="positions measured in each anchor text")
    text_length: int = Field(128, ge=8, description="tokens read of each anchor text")

    @model_validator(mode="after")
    def _text_is_sampled(self) -> DSOConfig:
        if self.answers == "text" and self.estimator == "exact":
            raise ValueError("answers='text' are sampled: choose estimator reinforce or ppo")
        return self
